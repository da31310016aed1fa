"""Probabilities of relevance for the hits of any scorer, and the evidence of several added up."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from rag.collection import Collection
from rag.errors import NotFoundError
from rag.evaluate.candidates import Candidates, find_candidates, fit_scorers, scorers_of
from rag.evaluate.judgements import LabelledQuery
from rag.operators.post_retrieval import Calibrate, MaxSimRerank, RelevanceFilter
from rag.operators.retrieval import BM25, Dense, EmbedQuery, Fuse
from rag.pipelines import Pipeline
from rag.relevance import load_models, save_models
from rag.relevance.measures import calibration_error, pr_auc
from rag.types import Chunk, Document, Hits, Query

WORDS = "sail rope mast keel rudder anchor harbour tide wind wave flour butter sauce roux oven bread yeast salt".split()

NAMES = ["".join(row) for row in np.random.default_rng(7).choice(list("abcdefghijklmnopqrstuvwxyz"), (300, 7))]


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """300 documents, each with a word of its own twice among others that all have."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("calibrate") / "kb"
    with Collection.create(path, encoder="hashing:512", tokens="hashing:512") as made:
        documents = [Document(f"d{n}", " ".join([NAMES[n], *rng.choice(WORDS, 8), NAMES[n]])) for n in range(300)]
        texts = [d.text for d in documents]
        with made.writer() as writer:
            chunks = [[Chunk(d.id, d.text, 0, len(d.text))] for d in documents]
            tokens = made.token_encoder.encode_documents(texts)
            writer.add(documents, chunks, made.encoder.encode_documents(texts), tokens=tokens)
            writer.commit()
        yield made.refresh()


@pytest.fixture(scope="module")
def found(kb: Collection) -> Candidates:
    """Questions that name a topic, or only half of its name, among words that do not matter."""
    rng = np.random.default_rng(1)
    asked = []
    for n in range(300):
        named = NAMES[n] if n % 3 else NAMES[n][:3]
        asked.append(LabelledQuery(" ".join([*rng.choice(WORDS, 1 + n % 4), named]), frozenset((f"d{n}",))))
    return find_candidates(kb, asked, scorers_of(kb, 30))


@pytest.fixture(scope="module")
def half(kb: Collection, found: Candidates) -> Candidates:
    """The half of the questions that the models in the collection were not fitted to, with fused hits."""
    made = fit_scorers(found.take(np.arange(0, 300, 2)), methods=("raw", "truncation"))
    assert set(made.models) == {"dense", "bm25", "maxsim", "fused"}
    assert not made.left_out
    save_models(made.models.values(), kb.path / "relevance" / "default.safetensors")
    return found.take(np.arange(1, 300, 2)).fused(made.models, 30)


@pytest.mark.parametrize("scorer", ["dense", "bm25", "maxsim", "fused"])
def test_probabilities_are_calibrated_and_do_not_rise_along_a_list(kb: Collection, half: Candidates, scorer: str):
    hits = Calibrate(scorer=scorer).run_batch(half.queries, half.hits[scorer], kb)
    chances = [h.columns["relevance"] for h in hits]
    assert all((np.diff(own) <= 0).all() for own in chances)
    assert [h.ids.tolist() for h in hits] == [h.ids.tolist() for h in half.hits[scorer]]
    lists = half.lists(scorer)
    flat = np.concatenate(chances)
    labels = lists.judged[lists.mask]
    assert calibration_error(flat, labels) < 0.02
    assert pr_auc(flat[None], labels[None]) > pr_auc(lists.masked(lists.scores), lists.judged) - 0.01


def test_hits_in_another_order_get_the_same_probabilities(kb: Collection, half: Candidates):
    query, hits = half.queries[0], half.hits["bm25"][0]
    order = np.random.default_rng(0).permutation(len(hits))
    straight = Calibrate(scorer="bm25").run(query, hits, kb).columns["relevance"]
    mixed = Calibrate(scorer="bm25").run(query, hits.take(order), kb).columns["relevance"]
    np.testing.assert_array_equal(mixed, straight[order])


