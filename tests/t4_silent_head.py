"""A head that accepts and never answers: bounded errors, no process in D state, and recovery (P4)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.processes import HeadProcess, MountProcess, wait_until
from tests.harness.proxy import proxy_to
from tests.harness.readers import Reader, sha256


def test_silence_is_an_error_in_bounded_time_and_then_over(tmp_path: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    expected_log.add(r"EIO|lost|closed|silent|unreachable|reconnect|no answer|timed out|reset|EOF|refused")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "big").write_bytes(os.urandom(32 << 20))
    head = HeadProcess(tmp_path / "head", {"data": tree})
    with proxy_to(head.host, head.port) as proxy:
        mount = MountProcess(
            tmp_path / "mnt", proxy.address, "data", tmp_path / "mount.log", options=("-o", "retry=3s")
        )
        try:
            proxy.silent = True
            attempts = [_Attempt(mount.mountpoint / f"unknown{i}") for i in range(4)]
            for attempt in attempts:
                assert "Input/output error" in attempt.error()
            proxy.silent = False
            proxy.cut()
            wait_until(lambda: _digest(mount.mountpoint / "big") == sha256(tree / "big"), "reads work again")
        finally:
            proxy.silent = False
            proxy.cut()
            mount.unmount()
            head.stop()
        mount.check_log(expected_log)


class _Attempt:
    """An `open` in a process of its own."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"open({str(path)!r})"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )

    def error(self) -> str:
        return self.process.communicate(timeout=60)[1]


def _digest(path: Path) -> str:
    try:
        return Reader(path).digest()
    except AssertionError:
        return ""
