"""A prompt's tokens cut where the parts of its messages meet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.models import can_prefill, load
from rag.models.local import TransformersModel
from rag.models.parts import borders, joined, split
from rag.types import Message

CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}</{{ m['role'] }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT
HIDING = "{% for m in messages %}{{ m['content'] | upper | replace('\ue000', '') }}{% endfor %}"
CHUNKS = ("the cat sat on the mat\n\n", "Grüße aus Köln, 日本語\n\n")


def turns(*chunks: str, system: str = "be brief") -> list[tuple[str, list[str]]]:
    return [("system", [system]), ("user", ["Passages:\n\n", *chunks, "a question?"])]


def plain(messages: Sequence[Message]) -> str:
    return "|".join(message.content.strip() for message in messages)


def test_the_borders_of_parts_are_found_in_a_text():
    text = plain(joined(turns("one\n\n", "two")))
    ends = borders(turns("one\n\n", "two"), plain)
    cut = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
    assert cut == ["be brief", "|Passages:\n\n", "one\n\n", "two", "a question?"]


@given(st.lists(st.text(st.sampled_from("a \n\ue000\ue001"), min_size=1), min_size=1, max_size=6))
def test_no_text_is_taken_for_a_mark(parts: list[str]):
    made = [("user", [*parts, "end"])]
    ends = borders(made, lambda messages: "<" + messages[0].content + ">")
    cut = [0, *(len("<" + "".join(parts[: n + 1])) for n in range(len(parts)))]
    assert ends == cut[1:]


def test_a_template_that_changes_the_parts_has_no_borders():
    assert borders(turns("one"), lambda messages: "".join(m.content[::2] for m in messages)) == []


def test_a_token_that_spans_a_border_belongs_to_the_part_it_begins_in():
    offsets = [(0, 0), (0, 2), (2, 5), (5, 6), (6, 9), (0, 0)]
    assert split([9, 1, 2, 3, 4, 8], offsets, [4, 6]) == [(9, 1, 2), (3,), (4, 8)]
    assert split([1, 2], [(0, 1), (1, 2)], [0, 2, 2]) == [(), (1, 2), (), ()]


@pytest.mark.torch
class TestOnATokenizer:
    @pytest.fixture
    def model(self, folders: dict[str, Path]) -> TransformersModel:
        return TransformersModel(folders["llama"], threads=1)

    @pytest.mark.parametrize("template", ["", CHAT, NO_SYSTEM])
    def test_the_tokens_are_those_of_the_prompt(self, model: TransformersModel, template: str):
        model._tokenizer.chat_template = template or None
        assert model.template == template
        made = turns(*CHUNKS)
        parts = model.prompt_parts(made)
        assert [token for part in parts for token in part] == model._prompt(joined(made))
        assert len(parts) == 5
        for chunk, part in zip(CHUNKS, parts[2:4], strict=True):
            assert model._decode(part) == chunk

    def test_a_part_has_the_same_tokens_wherever_it_stands(self, model: TransformersModel):
        one, other = model.prompt_parts(turns(*CHUNKS)), model.prompt_parts(turns(*CHUNKS[::-1], system="do"))
        assert one[2:4] == other[2:4][::-1]

    @pytest.mark.parametrize("hidden", ["template", "slow tokenizer"])
    def test_where_borders_cannot_be_told_all_is_in_the_last_part(
        self, model: TransformersModel, hidden: str, monkeypatch: pytest.MonkeyPatch
    ):
        tokenizer: Any = model._tokenizer
        if hidden == "template":
            tokenizer.chat_template = HIDING
        else:
            monkeypatch.setattr(type(tokenizer), "is_fast", False)
        parts = model.prompt_parts(turns(*CHUNKS))
        assert parts[:-1] == [()] * 4
        assert list(parts[-1]) == model._prompt(joined(turns(*CHUNKS)))

    def test_what_is_kept_is_made_once(self, model: TransformersModel):
        made = [model.kept("it", object) for _ in range(2)]
        assert made[0] is made[1]
        assert model.kept("another", object) is not made[0]


@pytest.mark.torch
def test_local_models_alone_can_be_prefilled(folders: dict[str, Path]):
    assert can_prefill(load(f"local:{folders['llama']}"))
    assert not can_prefill(load("scripted"))
