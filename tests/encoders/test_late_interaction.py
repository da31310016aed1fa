"""Checkpoints trained for late interaction, in the layouts they are published in, against a plain torch computation."""

import json
import string
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from rag.encoders import MultiVectorEncoder, load_multi_vector
from rag.encoders.multivector import LateInteractionEncoder
from rag.errors import ConfigError, DamagedFileError, MissingExtraError, ModelError, NotFoundError
from tests.encoders.conftest import CONFIG, WORDS, random_tensors, write_checkpoint

MORE = ["[MASK]", "[unused0]", "[unused1]", *".,!?-"]
VOCABULARY = {word: i for i, word in enumerate([*WORDS, *MORE])}
WIDTH, DIM = CONFIG["hidden_size"], 32
TEXTS = ["a cab, a bad cab!", "", "face", "z y x w v u t s r q p o n m l k j i h g f e d c b a", "é - 日"]


def pieces(text: str) -> list[str]:
    """The word pieces of a test's text: letters behind the first of a word are continued ones."""
    plain = text.replace("é", "e").replace("日", "[UNK]")
    found: list[str] = []
    for word in plain.replace(",", " ,").replace("!", " !").split():
        found += [word] if word in VOCABULARY else [word[0], *(f"##{c}" for c in word[1:])]
    return found


def weights(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    tensors = random_tensors(seed)
    words = np.random.default_rng(7).normal(0, 0.3, (len(VOCABULARY), WIDTH)).astype(np.float32)
    return tensors | {"embeddings.word_embeddings.weight": words}


def projection(seed: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.3, (DIM, WIDTH)).astype(np.float32)


def write_base(folder: Path, tensors=None, **config) -> Path:
    """A little BERT whose vocabulary has a mask token, markers and punctuation."""
    write_checkpoint(folder, tensors=weights() if tensors is None else tensors, vocab_size=len(VOCABULARY), **config)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = VOCABULARY
    for token in ("[PAD]", "[CLS]", "[SEP]", "[MASK]"):
        entry = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        tokenizer["added_tokens"].append({"id": VOCABULARY[token], "content": token} | entry)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    names = json.loads((folder / "tokenizer_config.json").read_text())
    names |= {f"{kind}_token": f"[{kind.upper()}]" for kind in ("mask", "pad", "cls", "sep", "unk")}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


def write_colbert(folder: Path, *, tensors=None, metadata=None, **config) -> Path:
    """The layout of ColBERTv2: everything in one safetensors file, settings in artifact.metadata."""
    saved = {f"bert.{name}": value for name, value in weights().items()} | {"linear.weight": projection()}
    write_base(folder, saved if tensors is None else tensors, architectures=["HF_ColBERT"], **config)
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    settings = {
        "query_maxlen": 12,
        "doc_maxlen": 16,
        "dim": DIM,
        "mask_punctuation": True,
        "attend_to_mask_tokens": False,
        "query_token_id": "[unused0]",
        "doc_token_id": "[unused1]",
    }
    (folder / "artifact.metadata").write_text(json.dumps(settings | (metadata or {})))
    return folder


def write_pylate(folder: Path, *, dense=None, base=write_base, **settings) -> Path:
    """The layout of PyLate: a transformer, a Dense module, settings in config_sentence_transformers.json."""
    base(folder)
    module = {"in_features": WIDTH, "out_features": DIM, "bias": False}
    module |= {"activation_function": "torch.nn.modules.linear.Identity"}
    (folder / "1_Dense").mkdir()
    (folder / "1_Dense" / "config.json").write_text(json.dumps(module | (dense or {})))
    save_file({"linear.weight": projection()}, folder / "1_Dense" / "model.safetensors")
    kinds = {"": "sentence_transformers.models.Transformer", "1_Dense": "pylate.models.Dense.Dense"}
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(kinds.items())]
    (folder / "modules.json").write_text(json.dumps(modules))
    known = {
        "model_type": "ColBERT",
        "similarity_fn_name": "MaxSim",
        "query_prefix": "[unused0]",
        "document_prefix": "[unused1]",
        "query_length": 12,
        "document_length": 16,
        "attend_to_expansion_tokens": False,
        "do_query_expansion": True,
        "skiplist_words": list(string.punctuation),
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(known | settings))
    return folder


def plain_bert():
    import torch
    from transformers import BertConfig, BertModel

    config = {k: v for k, v in CONFIG.items() if k != "model_type"} | {"vocab_size": len(VOCABULARY)}
    model = BertModel(BertConfig(**config), add_pooling_layer=False)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights().items()})
    return model.eval()


def expected(model, tokens: list[str], attended: int, keep: list[bool]) -> NDArray[np.float32]:
    """One text through BERT and the projection, as ColBERT's paper has it."""
    import torch

    ids = torch.tensor([[VOCABULARY[token] for token in tokens]])
    mask = (torch.arange(len(tokens)) < attended).long()[None]
    with torch.no_grad():
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state[0]
        vectors = states @ torch.from_numpy(projection()).T
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()[keep]


