"""Newer before older."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any, Literal

import numpy as np
from pydantic import Field

from rag.operators.base import Operator
from rag.types import Hits

__all__ = ["Recency"]

_DATE = re.compile(r"\d{4}(?:-\d{2}(?:-\d{2}(?:\D.*)?)?)?\Z")
_DAY = 86400.0


class Recency(Operator, name="post_retrieval.recency", deterministic=False):
    """Reorder hits by relevance and age: newer chunks gain.

    The new score is (1 - `weight`) · relevance + `weight` · 2^(-age / `half_life`), with the old scores brought to 0..1
    by their smallest and largest as relevance. The date is a metadata field: a year as a number, or ISO 8601 text such
    as "2021", "2021-05", "2021-05-03" or with a time; a year or month begins on its first day, without a time zone it
    is UTC. Future dates have age 0. What is no date counts as missing. (Exponential prior over time: Li and Croft, CIKM
    2003, "Time-based language models"; combined linearly here, since scores need not be probabilities.)
    """

    field: str = Field("date", min_length=1, description="metadata field with the date or year")
    half_life: float = Field(365.0, gt=0, description="days after which the gain is halved")
    weight: float = Field(0.3, ge=0, le=1, description="share of the age in the score; 1: by age alone")
    missing: Literal["neutral", "old", "drop"] = Field(
        "neutral",
        description="chunks without a date: the mean gain of those with one, no gain, or left out",
    )
    now: datetime | None = Field(None, description="the time from which ages count; the clock's when left out")

    def run(self, hits: Hits) -> Hits:
        if not len(hits):
            return hits
        now = _aware(self.now) if self.now else datetime.now(timezone.utc)
        dates = [_date(chunk.metadata.get(self.field)) for chunk in hits.chunks()]
        ages = np.array([np.nan if d is None else max((now - d).total_seconds(), 0.0) / _DAY for d in dates])
        dated = ~np.isnan(ages)
        gain = np.exp2(-ages / self.half_life)
        gain[~dated] = gain[dated].mean() if self.missing == "neutral" and dated.any() else 0.0
        low, high = float(hits.scores.min()), float(hits.scores.max())
        relevance = (hits.scores - low) / (high - low) if high > low else np.ones(len(hits))
        scores = (1 - self.weight) * relevance + self.weight * gain
        if self.missing == "drop":
            return hits.take(dated).with_scores(scores[dated])
        return hits.with_scores(scores)


def _date(value: Any) -> datetime | None:
    """The time that a metadata value names; None when it names none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not _DATE.match(value.strip()):
        return None
    text = value.strip()
    text += "-01-01"[len(text) - 4 :] if len(text) < 10 else ""
    try:
        return _aware(datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text))
    except ValueError:
        return None


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)
