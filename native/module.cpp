// The extension module rag._native: one bind_* function for each source file that Python sees.
#include <nanobind/nanobind.h>

#include "bindings.h"

NB_MODULE(_native, m) {
    m.doc() = "Native kernels of modular-rag.";
    bind_basics(m);
    bind_store(m);
    bind_tokens(m);
    bind_centroids(m);
    bind_graph(m);
    bind_postings(m);
    bind_transformer(m);
    bind_fde(m);
    bind_network(m);
}
