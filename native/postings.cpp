// Binds the lexical index: building and searching.
#include <nanobind/nanobind.h>

namespace rag {

void bind_postings_build(nanobind::module_& m);
void bind_postings_search(nanobind::module_& m);

}  // namespace rag

void bind_postings(nanobind::module_& m) {
    rag::bind_postings_build(m);
    rag::bind_postings_search(m);
}
