"""modular-rag: RAG pipelines as graphs of typed operators, on a native vector engine."""

from pkgutil import extend_path

# An installed copy holds the compiled engine. When Python runs in the repository root, the sources there are found
# first and would hide it; this lets them be used together.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
