"""Token vectors of encoders that were not trained for them, and the vectors of whole texts beside them."""

import numpy as np
import pytest

from rag.encoders import MultiVectorEncoder, TokenVectors, load, load_multi_vector
from rag.encoders.multivector import TokenStateEncoder
from rag.errors import InputError, NotFoundError
from tests.encoders.conftest import WORDS, random_tensors, write_checkpoint
from tests.encoders.test_bert import reference_states

TEXTS = ["a cab", "", "bad face cafe", "z y x w v u t s r q p o n m l k j i h g f e d c b a", "é 日"]


def test_the_vectors_are_the_last_states_of_the_texts_own_tokens(tmp_path):
    encoder = load_multi_vector(str(write_checkpoint(tmp_path)))
    assert isinstance(encoder, TokenStateEncoder)
    assert isinstance(encoder, MultiVectorEncoder)
    tokens = encoder.encode_documents(["A cab", "", "é 日"])
    states = [
        reference_states(random_tensors(), [WORDS.index(piece) for piece in ["[CLS]", *text, "[SEP]"]], 2)[1:-1]
        for text in (["a", "c", "##a", "##b"], [], ["e", "[UNK]"])
    ]
    expected = np.concatenate(states)
    np.testing.assert_allclose(tokens.vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=3e-5)
    assert tokens.offsets.tolist() == [0, 4, 4, 6]
    assert tokens.spans.tolist() == [[0, 1], [2, 3], [3, 4], [4, 5], [0, 1], [2, 3]]
    assert (tokens.vectors.dtype, tokens.offsets.dtype, tokens.spans.dtype) == (np.float32, np.int64, np.int32)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_one_pass_gives_the_vectors_of_the_single_vector_encoder(tmp_path, pooling):
    folder = str(write_checkpoint(tmp_path, pooling=pooling, prompts={"query": "q: ", "document": "pp: "}))
    encoder, single = load_multi_vector(folder), load(folder)
    vectors, tokens = encoder.encode_documents_both(TEXTS)
    assert (vectors == single.encode_documents(TEXTS)).all()
    assert (tokens.vectors == encoder.encode_documents(TEXTS).vectors).all()
    vectors, tokens = encoder.encode_queries_both(TEXTS)
    assert (vectors == single.encode_queries(TEXTS)).all()
    assert encoder.single.fingerprint == single.fingerprint
    assert encoder.fingerprint != single.fingerprint


def test_prompts_are_read_but_make_no_vectors(tmp_path):
    prompted = load_multi_vector(str(write_checkpoint(tmp_path / "a", prompts={"query": "q: "})))
    plain = load_multi_vector(str(write_checkpoint(tmp_path / "b")))
    tokens, behind = prompted.encode_queries(["a cab"]), plain.encode_queries(["q: a cab"])
    assert (tokens.vectors == behind.vectors[2:]).all()
    assert tokens.spans.tolist() == [[0, 1], [2, 3], [3, 4], [4, 5]]


def test_a_texts_tokens_do_not_depend_on_the_texts_beside_it_nor_on_threads(tmp_path):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdefgh"), n)) for n in rng.integers(0, 30, 80)]
    folder = str(write_checkpoint(tmp_path))
    together = load_multi_vector(folder, threads=3).encode_documents(texts)
    alone = load_multi_vector(folder, threads=1)
    for i, text in enumerate(texts):
        assert (together[i] == alone.encode_documents([text])[0]).all()


def test_a_long_text_is_cut_at_the_limit_and_counted_whole(checkpoint_folder):
    encoder = load_multi_vector(str(checkpoint_folder))
    tokens = encoder.encode_documents(["a " * 100_000, "b"])
    assert tokens.offsets.tolist() == [0, encoder.max_tokens - 2, encoder.max_tokens - 1]
    assert tokens.spans[encoder.max_tokens - 3].tolist() == [26, 27]
    assert encoder.count_tokens(["a " * 100_000]) == [100_000]


def test_progress_adds_up_and_no_texts_give_no_vectors(checkpoint_folder):
    encoder = load_multi_vector(str(checkpoint_folder), threads=1)
    done: list[int] = []
    tokens = encoder.encode_documents(["a b c d e f g h i j k l"] * 700, progress=done.append)
    assert (sum(done), len(tokens)) == (700, 700)
    assert len(done) > 1
    nothing = encoder.encode_documents([])
    assert (len(nothing), nothing.vectors.shape) == (0, (0, 64))
    with pytest.raises(InputError, match="put it into a list"):
        encoder.encode_documents("a cab")


