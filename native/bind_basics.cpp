// Errors, the choice of instruction set, and checksums.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "cpu.h"
#include "crc32c.h"
#include "errors.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

void translate(const std::exception_ptr& thrown, void*) {
    try {
        std::rethrow_exception(thrown);
    } catch (const rag::InputError& error) {
        const nb::object type = nb::module_::import_("rag.errors").attr("InputError");
        PyErr_SetObject(type.ptr(), type(error.what(), "hint"_a = error.hint).ptr());
    } catch (const rag::NotFoundError& error) {
        const nb::object type = nb::module_::import_("rag.errors").attr("NotFoundError");
        PyErr_SetObject(type.ptr(), type(error.what()).ptr());
    }
}

class ReadBuffer {
public:
    explicit ReadBuffer(nb::handle source) {
        if (PyObject_GetBuffer(source.ptr(), &view_, PyBUF_SIMPLE)) throw nb::python_error();
    }
    ~ReadBuffer() { PyBuffer_Release(&view_); }
    ReadBuffer(const ReadBuffer&) = delete;
    ReadBuffer& operator=(const ReadBuffer&) = delete;
    const void* data() const { return view_.buf; }
    size_t size() const { return static_cast<size_t>(view_.len); }

private:
    Py_buffer view_;
};

uint32_t crc32c(nb::object source, uint32_t value) {
    const ReadBuffer bytes(source);
    const nb::gil_scoped_release release;
    return rag::crc32c(bytes.data(), bytes.size(), value);
}

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (rag::Isa isa : rag::available_isas()) names.emplace_back(rag::name(isa));
    return names;
}

}  // namespace

void bind_basics(nb::module_& m) {
    nb::register_exception_translator(translate);
    m.def("isa", [] { return std::string(rag::name(rag::active_isa())); });
    m.def("isas", isas);
    m.def("set_isa", [](const std::string& name) { rag::force_isa(name); }, "name"_a);
    m.def("crc32c", crc32c, "buffer"_a, "value"_a = 0);
}
