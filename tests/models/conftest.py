from pathlib import Path
from types import ModuleType

import pytest

from tests.models.tiny import save_tiny_models


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    pytest.importorskip("transformers", reason="needs the extra `local`")
    module: ModuleType = pytest.importorskip("torch", reason="needs the extra `local`")
    return module


@pytest.fixture(scope="session")
def folders(torch: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_tiny_models(tmp_path_factory.mktemp("models"))
