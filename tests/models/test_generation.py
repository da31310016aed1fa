"""The scripted model, stop strings, wrong requests, and names of models."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import ConfigError, InputError, ModelError, NotFoundError
from rag.models import ChatModel, Completion, load
from rag.models.generation import StopStrings
from rag.models.scripted import ScriptedModel
from rag.types import Message, Usage

ASK = [Message("user", "Where is the cat?")]


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=3), max_size=3), st.data())
def test_a_text_ends_before_its_first_stop_string_however_it_arrives(text, stop, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    scanner = StopStrings(stop)
    said = ""
    for end in [*cuts, len(text)]:
        said += scanner.feed(text[:end])
        if scanner.found:
            break
    said += scanner.finish(text)
    if not any(s in text for s in stop):
        assert said == text
        assert not scanner.found
    else:
        assert scanner.found
        assert text.startswith(said)
        assert not any(s in said for s in stop)
        assert any(text.startswith(said + s) for s in stop)


def test_a_text_is_streamed_word_by_word():
    model = ScriptedModel("On the mat.", logprob=-0.5)
    assert isinstance(model, ChatModel)
    *pieces, last = model.stream(ASK)
    assert pieces == ["On", " the", " mat."]
    assert last == Completion("On the mat.", Usage(4, 3, 1), (-0.5,) * 3, ("On", " the", " mat."))
    assert model.chat(ASK) == last
    assert [call.messages for call in model.calls] == [tuple(ASK)] * 2


def test_the_async_twins_answer_the_same():
    async def run(model):
        return await model.achat(ASK), [piece async for piece in model.astream(ASK)]

    model = ScriptedModel("On the mat.")
    answer, pieces = asyncio.run(run(model))
    assert answer == model.chat(ASK)
    assert pieces == list(model.stream(ASK))


def test_length_and_stop_strings_are_honoured():
    model = ScriptedModel("one two three")
    cut = model.chat(ASK, max_tokens=2)
    assert (cut.text, cut.finish, cut.usage.completion_tokens) == ("one two", "length", 2)
    stopped = model.chat(ASK, stop=["o t"])
    assert (stopped.text, stopped.finish) == ("one tw", "stop")
    assert "".join(p for p in model.stream(ASK, stop=["o t"]) if isinstance(p, str)) == "one tw"


def test_a_script_may_be_a_sequence_with_errors_in_it():
    ready = Completion("yes", Usage(1, 1, 1), (-0.1,), ("yes",))
    model = ScriptedModel(["first", ModelError("down"), ready])
    assert model.chat(ASK).text == "first"
    with pytest.raises(ModelError, match="down"):
        model.chat(ASK)
    assert model.chat(ASK) is ready
    with pytest.raises(ModelError, match="3 replies, but this is call 4"):
        model.chat(ASK)


def test_a_script_may_be_patterns_or_a_function():
    model = ScriptedModel({r"\bdog\b": "In the yard.", "cat": "On the mat."})
    assert model.chat(ASK).text == "On the mat."
    with pytest.raises(ModelError, match="no pattern of the script is found in 'Bird"):
        model.chat([Message("user", "Bird?")])
    assert ScriptedModel(lambda messages: messages[-1].content.upper()).chat(ASK).text == "WHERE IS THE CAT?"


def test_it_can_be_slow():
    start = time.perf_counter()
    ScriptedModel(delay=0.05).chat(ASK)
    assert time.perf_counter() - start >= 0.05


def test_a_prompt_that_does_not_fit_is_refused():
    with pytest.raises(ModelError, match="4 tokens and max_tokens 7 are more than the model's context of 10"):
        ScriptedModel(context_tokens=10).chat(ASK, max_tokens=7)


@pytest.mark.parametrize(
    ("messages", "settings", "message"),
    [
        ([], {}, "no messages"),
        ([Message("robot", "x")], {}, "role 'robot'.*system, user, assistant"),
        (ASK, {"max_tokens": 0}, "max_tokens is 0"),
        (ASK, {"temperature": -1}, "temperature is -1"),
        (ASK, {"temperature": float("nan")}, "temperature is nan"),
        (ASK, {"stop": [""]}, "stop string is empty"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_at_once(messages, settings, message):
    model = ScriptedModel()
    with pytest.raises(InputError, match=message):
        model.chat(messages, **settings)
    with pytest.raises(InputError, match=message):
        model.stream(messages, **settings)  # already before the first piece is asked for
    assert model.calls == []


def test_names_lead_to_models():
    assert load("scripted:Yes.").chat(ASK).text == "Yes."
    assert load("scripted", script=["No."]).chat(ASK).text == "No."
    assert load(load("scripted:Yes.").name).chat(ASK).text == "Yes."


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("scriptd", NotFoundError, "did you mean 'scripted'"),
        ("locl:gemma", NotFoundError, "'locl:gemma'.*did you mean 'local'"),
        ("local", NotFoundError, "local:NAME"),
        ("openai:", NotFoundError, "openai:NAME"),
        ("gemma-3-270m", NotFoundError, "local:gemma-3-270m"),
        ("", NotFoundError, "known: local, openai, scripted"),
    ],
)
def test_a_wrong_name_is_answered_with_what_to_do(spec, error, message):
    with pytest.raises(error, match=message):
        load(spec)


def test_a_wrong_setting_is_named():
    with pytest.raises(ConfigError, match="speed"):
        load("scripted", speed=3)
