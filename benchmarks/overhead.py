"""What a pipeline costs besides its operators: microseconds a node, against other graph frameworks in the same run.

Every node adds 1 to an int; every result is checked. Shapes: a chain of 10, one node with 8 branches and a join, a loop
of 100 rounds, and a chain of 10 that hands on 100 documents with embeddings untouched. Medians of interleaved rounds.

    pip install haystack-ai langgraph llama-index-workflows pydantic-graph matplotlib
    python benchmarks/overhead.py
"""

import argparse
import asyncio
import operator as arithmetic
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, TypedDict

import numpy as np
from harness import Row, compare, interleaved, machine, write

from rag import Channel, Document, Pipeline, operator
from rag.pipelines import Loop

Number = Annotated[int, Channel("n")]
CHAIN, FAN, ROUNDS = 10, 8, 100
NODES = {"chain": CHAIN, "fan-out": FAN + 2, "loop": ROUNDS, "payload": CHAIN}


@operator
def add(n: int) -> Number:
    return n + 1


@operator
def first(start: int) -> Number:
    return start


@operator
def join(n: list[int]) -> Number:
    return sum(n)


@operator
def hand_on(documents: list[Document]) -> list[Document]:
    return documents


def documents() -> list[Document]:
    rng = np.random.default_rng(1)
    return [Document(str(i), "x" * 500, {"embedding": rng.random(384).tolist()}) for i in range(100)]


@dataclass
class Contender:
    """A framework: calls for each shape, each running it once and returning its result."""

    name: str
    package: str
    shapes: dict[str, Callable[[], Any]]


def chain(node: Callable[[], Any]) -> Any:
    flow = node()
    for _ in range(CHAIN - 1):
        flow = flow >> node()
    return flow


def ours(payload: list[Document]) -> list[Contender]:
    fan = add()
    for _ in range(FAN - 1):
        fan = fan | add()
    inputs = {"n": int}
    plans = {
        "chain": Pipeline(chain(add), inputs=inputs),
        "fan-out": Pipeline(first() >> fan >> join(), inputs={"start": int}),
        "loop": Pipeline(Loop(add(), at_most=ROUNDS), inputs=inputs),
        "payload": Pipeline(chain(hand_on), inputs={"documents": list[Document]}),
    }
    given: dict[str, dict[str, Any]] = {
        "chain": {"n": 0},
        "fan-out": {"start": 0},
        "loop": {"n": 0},
        "payload": {"documents": payload},
    }
    result = {"chain": "n", "fan-out": "n", "loop": "n", "payload": "documents"}
    loop = asyncio.new_event_loop()

    def sync(shape: str) -> Callable[[], Any]:
        return lambda: plans[shape].run(given[shape])[result[shape]]

    def aio(shape: str) -> Callable[[], Any]:
        return lambda: loop.run_until_complete(plans[shape].arun(given[shape]))[result[shape]]

    return [
        Contender("modular-rag", "modular-rag", {shape: sync(shape) for shape in plans}),
        Contender("modular-rag async", "modular-rag", {shape: aio(shape) for shape in plans}),
    ]


def haystack(payload: list[Document]) -> Contender:
    from haystack import Pipeline as Graph
    from haystack import component
    from haystack.components.joiners import BranchJoiner
    from haystack.core.component.types import Variadic
    from haystack.dataclasses import Document as HaystackDocument

    @component
    class Add:
        @component.output_types(n=int)
        def run(self, n: int) -> dict[str, int]:
            return {"n": n + 1}

    @component
    class Join:
        @component.output_types(n=int)
        def run(self, n: Variadic[int]) -> dict[str, int]:
            return {"n": sum(n)}

    @component
    class Check:
        @component.output_types(again=int, n=int)
        def run(self, n: int) -> dict[str, int]:
            return {"n": n + 1} if n + 1 >= ROUNDS else {"again": n + 1}

    @component
    class HandOn:
        @component.output_types(documents=list[HaystackDocument])
        def run(self, documents: list[HaystackDocument]) -> dict[str, Any]:
            return {"documents": documents}

    def row(cls: Any, socket: str) -> Any:
        graph = Graph()
        for i in range(CHAIN):
            graph.add_component(f"c{i}", cls())
            if i:
                graph.connect(f"c{i - 1}.{socket}", f"c{i}.{socket}")
        return graph

    linear, handing = row(Add, "n"), row(HandOn, "documents")
    fan = Graph()
    fan.add_component("first", Add())
    fan.add_component("join", Join())
    for i in range(FAN):
        fan.add_component(f"b{i}", Add())
        fan.connect("first.n", f"b{i}.n")
        fan.connect(f"b{i}.n", "join.n")
    looped = Graph(max_runs_per_component=ROUNDS + 5)
    looped.add_component("merge", BranchJoiner(int))
    looped.add_component("check", Check())
    looped.connect("merge.value", "check.n")
    looped.connect("check.again", "merge.value")
    docs = [HaystackDocument(content=d.text, embedding=d.metadata["embedding"]) for d in payload]
    last = f"c{CHAIN - 1}"
    return Contender(
        "haystack",
        "haystack-ai",
        {
            "chain": lambda: linear.run({"c0": {"n": 0}})[last]["n"],
            "fan-out": lambda: fan.run({"first": {"n": 0}})["join"]["n"] - FAN,
            "loop": lambda: looped.run({"merge": {"value": 0}})["check"]["n"],
            "payload": lambda: handing.run({"c0": {"documents": docs}})[last]["documents"],
        },
    )


