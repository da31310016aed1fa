"""Pipelines within pipelines: the same alone and inside, own resources, files that name each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import jsonschema
import pytest
import yaml

from rag.collection import Collection
from rag.errors import ConfigError, FlowError, InputError, OperatorError
from rag.models.scripted import ScriptedModel
from rag.operators import Channel, operator
from rag.operators.post_retrieval import MMR, BuildContext
from rag.operators.resources import ChatModel
from rag.operators.retrieval import Dense, Fuse
from rag.pipelines import Checkpoint, ContentCache, Each, Loop, NodeFinished, NodeStarted, Pipeline, Route, Run, Try
from rag.pipelines.schema import pipeline_schema
from rag.types import Answer, Chunk, Document, Message, Query
from tests.pipelines.conftest import Add, AddInBatches, CountWords, Fail, Total, batch_sizes, shout
from tests.pipelines.test_flows import N, every_way
from tests.pipelines.test_patterns import at_least, letters, parity, size

Number = Annotated[int, Channel("n")]

both = Pipeline((Add(by=10) | Add(by=100)) >> Total(), inputs=N, name="both")


@operator(name="testing.ask")
def ask(query: Query, llm: ChatModel) -> Answer:
    """What the model says."""
    return Answer(llm.chat([Message("user", query.text)]).text)


@operator(name="testing.recall")
def recall(query: Query, memory: list[Message] | None = None) -> Annotated[int, Channel("n")]:
    """How much is remembered."""
    return len(memory or [])


# In Python


def test_a_pipeline_is_a_part_like_any_other():
    for flow, start, expected in (
        (Add() >> both >> Add(), 1, 12 + 102 + 1),
        ((both | Add()) >> Total(), 1, 112 + 2),
        (Route(parity(), even=both, odd=Add()), 2, 114),
        (Route(parity(), even=both, odd=Add()), 3, 4),
        (Loop(both, until=at_least(bound=500), at_most=9), 0, 110 * 7),
        (Try(Add() >> Fail(), fallback=both), 1, 112),
        (both, 1, 112),
    ):
        for state in every_way(Pipeline(flow, inputs=N), {"n": start}):
            assert state.n == expected, flow


def test_it_takes_part_in_each_and_keeps_batches_together():
    counted = Pipeline(size() >> AddInBatches(by=4), name="counted")
    pipeline = Pipeline(letters() >> Each(counted) >> Total())
    for state in every_way(pipeline, {"query": "abc"}):
        assert state.n == 15
    batch_sizes.clear()
    pipeline.run_batch(["abc", "de"])
    assert batch_sizes == [5]


def test_it_does_inside_what_it_does_alone():
    """After branches inside, its inputs are what they were, though outside n is a channel that branches write over."""
    flow = (Add() | CountWords()) >> Add(by=5)
    inner = Pipeline(flow, inputs={"n": int, "query": Query})
    assert inner.run(n=1, query="a b").n == 1 + 5
    assert Pipeline(CountWords() >> inner).run("x y").n == 2 + 5
    with pytest.raises(FlowError, match="'parallel' leaves one int a branch"):
        Pipeline(CountWords() >> flow)


def test_what_it_writes_goes_back_and_what_it_does_not_take_stays():
    inner = Pipeline(CountWords())
    state = Pipeline(shout() >> inner >> Add(), inputs={"query": Query, "kept": str}).run(query="a b", kept="as it was")
    assert dict(state) == {"query": Query("a b!"), "kept": "as it was", "n": 3, "topic": "a"}


def test_a_way_that_does_not_write_leaves_the_value_from_outside():
    inner = Pipeline(Route(parity(), even=CountWords(), odd=shout()), inputs={"n": int, "query": Query})
    flow = CountWords() >> Add(by=-1) >> inner >> Total()
    assert Pipeline(flow).run("a").n == 1  # 0 is even, words are counted again
    assert Pipeline(flow).run("a b").n == 1  # 1 is odd, n stays


def test_its_optional_inputs_come_from_outside_where_they_are():
    inner = Pipeline(recall(), name="inner")
    pipeline = Pipeline(shout() >> inner)
    assert pipeline.run("x").n == 0
    assert pipeline.run("x", memory=[Message("user", "hi")]).n == 1
    assert "memory" in pipeline.plan.optional_inputs


def test_it_joins_branches_where_it_takes_a_list():
    summed = Pipeline(Total(), inputs={"n": list[int]}, name="summed")
    assert Pipeline((Add() | Add(by=2)) >> summed, inputs=N).run(n=0).n == 3
    assert Pipeline(CountWords() >> summed).run("a b").n == 2  # one value is a list of one, as for operators


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (both, "node 'both': reads channel 'n' (int), which nothing before it writes"),
        (CountWords() >> (Add() | Add()) >> both, "node 'both': reads channel 'n' as int, but 'parallel' leaves one"),
        (
            CountWords() >> Pipeline(shout(), inputs={"query": Query, "n": str}, name="inner"),
            "node 'inner': reads channel 'n' as str, but it holds int, written by 'count_words'",
        ),
        (
            CountWords() >> both >> Pipeline(shout(), inputs={"query": Query, "n": str}),
            "it holds int, written by 'both'",
        ),
    ],
)
def test_channels_are_checked_at_its_border(flow: Any, message: str):
    with pytest.raises(FlowError) as caught:
        Pipeline(flow)
    assert message in caught.value.message


def test_errors_traces_and_events_name_the_pipeline_and_the_node():
    inner = Pipeline(Add() >> Fail(), inputs=N, name="inner")
    with pytest.raises(OperatorError, match="node 'inner/fail': ZeroDivisionError"):
        Pipeline(Add() >> inner, inputs=N).run(n=1)
    flow = Pipeline(Add() >> both >> Pipeline(both, inputs=N, name="outer"), inputs=N)
    run = Run()
    flow.run(n=1, observe=run)
    names = [span.node for span in run.spans if span.kind == "operator"]
    assert names == [
        *("add", "both/add", "both/add:2", "both/total"),
        *("outer/both/add", "outer/both/add:2", "outer/both/total"),
    ]
    assert [e.node for e in flow.stream(n=1) if isinstance(e, NodeStarted)] == names
    assert [span.node for span in run.spans if span.node in ("both", "outer/both")] == ["both", "outer/both"]
    assert "both, a pipeline:" in flow.explain()


def test_checkpoints_and_caches_hold_inside():
    calls: list[int] = []

    @operator(waits=True)
    def slow(n: int) -> Number:
        calls.append(n)
        return n + 1

    inner = Pipeline(slow(), inputs=N, cache=ContentCache())
    pipeline = Pipeline(Add() >> inner, inputs=N)
    for _ in range(3):
        for state in every_way(pipeline, {"n": 1}):
            assert state.n == 3
    assert len(calls) == 1


def test_a_run_that_was_cut_off_goes_on_inside(tmp_path: Path):
    done: list[int] = []
    fails = [True]

    @operator(name="testing.step_once")
    def once(n: int) -> Number:
        done.append(n)
        return n + 1

    @operator(name="testing.step_fragile")
    def fragile(n: int) -> Number:
        if fails:
            raise ConnectionError
        return n * 10

    pipeline = Pipeline(Pipeline(once(), inputs=N, name="first") >> fragile(), inputs=N)
    with pytest.raises(OperatorError):
        pipeline.run(n=1, checkpoint=Checkpoint(tmp_path / "run"))
    fails.clear()
    assert pipeline.run(n=1, checkpoint=Checkpoint(tmp_path / "run")).n == 20
    assert done == [1]


# Resources


def test_resources_are_its_own_where_it_has_them_and_else_those_around_it():
    judge = Pipeline(ask(), llm=ScriptedModel("the inner one"))
    plain = Pipeline(ask())
    assert Pipeline(judge, llm=ScriptedModel("the outer one")).run("x").answer.text == "the inner one"
    assert Pipeline(plain, llm=ScriptedModel("the outer one")).run("x").answer.text == "the outer one"
    deep = Pipeline(Pipeline(plain), llm=ScriptedModel("the one between"))
    assert Pipeline(deep, llm=ScriptedModel("the outer one")).run("x").answer.text == "the one between"
    with pytest.raises(FlowError, match=r"node 'pipeline/ask' needs a ChatModel"):
        Pipeline(plain).run("x")


def make(path: Path, *texts: str) -> Collection:
    made = Collection.create(path, encoder="hashing:64")
    with made.writer() as writer:
        documents = [Document(f"{path.name}{i}", text) for i, text in enumerate(texts)]
        chunks = [[Chunk(d.id, d.text, 0, len(d.text))] for d in documents]
        writer.add(documents, chunks, made.encoder.encode_documents(texts))
        writer.commit()
    return made.refresh()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Collection, Collection]]:
    with make(tmp_path / "news", "cats sing", "dogs run") as news, make(tmp_path / "law", "no cats here") as law:
        yield news, law


def test_two_collections_in_one_pipeline(two: tuple[Collection, Collection]):
    news, law = two
    archive = Pipeline(Dense(k=1) >> BuildContext(), collection=law, name="archive")

    @operator
    def documents(context: list[Any]) -> Annotated[list[str], Channel("found")]:
        return [p.document for c in context for p in c]

    flow = (Dense(k=1) >> BuildContext() | archive) >> documents()
    for state in every_way(Pipeline(flow, collection=news), {"query": "cats sing"}):
        assert state.found == ["news0", "law0"]


def test_hits_of_one_collection_are_not_taken_for_those_of_another(two: tuple[Collection, Collection]):
    news, law = two
    archive = Pipeline(Dense(k=1), collection=law, name="archive")
    for flow in ((Dense() | archive) >> Fuse(), archive >> BuildContext(), archive >> MMR()):
        with pytest.raises(InputError, match=r"hits from the collection .* meet the collection"):
            Pipeline(flow, collection=news).run("cats")
    with Collection.open(law.path) as again:
        assert len(Pipeline(archive >> BuildContext(), collection=again).run("cats").context) == 1


# YAML


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "main.yaml"


VALIDATOR = jsonschema.Draft202012Validator(pipeline_schema())


def test_yaml_names_files_below_its_folder_and_ready_made_pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    main = write(
        tmp_path,
        main="flow:\n  - parallel:\n      - pipeline: parts/search.yaml\n      - pipeline: bm25\n  - fuse\n",
        parts__search="name: search\nllm: scripted\nflow:\n  - pipeline: deeper/one.yaml\n",
        parts__deeper__one="name: one\ncollection: kb\nflow: [dense]\n",
    )
    one = Pipeline(Dense(), collection="kb", name="one")
    search = Pipeline(one, llm="scripted", name="search")
    ready_made = Pipeline.from_yaml(Path(__file__).parents[2] / "rag/pipelines/presets/bm25.yaml")
    expected = Pipeline((search | ready_made) >> Fuse())
    pipeline = Pipeline.from_yaml(main)
    assert pipeline == expected
    assert yaml.safe_load(pipeline.to_yaml()) == yaml.safe_load(main.read_text(encoding="utf-8"))
    VALIDATOR.validate(yaml.safe_load(pipeline.to_yaml()))
    monkeypatch.chdir(tmp_path)  # a text names files from where one stands
    assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline
    assert "search/one/dense: Dense()" in pipeline.explain()


def test_a_pipeline_made_in_python_is_written_out():
    inner = Pipeline(Dense() >> ask(), collection="archive", llm="scripted", name="inner", description="What it is.")
    pipeline = Pipeline(shout() >> Loop(inner >> both), inputs={"query": Query, "n": int})
    text = pipeline.to_yaml()
    again = Pipeline.from_yaml(text)
    assert again == pipeline
    assert again.to_yaml() == text
    VALIDATOR.validate(yaml.safe_load(text))


def test_resources_given_while_loading_are_for_the_outer_one(tmp_path: Path):
    main = write(tmp_path, main="flow:\n  - pipeline: own.yaml\n", own="collection: kb\nflow: [dense]\n")
    pipeline = Pipeline.from_yaml(main, collection="other", llm="scripted")
    assert pipeline.resources == {"collection": "other", "llm": "scripted"}
    assert isinstance(pipeline.flow, Pipeline)
    assert pipeline.flow.resources == {"collection": "kb"}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("../main.yaml", "'../main.yaml' lies outside the folder of this one"),
        ("/etc/passwd.yaml", "lies outside the folder"),
        ("parts/../../x.yaml", "lies outside the folder"),
        ("link/secret.yaml", "lies outside the folder"),
        ("none.yaml", "there is no pipeline file"),
        ("hybird", "'hybird' is neither a pipeline file nor a ready-made pipeline (did you mean 'hybrid'"),
        ("[hybrid]", "`pipeline` must be a single text"),
        ("", "is neither a pipeline file nor"),
        ("{flows: [dense]}", "unknown key 'flows'"),
    ],
)
def test_what_it_may_not_name(tmp_path: Path, reference: str, message: str):
    inside = tmp_path / "inside"
    main = write(inside, main=f"flow:\n  - dense\n  - pipeline: {reference}\n")
    write(tmp_path / "elsewhere", secret="flow: [dense]\n")
    (inside / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises((ConfigError, LookupError)) as caught:
        Pipeline.from_yaml(main)
    assert message in str(caught.value)
    assert "line 3" in str(caught.value)


def test_files_that_contain_each_other_are_refused(tmp_path: Path):
    main = write(
        tmp_path,
        main="flow:\n  - dense\n  - pipeline: a.yaml\n",
        a="flow:\n  - pipeline: sub/b.yaml\n",
        sub__b="flow:\n  - pipeline: b.yaml\n",
        self="flow: [{pipeline: self.yaml}]\n",
    )
    with pytest.raises(ConfigError, match=r"b.yaml, line 2: the pipeline contains itself: b.yaml uses b.yaml.*line 3"):
        Pipeline.from_yaml(main)
    with pytest.raises(ConfigError, match="contains itself: self.yaml uses self.yaml"):
        Pipeline.from_yaml(tmp_path / "self.yaml")


def test_files_cannot_multiply_without_bound(tmp_path: Path):
    for i in range(40):
        name = f"{{pipeline: p{i + 1}.yaml}}"
        (tmp_path / f"p{i}.yaml").write_text(f"flow: [{', '.join([name] * 8)}]\n", encoding="utf-8")
    (tmp_path / "p40.yaml").write_text("flow: [dense]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="unfolds to more than"):
        Pipeline.from_yaml(tmp_path / "p0.yaml")


def test_an_error_in_a_named_file_tells_both_places(tmp_path: Path):
    main = write(
        tmp_path, main="flow:\n  - dense\n  - pipeline: part.yaml\n", part="flow:\n  - dense\n  - dense:\n      kk: 3\n"
    )
    with pytest.raises(ConfigError, match=r"part.yaml, line 4: 'dense' has no setting 'kk'.*main.yaml, line 3 uses it"):
        Pipeline.from_yaml(main)
    write(tmp_path, part="flow:\n  - bm25\n  - generate\n")
    with pytest.raises(FlowError, match=r"part.yaml: node 'generate' \(line 3\): reads .*line 3 uses it"):
        Pipeline.from_yaml(main)


def test_a_pipeline_that_is_written_out_keeps_the_lines_of_the_file():
    text = "flow:\n  - dense\n  - pipeline:\n      name: inner\n      flow:\n        - bm25\n        - generate\n"
    with pytest.raises(FlowError, match=r"node 'generate' \(line 7\): reads channel 'context'"):
        Pipeline.from_yaml(text)
    text = "flow:\n  - dense\n  - pipeline:\n      inputs: {n: int}\n      flow: [add]\n  - generate\n"
    with pytest.raises(FlowError, match=r"node 'pipeline' \(line 3\): reads channel 'n'(.|\n)*'generate' \(line 6\)"):
        Pipeline.from_yaml(text)


# Looked into


@pytest.mark.parametrize("flow", [Add(), both, Add() >> both])
def test_what_its_nodes_write_can_be_watched(flow: Any):
    from rag.serve.watch import plan_tree

    pipeline = Pipeline(flow, inputs=N)
    told: list[Any] = []
    pipeline.run(n=1, observe=Run(told.append))
    started = [event.node for event in told if isinstance(event, NodeStarted)]
    finished = [event for event in told if isinstance(event, NodeFinished)]
    assert [event.node for event in finished] == started
    assert finished[-1].wrote == [{"n": pipeline.run(n=1).n}]

    def operators(tree: dict[str, Any]) -> Iterator[str]:
        if tree["kind"] == "operator":
            yield tree["name"]
        for child in [*tree.get("children", []), *(part["node"] for part in tree.get("parts", []))]:
            yield from operators(child)

    assert list(operators(plan_tree(pipeline))) == started
