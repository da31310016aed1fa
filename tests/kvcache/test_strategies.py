"""Which tokens a strategy computes again, on drafts made by hand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag.errors import ConfigError
from rag.kvcache import CacheBlend, First, Naive, Share
from rag.kvcache.strategies import CachedChunk, as_strategy


@dataclass
class Drafted:
    chunks: list[CachedChunk]
    deviations: NDArray[np.float64]
    check_layer: int = 4
    asked: list[int] = field(default_factory=list)

    def deviation(self, layer: int) -> NDArray[np.float64]:
        self.asked.append(layer)
        return self.deviations


def draft(*lengths: int, exact: int | None = 0) -> Drafted:
    """Chunks with gaps of two tokens before each."""
    chunks, at = [], 0
    for number, length in enumerate(lengths):
        name = hashlib.sha256(bytes([number])).hexdigest()
        chunks.append(CachedChunk(name, at + 2, at + 2 + length, number == exact))
        at += 2 + length
    return Drafted(chunks, np.random.default_rng(0).random(at + 2))


def test_first_tokens():
    assert First(tokens=2).recompute(draft(5, 4, 1)).tolist() == [9, 10, 15]
    assert First(share=0.5).recompute(draft(5, 3, 4, exact=None)).tolist() == [2, 3, 4, 9, 10, 14, 15]
    assert First(tokens=0).recompute(draft(5, 4)).tolist() == []
    assert Naive().recompute(draft(5, 4)).tolist() == []


@given(st.lists(st.integers(1, 40), max_size=5), st.floats(0, 1))
def test_a_share_is_drawn_within_each_chunk(lengths: list[int], share: float):
    made = draft(*lengths)
    chosen = Share(share).recompute(made)
    assert len(set(chosen.tolist())) == len(chosen)
    inexact = [chunk for chunk in made.chunks if not chunk.exact]
    for chunk in inexact:
        inside = np.sum((chosen >= chunk.start) & (chosen < chunk.stop))
        assert inside == pytest.approx(share * (chunk.stop - chunk.start), abs=1)
        assert inside >= share * (chunk.stop - chunk.start) - 1e-6
    assert len(chosen) == sum(np.sum((chosen >= c.start) & (chosen < c.stop)) for c in inexact)


def test_a_share_depends_on_the_chunk_alone():
    one = draft(9, 30)
    moved = Drafted([CachedChunk(c.id, c.start + 50, c.stop + 50, c.exact) for c in one.chunks], one.deviations)
    assert (Share(0.3).recompute(one) + 50).tolist() == Share(0.3).recompute(moved).tolist()


@given(st.lists(st.integers(1, 40), max_size=5), st.floats(0, 1))
def test_cacheblend_takes_the_largest_deviations_of_all_chunks(lengths: list[int], share: float):
    made = draft(*lengths)
    chosen = CacheBlend(share).recompute(made)
    places = [at for chunk in made.chunks[1:] for at in range(chunk.start, chunk.stop)]
    assert set(chosen.tolist()) <= set(places)
    assert len(set(chosen.tolist())) == len(chosen) == int(np.ceil(share * len(places) - 1e-9))
    rest = made.deviations[sorted(set(places) - set(chosen.tolist()))]
    if len(chosen) and len(rest):
        assert made.deviations[chosen].min() >= rest.max()


def test_cacheblend_checks_where_it_is_told():
    for strategy, layers in ((CacheBlend(), [4]), (CacheBlend(check_layer=2), [2]), (CacheBlend(0.0), [])):
        made = draft(5, 4)
        strategy.recompute(made)
        assert made.asked == layers
    alone = draft(5)
    assert CacheBlend(1.0).recompute(alone).tolist() == alone.asked == []


def test_strategies_by_name():
    assert as_strategy("first", tokens=3) == First(tokens=3)
    assert as_strategy(Naive()) == Naive()
    with pytest.raises(ConfigError, match="did you mean 'cacheblend'"):
        as_strategy("cacheblended")


@pytest.mark.parametrize("make", [lambda: Share(1.1), lambda: First(share=-0.1), lambda: First(tokens=-1)])
def test_shares_that_make_no_sense_are_refused(make: object):
    with pytest.raises(ConfigError, match="expected 0"):
        make()  # type: ignore[operator]


def test_a_check_before_layer_one_is_refused():
    with pytest.raises(ConfigError, match="check_layer is 0"):
        CacheBlend(check_layer=0)  # the first layer's values depend on the token alone: nothing deviates