class _Number(TypedDict):
    n: int


class _Branches(TypedDict):
    n: int
    parts: Annotated[list[int], arithmetic.add]


class _Documents(TypedDict):
    documents: list[Any]


def langgraph(payload: list[Document]) -> Contender:
    from langgraph.graph import END, START, StateGraph

    def row(state: Any, node: Callable[[Any], Any]) -> Any:
        graph = StateGraph(state)
        for i in range(CHAIN):
            graph.add_node(f"c{i}", node)
            graph.add_edge(f"c{i - 1}" if i else START, f"c{i}")
        graph.add_edge(f"c{CHAIN - 1}", END)
        return graph.compile()

    linear = row(_Number, lambda s: {"n": s["n"] + 1})
    handing = row(_Documents, lambda s: {"documents": s["documents"]})
    fan = StateGraph(_Branches)
    fan.add_node("first", lambda s: {"n": s["n"]})
    fan.add_node("join", lambda s: {"n": sum(s["parts"])})
    fan.add_edge(START, "first")
    for i in range(FAN):
        fan.add_node(f"b{i}", lambda s: {"parts": [s["n"] + 1]})
        fan.add_edge("first", f"b{i}")
    fan.add_edge([f"b{i}" for i in range(FAN)], "join")
    fan.add_edge("join", END)
    branched = fan.compile()
    loop = StateGraph(_Number)
    loop.add_node("add", lambda s: {"n": s["n"] + 1})
    loop.add_edge(START, "add")
    loop.add_conditional_edges("add", lambda s: END if s["n"] >= ROUNDS else "add")
    looped = loop.compile()
    limit: Any = {"recursion_limit": ROUNDS + 5}
    return Contender(
        "langgraph",
        "langgraph",
        {
            "chain": lambda: linear.invoke({"n": 0})["n"],
            "fan-out": lambda: branched.invoke({"n": 0, "parts": []})["n"],
            "loop": lambda: looped.invoke({"n": 0}, limit)["n"],
            "payload": lambda: handing.invoke({"documents": payload})["documents"],
        },
    )


def pydantic_graph(payload: list[Document]) -> Contender:
    from pydantic_graph import GraphBuilder, StepContext
    from pydantic_graph.join import reduce_list_append

    runner = asyncio.new_event_loop()

    def row(kind: Any, work: Callable[[Any], Any]) -> Any:
        builder: Any = GraphBuilder(input_type=kind, output_type=kind)
        before = builder.start_node
        for i in range(CHAIN):

            async def node(ctx: StepContext[None, None, Any]) -> Any:
                return work(ctx.inputs)

            step = builder.step(node, node_id=f"c{i}")
            builder.add(builder.edge_from(before).to(step))
            before = step
        builder.add(builder.edge_from(before).to(builder.end_node))
        return builder.build()

    linear, handing = row(int, lambda n: n + 1), row(list, lambda documents: documents)
    builder: Any = GraphBuilder(input_type=int, output_type=int)

    async def same(ctx: StepContext[None, None, int]) -> int:
        return ctx.inputs

    async def plus(ctx: StepContext[None, None, int]) -> int:
        return ctx.inputs + 1

    async def total(ctx: StepContext[None, None, list[int]]) -> int:
        return sum(ctx.inputs)

    first = builder.step(same, node_id="first")
    branches = [builder.step(plus, node_id=f"b{i}") for i in range(FAN)]
    collect = builder.join(reduce_list_append, initial_factory=list)
    end = builder.step(total, node_id="total")
    builder.add(
        builder.edge_from(builder.start_node).to(first),
        builder.edge_from(first).to(*branches),
        builder.edge_from(*branches).to(collect),
        builder.edge_from(collect).to(end),
        builder.edge_from(end).to(builder.end_node),
    )
    fan = builder.build()
    looping: Any = GraphBuilder(input_type=int, output_type=int)
    again = looping.step(plus, node_id="again")
    choice = looping.decision()
    choice = choice.branch(looping.match(int, matches=lambda n: n < ROUNDS).to(again))
    choice = choice.branch(looping.match(int).to(looping.end_node))
    looping.add(looping.edge_from(looping.start_node).to(again), looping.edge_from(again).to(choice))
    loop = looping.build()
    return Contender(
        "pydantic-graph",
        "pydantic-graph",
        {
            "chain": lambda: runner.run_until_complete(linear.run(inputs=0)),
            "fan-out": lambda: runner.run_until_complete(fan.run(inputs=0)),
            "loop": lambda: runner.run_until_complete(loop.run(inputs=0)),
            "payload": lambda: runner.run_until_complete(handing.run(inputs=payload)),
        },
    )


