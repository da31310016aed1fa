"""sentence-transformers checkpoints, and that both ways to run one agree."""

import json

import numpy as np
import pytest

from rag.encoders import Encoder, load
from rag.encoders.bert import BertEncoder
from rag.encoders.sentence_transformer import SentenceTransformerEncoder
from rag.errors import InputError, ModelError
from tests.encoders.conftest import CONFIG, WORDS, write_checkpoint

pytest.importorskip("sentence_transformers", reason="needs the extra `local`")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

TEXTS = ["a cab", "", "bad face cafe", "z y x w v u t s r q p o n m l k j i h g f e d c b a", "é 日"]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_both_ways_to_run_a_checkpoint_agree(tmp_path, pooling):
    folder = write_checkpoint(tmp_path, pooling=pooling, prompts={"query": "q: ", "document": "p: "})
    ours, theirs = load(str(folder)), load(f"st:{folder}")
    assert isinstance(ours, BertEncoder)
    assert isinstance(theirs, SentenceTransformerEncoder)
    assert isinstance(theirs, Encoder)
    np.testing.assert_allclose(ours.encode_queries(TEXTS), theirs.encode_queries(TEXTS), atol=1e-5)
    np.testing.assert_allclose(ours.encode_documents(TEXTS), theirs.encode_documents(TEXTS), atol=1e-5)
    assert ours.count_tokens(TEXTS) == theirs.count_tokens(TEXTS)
    assert ours.fingerprint == theirs.fingerprint
    assert (ours.dim, ours.max_tokens) == (theirs.dim, theirs.max_tokens)


def test_roberta_counts_its_positions_from_behind_the_padding(tmp_path):
    from transformers import RobertaConfig, RobertaModel

    folder = write_checkpoint(tmp_path, model_type="roberta", pad_token_id=1)
    settings = {k: v for k, v in CONFIG.items() if k != "model_type"} | {"pad_token_id": 1, "type_vocab_size": 1}
    RobertaModel(RobertaConfig(**settings), add_pooling_layer=False).save_pretrained(folder)
    # The padding id never occurs in a text, or the library would take its first tokens for padding.
    vocabulary = {"<s>": 0, "[PAD]": 1, **{word: i for i, word in enumerate(WORDS) if i > 1}}
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"] |= {"vocab": vocabulary, "unk_token": "<s>"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": 38})
    )
    ours, theirs = load(str(folder)), load(f"st:{folder}")
    assert isinstance(ours, BertEncoder)
    np.testing.assert_allclose(ours.encode_queries(TEXTS), theirs.encode_queries(TEXTS), atol=1e-5)


def test_what_the_engine_cannot_run_goes_to_sentence_transformers(tmp_path):
    encoder = load(str(write_checkpoint(tmp_path, pooling="max")))
    assert isinstance(encoder, SentenceTransformerEncoder)
    vectors = encoder.encode_documents(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    alone = np.concatenate([encoder.encode_documents([text]) for text in TEXTS])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)  # sorting by length has put every row back in its place


def test_progress_adds_up_and_wrong_input_is_refused(checkpoint_folder):
    encoder = load(f"st:{checkpoint_folder}")
    done: list[int] = []
    assert encoder.encode_documents(["a"] * 600, progress=done.append).shape == (600, 64)
    assert sum(done) == 600
    assert len(done) > 1
    assert encoder.encode_documents([]).shape == (0, 64)
    assert encoder.count_tokens([]) == []
    with pytest.raises(InputError, match="put it into a list"):
        encoder.encode_documents("a cab")


def test_a_checkpoint_that_cannot_be_loaded_is_an_error_of_ours(checkpoint_folder):
    (checkpoint_folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="sentence-transformers cannot load"):
        load(f"st:{checkpoint_folder}")
