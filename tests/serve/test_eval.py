"""`rag eval`: intervals, and questions near those of a training apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.serve.conftest import RagCommand


def test_eval_shows_both_halves_and_intervals(rag: RagCommand, tmp_path: Path):
    home = tmp_path / "made"
    (home / "qrels").mkdir(parents=True)
    rng = np.random.default_rng(0)
    words = ["".join(row) for row in rng.choice(list("abcdefghij"), (300, 6))]
    lines = {"corpus": words[:150], "queries": words[:150] + words[:50]}
    for name, texts in lines.items():
        rows = [{"_id": f"{name[0]}{n}", "text": f"{text} sail"} for n, text in enumerate(texts)]
        (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, asked in (("test", range(150)), ("train", range(150, 200))):
        judged = "".join(f"q{n}\tc{n % 150}\t1\n" for n in asked)
        (home / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    common = ("eval", home, "bm25", "dense", "-m", "RR", "--encoder", "hashing:64", "--trained-on", "train")
    found = rag(*common, "--json").json
    assert found["extrapolation"]["overlap"]["documents"] == pytest.approx(1 / 3)
    part = found["extrapolation"]["runs"]["bm25"]["RR"]
    assert [part["interpolation"][0], part["extrapolation"][0], part["drop"]] == [1, 1, 0]
    assert found["runs"]["bm25"]["intervals"]["RR"] == [1, 1]
    assert {"low", "high"} <= found["comparisons"][0].keys()
    done = rag(*common, "--intervals")
    assert "(1.000 to" in done.out
    assert "far from them (75)" in " ".join(done.out.split())
    assert "nothing is claimed" in rag(*common, "--sample", "60").err
