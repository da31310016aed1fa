"""Pictures of plans: well-formed, complete, and needing nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rag.operators import Flow
from rag.pipelines import Each, Loop, Pipeline, Recurse, Route, Try
from rag.serve.pipelines import PRESETS
from tests.pipelines.conftest import Add, CountWords, Total
from tests.pipelines.test_patterns import at_least, free_route, letters, shorter, size

FLOWS = [
    CountWords(),
    CountWords() >> (Add(by=2) | (Add() >> Add(by=3)) | Add()) >> Total(),
    Route(free_route(), {"a": CountWords(), 'b "<&>': size()}, default="a"),
    CountWords() >> Loop(Add(), until=at_least(bound=3), otherwise=Add(by=7)),
    letters() >> Each(size()) >> Total() >> Try(Add(), fallback=Add(by=5)),
    Recurse(size(), derive=shorter()),
    CountWords() >> Pipeline((Add() | Add(by=2)) >> Total(), inputs={"n": int}, name="inner") >> Add(),
]


@pytest.mark.parametrize("flow", FLOWS)
def test_every_node_is_in_the_picture_once(flow: Flow):
    pipeline = Pipeline(flow, name="a <name>")
    root = ElementTree.fromstring(pipeline.svg())
    drawn = [element.get("data-node") for element in root.iter() if element.get("data-node")]
    named = re.findall(r"^\s*([\w:/]+): \w+\(", pipeline.explain(), flags=re.MULTILINE)
    assert sorted(drawn) == sorted(named)
    assert pipeline._repr_html_() == pipeline.svg()


@pytest.mark.parametrize("flow", FLOWS)
def test_nothing_is_fetched_from_elsewhere(flow: Flow):
    svg = Pipeline(flow).svg().replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "http" not in svg
    assert "<script" not in svg


@pytest.mark.parametrize("flow", FLOWS)
def test_boxes_do_not_overlap(flow: Flow):
    boxes: list[tuple[float, float, float, float]] = []

    def place(element: ElementTree.Element, x: float, y: float) -> None:
        shift = re.match(r"translate\((\S+) (\S+)\)", element.get("transform", ""))
        if shift:
            x, y = x + float(shift[1]), y + float(shift[2])
        if element.get("data-node"):
            rect = next(iter(element))
            boxes.append((x, y, x + float(rect.get("width", 0)), y + float(rect.get("height", 0))))
        for child in element:
            place(child, x, y)

    place(ElementTree.fromstring(Pipeline(flow).svg()), 0, 0)
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_nested_pipeline_is_a_frame_with_its_name():
    texts = [e.text for e in ElementTree.fromstring(Pipeline(FLOWS[6]).svg()).iter() if e.get("class") == "label"]
    assert "inner" in texts


def test_mermaid_names_nodes_ways_and_repetitions():
    text = Pipeline(CountWords() >> Loop(Add(), until=at_least(bound=3))).mermaid()
    assert text.startswith("flowchart TD\n")
    assert 'n1["add"]' in text
    assert "n2 -. again .-> n1" in text
    assert 'subgraph g1 ["inner"]\n  n1["add"]\n  n2["add:2"]\n  n3["total"]\n  end' in Pipeline(FLOWS[6]).mermaid()
    assert '-->|"a"|' in Pipeline(FLOWS[2]).mermaid()


PICTURES = sorted((Path(__file__).resolve().parents[2] / "docs" / "flows").glob("*.svg"))


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_pictures_in_the_guides_show_the_pipelines_as_they_are(picture: Path):
    own = picture.with_suffix(".yaml")
    drawn = Pipeline.from_yaml(own if own.exists() else PRESETS / own.name).svg() + "\n"
    name = own.relative_to(own.parents[2]) if own.exists() else picture.stem
    assert picture.read_text(encoding="utf-8") == drawn, f"make it anew: rag draw {name} -o {picture}"
