"""The page in a real browser: pick a pipeline, ask, see the path light up and what every node wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rag.collection import Collection
from rag.pipelines import Pipeline
from rag.serve.service import Service, search_pipeline
from tests.serve.service import samples
from tests.serve.service.browser import CHROMIUM, Page, browser
from tests.serve.service.server import serving

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

TOKEN = "0123456789abcdef0123456789"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(collection: Collection) -> Iterator[str]:
    pipelines = [
        samples.quoting(collection),
        samples.every_flow(collection),
        Pipeline(samples.CountBatches(), name="count"),
        Pipeline(samples.Hold() >> samples.Echo(), name="hold"),
    ]
    with serving(Service(pipelines), ui=True) as base:
        yield base


def ask(page: Page, url: str, pipeline: str, question: str) -> None:
    page.open(f"{url}/?{pipeline}#{pipeline}")
    page.wait_for(f"document.body?.dataset.ready && document.getElementById('name').textContent === '{pipeline}'")
    page.evaluate(f"document.getElementById('query').value = {question!r}")
    page.evaluate("document.getElementById('ask').requestSubmit()")


DONE = "document.querySelector('#result .total') && !document.body.classList.contains('busy')"
LIT = "[...document.querySelectorAll('.node.done')].map(n => n.dataset.node)"


def test_a_question_lights_the_path_and_shows_the_source(page: Page, url: str, tmp_path: Path):
    ask(page, url, "quoting", "What is a roux made of?")
    page.wait_for(DONE)
    assert page.evaluate(LIT) == ["dense", "bm25", "fuse", "passages", "quote_sentence"]
    assert "flour and butter" in page.evaluate("document.querySelector('.answer .text').textContent")
    assert page.evaluate("document.querySelector('.answer .place').textContent") == "sub/cooking.txt:1"
    marked = page.evaluate("document.querySelector('.answer mark').textContent")
    assert marked == "A roux is made of flour and butter"
    assert page.evaluate("document.querySelector('.answer .cite').textContent") == "1"
    steps = page.evaluate("[...document.querySelectorAll('.step')].map(s => [s.dataset.node, s.innerText])")
    nodes = [node for node, _ in steps]
    assert (set(nodes[:2]), nodes[2:]) == ({"dense", "bm25"}, ["fuse", "passages", "quote_sentence"])
    assert all("ms" in text or "µs" in text for _, text in steps)
    page.evaluate("document.querySelector('.node[data-node=fuse]').dispatchEvent(new Event('click'))")
    shown = page.evaluate("document.querySelector('.step[data-node=fuse][open] .hits').textContent")
    assert "A roux is made of flour" in shown
    page.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert page.problems == []


def test_only_the_way_that_was_taken_is_lit(page: Page, url: str):
    ask(page, url, "routed", "which rope is it that controls a sail?")
    page.wait_for(DONE)
    lit = page.evaluate(LIT)
    assert {"by_length", "widen", "enough"} <= set(lit)
    assert "split_and" not in lit
    assert "2×" in page.evaluate("document.querySelector('.step[data-node=widen] .time').textContent")
    parts = "[...document.querySelectorAll('.step[data-node=widen] .part')].map(p => p.dataset.which)"
    assert page.evaluate(parts) == ["run 1", "run 2"]  # what every round wrote can be seen
    notes = page.evaluate("[...document.querySelectorAll('.note')].map(n => n.textContent)")
    assert notes == ["route took 'long'", "loop ended in round 2: 'enough' is true"]
    assert page.problems == []


def test_every_item_of_a_node_is_shown(page: Page, url: str):
    ask(page, url, "routed", "sheet and roux")
    page.wait_for(DONE)
    parts = "[...document.querySelectorAll('.step[data-node=dense] .part')].map(p => p.dataset.which)"
    assert page.evaluate(parts) == ["item 1", "item 2"]
    told = page.evaluate("document.querySelector('.step[data-node=dense] .notes').textContent")
    assert told == "hits 3 (2 items)"
    assert page.problems == []


def test_errors_are_told_with_their_hint(page: Page, url: str):
    ask(page, url, "count", "bad")
    page.wait_for("!document.getElementById('problem').hidden")
    told = page.evaluate("document.getElementById('problem').innerText")
    assert "the model refuses" in told
    assert "ask something else" in told
    assert page.evaluate("document.querySelector('.node.failed').dataset.node") == "count_batches"


MARKS = "[...document.querySelectorAll('#result li:first-child mark')].map(m => [m.className, m.textContent])"
TOLD = "document.querySelector('#result li:first-child .matches')"


def test_what_matched_is_shown_where_it_is_asked_for(page: Page, late: Collection, tmp_path: Path):
    with serving(Service([search_pipeline(late), samples.quoting(late)]), ui=True) as url:
        ask(page, url, "search", "at <b>once</b> zebra thickens")
        page.wait_for(DONE)
        assert page.evaluate("document.querySelectorAll('#result .explain').length") == 3
        first = "document.querySelector('#result li:first-child .explain')"
        before = page.evaluate("document.querySelector('#result li:first-child .passage').innerHTML")
        page.evaluate(f"{first}.click()")
        page.wait_for(TOLD)
        assert page.evaluate(f"{first}.getAttribute('aria-pressed')") == "true"
        # Behind a character that JavaScript counts as two.
        assert page.evaluate(MARKS) == [["strong", "thickens"], ["strong", "at"], ["strong", "once"]]
        told = page.evaluate(f"[...{TOLD}.children].map(row => row.textContent)")
        assert told == ["at → at 1.00", "b → –", "once → once 1.00", "b → –", "zebra → –", "thickens → thickens 1.00"]
        page.picture(tmp_path / "matches.png")
        page.evaluate(f"{first}.click()")
        assert page.evaluate(MARKS) == []
        assert page.evaluate("document.querySelector('#result li:first-child .passage').innerHTML") == before
        # The passages of a context stand in their documents, too.
        ask(page, url, "quoting", "what is a roux made of?")
        page.wait_for(DONE)
        step = ".step[data-node=passages]"
        page.evaluate(f"document.querySelector('{step} .explain').click()")
        page.wait_for(f"document.querySelector('{step} .matches')")
        marks = page.evaluate(f"[...document.querySelectorAll('{step} mark.strong')].map(m => m.textContent)")
        assert {"roux", "made", "of"} <= set(marks)
        assert page.problems == []


def test_without_token_vectors_nothing_is_offered_and_failures_are_told(page: Page, url: str, late: Collection):
    ask(page, url, "quoting", "What is a roux made of?")
    page.wait_for(DONE)
    assert page.evaluate("document.querySelectorAll('.explain').length") == 0
    with serving(Service([search_pipeline(late)]), ui=True) as other:
        ask(page, other, "search", "x" * 10_001)
        page.wait_for(DONE)
        page.evaluate("document.querySelector('#result .explain').click()")
        page.wait_for("document.querySelector('#result [role=status]').textContent.includes('query')")
        assert page.evaluate("document.querySelector('#result .explain').getAttribute('aria-pressed')") == "false"
    page.problems.clear()


def test_stop_ends_the_run(page: Page, url: str):
    ask(page, url, "hold", "x")
    page.wait_for("document.querySelector('.node.running')")
    assert page.evaluate("document.getElementById('go').textContent") == "Stop"
    page.evaluate("document.getElementById('ask').requestSubmit()")
    page.wait_for("document.getElementById('go').textContent === 'Ask'")
    samples.gate.set()


def test_the_token_is_asked_for(page: Page, collection: Collection):
    with serving(Service([samples.quoting(collection)]), ui=True, token=TOKEN) as url:
        page.open(url)
        page.wait_for("document.getElementById('login')?.open")
        page.evaluate(f"document.getElementById('token').value = '{TOKEN}'")
        page.evaluate("document.querySelector('#login button').click()")
        page.wait_for("document.body.dataset.ready")
        assert page.evaluate("document.getElementById('name').textContent") == "quoting"
