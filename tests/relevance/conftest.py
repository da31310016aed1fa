"""Lists with noise that depends on the query, and an adapter trained on them once."""

from __future__ import annotations

from typing import Any

import pytest
from numpy.typing import NDArray

from rag.relevance import CandidateLists, CosineAdapter, train_adapter
from tests.relevance.synthetic import noisy_lists


@pytest.fixture(scope="session")
def unseen() -> tuple[CandidateLists, NDArray[Any]]:
    return noisy_lists(1000, 2)


@pytest.fixture(scope="session")
def adapter() -> CosineAdapter:
    pytest.importorskip("torch")
    return train_adapter(noisy_lists(3000, 1)[0], noisy_lists(600, 3)[0], epochs=15)
