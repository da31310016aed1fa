// The extension module rag._native: one bind_* function for each source file that Python sees.
#include <nanobind/nanobind.h>

#include "bindings.h"

namespace nb = nanobind;

NB_MODULE(_native, m) {
    m.doc() = "Native kernels of modular-rag.";
    bind_basics(m);
    bind_store(m);
}
