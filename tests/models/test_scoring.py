"""Given text scored and mixtures written: padded batches against one plain forward pass over the whole text each."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import InputError, ModelError
from rag.models import Completion, Scored, can_score, scoring
from rag.models import forward as forward_passes
from rag.models.local import TransformersModel
from rag.models.scripted import ScriptedModel
from rag.types import Message, Usage
from tests.models.tiny import TEXTS, distribution, mixed

ITEMS = [
    ("the cat", " sat on the mat"),
    ("", "a question is"),
    ("the dog lay in the yard and the cat sat on", " the mat."),
    ([Message("system", "the cat"), Message("user", "the dog")], " lay"),
    ("Grüße", " aus Köln, 日本語 and more"),
    ("the cat", ""),
]
PROMPTS = ["the cat sat on", "a question is a sentence that asks for an answer and", "the"]
WEIGHTS = [0.5, 0.3, 0.2]


@pytest.fixture(params=["llama", "gpt2", "gemma"])
def model(folders: dict[str, Path], request: pytest.FixtureRequest) -> TransformersModel:
    return TransformersModel(folders[request.param], threads=1)


@pytest.mark.torch
def test_scores_are_those_of_one_pass_over_the_text(model: TransformersModel):
    for (prefix, text), got in zip(ITEMS, model.score_batch(ITEMS), strict=True):
        plain = prefix if isinstance(prefix, str) else "\n\n".join(m.content for m in prefix)
        before = model._tokenizer(plain)["input_ids"] or [model._tokenizer.eos_token_id]
        ids = model._tokenizer(text, add_special_tokens=False)["input_ids"]
        expected = [float(distribution(model, [*before, *ids[:at]])[token]) for at, token in enumerate(ids)]
        assert got.logprobs == pytest.approx(expected, abs=2e-4)
        assert got.logprobs.dtype == np.float32
        assert got.usage == Usage(len(before) + len(ids), 0, 1)
        assert "".join(got.tokens) == got.text == text
        assert list(got.ends) == list(model.token_ends(text))
        assert len(got.ends) == len(ids) == model.count_tokens(text)


@pytest.mark.torch
def test_batches_and_pieces_change_nothing(model: TransformersModel, monkeypatch: pytest.MonkeyPatch):
    items = [(text[:n], text[n:]) for n in range(0, 24, 3) for text in TEXTS[:3]]
    alone = [model.score(prefix, text) for prefix, text in items]
    monkeypatch.setattr(forward_passes, "_LOGITS", 320 * 20)  # three columns of six rows
    monkeypatch.setattr(forward_passes, "_BATCH", 120)
    together = model.score_batch(items)
    for one, other in zip(alone, together, strict=True):
        assert other.logprobs == pytest.approx(one.logprobs, abs=2e-4)
    assert model.score_batch([]) == []


@pytest.mark.torch
def test_ends_cover_any_text(folders: dict[str, Path]):
    model = TransformersModel(folders["llama"])
    for text in ("", " ", "a  b \n", "日本語 😀x ", "\ttab\r\n\r\n", "e\u0301"):
        ends = model.token_ends(text)
        assert np.all(np.diff(ends, prepend=0) >= 0)
        assert (ends[-1] if len(ends) else 0) == len(text)
        assert "".join(Scored(text, np.zeros(len(ends), np.float32), ends).tokens) == text


@pytest.mark.torch
def test_what_does_not_fit_is_not_scored(model: TransformersModel):
    with pytest.raises(ModelError, match=r"more than the model's context of 64.*score the text in parts"):
        model.score("the cat", "the cat " * 60)


@pytest.mark.torch
@pytest.mark.parametrize("weights", [WEIGHTS, [1, 1, 1], [0, 2, 0], [5, 0, 3]])
def test_a_mixture_is_decoded_from_the_mean_distribution(model: TransformersModel, weights: list[float]):
    *pieces, got = model.stream_mixture(PROMPTS, weights, max_tokens=20)
    ids, logprobs = mixed(model, PROMPTS, weights, 20)
    assert isinstance(got, Completion)
    assert got.logprobs == pytest.approx(logprobs, abs=2e-4)
    assert got.text == model._decode(ids) == "".join(str(p) for p in pieces)
    run = [p for p, w in zip(PROMPTS, weights, strict=True) if w]
    assert got.usage == Usage(sum(map(model.count_tokens, run)), len(ids), len(run))


@pytest.mark.torch
def test_a_mixture_of_one_is_the_model_itself(model: TransformersModel):
    *_, got = model.stream_mixture(["the cat sat on"], [3.0], max_tokens=12, stop=["zzz"])
    assert got == model.chat([Message("user", "the cat sat on")], max_tokens=12)


@pytest.mark.torch
def test_a_mixture_that_does_not_fit_is_refused(model: TransformersModel):
    with pytest.raises(ModelError, match="context of 64"):
        list(model.stream_mixture(["the cat", "the cat " * 30], [1, 1], max_tokens=30))


@pytest.mark.parametrize("weights", [[], [1.0], [1, -1], [0, 0], [1, math.nan], [1, math.inf]])
def test_wrong_weights_are_named(weights: list[float]):
    with pytest.raises(InputError, match=r"mixture"):
        ScriptedModel().stream_mixture(["a", "b"], weights)


def test_the_scripted_model_counts_what_was_said():
    got = ScriptedModel().score("the cat and the", " cat sat\nand sat")
    assert got.tokens == (" cat", " sat", "\nand", " sat")
    assert np.exp(got.logprobs) == pytest.approx([2 / 1004, 1 / 1005, 2 / 1006, 2 / 1007])


@given(st.text(max_size=60), st.text(max_size=60))
def test_the_scripted_model_follows_its_definition(prefix: str, text: str):
    got = ScriptedModel().score(prefix, text)
    assert "".join(got.tokens) == text
    said = prefix.split()
    for token, logprob in zip(got.tokens, got.logprobs, strict=True):
        word = token.strip()
        assert math.exp(logprob) == pytest.approx((Counter(said)[word] + 1) / (len(said) + 1000), rel=1e-5)
        said.append(word)


def test_scripted_replies_vote_word_by_word():
    model = ScriptedModel({"1": "It is red.", "2": "It is blue today.", "3": "It is blue now.", "4": "No."})
    *pieces, got = model.stream_mixture(["1", "2", "3", "4"], [3, 2, 2, 3])
    assert got.text == "".join(str(p) for p in pieces) == "It is blue today."
    assert np.exp(got.logprobs) == pytest.approx([0.7, 0.7, 0.4, 0.2])
    assert (got.finish, got.usage) == ("stop", Usage(4, 4, 4))
    *_, short = model.stream_mixture(["1", "2", "3", "4"], [3, 2, 2, 3], max_tokens=3)
    assert (short.text, short.finish) == ("It is blue", "length")
    *_, stopped = model.stream_mixture(["1", "2"], [1, 0], stop=["red"])
    assert (stopped.text, stopped.finish) == ("It is ", "stop")


class ChatOnly:
    """A model that only chats."""

    name = "chat-only"


def test_a_model_that_only_chats_is_told_apart():
    assert can_score(ScriptedModel())
    model: Any = ChatOnly()
    assert not can_score(model)
    with pytest.raises(ModelError, match=r"compressing needs .*chat-only does not tell.*local:NAME"):
        scoring(model, "compressing")


@pytest.mark.torch
@pytest.mark.slow
def test_gemma_finds_the_truth_likelier(gemma: TransformersModel):
    named = gemma.score_batch([("The capital of France is", f" {city}.") for city in ("Paris", "Rome", "Potato")])
    assert named[0].tokens == (" Paris", ".")
    first = [float(scored.logprobs[0]) for scored in named]
    assert first[0] > first[1] > first[2]
    assert gemma.score("The capital of France is", " Rome.").logprobs == pytest.approx(named[1].logprobs, abs=1e-3)
    prompts = [f"{passage}\n\nQuestion: Who wrote the program?\nAnswer:" for passage in ("Ada did.", "It was Ada.")]
    *_, got = gemma.stream_mixture(prompts, [0.6, 0.4], max_tokens=4)
    ids, logprobs = mixed(gemma, prompts, [0.6, 0.4], 4)
    assert "Ada" in got.text
    assert (got.text, got.logprobs) == (gemma._decode(ids), pytest.approx(logprobs, abs=1e-3))
