"""A small data set in files, and the real ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

DOCUMENTS = [
    {"_id": "d1", "title": "Birds", "text": "Wings lift birds into the air.", "year": 2001},
    {"_id": "d2", "title": "", "text": "Jet engines push aircraft."},
    {"_id": "d3", "title": "Boats", "text": "Keels keep boats upright."},
]
QUERIES = [
    {"_id": "q1", "text": "what lifts birds", "answers": ["wings", "the wings"]},
    {"_id": "q2", "text": "what pushes aircraft"},
    {"_id": "q3", "text": "nothing is relevant here"},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td3\t0\nq2\td2\t1\nq3\td1\t0\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "tiny"
    (home / "qrels").mkdir(parents=True)
    (home / "corpus.jsonl").write_text("".join(json.dumps(d) + "\n" for d in DOCUMENTS))
    (home / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in QUERIES))
    (home / "qrels" / "test.tsv").write_text(QRELS)
    return home


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Path:
    home = Path(os.environ.get("RAG_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    if not home.is_dir():
        pytest.skip(f"no data sets at {home}: set RAG_DATA")
    monkeypatch.setenv("RAG_DATA", str(home))
    return home