def test_pooling_is_for_documents_and_part_of_the_fingerprint(checkpoint_folder):
    plain, pooling = (load_multi_vector(str(checkpoint_folder), pool_factor=n) for n in (1, 2))
    texts = ["a b c d e", "", "f"]
    assert np.diff(pooling.encode_documents(texts).offsets).tolist() == [3, 0, 1]
    assert (pooling.encode_queries(texts).vectors == plain.encode_queries(texts).vectors).all()
    assert pooling.fingerprint != plain.fingerprint
    assert [encoder.encode_documents(texts).made_by for encoder in (plain, pooling)] == [
        plain.fingerprint,
        pooling.fingerprint,
    ]
    single = pooling.encode_documents(texts, pooled=False)
    assert (single.vectors == plain.encode_documents(texts).vectors).all()
    assert single.made_by == "", "these are not the tokens that the encoder stands for"


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_torch_gives_the_same(tmp_path, pooling):
    pytest.importorskip("sentence_transformers")
    folder = str(write_checkpoint(tmp_path / "a", pooling=pooling, prompts={"document": "p: "}))
    native = load_multi_vector(str(write_checkpoint(tmp_path / "b", prompts={"document": "p: "})))
    torch = load_multi_vector(f"st:{folder}")
    vectors, tokens = torch.encode_documents_both(TEXTS)
    ours = native.encode_documents(TEXTS)
    np.testing.assert_allclose(tokens.vectors, ours.vectors, atol=1e-5)
    assert (tokens.spans == ours.spans).all()
    assert (tokens.offsets == ours.offsets).all()
    np.testing.assert_allclose(vectors, load(f"st:{folder}").encode_documents(TEXTS), atol=1e-5)


def test_spans_hold_where_the_checkpoint_lower_cases_outside_its_tokenizer(tmp_path):
    import json

    folder = write_checkpoint(tmp_path / "m")
    tokenizer = json.loads((folder / "tokenizer.json").read_text()) | {"normalizer": None}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((folder / "sentence_bert_config.json").read_text()) | {"do_lower_case": True}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    from rag.encoders.checkpoint import Checkpoint
    from rag.encoders.multivector.layout import Side
    from rag.encoders.multivector.preparation import Preparation

    prepare = Preparation(Checkpoint.read(folder), Side(16), trained=False)
    text = "İ CAB"  # its first letter has two characters in lower case
    (prepared,) = prepare([text])
    assert [text[a:b] for a, b in prepared.spans[prepared.keep]][-3:] == ["C", "A", "B"]


def test_hashed_words_are_tokens_without_any_model():
    encoder = load_multi_vector("hashing:64")
    assert isinstance(encoder, MultiVectorEncoder)
    text = "The cat, the CAT"
    vectors, tokens = encoder.encode_documents_both([text, "", "!"])
    assert [text[a:b] for a, b in tokens.spans] == ["The", "cat", "the", "CAT"]
    assert tokens.offsets.tolist() == [0, 4, 4, 4]
    expected = load("hashing:64").encode_documents(["the", "cat", "the", "cat"])
    np.testing.assert_allclose(tokens.vectors, expected, atol=1e-6)
    assert vectors.shape == (3, 64)
    assert encoder.encode_queries([]).vectors.shape == (0, 64)
    assert load_multi_vector("hashing:64", pool_factor=2).encode_documents([text]).offsets.tolist() == [0, 2]
    assert len({load_multi_vector(s, pool_factor=p).fingerprint for s in ("hashing", "hashing:8") for p in (1, 2)}) == 4


def test_token_vectors_that_do_not_fit_together_are_refused():
    vectors, spans = np.ones((3, 2), np.float32), np.zeros((3, 2), np.int32)
    for offsets in ([0, 2], [1, 3], [0, 2, 1, 3], []):
        with pytest.raises(InputError, match="must rise from 0 to 3"):
            TokenVectors(vectors, np.array(offsets, np.int64), spans)
    with pytest.raises(InputError, match="do not fit spans"):
        TokenVectors(vectors, np.array([0, 3]), spans[:2])
    tokens = TokenVectors(vectors, np.array([0, 1, 3]), spans)
    assert [len(tokens[i]) for i in (0, 1, -1)] == [1, 2, 2]
    with pytest.raises(IndexError):
        tokens[2]


def test_the_default_model_ranks_by_tokens():
    try:
        encoder = load_multi_vector()
    except NotFoundError as error:
        pytest.skip(str(error))
    query = encoder.encode_queries(["Who wrote the report on salmon?"])[0]
    documents = encoder.encode_documents(["The salmon report was written by Ada.", "The bank raised its rates."])
    scores = [float((query @ documents[i].T).max(1).sum()) for i in range(2)]
    assert scores[0] > scores[1] + 1
    assert encoder.dim == 384
