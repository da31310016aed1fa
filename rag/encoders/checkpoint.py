"""A checkpoint folder as sentence-transformers and transformers lay it out, read without either."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag.errors import DamagedFileError, NotFoundError
from rag.usercache import file_digest

__all__ = ["Checkpoint", "most_positions", "read_json"]

# What training or bookkeeping left in a config file and what has no effect on the vectors.
_WITHOUT_EFFECT = {
    "_name_or_path",
    "architectures",
    "dtype",
    "gradient_checkpointing",
    "initializer_range",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


@dataclass(frozen=True)
class Checkpoint:
    """An encoder on disk: the transformer's `config`, the modules behind it, and how texts are prepared.

    `root` is the folder of the transformer, usually `folder` itself. `pooling` is "mean", "cls", or the name of one
    that only sentence-transformers knows. `modules` are the folders and types of whatever is neither transformer nor
    pooling nor normalisation.
    """

    folder: Path
    root: Path
    config: Mapping[str, Any]
    pooling: str
    max_tokens: int
    query_prompt: str = ""
    document_prompt: str = ""
    lower_case: bool = False
    modules: tuple[tuple[str, str], ...] = field(default=())

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """The checkpoint in `folder`; NotFoundError when there is none, DamagedFileError for a file that is no JSON."""
        modules = read_json(folder / "modules.json") or []
        steps = {str(m["type"]).rsplit(".", 1)[-1]: folder / str(m["path"]) for m in modules}
        root = steps.get("Transformer", folder)
        config = read_json(root / "config.json") or {}
        if not config and not modules:
            raise NotFoundError(f"{str(folder)!r} holds no encoder: no config.json")
        text = read_json(root / "sentence_bert_config.json") or {}
        tokenizer = read_json(root / "tokenizer_config.json") or {}
        prompts = read_json(folder / "config_sentence_transformers.json") or {}
        return cls(
            folder=folder,
            root=root,
            config=config,
            pooling=_pooling(steps.get("Pooling")),
            max_tokens=_max_tokens(text, tokenizer, config),
            query_prompt=_prompt(prompts, "query"),
            document_prompt=_prompt(prompts, "document", "passage", "corpus"),
            lower_case=bool(text.get("do_lower_case")),
            modules=tuple(
                (str(m["path"]), kind)
                for m in modules
                if (kind := str(m["type"]).rsplit(".", 1)[-1]) not in ("Transformer", "Pooling", "Normalize")
            ),
        )

    def fingerprint(self) -> str:
        """Hex digest of weights, tokenizer, configuration, pooling, prompts and length; vectors are always unit length.

        It is made from the files, so it does not depend on which library runs them, nor on where they lie.
        """
        parts: dict[str, Any] = {
            "config": {k: v for k, v in self.config.items() if k not in _WITHOUT_EFFECT},
            "pooling": self.pooling,
            "max_tokens": self.max_tokens,
            "prompts": [self.query_prompt, self.document_prompt],
            "lower_case": self.lower_case,
            "normalize": True,
            "weights": [file_digest(path) for path in _weights(self.root)],
            "tokenizer": [file_digest(path, _tokenizer_digest) for path in _tokenizer(self.root)],
            "modules": [
                [kind, read_json(self.folder / path / "config.json")]
                + [file_digest(file) for file in _weights(self.folder / path)]
                for path, kind in self.modules
            ],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def read_json(path: Path) -> Any:
    """The content of a JSON file, None when it is not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise DamagedFileError(f"{str(path)!r} is no JSON: {error}", hint="download the model again") from None


def most_positions(config: Mapping[str, Any]) -> int:
    """Tokens that a transformer has positions for, special tokens included."""
    positions = int(config.get("max_position_embeddings") or 512)
    if config.get("model_type") in ("roberta", "xlm-roberta"):
        positions -= int(config.get("pad_token_id", 1)) + 1  # their position numbers begin behind the padding id
    return positions


def _pooling(folder: Path | None) -> str:
    settings = (folder and read_json(folder / "config.json")) or {}
    if settings.get("include_prompt") is False:
        return "without prompt"
    if isinstance(mode := settings.get("pooling_mode"), str):
        return mode
    modes = [name for name, on in settings.items() if name.startswith("pooling_mode_") and on]
    if not modes:
        return "mean"
    return "+".join(_POOLINGS.get(mode, mode) for mode in modes)


def _max_tokens(*settings: Mapping[str, Any]) -> int:
    text, tokenizer, config = settings
    positions = most_positions(config)
    chosen = text.get("max_seq_length") or tokenizer.get("model_max_length") or positions
    return min(int(chosen), positions)


def _prompt(settings: Mapping[str, Any], *names: str) -> str:
    prompts = settings.get("prompts") or {}
    for name in (*names, settings.get("default_prompt_name")):
        if prompts.get(name):
            return str(prompts[name])
    return ""


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _tokenizer(folder: Path) -> list[Path]:
    names = ("tokenizer.json",), ("vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model")
    for group in names:
        if found := [folder / name for name in group if (folder / name).is_file()]:
            return found
    return []


def _tokenizer_digest(path: Path) -> str:
    """Digest of a tokenizer file; of a tokenizer.json without its length settings, which every encoder sets itself."""
    content = path.read_bytes()
    if path.suffix == ".json":
        parsed = json.loads(content)
        for name in ("truncation", "padding"):
            parsed.pop(name, None)
        content = json.dumps(parsed, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()
