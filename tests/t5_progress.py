"""A person at a terminal sees how far a long command is; a program that reads its output does not."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dada.simulate import Simulation, simulate
from tests.harness.processes import DEADLINE


def on_a_terminal(*arguments: str | Path) -> str:
    """What `dada ARGUMENTS` shows on a terminal of 120 columns."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "dada", *map(str, arguments)],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # what a terminal says when nobody holds its other end
        pass
    finally:
        os.close(ours)
    assert process.wait(DEADLINE) == 0, shown
    return re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode()


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return simulate(tmp_path / "scan", Simulation((4, 5), detector="200x200"))


def test_simulating(tmp_path: Path) -> None:
    shown = on_a_terminal("simulate", tmp_path / "new", "--shape", "4x5", "--detector", "200x200")
    assert re.search(r"simulating .*20/20.*frames/s", shown)


def test_analysing_and_the_second_time_from_the_store(scan: Path, tmp_path: Path) -> None:
    command = ("stxm", scan, "--shape", "4x5", "--store", tmp_path / "store")
    assert re.search(r"analysing .*20/20", on_a_terminal(*command))
    assert re.search(r"analysing .*20/20.*20 from the store", on_a_terminal(*command))
    assert "analysing" not in on_a_terminal(*command, "--quiet")


def test_no_bar_where_nobody_looks(scan: Path) -> None:
    command = [sys.executable, "-m", "dada", "stxm", str(scan), "--shape", "4x5", "--no-store"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == ""
    assert "analysing" not in done.stderr
