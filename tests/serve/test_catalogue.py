"""The catalogue of operators in the guides is that of the operators as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operators.md"


def test_the_page_is_current():
    # In a process of its own, since other tests register operators too.
    done = subprocess.run(
        [sys.executable, "-m", "rag", "operators", "--markdown"], capture_output=True, text=True, check=True
    )
    assert PAGE.read_text(encoding="utf-8") == done.stdout, "make it anew: rag operators --markdown > docs/operators.md"
