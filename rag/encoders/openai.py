"""Embeddings from an OpenAI-compatible endpoint (extra `openai`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.encoders.texts import check_texts
from rag.endpoint import client_settings, endpoint_errors, estimate_tokens, import_openai, split_spec
from rag.errors import ModelError

__all__ = ["OpenAIEncoder"]

# Endpoints limit a request by texts and by tokens (OpenAI: 2048 and 300,000).
_TEXTS_A_REQUEST = 128
_TOKENS_A_REQUEST = 100_000


class OpenAIEncoder:
    """The model `model` of the endpoint at `base_url` (default: OPENAI_BASE_URL, else OpenAI's own), as unit vectors.

    The key is read from OPENAI_API_KEY. `timeout` is in seconds for a request; failed requests are sent again `retries`
    times with growing pauses (429, 5xx, lost connections). The fingerprint is made from the model's name: an endpoint
    does not show its weights. A text longer than the model allows is refused by most endpoints.

    Raises ConfigError without a key, ModelError when the endpoint fails or answers nonsense.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        max_tokens: int = 8191,
        timeout: float = 60.0,
        retries: int = 4,
    ) -> None:
        self.model = model
        self.base_url = base_url
        self.max_tokens = max_tokens
        self._client = import_openai().OpenAI(**client_settings(base_url, timeout, retries))

    @classmethod
    def from_spec(cls, spec: str, **settings: Any) -> OpenAIEncoder:
        """From "MODEL" or "MODEL@BASE_URL"."""
        model, base_url = split_spec(spec)
        return cls(model, base_url, **settings)

    def __repr__(self) -> str:
        return f"OpenAIEncoder({self.name!r})"

    @property
    def name(self) -> str:
        return f"openai:{self.model}" + (f"@{self.base_url}" if self.base_url else "")

    @cached_property
    def dim(self) -> int:
        """Numbers a vector; found by encoding a word, unless something has been encoded before."""
        return len(self._request(["dimension"])[0])

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"openai {self.model}".encode()).hexdigest()[:32]

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32[n, dim], one unit vector a text."""
        return self.encode_documents(texts)

    def encode_documents(
        self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float32]:
        """float32[n, dim], one unit vector a text; `progress` is called with the number of texts done since last."""
        parts = []
        for batch in _batches(check_texts(texts)):
            parts.append(self._request(batch))
            self.__dict__.setdefault("dim", parts[-1].shape[1])
            if progress is not None:
                progress(len(batch))
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An upper estimate of each text's tokens: the endpoint's tokenizer is not at hand."""
        return [estimate_tokens(text) for text in check_texts(texts)]

    def _request(self, texts: list[str]) -> NDArray[np.float32]:
        with endpoint_errors(self.name):
            answer = self._client.embeddings.create(
                model=self.model,
                input=[text or " " for text in texts],  # an empty text is refused
                encoding_format="float",
            )
            rows = {int(item.index): item.embedding for item in answer.data}
            if sorted(rows) != list(range(len(texts))):
                raise ModelError(f"{self.name}: {len(texts)} texts were sent, but {len(rows)} vectors came back")
            vectors = np.array([rows[i] for i in range(len(texts))], np.float32)
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            known = self.__dict__.get("dim", vectors.shape[1])
        if vectors.shape[1] != known:
            raise ModelError(f"{self.name}: a vector has {vectors.shape[1]} numbers, earlier ones had {known}")
        if not (np.isfinite(norms).all() and norms.all()):
            raise ModelError(f"{self.name}: a vector is zero or not finite")
        return np.asarray(vectors / norms, np.float32)


def _batches(texts: list[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    tokens = 0
    for text in texts:
        size = estimate_tokens(text)
        if batch and (len(batch) == _TEXTS_A_REQUEST or tokens + size > _TOKENS_A_REQUEST):
            yield batch
            batch, tokens = [], 0
        batch.append(text)
        tokens += size
    if batch:
        yield batch
