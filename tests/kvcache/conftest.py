from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import pytest

from tests.kvcache.families import make_model


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    pytest.importorskip("transformers", reason="needs the extra `local`")
    module: ModuleType = pytest.importorskip("torch", reason="needs the extra `local`")
    return module


@pytest.fixture(scope="session")
def family(torch: ModuleType) -> Callable[[str], Any]:
    """Tiny models by the name of their family, each made once."""
    return cache(make_model)