def workflows(payload: list[Document]) -> Contender:
    from workflows import Context, Workflow, step
    from workflows.events import Event, StartEvent, StopEvent

    class Next(Event):
        value: Any
        left: int

    class Branch(Event):
        n: int

    class Done(Event):
        n: int

    class Row(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Next:
            return Next(value=ev.value, left=ev.left)

        @step
        async def go(self, ev: Next) -> Next | StopEvent:
            value = ev.value + 1 if isinstance(ev.value, int) else ev.value
            return Next(value=value, left=ev.left - 1) if ev.left > 1 else StopEvent(result=value)

    class Fan(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> Branch | None:
            for _ in range(FAN):
                ctx.send_event(Branch(n=ev.n))
            return None

        @step(num_workers=FAN)
        async def branch(self, ev: Branch) -> Done:
            return Done(n=ev.n + 1)

        @step
        async def join(self, ctx: Context, ev: Done) -> StopEvent | None:
            found = ctx.collect_events(ev, [Done] * FAN)
            return None if found is None else StopEvent(result=sum(e.n for e in found))

    async def run(kind: Any, **inputs: Any) -> Any:
        return await kind(timeout=60, disable_validation=True).run(**inputs)

    runner = asyncio.new_event_loop()
    return Contender(
        "llama-index-workflows",
        "llama-index-workflows",
        {
            "chain": lambda: runner.run_until_complete(run(Row, value=0, left=CHAIN)),
            "fan-out": lambda: runner.run_until_complete(run(Fan, n=0)),
            "loop": lambda: runner.run_until_complete(run(Row, value=0, left=ROUNDS)),
            "payload": lambda: runner.run_until_complete(run(Row, value=payload, left=CHAIN)),
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under a minute")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    payload = documents()
    contenders = ours(payload)
    notes = [machine(), ""]
    for make in (haystack, langgraph, pydantic_graph, workflows):
        try:
            contenders.append(make(payload))
        except (ImportError, PackageNotFoundError) as error:
            notes.append(f"- {make.__name__} is not installed and left out: {error}")
    expected = {"chain": CHAIN, "fan-out": FAN, "loop": ROUNDS}
    micros: dict[str, dict[str, float]] = {}
    for shape, nodes in NODES.items():
        calls = {c.name: c.shapes[shape] for c in contenders}
        for name, call in calls.items():
            result = call()
            right = len(result) == len(payload) if shape == "payload" else result == expected[shape]
            assert right, f"{name} gives {result!r} for {shape}"
        # The fast ones run often enough that a timer sees them.
        repeated = {name: repeat(call, 200 if name.startswith("modular") else 1) for name, call in calls.items()}
        seconds = interleaved(repeated, 5 if arguments.quick else 15)
        micros[shape] = {
            name: s / nodes / (200 if name.startswith("modular") else 1) * 1e6 for name, s in seconds.items()
        }
    rows: list[Row] = [
        compare(
            f"{shape}, {mine}",
            "us_per_node",
            "µs",
            values[mine],
            (contender.name, version(contender.package)),
            values[contender.name],
            1,
            more=False,
        )
        for shape, values in micros.items()
        for contender in contenders[2:]
        for mine in ("modular-rag", "modular-rag async")
    ]

    def plot(figure: Any) -> None:
        axes = figure.subplots()
        width = 0.8 / len(contenders)
        for i, contender in enumerate(contenders):
            places = [x + i * width for x in range(len(micros))]
            axes.bar(places, [micros[s][contender.name] for s in micros], width, label=contender.name)
        axes.set_yscale("log")
        axes.set_xticks([x + 0.4 - width / 2 for x in range(len(micros))], list(micros))
        axes.set_ylabel("µs a node (log scale)")
        axes.axhline(3, color="grey", linewidth=0.8, linestyle="--")
        axes.legend()

    name = "overhead-quick" if arguments.quick else "overhead"
    write(name, "Orchestration overhead: microseconds a node", notes, rows, plot)


def repeat(call: Callable[[], Any], times: int) -> Callable[[], Any]:
    def many() -> None:
        for _ in range(times):
            call()

    return many


if __name__ == "__main__":
    main()
