"""`python -m bench.head --quick`: it runs, and every row has its figures; no figure is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_quick_runs(tmp_path: Path) -> None:
    rows = "origin,ssd,random ssd,list,open again"
    command = [sys.executable, "-m", "bench.head", "--quick", "--rows", rows, "--json", str(tmp_path / "head.json")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    found = json.loads((tmp_path / "head.json").read_text())["rows"]
    assert [row["row"] for row in found] == rows.split(",")
    assert all(row["cpu s"] >= 0 and row["per"] in ("GiB", "1,000") for row in found)


def test_an_unknown_row_is_a_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.head", "--rows", "nothing"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "There is no row 'nothing'" in done.stderr
