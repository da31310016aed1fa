"""Settings that need not be typed each time: environment, a file `rag.yaml` here, or the user's own.

A flag on the command line comes first, then the environment (RAG_LLM, RAG_ENCODER), then ./rag.yaml, then the user's
file. Keys that grant access are never kept here; models read them from the environment.
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rag.errors import ConfigError, did_you_mean

__all__ = ["Config", "load_config"]


class Config(BaseModel):
    """What the command line falls back on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    llm: str | None = Field(None, description="language model that answers, e.g. openai:gpt-4o-mini")
    encoder: str | None = Field(None, description="encoder of new collections")


def load_config(folder: Path | None = None) -> Config:
    """The settings in force in `folder` (default: the current one). Raises ConfigError naming a wrong file."""
    values: dict[str, str] = {}
    for path in (user_config_file(), (folder or Path.cwd()) / "rag.yaml"):
        if path.is_file():
            values |= _read(path)
    for key in Config.model_fields:
        if from_environment := os.environ.get(f"RAG_{key.upper()}"):
            values[key] = from_environment
    return Config(**values)


def user_config_file() -> Path:
    """Where a user's own settings are looked for."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "modular-rag" / "rag.yaml"


def _read(path: Path) -> dict[str, str]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read settings file {str(path)!r}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"settings file {str(path)!r} must hold `key: value` lines")
    for key in values:
        if key not in Config.model_fields:
            raise ConfigError(
                f"settings file {str(path)!r}: unknown key {key!r}", hint=did_you_mean(str(key), Config.model_fields)
            )
    try:
        return Config(**values).model_dump(exclude_none=True)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(p) for p in problem["loc"])
        raise ConfigError(f"settings file {str(path)!r}: {where}: {problem['msg']}") from None