def query_tokens(text: str, length: int = 12) -> tuple[list[str], int]:
    tokens = ["[CLS]", "[unused0]", *pieces(text)[: length - 3], "[SEP]"]
    return tokens + ["[MASK]"] * (length - len(tokens)), len(tokens)


def document_tokens(text: str, length: int = 16) -> list[str]:
    return ["[CLS]", "[unused1]", *pieces(text)[: length - 3], "[SEP]"]


torch_needed = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
layouts = pytest.mark.parametrize("write", [write_colbert, write_pylate])


def needs_torch(test):
    for mark in torch_needed:
        test = mark(test)
    return test


@needs_torch
@layouts
@pytest.mark.parametrize("prefix", ["", "st:"])
@pytest.mark.parametrize("attend", [False, True])
def test_vectors_are_those_of_a_plain_torch_computation(tmp_path, write, prefix, attend):
    pytest.importorskip("transformers")
    name = "artifact.metadata" if write is write_colbert else "config_sentence_transformers.json"
    folder = write(tmp_path / "m")
    settings = json.loads((folder / name).read_text())
    (folder / name).write_text(
        json.dumps(settings | {"attend_to_mask_tokens": attend, "attend_to_expansion_tokens": attend})
    )
    encoder = load_multi_vector(f"{prefix}{folder}")
    assert isinstance(encoder, LateInteractionEncoder)
    assert isinstance(encoder, MultiVectorEncoder)
    assert (encoder.dim, encoder.max_tokens) == (DIM, 16)
    model = plain_bert()
    queries, documents = encoder.encode_queries(TEXTS), encoder.encode_documents(TEXTS)
    for i, text in enumerate(TEXTS):
        tokens, real = query_tokens(text)
        reference = expected(model, tokens, 12 if attend else real, [True] * 12)
        np.testing.assert_allclose(queries[i], reference, atol=2e-5)
        tokens = document_tokens(text)
        keep = [token not in string.punctuation for token in tokens]
        np.testing.assert_allclose(documents[i], expected(model, tokens, len(tokens), keep), atol=2e-5)


@needs_torch
@layouts
def test_vectors_are_those_of_sentence_transformers(tmp_path, write):
    library = pytest.importorskip("sentence_transformers")
    if not hasattr(library, "MultiVectorEncoder"):
        pytest.skip("this sentence-transformers has no multi-vector encoders")
    folder = write(tmp_path / "m")
    theirs, ours = library.MultiVectorEncoder(str(folder), device="cpu"), load_multi_vector(str(folder))
    theirs.save_pretrained(str(tmp_path / "own"))  # sentence-transformers' own layout
    own = load_multi_vector(str(tmp_path / "own"))
    for i, text in enumerate(TEXTS):
        query, document = theirs.encode_query(text), theirs.encode_document(text)
        for encoder in (ours, own):
            np.testing.assert_allclose(encoder.encode_queries(TEXTS)[i], query, atol=2e-5)
            np.testing.assert_allclose(encoder.encode_documents(TEXTS)[i], document, atol=2e-5)


def write_modernbert(folder: Path) -> Path:
    import torch
    from transformers import ModernBertConfig, ModernBertModel

    write_base(folder)
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=40,
        local_attention=8,
        **{f"{kind}_token_id": VOCABULARY[f"[{kind.upper()}]"] for kind in ("pad", "cls", "sep")},
        bos_token_id=VOCABULARY["[CLS]"],
        eos_token_id=VOCABULARY["[SEP]"],
    )
    ModernBertModel(config).save_pretrained(folder)
    return folder


@needs_torch
def test_a_modernbert_runs_by_torch(tmp_path):
    pytest.importorskip("transformers")
    from transformers import ModernBertModel

    folder = write_pylate(tmp_path / "m", base=write_modernbert)
    encoder = load_multi_vector(str(folder))
    model = ModernBertModel.from_pretrained(folder).eval()
    queries, documents = encoder.encode_queries(TEXTS), encoder.encode_documents(TEXTS)
    for i, text in enumerate(TEXTS):
        tokens, real = query_tokens(text)
        np.testing.assert_allclose(queries[i], expected(model, tokens, real, [True] * 12), atol=2e-5)
        tokens = document_tokens(text)
        keep = [token not in string.punctuation for token in tokens]
        np.testing.assert_allclose(documents[i], expected(model, tokens, len(tokens), keep), atol=2e-5)


def test_spans_name_the_characters_and_are_empty_for_what_is_not_in_the_text(tmp_path):
    encoder = load_multi_vector(str(write_colbert(tmp_path / "m")))
    text = "a cab!"
    documents, queries = encoder.encode_documents([text]), encoder.encode_queries([text])
    assert [text[a:b] for a, b in documents.spans] == ["", "", "a", "c", "a", "b", ""]  # no "!": it is punctuation
    assert [text[a:b] for a, b in queries.spans] == ["", "", "a", "c", "a", "b", "!", *[""] * 5]


def test_queries_are_not_filled_up_where_the_settings_say_so(tmp_path):
    encoder = load_multi_vector(str(write_pylate(tmp_path / "m", do_query_expansion=False)))
    assert np.diff(encoder.encode_queries(["a cab", ""]).offsets).tolist() == [7, 3]


