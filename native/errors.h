// What the engine throws for wrong input; Python sees rag.errors.InputError and rag.errors.NotFoundError.
#pragma once
#include <stdexcept>
#include <string>

namespace rag {

struct InputError : std::runtime_error {
    InputError(const std::string& message, std::string hint_) : std::runtime_error(message), hint(std::move(hint_)) {}
    std::string hint;
};

struct NotFoundError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace rag
