import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of shared data sets."""
    repository = Path(__file__).resolve().parents[3]
    folder = Path(os.environ.get("RAG_DATA", repository.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set RAG_DATA")
    return folder
