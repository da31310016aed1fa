// What module.cpp calls: one function for each source file that Python sees.
#pragma once
#include <nanobind/nanobind.h>

void bind_basics(nanobind::module_& m);
void bind_store(nanobind::module_& m);
void bind_tokens(nanobind::module_& m);
void bind_centroids(nanobind::module_& m);
void bind_graph(nanobind::module_& m);
void bind_postings(nanobind::module_& m);
void bind_transformer(nanobind::module_& m);
void bind_fde(nanobind::module_& m);
void bind_network(nanobind::module_& m);
