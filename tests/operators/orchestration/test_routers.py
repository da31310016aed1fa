"""Routers against their definitions."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.collection import Collection
from rag.encoders import Encoder, load
from rag.errors import ConfigError, NotFoundError
from rag.models.scripted import ScriptedModel
from rag.operators import Operator
from rag.operators.orchestration import (
    PassOn,
    RouteByClassifier,
    RouteByKeywords,
    RouteByMetadata,
    RouteByModel,
    RouteBySimilarity,
    RouteHybrid,
    SelectRetriever,
)
from rag.operators.orchestration.logistic import fit, probabilities
from rag.pipelines import Pipeline, Route
from rag.types import Hits, Query

KEYWORDS = {
    "weather": ("rain", "storm", "temperature", "forecast", "wind"),
    "money": ("price", "invoice", "refund", "payment", "cost"),
    "travel": ("train", "ticket", "airport", "luggage", "platform"),
    "health": ("doctor", "fever", "medicine", "pain", "hospital"),
}
EXAMPLES = {
    "weather": ("Will it be sunny tomorrow?", "Do I need an umbrella today?", "How cold does it get at night?"),
    "money": ("How much do I have to pay?", "Can I get my money back?", "Where do I find the bill?"),
    "travel": ("When does the next connection leave?", "How do I get to the city centre?", "Where is gate 12?"),
    "health": ("I feel sick, what should I take?", "My head hurts since yesterday.", "Who treats a broken arm?"),
}
PARAPHRASED = [
    ("Is it going to pour this afternoon?", "weather"),
    ("Should I take my raincoat?", "weather"),
    ("What will the temperature be at noon?", "weather"),
    ("How strong is the wind on the coast?", "weather"),
    ("Are there clouds over the mountains?", "weather"),
    ("What is the price of a season card?", "money"),
    ("I want my money returned.", "money"),
    ("When is the payment due?", "money"),
    ("The amount on my bill is wrong.", "money"),
    ("Is there a discount for students?", "money"),
    ("Which platform does it go from?", "travel"),
    ("How many bags of luggage can I bring?", "travel"),
    ("Is there a bus to the airport?", "travel"),
    ("At what time does the last tram go?", "travel"),
    ("How do I reach the old town?", "travel"),
    ("My stomach aches after lunch.", "health"),
    ("Which medicine helps against a cough?", "health"),
    ("The child has a fever.", "health"),
    ("I have cut my finger, who can help?", "health"),
    ("Where is the nearest hospital?", "health"),
]
HASHING = load("hashing:512")


def labelled(count: int) -> list[tuple[Query, str]]:
    """Questions with one or two keywords of their route among words of no route."""
    rng = random.Random(3)
    filler = "please tell me something about the new thing that we saw yesterday in our garden".split()
    made = []
    for route in itertools.islice(itertools.cycle(KEYWORDS), count):
        words = rng.choices(filler, k=6) + rng.sample(KEYWORDS[route], k=rng.choice([1, 2]))
        rng.shuffle(words)
        made.append((Query(" ".join(words) + "?"), route))
    return made


def accuracy(router: Operator, questions: list[tuple[Query, str]], *resources: Encoder) -> float:
    return sum(router.run(query, *resources) == route for query, route in questions) / len(questions)


def test_keywords_route_two_hundred_labelled_questions():
    assert accuracy(RouteByKeywords(routes=KEYWORDS, default="none"), labelled(200)) >= 0.95


def test_the_share_of_keywords_decides_and_the_first_of_equals():
    router = RouteByKeywords(routes={"a": ("lake", "boats"), "b": ("lake", "boat", "storm")}, default="none")
    assert router.run(Query("boats on a lake")) == "a"
    assert router.run(Query("the lake in a storm")) == "b"
    assert router.run(Query("the mountain")) == "none"
    assert router.run(Query("")) == "none"
    strict = RouteByKeywords(routes={"a": ("lake",)}, default="none", least=0.5)
    assert strict.run(Query("lake weather")) == "a"
    assert strict.run(Query("lake weather yesterday evening")) == "none"


@given(st.lists(st.sampled_from("lake boat storm rain price train".split()), max_size=6))
def test_score_key_is_its_formula(words: list[str]):
    routes = {"a": {"lake", "boat", "rain"}, "b": {"storm", "rain", "price"}}
    own = set(words)
    scores = {name: len(own & keywords) / len(own) if own else 0.0 for name, keywords in routes.items()}
    best = max(scores, key=lambda name: scores[name])
    router = RouteByKeywords(routes={k: tuple(v) for k, v in routes.items()}, default="none", language="none")
    assert router.run(Query(" ".join(words))) == (best if scores[best] > 0 else "none")


def test_similarity_is_that_to_the_nearest_example():
    texts = [text for examples in EXAMPLES.values() for text in examples]
    routes = [route for route, examples in EXAMPLES.items() for _ in examples]
    vectors = HASHING.encode_queries(texts)
    router = RouteBySimilarity(routes=EXAMPLES, default="none", similarity=0.2)
    for query, _ in labelled(40):
        scores = vectors @ HASHING.encode_queries([query.text])[0]
        expected = routes[int(scores.argmax())] if scores.max() >= 0.2 else "none"
        assert router.run(query, HASHING) == expected


def test_examples_are_encoded_once_for_an_encoder():
    class Counting:
        def __init__(self, inner: Encoder) -> None:
            self.inner, self.encoded = inner, 0

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def encode_queries(self, texts: list[str]) -> np.ndarray:
            self.encoded += len(texts)
            return self.inner.encode_queries(texts)

    encoder = Counting(HASHING)
    router = RouteBySimilarity(routes=EXAMPLES, default="none")
    router.run_batch([Query("a"), Query("b")], encoder)  # type: ignore[arg-type]
    router.run(Query("c"), encoder)  # type: ignore[arg-type]
    assert encoder.encoded == sum(map(len, EXAMPLES.values())) + 3
    assert router.run(Query("Where is gate 12?"), load("hashing:64")) == "travel"  # and another one has its own


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (RouteBySimilarity, {"routes": EXAMPLES}),
        (RouteHybrid, {"keywords": KEYWORDS, "examples": EXAMPLES}),
        (RouteByClassifier, {"routes": EXAMPLES}),
    ],
)
def test_batches_and_yaml_and_pipelines_agree(kind: type[Operator], settings: dict[str, Any]):
    router = kind(**settings, default="none")
    queries = [query for query, _ in labelled(20)]
    assert router.run_batch(queries, HASHING) == [router.run(query, HASHING) for query in queries]
    ways = Route(router, {name: PassOn() for name in (*EXAMPLES, "none")})
    pipeline = Pipeline(ways, encoder=HASHING)
    again = Pipeline.from_yaml(Pipeline(ways).to_yaml())
    assert again.flow == pipeline.flow
    assert [s.route for s in pipeline.run_batch(queries)] == [router.run(query, HASHING) for query in queries]


def test_hybrid_is_the_weighted_sum():
    router = RouteHybrid(keywords=KEYWORDS, examples=EXAMPLES, default="none", alpha=0.3, least=-1)
    vectors = {route: HASHING.encode_queries(list(texts)) for route, texts in EXAMPLES.items()}
    for query, _ in labelled(30):
        words = set(query.text.rstrip("?").split()) - {"the", "that", "in"}
        scores = {
            route: 0.3 * len(words & set(KEYWORDS[route])) / len(words)
            + 0.7 * float((vectors[route] @ HASHING.encode_queries([query.text])[0]).max())
            for route in KEYWORDS
        }
        assert router.run(query, HASHING) == max(scores, key=lambda route: scores[route])


def test_hybrid_routes_may_lack_keywords_or_examples():
    router = RouteHybrid(keywords={"a": ("lake",)}, examples={"b": ("How much is it?",)}, default="none", least=0.1)
    assert router.run(Query("lake"), HASHING) == "a"
    assert router.run(Query("How much is it?"), HASHING) == "b"


def test_hybrid_is_no_worse_than_either_part_on_paraphrased_questions(minilm: Encoder):
    questions = [(Query(text), route) for text, route in PARAPHRASED]
    by_key = accuracy(RouteByKeywords(routes=KEYWORDS, default="none"), questions)
    by_similarity = accuracy(RouteBySimilarity(routes=EXAMPLES, default="none", similarity=-1), questions, minilm)
    both = accuracy(RouteHybrid(keywords=KEYWORDS, examples=EXAMPLES, default="none", least=-1), questions, minilm)
    assert both >= max(by_key, by_similarity)
    assert both >= 0.9
    assert by_key < 0.7


def test_the_classifier_is_the_minimum_of_its_loss():
    rng = np.random.default_rng(5)
    features = np.hstack([rng.normal(size=(60, 8)), np.ones((60, 1))])
    labels = rng.integers(0, 3, 60)
    weights = fit(features, labels, 3, 0.05)

    def loss(w: np.ndarray) -> float:
        chances = probabilities(features, w)[np.arange(60), labels]
        return float(-np.log(chances).mean() + 0.025 * (w**2).sum())

    best = loss(weights)
    for _ in range(50):
        assert loss(weights + rng.normal(scale=1e-3, size=weights.shape)) > best
    np.testing.assert_array_equal(weights, fit(features, labels, 3, 0.05))


def test_the_classifier_learns_what_is_learnable(minilm: Encoder):
    questions = [(Query(text), route) for text, route in PARAPHRASED]
    assert accuracy(RouteByClassifier(routes=EXAMPLES, default="none"), questions, minilm) >= 0.8
    assert RouteByClassifier(routes=EXAMPLES, default="none", probability=0.99).run(Query("?"), minilm) == "none"


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_the_classifier_learns_from_a_file(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    rows = [(text, route) for route, texts in EXAMPLES.items() for text in texts]
    if suffix == "jsonl":
        lines = [json.dumps({"text": text, "route": route}) for text, route in rows]
    else:
        lines = ["text,route", *(f'"{text}",{route}' for text, route in rows)]
    Path(f"examples.{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    from_file = RouteByClassifier(file=f"examples.{suffix}", default="none")
    inline = RouteByClassifier(routes=EXAMPLES, default="none")
    queries = [query for query, _ in labelled(30)]
    assert from_file.run_batch(queries, HASHING) == inline.run_batch(queries, HASHING)


def test_wrong_examples_are_errors_that_name_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def train(content: str, name: str = "e.jsonl") -> None:
        Path(name).write_text(content, encoding="utf-8")
        RouteByClassifier(file=name, default="none").run(Query("x"), HASHING)

    with pytest.raises(ConfigError, match=r"e\.jsonl, line 2 is not JSON"):
        train('{"text": "a", "route": "b"}\n{\n')
    with pytest.raises(ConfigError, match="line 1: an example needs"):
        train('{"text": "a"}\n')
    with pytest.raises(ConfigError, match="examples of 1 routes"):
        train('{"text": "a", "route": "b"}\n')
    with pytest.raises(ConfigError, match="line 2: an example needs"):
        train("question,label\na,b\n", "e.csv")
    with pytest.raises(ConfigError, match="is not below"):
        RouteByClassifier(file="/etc/passwd", default="none").run(Query("x"), HASHING)
    with pytest.raises(NotFoundError):
        RouteByClassifier(file="missing.csv", default="none").run(Query("x"), HASHING)
    with pytest.raises(ConfigError, match="`routes` or in `file`"):
        RouteByClassifier(default="none")
    with pytest.raises(ConfigError, match="needs two"):
        RouteByClassifier(routes={"a": ("x",)}, default="none")


MODEL_ROUTES = {"simple": "one fact is asked", "multi_hop": "several facts have to be joined"}


@pytest.mark.parametrize(
    ("reply", "route"),
    [
        ("multi_hop", "multi_hop"),
        ("Multi_hop.", "multi_hop"),
        ("Way: simple", "simple"),
        ("It is simple", "simple"),
        ("simple or multi_hop", "simple"),
        ("complicated", "simple"),
        ("", "simple"),
    ],
)
def test_a_model_that_names_no_route_takes_the_default(reply: str, route: str):
    assert RouteByModel(routes=MODEL_ROUTES, default="simple").run(Query("why?"), ScriptedModel(reply)) == route


def test_the_model_is_told_what_each_route_is_for():
    llm = ScriptedModel("simple")
    RouteByModel(routes=MODEL_ROUTES, default="simple").run(Query("why?"), llm)
    assert "multi_hop: several facts have to be joined" in llm.calls[0].messages[-1].content


def test_metadata_of_most_hits_decides(kb: Collection):
    router = RouteByMetadata(field="topic", routes={"weather": "forecast", "money": "prices"}, default="other")
    ids = {chunk.document: chunk.id for chunk in kb.chunks(kb.chunk_ids())}

    def route(*documents: str) -> str:
        return router.run(Hits([ids[d] for d in documents], np.linspace(1, 0.1, len(documents)), store=kb))

    assert route("rent.md", "winter.md", "storm.md") == "forecast"
    assert route("rent.md", "winter.md") == "prices"  # one each: the first counts
    assert route() == "other"
    first = RouteByMetadata(field="topic", routes={"weather": "forecast", "money": "prices"}, default="other", k=1)
    assert first.run(Hits([ids["rent.md"], ids["winter.md"], ids["storm.md"]], [3, 2, 1], store=kb)) == "prices"
    years = RouteByMetadata(field="year", routes={"2018": "old"}, default="other")
    assert years.run(Hits([ids["winter.md"]], [1], store=kb)) == "old"
    none = RouteByMetadata(field="author", routes={"me": "mine"}, default="other")
    assert none.run(Hits([ids["winter.md"]], [1], store=kb)) == "other"


@pytest.mark.parametrize(
    ("text", "route"),
    [
        ("How do sails work?", "dense"),
        ("explain how boats stay upright", "dense"),
        ("something about the way in which boats stay upright", "dense"),
        ("ERR_CONNECTION_RESET", "sparse"),
        ("0x80070057", "sparse"),
        ("HashMap.putIfAbsent", "sparse"),
        ("std::sort", "sparse"),
        ("RFC2616", "sparse"),
        ('"annual report" 2019', "sparse"),
        ("/etc/ssh/sshd_config", "sparse"),
        ('What does "annual report" mean?', "hybrid"),
        ("Why does E1042 appear?", "hybrid"),
        ("boats summer", "hybrid"),
        ("the 19th century", "hybrid"),
        ("", "hybrid"),
    ],
)
def test_the_look_of_a_question_selects_the_retriever(text: str, route: str):
    assert SelectRetriever().run(Query(text)) == route


def test_the_checker_knows_what_the_retriever_router_may_name():
    from rag.errors import FlowError

    with pytest.raises(FlowError, match="hybrid"):
        Pipeline(Route(SelectRetriever(), sparse=PassOn(), dense=PassOn()))
