"""modular-rag: RAG pipelines as graphs of typed operators, on a native vector engine.

The names below are loaded when they are first used, so that `import rag` costs next to nothing.
"""

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag.collection import Collection
    from rag.errors import RagError
    from rag.operators import Channel, Operator, operator
    from rag.pipelines import Pipeline
    from rag.types import (
        Answer,
        Chunk,
        Citation,
        Context,
        Delta,
        Document,
        Hits,
        Message,
        Passage,
        Query,
        State,
        Usage,
    )

# An installed copy holds the compiled engine. When Python runs in the repository root, the sources there are found
# first and would hide it; this lets them be used together.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Channel",
    "Chunk",
    "Citation",
    "Collection",
    "Context",
    "Delta",
    "Document",
    "Hits",
    "Message",
    "Operator",
    "Passage",
    "Pipeline",
    "Query",
    "RagError",
    "State",
    "Usage",
    "operator",
]

_HOMES = {
    "Collection": "rag.collection",
    "RagError": "rag.errors",
    "Channel": "rag.operators",
    "Operator": "rag.operators",
    "operator": "rag.operators",
    "Pipeline": "rag.pipelines",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'rag' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "rag.types")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
