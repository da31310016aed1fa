"""A pytest plugin that puts the build named by RAG_NATIVE in the place of the installed native module."""

from __future__ import annotations

import importlib.util
import os
import sys

_spec = importlib.util.spec_from_file_location("rag._native", os.environ["RAG_NATIVE"])
assert _spec is not None and _spec.loader is not None
sys.modules["rag._native"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules["rag._native"])
