"""From the name of a language model to the model."""

from __future__ import annotations

from typing import Any

from rag.errors import ConfigError, NotFoundError, did_you_mean
from rag.models.protocol import ChatModel

__all__ = ["load"]

_KINDS = ("local", "openai", "scripted")


def load(spec: str, **settings: Any) -> ChatModel:
    """The language model that `spec` names; `settings` go to its class.

    - "local:NAME_OR_PATH": a causal language model run by transformers (extra `local`); "local:gemma-3-270m" comes from
      its Python package (extra `gguf`), see rag.models.gemma
    - "openai:MODEL" or "openai:MODEL@BASE_URL": an OpenAI-compatible endpoint (extra `openai`, key in OPENAI_API_KEY)
    - "scripted" or "scripted:TEXT": always the same answer

    Raises NotFoundError for a name that leads nowhere, ConfigError for a wrong setting, MissingExtraError.
    """
    kind, _, rest = spec.strip().partition(":")
    try:
        if kind == "scripted":
            from rag.models.scripted import ScriptedModel

            return ScriptedModel(**{"script": rest, **settings} if rest else settings)
        if kind == "local" and rest:
            from rag.models.gemma import GEMMA, gemma_checkpoint
            from rag.models.local import TransformersModel

            return TransformersModel(gemma_checkpoint() if rest == GEMMA else rest, name=spec.strip(), **settings)
        if kind == "openai" and rest:
            from rag.models.openai import OpenAIChatModel

            return OpenAIChatModel.from_spec(rest, **settings)
    except TypeError as error:
        raise ConfigError(f"language model {spec!r}: {error}") from None
    if kind in _KINDS:
        hint = f"write {kind}:NAME"
    elif rest or not kind:
        hint = did_you_mean(kind, _KINDS)
    else:
        hint = did_you_mean(kind, ["scripted"])
        hint = hint if hint.startswith("did you mean") else f"write local:{kind} or openai:{kind}"
    raise NotFoundError(f"no language model is called {spec!r}", hint=hint)
