"""The types that operators can ask for as resources."""

from collections.abc import Iterable

from rag.collection import Collection
from rag.encoders import Encoder
from rag.errors import InputError
from rag.models import ChatModel
from rag.operators.signature import resource_type
from rag.types import Hits

__all__ = ["ChatModel", "Collection", "Encoder", "check_one_collection"]

resource_type(Collection, "collection")
resource_type(Encoder, "encoder")
resource_type(ChatModel, "llm")


def check_one_collection(hits: Iterable[Hits], collection: Collection | None = None) -> None:
    """Raises InputError when hits come from different collections, or from another one than this: the id of a chunk
    means something in its own collection only."""
    for store in (found.store for found in hits):
        if not isinstance(store, Collection) or store is collection:
            continue
        if isinstance(collection, Collection) and store.path.resolve() != collection.path.resolve():
            raise InputError(
                f"hits from the collection {store.path} meet the collection {collection.path}",
                hint="finish the work on each collection's hits in a pipeline of its own, and join contexts or answers",
            )
        collection = collection or store
