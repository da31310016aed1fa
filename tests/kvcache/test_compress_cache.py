"""A compressed cache is what a model goes on from: against the whole cache under a mask that says the same."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from rag.errors import InputError, ModelError
from rag.kvcache import KVCacheManager, Naive
from rag.kvcache.attention import attending, observing, received
from rag.kvcache.compress import as_codec, compress_cache, compressible, importance
from rag.kvcache.masks import additive_mask
from tests.kvcache.prompts import prompt, tokens_of

pytestmark = pytest.mark.torch
Family = Callable[[str], Any]
LAYER = 1
"""The only one with full attention in the hybrid families."""


class Reference:
    """The whole cache, in which the tokens that stay hold what the codec made of them, and a mask that hides the others
    and carries the bias; one model call at a time."""

    def __init__(self, manager: KVCacheManager, prefilled: Any, observed: Any, method: str, budget: float) -> None:
        import torch

        self.model, self.past = manager.model, len(prefilled.tokens)
        self.cache = copy.deepcopy(prefilled.cache)
        layer = self.cache.layers[LAYER]
        adapter = manager.support.adapter
        assert adapter is not None
        self.window = adapter.windows[0]
        rotation = adapter.rotations[LAYER]
        free = layer.keys[0]
        if rotation is not None:
            free = rotation.remove(free, torch.arange(self.past))
        scores = importance(received(observed.layers[LAYER], layer.keys[0]))
        less = as_codec(method).compress(free, layer.values[0], scores, budget)
        heads = len(less.keys)
        self.bias = torch.full((heads, self.past), torch.finfo(torch.float32).min)
        for head, places in enumerate(less.positions):
            turned = less.keys[head] if rotation is None else rotation.apply(less.keys[head], places)
            layer.keys[0, head, places] = turned
            layer.values[0, head, places] = less.values[head]
            self.bias[head, places] = 0.0 if less.bias is None else less.bias[head]

    def __call__(self, tokens: Any) -> Any:
        import torch

        new = tokens.shape[1]
        at = torch.arange(self.past, self.past + new)
        seen = self.cache.layers[0].get_mask_sizes(new)
        sliding = additive_mask(at, self.past + new, self.window, torch.float32)[..., seen[1] :]
        groups = self.model.config.num_attention_heads // len(self.bias)
        full = additive_mask(at, self.past + new, None, torch.float32).repeat(1, len(self.bias) * groups, 1, 1)
        length = self.bias.shape[1]
        full[0, :, :, :length] = self.bias.repeat_interleave(groups, 0)[:, None]
        mask = {"full_attention": full, "sliding_attention": sliding}
        self.past += new
        return self.model(
            input_ids=tokens, position_ids=at[None], past_key_values=self.cache, attention_mask=mask
        ).logits[0]


@pytest.mark.parametrize("method", ["evict", "kvmerger", "d2o", "ems"])
@pytest.mark.parametrize("name", ["gemma3", "cohere2", "gpt oss"])
def test_the_model_goes_on_as_under_a_mask(torch: ModuleType, family: Family, name: str, method: str):
    model = family(name)
    manager = KVCacheManager(model, strategy="full")
    with observing(model) as observed:
        prefilled = manager.prefill(prompt(1, 2, 3))
    with torch.no_grad():
        reference = Reference(manager, prefilled, observed, method, 0.4)
        small = compress_cache(manager, prefilled, observed, method, 0.4, layers=[LAYER])
        kept = small.cache.layers[LAYER]
        assert kept.keys.shape[2] == -(-len(prefilled.tokens) * 4 // 10)
        assert kept.get_seq_length() == len(prefilled.tokens)
        tokens = torch.tensor([[5, 9, 77]])
        with attending(model):
            got = model(input_ids=tokens, past_key_values=small.cache).logits[0]
        assert float((got - reference(tokens)).abs().max()) < 1e-4
        for token in (3, 70):
            with attending(model):
                got = model(input_ids=torch.tensor([[token]]), past_key_values=small.cache).logits[0]
            assert float((got - reference(torch.tensor([[token]]))).abs().max()) < 1e-4


def test_generation_goes_on_at_the_true_positions(torch: ModuleType, family: Family):
    model = family("gemma3")
    manager = KVCacheManager(model, strategy="full")
    with observing(model) as observed:
        prefilled = manager.prefill(prompt(1, 2, 3))
    reference = Reference(manager, prefilled, observed, "ems", 0.5)
    start = torch.tensor([[*prefilled.tokens, int(prefilled.logits.argmax())]])
    small = compress_cache(manager, prefilled, observed, "ems", 0.5, layers=[LAYER])
    with attending(model):
        written = model.generate(
            start,
            attention_mask=torch.ones_like(start),
            past_key_values=small.cache,
            max_new_tokens=12,
            do_sample=False,
        )
    token, expected = start[:, -1:], []
    with torch.no_grad():
        for _ in range(12):
            token = reference(token)[-1:].argmax(-1)[None]
            expected.append(int(token))
    eos = model.generation_config.eos_token_id
    stop = expected.index(eos) + 1 if eos in expected else 12
    assert written[0, start.shape[1] :].tolist() == expected[:stop]


@pytest.mark.parametrize("name", ["llama", "llama eager", "gpt neox", "glm", "smollm3", "gemma2", "qwen2 window"])
def test_the_whole_budget_is_the_whole_cache(torch: ModuleType, family: Family, name: str):
    model = family(name)
    manager = KVCacheManager(model, strategy="full")
    with observing(model, rows=16) as observed:
        prefilled = manager.prefill(prompt(1, 2))
    adapter = manager.support.adapter
    assert adapter is not None
    layers = [at for at, window in enumerate(adapter.windows) if window is None]
    before = [layer.keys.clone() for layer in prefilled.cache.layers]
    whole = compress_cache(manager, prefilled, observed, "d2o", 1.0, layers=layers)
    most = compress_cache(manager, prefilled, observed, "evict", 0.9, layers=layers)
    next_tokens = torch.tensor([[4, 8, 15]])
    outputs = []
    for made in (whole, most, prefilled):  # the given one last: the others did not change it
        assert [torch.equal(a, b.keys) for a, b in zip(before, prefilled.cache.layers, strict=True)] == [True] * 3
        with torch.no_grad(), attending(model):
            outputs.append(model(input_ids=next_tokens, past_key_values=made.cache).logits)
    assert torch.equal(outputs[0], outputs[2])
    limit = float(outputs[2].abs().max())
    assert 0 < float((outputs[1] - outputs[2]).abs().max()) < limit  # fewer tokens make a difference, and no mess


def test_chunks_put_together_can_be_compressed(torch: ModuleType, family: Family):
    model = family("gemma3")
    manager = KVCacheManager(model, strategy=Naive())
    manager.prefill(prompt(1, 2, 3))
    with observing(model) as observed:
        prefilled = manager.prefill(prompt(3, 1, 2))
    seen = observed.layers[LAYER]
    length = len(prefilled.tokens)
    assert seen.positions.tolist() == list(range(length - len(tokens_of(prompt()[1:])), length))  # the question's
    small = compress_cache(manager, prefilled, observed, layers=[LAYER])
    assert small.cache.layers[LAYER].keys.shape[2] == -(-length // 2)


def test_observed_attention_is_the_model_s_own(torch: ModuleType, family: Family):
    model = family("llama eager")
    tokens = torch.tensor([tokens_of(prompt(1, 2))])
    with observing(model) as observed, torch.no_grad():
        cache = model(input_ids=tokens).past_key_values
    with torch.no_grad():
        weights = model(input_ids=tokens, output_attentions=True).attentions
    for number, layer in enumerate(cache.layers):
        found = received(observed.layers[number], layer.keys[0], recent=5)
        grouped = weights[number][0].unflatten(0, (2, -1)).sum(1)
        assert torch.allclose(found.total, grouped.sum(1), atol=1e-4)
        assert torch.allclose(found.recent, grouped[:, -5:].sum(1), atol=1e-4)
        assert found.seen.tolist() == list(range(tokens.shape[1], 0, -1))


def test_blocks_of_rows_make_no_difference(torch: ModuleType, family: Family, monkeypatch: pytest.MonkeyPatch):
    model = family("llama")
    with observing(model) as observed, torch.no_grad():
        cache = model(input_ids=torch.tensor([tokens_of(prompt(1, 2))])).past_key_values
    whole = received(observed.layers[0], cache.layers[0].keys[0], recent=9)
    monkeypatch.setattr("rag.kvcache.attention.observe._BLOCK", 4 * 5 * len(cache.layers[0].keys[0, 0]))
    parts = received(observed.layers[0], cache.layers[0].keys[0], recent=9)
    assert torch.allclose(whole.total, parts.total, atol=1e-5)
    assert torch.allclose(whole.recent, parts.recent, atol=1e-5)


def test_layers_that_are_compressed(family: Family):
    adapter = KVCacheManager(family("gemma3")).support.adapter
    assert adapter is not None
    assert compressible(adapter) == ()  # its one full layer is among the first two
    object.__setattr__(adapter, "windows", (None,) * 6)
    assert compressible(adapter) == (2, 3, 4)


def test_what_cannot_be_compressed_is_refused(torch: ModuleType, family: Family):
    model = family("gemma3")
    manager = KVCacheManager(model, strategy="full")
    with observing(model) as observed:
        prefilled = manager.prefill(prompt(1, 2))
    with pytest.raises(InputError, match="layer 0 of 3 cannot be compressed"):
        compress_cache(manager, prefilled, observed, layers=[0])
    small = compress_cache(manager, prefilled, observed, layers=[LAYER])
    with pytest.raises(InputError, match="it was compressed before"):
        compress_cache(manager, small, observed, layers=[LAYER])
    del observed.layers[LAYER]
    with pytest.raises(InputError, match="layer 1 was not observed"):
        compress_cache(manager, prefilled, observed, layers=[LAYER])
    other = KVCacheManager(family("gpt2"), strategy="full")
    with pytest.raises(ModelError, match="cannot be compressed: no rotation explains"):
        compress_cache(other, prefilled, observed)


def test_a_model_that_knows_nothing_of_it_is_noticed(torch: ModuleType, family: Family):
    model = family("gemma3")
    manager = KVCacheManager(model, strategy="full")
    with observing(model) as observed:
        prefilled = manager.prefill(prompt(1, 2))
    small = compress_cache(manager, prefilled, observed, layers=[LAYER])
    with pytest.raises(ModelError, match="attending"):
        model(input_ids=torch.tensor([[3]]), past_key_values=small.cache)


def test_states_have_the_same_name_while_a_model_attends(family: Family):
    model = family("llama")
    with attending(model):
        inside = KVCacheManager(model).known_as
    assert KVCacheManager(model).known_as == inside


def test_the_packages_load_no_torch():
    code = "import rag.kvcache.attention, rag.kvcache.compress, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_attention_function_comes_back(torch: ModuleType, family: Family):
    model = family("llama")
    tokens = torch.tensor([tokens_of(prompt(1))])
    with torch.no_grad():
        expected = model(input_ids=tokens).logits
        with attending(model), attending(model):
            assert torch.equal(model(input_ids=tokens).logits, expected)
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(ModelError, match="cannot be told"), attending(family("gptj")):
        pass
    with pytest.raises(ModelError, match="cannot be told"), observing(family("bloom")):
        pass