def test_evidence_of_two_retrievals_is_better_than_that_of_each(half: Candidates, kb: Collection):
    area = {}
    for scorer in ("dense", "bm25", "fused"):
        lists = half.lists(scorer)
        fitted = load_models(kb.path / "relevance" / "default.safetensors")[scorer].method("truncation")
        area[scorer] = pr_auc(fitted.scorer(lists).values, lists.judged)
    assert area["fused"] > 0.95 * area["bm25"] > 5 * area["dense"]  # the weaker one does little harm


def test_fused_hits_in_a_pipeline_are_those_it_was_trained_on(kb: Collection, half: Candidates):
    both = Dense(k=30) >> Calibrate() | BM25(k=30) >> Calibrate(scorer="bm25")
    pipeline = Pipeline(both >> Fuse(method="probability", k=30) >> RelevanceFilter(scorer="fused"), collection=kb)
    for row in (0, 5, 9):
        state = pipeline.run(half.queries[row].text)
        joined = half.hits["fused"][row]
        assert state.hits.ids.tolist() == joined.ids[: len(state.hits)].tolist()
        np.testing.assert_allclose(state.hits.scores, joined.scores[: len(state.hits)], rtol=1e-4)


def test_maxsim_is_read_per_token_of_the_query(kb: Collection, half: Candidates):
    each = Calibrate(scorer="maxsim")
    (query,) = EmbedQuery(tokens=True).run_batch([Query(f"rope {NAMES[7]}")], kb)
    hits = MaxSimRerank(k=30).run(query, Dense(k=30).run(query, kb), kb)
    (twice,) = EmbedQuery(tokens=True).run_batch([Query(f"rope {NAMES[7]} rope {NAMES[7]}")], kb)
    doubled = Hits(hits.ids, 2 * hits.scores, store=kb)
    chances = [each.run(q, h, kb).columns["relevance"] for q, h in ((query, hits), (twice, doubled))]
    np.testing.assert_allclose(*chances, rtol=1e-5)
    pipeline = Pipeline(
        Dense(k=300) >> MaxSimRerank(k=30, depth=300) >> RelevanceFilter(scorer="maxsim", min_keep=1), collection=kb
    )
    assert pipeline.uses_tokens
    assert pipeline.run(f"rope {NAMES[7]}").filtering.n_in == 30


def test_questions_that_nothing_answers_are_turned_away(kb: Collection, half: Candidates):
    gone = half.without_relevant()
    each = RelevanceFilter(scorer="bm25", target_answered=0.9)
    found, without = (each.run_batch(h.queries, h.hits["bm25"], kb) for h in (half, gone))
    named = np.arange(1, 300, 2) % 3 > 0
    passed, let = (np.array([f.route == "relevant" for f in some])[named] for some in (found, without))
    assert passed.mean() > let.mean() + 0.4
    away = next(f for f in without if f.route == "no_relevant")
    assert not len(away.hits)
    assert away.filtering.why().startswith("nothing is relevant: chance of an answer")
    assert away.filtering.answerable < away.filtering.least_answerable
    some = next(f for f in found if f.route == "relevant")
    assert f"of {some.filtering.n_in} hits are relevant: best relevance" in some.filtering.why()
    kept = RelevanceFilter(scorer="bm25", target_answered=0.9, min_keep=2).run_batch(
        gone.queries, gone.hits["bm25"], kb
    )
    assert {len(f.hits) for f in kept if f.route == "no_relevant"} == {2}


def test_a_scorer_without_a_model_is_told(kb: Collection, half: Candidates):
    for each in (Calibrate(scorer="rerank"), RelevanceFilter(scorer="rerank")):
        with pytest.raises(NotFoundError, match=r"no relevance model for hits of 'rerank', only of dense, bm25"):
            each.run(half.queries[0], half.hits["bm25"][0], kb)
    with pytest.raises(NotFoundError, match="rag filter train"):
        Calibrate(model="none").run(half.queries[0], half.hits["bm25"][0], kb)
