"""The one knob: how near to a full prefill an answer from cached chunks has to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from rag.errors import ConfigError
from rag.kvcache.strategies import CacheCraft, Strategy

__all__ = ["Agreement", "Quality", "Recompute", "as_quality", "by_share"]


@dataclass(frozen=True, slots=True)
class Recompute:
    """Compute this share of the tokens of cached chunks again, 0 to 1, whatever comes of it; as text `recompute=0.2`.

    ConfigError for another share.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"the share of tokens to compute again is {self.share}, expected 0 to 1")

    def __str__(self) -> str:
        return f"recompute={self.share:g}"


@dataclass(frozen=True, slots=True)
class Agreement:
    """Begin the answer with the token that a full prefill would choose in at least this share of prompts.

    Shown on the user's own collection by `rag cache check`, with 95 % confidence; what is not shown is not done, and
    only exact prefixes are reused then. As text `agreement=0.95`. ConfigError for a share that is not within 0 to 1.
    """

    share: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"the share of prompts that begin alike is {self.share}, expected 0 to 1")

    def __str__(self) -> str:
        return f"agreement={self.share:g}"


Quality: TypeAlias = Literal["exact"] | Recompute | Agreement


def as_quality(quality: str | Quality) -> Quality:
    """`exact`, `recompute=SHARE` or `agreement=SHARE` as what it means; ConfigError for any other text."""
    if isinstance(quality, Recompute | Agreement):
        return quality
    if quality == "exact":
        return "exact"
    kind, _, number = str(quality).replace(" ", "").partition("=")
    kinds: dict[str, type[Recompute] | type[Agreement]] = {"recompute": Recompute, "agreement": Agreement}
    try:
        return kinds[kind](float(number))
    except (KeyError, ValueError):
        raise ConfigError(
            f"quality {quality!r} is not known", hint="exact, recompute=SHARE or agreement=SHARE, e.g. agreement=0.95"
        ) from None


def by_share(share: float) -> Strategy:
    """The strategy that computes this share of cached chunks again where it matters most."""
    return CacheCraft(share)
