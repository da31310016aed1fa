"""The types that operators can ask for as resources."""

from rag.collection import Collection
from rag.encoders import Encoder
from rag.models import ChatModel
from rag.operators.signature import resource_type

__all__ = ["ChatModel", "Collection", "Encoder"]

resource_type(Collection, "collection")
resource_type(Encoder, "encoder")
resource_type(ChatModel, "llm")
