// The extension module rag._native: one bind_* function for each source file that Python sees.
#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_postings(nb::module_& m);

NB_MODULE(_native, m) {
    m.doc() = "Native kernels of modular-rag.";
    bind_postings(m);
}
