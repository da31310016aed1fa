"""The torch-free encoder against a plain float64 transformer written from the paper, and its promises."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from rag._native import TransformerEncoder
from rag.encoders import Encoder
from rag.encoders.bert import BertEncoder
from rag.encoders.checkpoint import Checkpoint
from rag.errors import DamagedFileError, InputError, ModelError, NotFoundError
from tests.encoders.conftest import CONFIG, WORDS, random_tensors, write_checkpoint

LAYER_PARTS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)


def encoder(folder: Path, **settings) -> BertEncoder:
    return BertEncoder(Checkpoint.read(folder), **settings)


def reference(tensors, ids: list[int], pooling: str, heads: int) -> NDArray[np.float64]:
    states = reference_states(tensors, ids, heads)
    vector = states.mean(0) if pooling == "mean" else states[0]
    return vector / np.linalg.norm(vector)


def reference_states(tensors, ids: list[int], heads: int, seen: int | None = None) -> NDArray[np.float64]:
    """Devlin et al. 2019 and Vaswani et al. 2017, one text, no tricks; attention to the first `seen` tokens."""
    t = {name: value.astype(np.float64) for name, value in tensors.items()}

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12) * t[f"{name}.weight"] + t[f"{name}.bias"]

    x = t["embeddings.word_embeddings.weight"][ids] + t["embeddings.token_type_embeddings.weight"][0]
    x = norm(x + t["embeddings.position_embeddings.weight"][: len(ids)], "embeddings.LayerNorm")
    size = x.shape[1] // heads
    for i in range(CONFIG["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        q, k, v = (linear(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value"))
        attended = []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            scores = q[:, part] @ k[:, part].T / math.sqrt(size)
            scores[:, len(ids) if seen is None else seen :] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            attended.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
        attention = linear(np.concatenate(attended, -1), f"{layer}.attention.output.dense")
        x = norm(x + attention, f"{layer}.attention.output.LayerNorm")
        inner = linear(x, f"{layer}.intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x


def native(tensors, heads: int, isa: str = "") -> TransformerEncoder:
    positions = tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
    model = TransformerEncoder(
        tensors["embeddings.word_embeddings.weight"],
        positions,
        tensors["embeddings.LayerNorm.weight"],
        tensors["embeddings.LayerNorm.bias"],
        heads,
        1e-12,
        isa,
    )
    for i in range(CONFIG["num_hidden_layers"]):
        model.add_layer(
            *(tensors[f"encoder.layer.{i}.{part}.{kind}"] for part in LAYER_PARTS for kind in ("weight", "bias"))
        )
    return model


def packed(texts: list[list[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    return np.array([i for ids in texts for i in ids], np.int32), np.cumsum([0, *map(len, texts)]).astype(np.int64)


token_lists = st.lists(
    st.lists(st.integers(0, len(WORDS) - 1), min_size=1, max_size=CONFIG["max_position_embeddings"]),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("isa", TransformerEncoder.isas())
@given(texts=token_lists, pooling=st.sampled_from(["mean", "cls"]), heads=st.sampled_from([1, 2]))
@settings(max_examples=15, deadline=None)
def test_vectors_equal_a_plain_float64_transformer(isa, texts, pooling, heads):
    tensors = random_tensors()
    vectors = native(tensors, heads, isa).encode(*packed(texts), pooling, 2)
    expected = np.array([reference(tensors, ids, pooling, heads) for ids in texts])
    np.testing.assert_allclose(vectors, expected, atol=3e-5)


@pytest.mark.parametrize("isa", TransformerEncoder.isas())
@given(texts=token_lists, data=st.data())
@settings(max_examples=15, deadline=None)
def test_states_are_those_of_a_plain_transformer_that_attends_to_some_tokens(isa, texts, data):
    tensors, model = random_tensors(), native(random_tensors(), 2, isa)
    attended = [data.draw(st.integers(1, len(ids))) for ids in texts]
    vectors, states = model.encode_with_states(*packed(texts), "cls", 2, np.array(attended, np.int64))
    expected = [reference_states(tensors, ids, 2, seen) for ids, seen in zip(texts, attended, strict=True)]
    np.testing.assert_allclose(states, np.concatenate(expected), atol=1e-4)
    first = np.array([text[0] / np.linalg.norm(text[0]) for text in expected])
    np.testing.assert_allclose(vectors, first, atol=3e-5)
    without, all_states = model.encode_with_states(*packed(texts), "mean", 1)
    assert (without == model.encode(*packed(texts), "mean", 1)).all()
    np.testing.assert_allclose(
        all_states, np.concatenate([reference_states(tensors, ids, 2) for ids in texts]), atol=1e-4
    )


@pytest.mark.parametrize("attended", [[0, 1], [2, 2], [1], [1, 1, 1]])
def test_the_engine_refuses_attention_to_tokens_that_are_not_there(attended):
    with pytest.raises(ValueError, match="attend"):
        native(random_tensors(), 2).encode_with_states(*packed([[2, 3], [4]]), "mean", 1, np.array(attended, np.int64))


@pytest.mark.parametrize("isa", TransformerEncoder.isas())
def test_a_vector_does_not_depend_on_the_texts_beside_it_nor_on_threads(isa):
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, len(WORDS), n).tolist() for n in rng.integers(1, 41, 60)]
    model = native(random_tensors(), 2, isa)
    together = model.encode(*packed(texts), "mean", 3)
    alone = np.concatenate([model.encode(*packed([ids]), "mean", 1) for ids in texts])
    assert together.tobytes() == alone.tobytes()


@pytest.mark.parametrize(
    ("ids", "offsets", "pooling", "message"),
    [
        ([0, 1], [0, 1, 1, 2], "mean", "no tokens"),
        ([0] * 41, [0, 41], "mean", "positions"),
        ([len(WORDS)], [0, 1], "mean", "vocabulary"),
        ([-1], [0, 1], "mean", "vocabulary"),
        ([0, 1], [0, 3], "mean", "offsets"),
        ([0, 1, 2], [0, 5, 3], "mean", "vocabulary|no tokens"),
        ([0], [], "mean", "offsets"),
        ([0], [0, 1], "max", "pooling"),
    ],
)
def test_the_engine_refuses_wrong_input(ids, offsets, pooling, message):
    model = native(random_tensors(), 2)
    with pytest.raises(ValueError, match=message):
        model.encode(np.array(ids, np.int32), np.array(offsets, np.int64), pooling, 1)


def test_the_engine_refuses_kernels_the_cpu_does_not_have():
    with pytest.raises(ValueError, match="no kernels called abacus"):
        native(random_tensors(), 2, "abacus")


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_texts_become_the_vectors_of_their_tokens(tmp_path, pooling):
    model = encoder(write_checkpoint(tmp_path, pooling=pooling))
    assert isinstance(model, Encoder)
    vectors = model.encode_queries(["A cab", "", "é 日"])
    tokens = [["[CLS]", "a", "c", "##a", "##b", "[SEP]"], ["[CLS]", "[SEP]"], ["[CLS]", "e", "[UNK]", "[SEP]"]]
    expected = [reference(random_tensors(), [WORDS.index(t) for t in text], pooling, 2) for text in tokens]
    np.testing.assert_allclose(vectors, expected, atol=3e-5)
    assert (vectors.dtype, model.dim) == (np.float32, 64)
    assert model.count_tokens(["A cab", "", "é 日"]) == [4, 0, 2]


def test_only_the_first_tokens_are_read_but_all_are_counted(checkpoint_folder):
    model = encoder(checkpoint_folder)
    text = "a b c d e f g h i j k l m n"  # 14 tokens: with [CLS] and [SEP] just as many as are read
    read, longer, other = model.encode_documents([text, text + " o p", "o " + text])
    assert model.max_tokens == 16
    assert (read == longer).all()
    assert read @ other < 0.999
    assert model.count_tokens([text + " o p"]) == [16]


def test_prompts_stand_before_the_texts(tmp_path):
    plain = encoder(write_checkpoint(tmp_path / "plain"))
    prompted = encoder(write_checkpoint(tmp_path / "prompted", prompts={"query": "q: ", "passage": "p: "}))
    assert (prompted.encode_queries(["cab"]) == plain.encode_queries(["q: cab"])).all()
    assert (prompted.encode_documents(["cab"]) == plain.encode_documents(["p: cab"])).all()


def test_progress_adds_up_and_no_texts_give_no_rows(checkpoint_folder):
    model = encoder(checkpoint_folder, threads=1)
    done: list[int] = []
    model.encode_documents(["a b c d e f g h i j k l"] * 700, progress=done.append)
    assert sum(done) == 700
    assert len(done) > 1
    assert model.encode_documents([]).shape == (0, 64)


@pytest.mark.parametrize(
    ("texts", "message"),
    [("cab", "put it into a list"), (["a", 3], "text 1 is a int"), (["\ud800"], "no valid Unicode")],
)
def test_what_is_no_list_of_texts_is_refused(checkpoint_folder, texts, message):
    with pytest.raises(InputError, match=message):
        encoder(checkpoint_folder).encode_documents(texts)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_16_bit_weights_are_widened(tmp_path, dtype):
    tensors = random_tensors()
    vectors = encoder(write_checkpoint(tmp_path / "full")).encode_queries(["a cab", "bad"])
    if dtype == "F16":
        folder = write_checkpoint(tmp_path / "half", tensors={k: v.astype(np.float16) for k, v in tensors.items()})
    else:  # NumPy has no bfloat16: write its bits as uint16 and rename the type in the header, which is as long
        bits = {k: (v.view(np.uint32) >> 16).astype(np.uint16) for k, v in tensors.items()}
        folder = write_checkpoint(tmp_path / "half", tensors=bits)
        content = (folder / "model.safetensors").read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = content[8 : 8 + size].replace(b'"U16"', b'"BF16"')
        (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
    half = encoder(folder).encode_queries(["a cab", "bad"])
    assert ((half * vectors).sum(1) > 0.999).all()


def test_the_fingerprint_names_all_that_decides_the_vectors_and_nothing_else(tmp_path):
    def fingerprint(name: str, **changes) -> str:
        return Checkpoint.read(write_checkpoint(tmp_path / name, **changes)).fingerprint()

    original = fingerprint("original")
    assert fingerprint("elsewhere", transformers_version="9", dtype="float16") == original
    tokenizer = json.loads((tmp_path / "elsewhere" / "tokenizer.json").read_text())
    tokenizer["truncation"] = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "elsewhere" / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert Checkpoint.read(tmp_path / "elsewhere").fingerprint() == original

    changed = [
        fingerprint("weights", tensors=random_tensors(1)),
        fingerprint("pooling", pooling="cls"),
        fingerprint("length", max_tokens=17),
        fingerprint("prompts", prompts={"query": "q: "}),
        fingerprint("config", layer_norm_eps=1e-5),
    ]
    tokenizer["model"]["vocab"]["z"] = 0
    (tmp_path / "elsewhere" / "tokenizer.json").write_text(json.dumps(tokenizer))
    changed.append(Checkpoint.read(tmp_path / "elsewhere").fingerprint())
    assert len({original, *changed}) == 1 + len(changed)


def test_a_changed_file_is_digested_again(tmp_path):
    folder = write_checkpoint(tmp_path)
    before = Checkpoint.read(folder).fingerprint()
    assert Checkpoint.read(folder).fingerprint() == before
    save_file(random_tensors(1), folder / "model.safetensors")
    assert Checkpoint.read(folder).fingerprint() != before


def test_a_damaged_weights_file_is_named(checkpoint_folder):
    path = checkpoint_folder / "model.safetensors"
    content = path.read_bytes()
    for damaged in (content[:-100], content[:4], b"", b"\xff" * 100, content[:8] + b"x" + content[9:]):
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=r"model\.safetensors"):
            encoder(checkpoint_folder).encode_queries(["a"])


def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path):
    tensors = random_tensors()
    tensors["encoder.layer.1.output.dense.weight"] = np.zeros((64, 64), np.float32)
    with pytest.raises(ModelError, match=r"does not fit its config\.json"):
        encoder(write_checkpoint(tmp_path, tensors=tensors)).encode_queries(["a"])
    del tensors["encoder.layer.1.output.dense.weight"]
    with pytest.raises(ModelError, match=r"no tensor 'encoder\.layer\.1\.output\.dense\.weight'"):
        encoder(write_checkpoint(tmp_path, tensors=tensors)).encode_queries(["a"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "mpnet"}, "model type 'mpnet'"),
        ({"hidden_act": "relu"}, "activation 'relu'"),
        ({"pooling": "max"}, "pooling 'pooling_mode_max_tokens'"),
        ({"position_embedding_type": "relative_key"}, "relative positions"),
        ({"num_attention_heads": 4}, "the size of its attention heads"),
    ],
)
def test_what_only_torch_can_run_is_said(tmp_path, changes, reason):
    with pytest.raises(ModelError, match=f"cannot run without torch: {reason}"):
        encoder(write_checkpoint(tmp_path, **changes))


def test_a_folder_without_a_checkpoint_is_refused(tmp_path, checkpoint_folder):
    with pytest.raises(NotFoundError, match="holds no encoder"):
        Checkpoint.read(tmp_path)
    (checkpoint_folder / "config.json").write_text("{")
    with pytest.raises(DamagedFileError, match=r"config\.json"):
        Checkpoint.read(checkpoint_folder)
    shutil.rmtree(checkpoint_folder)
