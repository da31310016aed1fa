"""What a check of cached chunks has shown on a collection, in a file of its folder."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rag.collection.files import write_atomic
from rag.errors import ConfigError
from rag.kvcache.strategies import Strategy, as_strategy

__all__ = ["Finding", "Verdict", "find_verdict", "keep_verdict", "settings_of"]

log = logging.getLogger("rag.kvcache")

FILE = "kvcache_check.json"
FORMAT = 1
_Z = 1.6449  # of an interval whose ends hold with a confidence of 95 % each


@dataclass(frozen=True, slots=True)
class Finding:
    """How one strategy compares with full prefill over a number of prompts, chunks cached before.

    agreed: prompts with the same likeliest first token. kl: mean divergence of the first token's distribution from that
    of a full prefill, in nats. equal_texts: share of prompts whose greedy beginning of an answer is the same. work:
    tokens computed, and time: seconds to the first token, both as a share of a full prefill.
    """

    strategy: str
    settings: dict[str, Any]
    prompts: int
    agreed: int
    kl: float
    equal_texts: float
    work: float
    time: float

    @property
    def agreement(self) -> float:
        """The share of prompts with the same first token."""
        return self.agreed / self.prompts if self.prompts else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Ends between which the agreement lies, each with a confidence of 95 % (Wilson 1927)."""
        if not self.prompts:
            return 0.0, 1.0
        n, p, z = self.prompts, self.agreement, _Z
        middle = p + z * z / (2 * n)
        reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max((middle - reach) / (1 + z * z / n), 0.0), min((middle + reach) / (1 + z * z / n), 1.0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Findings for one model and one template of prompts.

    model: as `KVCacheManager.known_as`. template: of the prompts, any text that differs where they would. chunks: the
    most that a prompt of the check had; of longer prompts it says nothing.
    """

    model: str
    template: str
    chunks: int
    findings: tuple[Finding, ...]

    def strategy(self, agreement: float) -> Strategy | None:
        """The strategy with the least work among those that were shown to reach this agreement, None for none."""
        shown = [finding for finding in self.findings if finding.interval[0] >= agreement]
        if not shown:
            return None
        best = min(shown, key=lambda finding: finding.work)
        return as_strategy(best.strategy, **best.settings)


def settings_of(strategy: Strategy) -> dict[str, Any]:
    """The settings that `as_strategy` makes this strategy of again, by its name."""
    return asdict(strategy) if is_dataclass(strategy) else {}


def find_verdict(folder: Path, model: str, template: str) -> Verdict | None:
    """The verdict on this model and template in a collection's folder, None where there is none.

    A file that is damaged, or written by a newer version, holds none; that is logged.
    """
    path = folder / FILE
    try:
        state = path.stat()
    except OSError:
        return None
    kept = _read(path, state.st_mtime_ns, state.st_size, state.st_ino)
    return next((verdict for verdict in kept if (verdict.model, verdict.template) == (model, template)), None)


def keep_verdict(folder: Path, verdict: Verdict) -> Path:
    """Write a verdict into a collection's folder, in the place of an earlier one on the same; returns the file."""
    path = folder / FILE
    others: Sequence[Verdict] = ()
    if path.exists():
        state = path.stat()
        others = _read(path, state.st_mtime_ns, state.st_size, state.st_ino)
    key = verdict.model, verdict.template
    kept = [asdict(one) for one in others if (one.model, one.template) != key] + [asdict(verdict)]
    content = {"format": FORMAT, "sha256": _digest(kept), "verdicts": kept}
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


@lru_cache(8)
def _read(path: Path, changed: int, size: int, inode: int) -> tuple[Verdict, ...]:
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}, expected {FORMAT}")
        if content["sha256"] != _digest(content["verdicts"]):
            raise ValueError("its checksum differs")
        verdicts = []
        for kept in content["verdicts"]:
            verdict = Verdict(**{**kept, "findings": tuple(Finding(**one) for one in kept["findings"])})
            for finding in verdict.findings:
                as_strategy(finding.strategy, **finding.settings)
            verdicts.append(verdict)
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        log.warning("%s is not used, and chunks are reused as if they had not been checked: %s", path, error)
        return ()
    return tuple(verdicts)


def _digest(verdicts: Any) -> str:
    return hashlib.sha256(json.dumps(verdicts, sort_keys=True).encode()).hexdigest()