def test_lengths_follow_the_settings_up_to_the_positions_of_the_model(tmp_path):
    encoder = load_multi_vector(str(write_colbert(tmp_path / "a", metadata={"doc_maxlen": 9, "query_maxlen": 5})))
    text = "a " * 100_000
    assert len(encoder.encode_documents([text]).vectors) == 9
    assert len(encoder.encode_queries([text]).vectors) == 5
    assert encoder.count_tokens([text]) == [100_000]
    assert load_multi_vector(str(write_colbert(tmp_path / "b", metadata={"doc_maxlen": 300}))).max_tokens == 40


def test_dense_modules_may_have_bias_activation_and_residual_paths(tmp_path):
    plain = write_pylate(tmp_path / "plain", do_query_expansion=False)
    states = load_multi_vector(str(write_pylate(tmp_path / "s", do_query_expansion=False)))
    states.layout = type(states.layout)(states.layout.query, states.layout.document, (), True)
    raw = states._transformer.states([np.array([2, 5, 3])], "mean", [3])[1]
    dense = {"bias": True, "use_residual": True, "activation_function": "torch.nn.modules.activation.Tanh"}
    folder = write_pylate(tmp_path / "full", dense=dense)
    bias, residual = np.arange(DIM, dtype=np.float32) / DIM, projection(9)
    save_file(
        {"linear.weight": projection(), "linear.bias": bias, "residual.weight": residual},
        folder / "1_Dense" / "model.safetensors",
    )
    full = load_multi_vector(str(folder)).layout.projections[0]
    np.testing.assert_allclose(full(raw), np.tanh(raw @ projection().T + bias) + raw @ residual.T, atol=1e-5)
    assert load_multi_vector(str(plain)).layout.projections[0].bias is None


def test_the_fingerprint_names_the_settings_of_both_sides(tmp_path):
    def fingerprint(name: str, **settings) -> str:
        return load_multi_vector(str(write_pylate(tmp_path / name, **settings))).fingerprint

    original = fingerprint("original")
    assert fingerprint("same") == original
    changed = [
        fingerprint("a", query_length=11),
        fingerprint("b", document_length=17),
        fingerprint("c", query_prefix="[unused1]"),
        fingerprint("d", skiplist_words=[]),
        fingerprint("e", attend_to_expansion_tokens=True),
        load_multi_vector(str(tmp_path / "original"), pool_factor=2).fingerprint,
    ]
    save_file({"linear.weight": projection(4)}, tmp_path / "same" / "1_Dense" / "model.safetensors")
    changed.append(load_multi_vector(str(tmp_path / "same")).fingerprint)
    assert len({original, *changed}) == 1 + len(changed)


@layouts
def test_a_checkpoint_without_its_projection_is_refused(tmp_path, write):
    folder = write(tmp_path / "m")
    place = folder if write is write_colbert else folder / "1_Dense"
    save_file({"other": projection()}, place / "model.safetensors")
    with pytest.raises(ModelError, match=r"no tensor 'linear\.weight': the projection is missing"):
        load_multi_vector(str(folder))
    (place / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors.*save the model again as safetensors"):
        load_multi_vector(str(folder))


def test_what_does_not_fit_together_is_said(tmp_path):
    folder = write_pylate(tmp_path / "width")
    save_file({"linear.weight": np.ones((8, 48), np.float32)}, folder / "1_Dense" / "model.safetensors")
    with pytest.raises(ModelError, match="takes 48 numbers, but is handed 64"):
        load_multi_vector(str(folder))
    with pytest.raises(ModelError, match="activation 'GELU', which is not supported"):
        load_multi_vector(str(write_pylate(tmp_path / "act", dense={"activation_function": "torch.nn.GELU"})))
    with pytest.raises(ModelError, match=r"no token '\[Q\] ', which its settings name"):
        load_multi_vector(str(write_pylate(tmp_path / "marker", query_prefix="[Q] "))).encode_queries(["a"])
    folder = write_pylate(tmp_path / "module")
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2", "type": "x.LSTM"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="LSTM"):
        load_multi_vector(str(folder))
    (folder / "config_sentence_transformers.json").write_text("{")
    with pytest.raises(DamagedFileError, match="is no JSON"):
        load_multi_vector(str(folder))


def test_names_that_lead_nowhere(tmp_path, monkeypatch):
    with pytest.raises(NotFoundError, match="holds no encoder"):
        load_multi_vector(str(tmp_path))
    with pytest.raises(NotFoundError, match="no kind of encoder is called 'colbert'"):
        load_multi_vector("colbert:x")
    with pytest.raises(ConfigError, match="one vector a text and no token vectors"):
        load_multi_vector("openai:text-embedding-3-small")
    with pytest.raises(ConfigError, match="pool factor must be 1 or more, got 0"):
        load_multi_vector("hashing", pool_factor=0)


def test_without_torch_the_missing_extra_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    folder = write_colbert(tmp_path / "m", model_type="mpnet")
    with pytest.raises(MissingExtraError, match=r"modular-rag\[local\]"):
        load_multi_vector(str(folder))
