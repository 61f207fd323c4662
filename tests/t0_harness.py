"""The tests' own rules: an unannounced warning fails a test, and CI mounts for real or fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest
from tests.checklogs import ExpectedLog
from tests.conftest import REPOSITORY
from tests.harness.processes import LoggedProcess

LOGGING = """
import logging

def test_warns():
    logging.getLogger("somewhere").warning("the disk is full")

def test_announces(expected_log):
    expected_log.add("disk is full")
    logging.getLogger("somewhere").warning("the disk is full")

def test_informs():
    logging.getLogger("somewhere").info("all is well")
"""


def test_a_test_that_logs_an_unexpected_warning_fails(tmp_path: Path) -> None:
    (tmp_path / "test_logs.py").write_text(LOGGING)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.checklogs", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout
    assert "3 passed, 1 error" in done.stdout
    assert "WARNING somewhere: the disk is full" in done.stdout


@pytest.mark.parametrize("line", ["WARNING dadafsd.tier: full", "ERROR dadafs.guard: EIO", "Traceback (most recent"])
def test_a_process_that_logs_one_fails_its_test(tmp_path: Path, line: str) -> None:
    process = LoggedProcess([sys.executable, "-c", f"print({line!r})"], tmp_path / "log")
    assert process.process.wait(60) == 0
    with pytest.raises(AssertionError, match="unexpected in log"):
        process.check_log(ExpectedLog())
    expected = ExpectedLog()
    expected.add("full|EIO|Traceback")
    process.check_log(expected)


def test_without_fuse_a_test_is_skipped_at_home_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception):
        conftest.need_fuse()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception):
        conftest.need_fuse()


def test_ci_says_that_it_is_ci() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text()
    assert "CI=true" in script
    assert "exec ./run test" in script
