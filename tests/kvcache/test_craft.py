"""CacheCraft on tiny models: what is kept against plain passes over the same tokens, and what prompts get of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rag.errors import InputError
from rag.kvcache import CacheCraft, KVCacheManager, MemoryStore, Naive, Segment, Share, Strategy, rehearsals_of
from rag.kvcache.segments import head_context, pieces_of
from rag.kvcache.store import StateKey
from tests.kvcache.families import make_model
from tests.kvcache.prompts import plain_logits, prompt, segment, tokens_of

pytestmark = pytest.mark.torch
Family = Callable[[str], Any]

NAMES = ["llama", "mistral window", "gemma2", "gemma3", "gpt neox", "gptj", "smollm3", "gpt oss"]
REHEARSALS = [[segment("chunk", 90), segment("chunk", 91)], [segment("chunk", 92)]]


def assert_same(got: Any, expected: Any, atol: float = 1e-4) -> None:
    assert float((got - expected).abs().max()) <= atol * max(1.0, float(expected.abs().max()) / 10)


def plain_states(torch: ModuleType, manager: KVCacheManager, before: Sequence[Segment], chunk: Segment) -> Any:
    """Keys turned back to position 0, and values, [2, layers, heads, tokens, d]: one plain pass behind others."""
    from transformers import DynamicCache

    cache, start, adapter = DynamicCache(), len(tokens_of(before)), manager.support.adapter
    with torch.no_grad():
        manager.model(input_ids=torch.tensor([tokens_of([*before, chunk])]), past_key_values=cache, use_cache=True)
    keys = [layer.keys[0, :, start:] for layer in cache.layers]
    where = torch.arange(start, start + keys[0].shape[1])
    assert adapter is not None
    freed = [
        part if rotation is None else rotation.remove(part, where)
        for part, rotation in zip(keys, adapter.rotations, strict=True)
    ]
    return torch.stack([torch.stack(freed), torch.stack([layer.values[0, :, start:] for layer in cache.layers])])


@pytest.mark.parametrize("name", ["llama", "smollm3", "gptj"])
def test_a_rehearsed_chunk_is_the_mean_of_plain_passes(torch: ModuleType, family: Family, name: str):
    manager = KVCacheManager(family(name), strategy=CacheCraft(0.2, REHEARSALS))
    head, _, chunk = prompt(1, 2)[:3]
    manager.prefill(prompt(1, 2))
    kept = next(s for s in manager.store._kept.values() if "scores" in s.extra)  # type: ignore[attr-defined]
    behind = [plain_states(torch, manager, [head, *rehearsal], chunk) for rehearsal in REHEARSALS]
    mean = (behind[0] + behind[1]) / 2
    assert_same(torch.stack([torch.stack(kept.keys), torch.stack(kept.values)]), mean)
    spread = (mean - mean.mean(3, keepdim=True)).square().sum((2, 3, 4), keepdim=True) / mean.shape[3]
    distance = (plain_states(torch, manager, [head], chunk) - mean).square() / spread
    expected = distance.sum((0, 1, 2, 4)).numpy() / len(kept.keys)
    assert kept.extra["scores"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_all_tokens_or_the_first_chunk_are_a_full_prefill(family: Family, name: str):
    model = family(name)
    manager = KVCacheManager(model, strategy=CacheCraft(1.0, REHEARSALS))
    for segments in (prompt(1, 2, 3), prompt(3, 1, 2, question=1), prompt(4, 3, 3, 1, question=2)):
        got = manager.prefill(segments)
        assert_same(got.logits, plain_logits(model, segments))
        assert got.report.exact
    manager = KVCacheManager(model, strategy=CacheCraft(0.1, REHEARSALS))
    manager.prefill(prompt(1, 2))
    got = manager.prefill(prompt(2, question=1))
    assert_same(got.logits, plain_logits(model, prompt(2, question=1)))
    assert got.report.exact
    assert got.report.recomputed == 7


def test_the_highest_scores_are_computed_again(family: Family):
    manager = KVCacheManager(family("gemma3"), strategy=CacheCraft(0.25))
    segments = prompt(4, 2, 3)  # of 6, 23, 21, 22 and 7 tokens; the first chunk is exact
    assert manager.warm(segments[:1], segments[1:4]) == 3
    assert manager.warm(segments[:1], segments[1:4]) == 0
    report = manager.prefill(segments).report
    assert [row.recomputed for row in report.segments] == [0, 0, 6, 6, 7]
    assert [row.overhead for row in report.segments] == [0, 0, 0.25, 0.25, 0]
    assert [row.stored for row in report.segments] == [0] * 5
    assert "behind the instructions and 1 rehearsal; 6 of 21 tokens" in report.segments[2].why


def test_default_rehearsals_are_texts_where_there_is_a_tokenizer(family: Family, tokenizer: Any):
    with_text = KVCacheManager(family("gemma3 words"), tokenizer, strategy="cachecraft")
    ((first, second),) = with_text._rehearsals
    assert tokenizer.decode(first).startswith("The town lies")
    assert tokenizer.decode(second).startswith("Light")
    without = KVCacheManager(family("llama"), strategy="cachecraft")
    assert without._rehearsals == KVCacheManager(family("llama"), strategy="cachecraft")._rehearsals
    empty = CacheCraft(rehearsals=[[Segment("chunk", tokens=())]])
    with pytest.raises(InputError, match="no tokens"):
        KVCacheManager(family("llama"), strategy=empty).prefill(prompt(1, 2))


@pytest.mark.parametrize("name", NAMES)
def test_variants_of_the_same_prefix_are_exact(family: Family, name: str):
    model = family(name)
    manager = KVCacheManager(model, strategy=CacheCraft(0.1, variants=3))
    for segments, computed in [
        (prompt(1, 2, 3), None),
        (prompt(1, 2, 3, question=1), 7),
        (prompt(1, 2, 4, question=2), len(tokens_of([segment("chunk", 4)])) + 7),
        (prompt(1, 2, 4, question=3), 7),
        (prompt(1, 2, 3, question=4), 7),
        (prompt(5, 6, 6, 6), None),  # a chunk that stands behind itself
        (prompt(5, 6, 6, 6, question=1), 7),
    ]:
        got = manager.prefill(segments)
        assert_same(got.logits, plain_logits(model, segments))
        assert got.report.exact
        assert got.report.recomputed == (computed or len(tokens_of(segments[1:])))


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_has_the_profile_of_eager_attention(torch: ModuleType, family: Family, name: str):
    segments = prompt(1, 2, 3, 2)
    tokens = tokens_of(segments)
    manager = KVCacheManager(family(name), strategy=CacheCraft(variants=3))
    manager.prefill(segments)
    pieces = pieces_of(segments, None, manager.known_as)
    with torch.no_grad():
        model = make_model(name, attn_implementation="eager")
        found = model(input_ids=torch.tensor([tokens]), output_attentions=True, use_cache=False).attentions
    paid = torch.stack([layer[0, :, :, : len(tokens)] for layer in found]).mean((0, 1)).numpy()
    one, two, three, again = pieces[1:5]

    def between(later: Any, *earlier: Any) -> float:
        return float(sum(paid[later.start : later.stop, part.start : part.stop].sum() for part in earlier))

    (variant,) = manager._variants.of((three.id, head_context(pieces)))
    assert variant.profile.inter == pytest.approx({one.id: between(three, one), two.id: between(three, two)}, rel=1e-3)
    kept = manager.store.get(StateKey(three.id, variant.context))
    assert kept is not None
    scores = paid[three.start : three.stop, one.start : two.stop].sum(1)
    assert kept.extra["scores"] == pytest.approx(scores, rel=1e-3, abs=1e-6)
    size = len(three.tokens)
    outer = sum(between(three, part) / size / len(part.tokens) for part in (one, two))
    assert variant.profile.impact == pytest.approx(1 / (1 + np.exp(-outer / (between(three, three) / size**2))), 1e-3)
    # The chunk that stands there twice has two variants; the later one counts it as a chunk before itself.
    late = manager._variants.of((two.id, head_context(pieces)))[-1]
    assert late.profile.inter == pytest.approx(
        {one.id: between(again, one), two.id: between(again, two), three.id: between(again, three)}, rel=1e-3
    )


def test_the_least_lost_variant_is_repaired(family: Family):
    manager = KVCacheManager(family("gemma3"), strategy=CacheCraft(0.2, variants=3))
    manager.prefill(prompt(1, 2, 3))
    report = manager.prefill(prompt(4, 2, 1, 3, question=1)).report
    kinds = [row.why.split(":")[0] for row in report.segments]
    assert kinds == ["reused", "computed", "computed", "computed", "reused", "computed"]
    row = report.segments[4]
    assert 0 < row.overhead < 0.4
    assert row.recomputed == int(np.ceil(row.overhead * row.tokens))
    assert "cached behind 2 chunks, 2 of them among the 3 before it now (overlap 1.00, order penalty 1.00" in row.why
    assert not report.exact
    # What was computed behind repaired chunks is kept, but never taken for exact.
    manager.prefill(prompt(4, 2, 1, 3, 5, question=1))
    again = manager.prefill(prompt(4, 2, 1, 3, 5, question=2)).report
    assert again.recomputed < 7 + row.tokens
    assert not again.exact
    assert manager.prefill(prompt(4, 2, 1, question=2)).report.exact


def test_variants_are_bounded_and_may_be_dropped(family: Family):
    model = family("llama")
    for budget in (0, 40_000, 1 << 30):
        manager = KVCacheManager(model, strategy=CacheCraft(0.2, variants=2), store=MemoryStore(budget))
        draw = np.random.default_rng(0)
        for question in range(30):
            segments = prompt(*draw.permutation(8)[:3].tolist(), question=question)
            got = manager.prefill(segments)
            if got.report.exact:
                assert_same(got.logits, plain_logits(model, segments))
            if budget == 0:
                assert got.report.exact
                assert got.report.reused == 6  # the instructions, computed for the store, which drops them
        pieces = pieces_of(prompt(*range(8)), None, manager.known_as)
        names = [(piece.id, head_context(pieces)) for piece in pieces if piece.kind == "chunk"]
        assert all(len(manager._variants.of(name)) <= 2 for name in names)
        assert manager.store.nbytes <= budget  # type: ignore[attr-defined]
        if budget == 1 << 30:
            kept = {key for name in names for key in manager.store._kept if key.segment == name[0]}  # type: ignore[attr-defined]
            assert kept == {StateKey(name[0], v.context) for name in names for v in manager._variants.of(name)}
    assert manager.warm(prompt()[:1], [segment("chunk", 1)]) == 0


def test_chunks_are_arranged(family: Family):
    manager = KVCacheManager(family("llama"), strategy=CacheCraft(0.2, variants=2))
    manager.prefill(prompt(3, 1, 2))
    segments = prompt(4, 2, 1, 3, question=1)
    arranged = manager.arrange(segments)
    assert arranged == prompt(3, 1, 2, 4, question=1)
    assert manager.prefill(arranged).report.exact
    assert manager.arrange(prompt()) == prompt()
    assert KVCacheManager(family("llama"), strategy="cachecraft").arrange(segments) == segments


def test_models_that_cannot_move_chunks_reuse_prefixes(family: Family):
    for strategy in (CacheCraft(), CacheCraft(variants=2)):
        manager = KVCacheManager(family("bloom"), strategy=strategy)
        for segments in (prompt(1, 2), prompt(1, 2, question=1)):
            got = manager.prefill(segments)
            assert_same(got.logits, plain_logits(manager.model, segments))
        assert got.report.reused == len(tokens_of(segments[:-1]))
        assert manager.arrange(segments) == segments


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt neox", "qwen3"])
def test_rehearsed_chunks_are_nearer_to_a_full_prefill(family: Family, name: str):
    """Than chunks cached alone; and the chosen tokens help more than as many drawn at random. Over ten prompts."""
    model = family(name)
    prompts = [prompt(*np.random.default_rng(at).permutation(20)[:4].tolist(), question=at) for at in range(10)]

    def divergence(strategy: Strategy) -> float:
        manager = KVCacheManager(model, strategy=strategy)
        pairs = [(plain_logits(model, p).log_softmax(-1), manager.prefill(p).logits.log_softmax(-1)) for p in prompts]
        return float(sum((full.exp() * (full - got)).sum() for full, got in pairs))

    assert divergence(CacheCraft(0.0, REHEARSALS)) < 0.95 * divergence(Naive())
    assert divergence(CacheCraft(0.3, REHEARSALS)) < 0.8 * divergence(Share(0.3))


def test_scores_are_counted_and_guarded(torch: ModuleType, family: Family):
    manager = KVCacheManager(family("llama"), strategy=CacheCraft(0.2, REHEARSALS))
    expected = manager.prefill(prompt(1, 2)).logits
    kept = next(s for s in manager.store._kept.values() if "scores" in s.extra)  # type: ignore[attr-defined]
    tensors = sum(part.numel() * 4 for part in (*kept.keys, *kept.values))
    assert kept.nbytes == tensors + 4 * kept.tokens
    kept.extra["scores"][3] += 1e-3
    shapes = [(part.shape[0], part.shape[2], part.shape[2]) for part in kept.keys]
    assert "damaged" in kept.fault(kept.key, manager.known_as, shapes, kept.tokens, torch.float32)
    got = manager.prefill(prompt(1, 2))  # which drops them and rehearses anew
    assert_same(got.logits, expected)
    assert got.report.segments[2].stored == 2 * kept.tokens


def test_rehearsals_are_taken_out_of_a_collection(family: Family):
    chunks = [segment("chunk", seed) for seed in range(30)]
    found = rehearsals_of(chunks)
    assert [len(context) for context in found] == [2, 2, 2]
    assert rehearsals_of([*reversed(chunks), chunks[0]]) == found
    kept = [part for context in found for part in context]
    assert rehearsals_of(kept) == found  # what is not taken makes no difference
    assert [len(context) for context in rehearsals_of(chunks[:3])] == [2, 1]
    with pytest.raises(InputError, match="no chunks"):
        rehearsals_of([])


def test_a_chunk_is_not_rehearsed_behind_itself(family: Family):
    model, chunk = family("gemma3"), segment("chunk", 2)
    with_itself = KVCacheManager(model, strategy=CacheCraft(0.2, [[chunk, segment("chunk", 9)], *REHEARSALS]))
    without = KVCacheManager(model, strategy=CacheCraft(0.2, REHEARSALS))
    assert_same(with_itself.prefill(prompt(1, 2)).logits, without.prefill(prompt(1, 2)).logits)
    only_itself = KVCacheManager(model, strategy=CacheCraft(0.0, [[chunk]]))
    naive = KVCacheManager(model, strategy="naive")
    assert_same(only_itself.prefill(prompt(1, 2)).logits, naive.prefill(prompt(1, 2)).logits)
