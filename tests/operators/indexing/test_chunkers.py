import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag.errors import ConfigError
from rag.operators.indexing import (
    AttachMetadata,
    Auto,
    Code,
    FixedTokens,
    Markdown,
    Recursive,
    Semantic,
    Sentences,
    SmallToBig,
    embedding_text,
)
from rag.operators.indexing.chunkers.packing import Chunker
from rag.operators.indexing.chunkers.tokens import count_words
from rag.types import Chunk, Document


class Topics:
    """An encoder whose vectors count the words of a few topics, and whose tokens are characters but spaces."""

    name, dim, max_tokens, fingerprint = "topics", 3, 256, "0"
    topics = ("cat", "car", "sea")

    def encode_documents(self, texts: Sequence[str], *, progress: object = None) -> NDArray[np.float32]:
        counts = np.array([[text.count(topic) + 1e-3 for topic in self.topics] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    encode_queries = encode_documents

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len("".join(text.split())) for text in texts]


CHUNKERS = [FixedTokens, Sentences, Recursive, Markdown, Code, Auto, Semantic]
PARTS = [
    *"abcXYZ019 .,!?\n\n\n\t\r#`|-=*>~_",
    "é",
    "日",
    "。",
    "\u0301",
    "👩\u200d💻",
    "cat ",
    "x" * 30,
    "```\n",
    "\n# ",
    "Dr. ",
    "- ",
]
TEXT = st.lists(st.sampled_from(PARTS), max_size=300).map("".join)


def chunks_of(chunker: Chunker, text: str, **metadata: object) -> list[Chunk]:
    document = Document("d", text, metadata)
    if isinstance(chunker, Semantic):
        return chunker.run(document, Topics())
    return chunker.run(document)


@pytest.mark.parametrize("kind", CHUNKERS)
@settings(max_examples=150, deadline=None)
@given(
    text=TEXT, size=st.integers(8, 40), share=st.floats(0, 0.5), format=st.sampled_from(["text", "markdown", "code"])
)
def test_every_chunker_keeps_its_promises(kind: type[Chunker], text: str, size: int, share: float, format: str) -> None:
    overlap = int(size * share)
    chunks = chunks_of(kind(size=size, overlap=overlap), text, format=format)
    covered = np.zeros(len(text), bool)
    for chunk in chunks:
        assert chunk.document == "d"
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text.strip()
        covered[chunk.start : chunk.end] = True
    if not (kind in (Markdown, Auto) and text.startswith("---")):  # front matter is left out
        assert all(covered[i] or char.isspace() for i, char in enumerate(text))
    for before, after in itertools.pairwise(chunks):
        assert before.start < after.start
        assert before.end < after.end
        if after.start < before.end:
            assert tokens(kind, text[after.start : before.end]) <= overlap
    for chunk in chunks:
        # Nothing shorter than 24 characters of one word is cut, however many tokens they are.
        assert tokens(kind, chunk.text) <= max(size, 24 if kind is Semantic else 0)


def tokens(kind: type[Chunker], text: str) -> int:
    return Topics().count_tokens([text])[0] if kind is Semantic else count_words([text])[0]


@pytest.mark.parametrize("kind", [FixedTokens, Sentences, Recursive, Markdown, Code])
def test_size_is_counted_by_the_encoder_that_is_given(kind: type[Chunker]) -> None:
    text = "some words of a text that goes on and on. " * 20
    chunks = kind(size=50, overlap=10).run(Document("d", text), Topics())
    assert all(Topics().count_tokens([c.text])[0] <= 50 for c in chunks)
    assert np.mean([Topics().count_tokens([c.text])[0] for c in chunks[:-1]]) > 30


def test_overlap_is_used_where_pieces_are_small() -> None:
    chunks = chunks_of(FixedTokens(size=10, overlap=3), " ".join(map(str, range(40))))
    assert [c.text.split()[0] for c in chunks] == ["0", "7", "14", "21", "28", "35"][: len(chunks)]
    assert all(len(c.text.split()) == 10 for c in chunks[:-1])


def test_fixed_tokens_cuts_no_written_character() -> None:
    text = "e\u0301" * 30 + " " + "👩🏽\u200d💻" * 20 + " " + "क्षि" * 20
    for chunk in chunks_of(FixedTokens(size=8, overlap=0), text):
        assert chunk.text[0] not in "\u0301\u200d🏽\u094d\u093f"
        assert not chunk.text.endswith("\u200d")


def test_sentences_are_whole() -> None:
    text = "Dr. Who came. He left at 5 p.m. on Monday. Nobody knew why. It rained a lot. The end."
    chunks = chunks_of(Sentences(size=14, overlap=0), text)
    assert [c.text for c in chunks] == [
        "Dr. Who came.",
        "He left at 5 p.m. on Monday.",
        "Nobody knew why. It rained a lot.",
        "The end.",
    ] or all(c.text.endswith(".") for c in chunks)
    assert all(text[c.end - 1] == "." and (c.end == len(text) or text[c.end] == " ") for c in chunks)


def test_recursive_takes_the_best_break_in_reach() -> None:
    paragraph = "One two three four five. Six seven eight nine."
    chunks = chunks_of(Recursive(size=16, overlap=0), f"{paragraph}\n\n{paragraph}\n\n{paragraph}")
    assert [c.text for c in chunks] == [paragraph] * 3
    # Hard-wrapped prose is cut at the end of a sentence, not at the end of a line.
    wrapped = "Alpha beta gamma delta. Epsilon\nzeta eta theta iota. Kappa\nlambda mu nu xi. Omikron\npi rho sigma tau."
    chunks = chunks_of(Recursive(size=12, overlap=0), wrapped)
    assert all(c.text.endswith(".") for c in chunks)


def test_code_is_cut_between_definitions() -> None:
    text = "import a\n\n\ndef f():\n    x = 1\n\n    return x\n\n\n@wrap\ndef g():\n    return 2\n"
    chunks = chunks_of(Code(size=18, overlap=0), text)
    assert [c.text.split("\n")[0] for c in chunks] == ["import a", "@wrap"]
    deep = chunks_of(Code(size=8, overlap=0), text)
    assert "    return x" in [line for c in deep for line in c.text.split("\n")]


MARKDOWN = """---
title: Ignored here
---
# Guide

## Install

Run this:

```sh
# not a heading
pip install it

it --help
```

| a | b |
|---|---|
| 1 | 2 |

Setext
------

Text of it.

# Other
"""


def test_markdown_knows_its_sections() -> None:
    chunks = chunks_of(Markdown(size=60, overlap=0), MARKDOWN)
    assert [c.metadata.get("headings") for c in chunks] == [["Guide", "Install"], ["Guide", "Setext"], ["Other"]]
    assert chunks[0].text.startswith("# Guide\n\n## Install")
    assert "title: Ignored" not in "".join(c.text for c in chunks)


def test_markdown_keeps_fences_and_tables_whole_where_they_fit() -> None:
    chunks = chunks_of(Markdown(size=25, overlap=0), MARKDOWN)
    assert any("```sh\n# not a heading\npip install it\n\nit --help\n```" in c.text for c in chunks)
    assert any(c.text == "| a | b |\n|---|---|\n| 1 | 2 |" for c in chunks)
    long = "# T\n\n```\n" + "".join(f"line {i}\n" for i in range(30)) + "```\n"
    parts = chunks_of(Markdown(size=20, overlap=0), long)
    assert len(parts) > 3
    assert all(c.text.split("\n")[-1].startswith(("line", "```")) for c in parts)  # cut between lines


def test_semantic_cuts_where_the_subject_changes() -> None:
    parts = [
        "The cat sat. A cat ran. My cat slept. One cat ate.",
        "A car drove. The car stopped. Cars are fast. Your car?",
    ]
    chunks = chunks_of(Semantic(size=400, overlap=0, percentile=20), " ".join(parts))
    assert [c.text for c in chunks] == parts


def test_auto_picks_by_format() -> None:
    assert chunks_of(Auto(), "# A\n\ntext", format="markdown")[0].metadata == {"headings": ["A"]}
    assert chunks_of(Auto(), "# A\n\ntext", format="text")[0].metadata == {}


def test_overlap_must_leave_room() -> None:
    with pytest.raises(ConfigError, match="overlap 60 is more than half of size 100"):
        Recursive(size=100, overlap=60)


def test_small_to_big_windows() -> None:
    document = Document("d", "One one. Two two. Three three. Four four.")
    small = Sentences(size=8, overlap=0).run(document)
    chunks = SmallToBig(neighbours=1).run(document, small)
    for i, chunk in enumerate(chunks):
        assert chunk.parent == (small[max(0, i - 1)].start, small[min(len(small) - 1, i + 1)].end)


def test_small_to_big_blocks_are_shared_and_bounded() -> None:
    document = Document("d", "# A\n\n" + "A few words here. " * 40 + "\n\n# B\n\n" + "Other words there. " * 10)
    small = Markdown(size=12, overlap=0).run(document)
    chunks = SmallToBig(parent="block", size=50).run(document, small)
    parents = list(dict.fromkeys(c.parent for c in chunks))
    assert 1 < len(parents) < len(chunks)
    assert all(p and p[0] <= c.start and c.end <= p[1] for c in chunks for p in [c.parent])
    assert all(p and count_words([document.text[slice(*p)]])[0] <= 50 for p in parents)
    boundary = document.text.index("# B")
    assert not any(p and p[0] < boundary < p[1] for p in parents)


def test_attached_metadata() -> None:
    document = Document("d", "one two three", {"pages": [0, 4, 8], "year": 2020, "venue": "x"})
    chunks = [Chunk("d", "two", 4, 7), Chunk("d", "three", 8, 13, metadata={"headings": ["h"]})]
    added = AttachMetadata(copy_fields=("year",), constants={"source": "test"}).run(document, chunks)
    assert added[0].metadata == {"page": 2, "year": 2020, "source": "test"}
    assert added[1].metadata == {"headings": ["h"], "page": 3, "year": 2020, "source": "test"}


def test_what_is_embedded() -> None:
    document = Document("d", "# Guide\n\nfirst\n\nsecond", {"title": "Guide"})
    first = Chunk("d", "# Guide\n\nfirst", 0, 14, metadata={"headings": ["Guide"]})
    second = Chunk("d", "second", 16, 22, metadata={"headings": ["Guide", "Part"]})
    assert embedding_text(document, first) == "# Guide\n\nfirst"
    assert embedding_text(document, second) == "Guide\nPart\nsecond"
    assert embedding_text(document, second, title=False) == "second"


@pytest.mark.parametrize("kind", [FixedTokens, Sentences, Recursive, Markdown, Code])
@pytest.mark.parametrize("unit", ["word ", "\n", "x", "# h\n", "```\n", "| a |\n", "a.", "-\n", "    "])
def test_chunking_takes_linear_time_on_hostile_text(kind: type[Chunker], unit: str) -> None:
    text = unit * (200_000 // len(unit))
    start = time.process_time()
    chunks = chunks_of(kind(), text)
    assert time.process_time() - start < 4
    assert all(c.text == text[c.start : c.end] for c in chunks[:50])


def test_no_chunk_of_real_passages_is_too_long_or_lost(data: Path) -> None:
    for line in (data / "squad_train_sample/corpus.jsonl").read_text().split("\n")[:400]:
        text = json.loads(line)["text"]
        chunks = chunks_of(Recursive(size=64, overlap=12), text)
        assert all(count_words([c.text])[0] <= 64 for c in chunks)
        assert "".join(chunks[0].text.split()) == "".join(text[: chunks[0].end].split())
        assert chunks[-1].end == len(text.rstrip())
