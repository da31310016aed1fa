import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.operators.indexing.sentences import sentence_breaks, sentences


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    "expected",
    [
        ["Hello there.", "How are you?", "Fine!"],
        ["Dr. Smith met Mrs. Jones at St. Mary's.", "They talked."],
        ["It cost 3.14 dollars.", "Then 2.5 more."],
        ["J. R. R. Tolkien wrote it.", "C. S. Lewis read it."],
        ["Use tools, e.g. a hammer.", "Or a saw, i.e. the long one."],
        ["See Fig. 3 and Eq. 2 for details.", "No. 5 is best."],
        ["He said no.", "Then he left."],
        ["The U.S. Army came.", "It left the U.S.", "The war was over."],
        ["We met at 5 p.m. on Monday.", "We left at 6 p.m.", "The train was late."],
        ["Apples, pears, etc.", "Everything was eaten."],
        ["Well... maybe not.", "Wait...", "What was that?"],
        ['"Why?" he asked.', '"Because."', "She smiled."],
        ["“It works.”", "He was sure."],
        ["Smith et al. (2020) showed it.", "Later work agreed."],
        ["She works at Acme Inc. in Ohio.", "He works at Beta Ltd.", "They are rivals."],
        ["Yahoo! is a company.", "Is it?"],
        ["What?!", "No way!!"],
        ["He took vitamin C.", "It helped."],
        ["He got his Ph.D. in 1999.", "She did too."],
        ["Visit www.example.com for more.", "Version 2.0.1 is out."],
        ["今日は晴れです。", "明日は雨です。", "本当ですか？"],
        ["यह एक वाक्य है।", "यह दूसरा है।"],
        ["ما اسمك؟", "اسمي علي."],
        ["Das kostet z.B. 5 Euro.", "Das ist viel."],
        ["(This is inside.)", "This is outside."],
    ],
)
def test_splits_where_a_reader_would(expected: list[str]) -> None:
    joiner = "" if "。" in expected[0] else " "
    text = joiner.join(expected)
    assert split(text) == expected


def test_line_breaks() -> None:
    assert split("A wrapped\nsentence here. And\nanother one.") == ["A wrapped\nsentence here.", "And\nanother one."]
    assert split("A heading\n\nSome text") == ["A heading", "Some text"]
    assert split("1. First item.\n2. Second item.") == ["1. First item.", "2. Second item."]
    assert split("a paragraph.\n\nlower case follows") == ["a paragraph.", "lower case follows"]


@given(st.text(alphabet=" \n\t.!?…。\"')(abzABZ019,éß\u0301\u200d", max_size=200))
def test_spans_hold_all_that_is_not_space_in_order(text: str) -> None:
    spans = sentences(text)
    assert all(start < end and text[start:end] == text[start:end].strip() for start, end in spans)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert "".join("".join(text[s:e].split()) for s, e in spans) == "".join(text.split())


@pytest.mark.parametrize("unit", [".", "! ", '"', ".)", "\n", " ", "a. ", "。", ". . "])
def test_takes_linear_time_on_hostile_text(unit: str) -> None:
    text = unit * (300_000 // len(unit))
    start = time.process_time()
    sentence_breaks(text)
    assert time.process_time() - start < 3


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def test_real_answers_do_not_straddle_sentences(data: Path) -> None:
    """SQuAD answers are phrases: next to none of them reaches over the end of a sentence."""
    corpus = {record["_id"]: record for record in records(data / "squad_train_sample/corpus.jsonl")}
    relevant = {}
    for split_name in ("test", "train"):
        for line in (data / f"squad_train_sample/qrels/{split_name}.tsv").read_text().splitlines()[1:]:
            query, document, _ = line.split("\t")
            relevant[query] = document
    breaks = {name: set(sentence_breaks(record["text"])) for name, record in corpus.items()}
    seen = straddling = 0
    for query in records(data / "squad_train_sample/queries.jsonl"):
        text = corpus[relevant[query["_id"]]]["text"]
        for answer, start in zip(query["answers"], query["answer_starts"], strict=True):
            if text[start : start + len(answer)] == answer:
                seen += 1
                straddling += any(at in breaks[relevant[query["_id"]]] for at in range(start + 1, start + len(answer)))
    assert seen > 7000
    assert straddling / seen < 0.002
