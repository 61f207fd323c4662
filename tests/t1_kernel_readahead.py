"""The helper for readahead without a mount: what it opens, and that nobody ever waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dadafs import doctor, touch_ahead
from dadafs.kernel_readahead import KernelReadahead
from dadafs.policy.kernel_windows import PIECE
from tests.harness.processes import DEADLINE, wait_until

SIZE = 1 << 40


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """Opening a device, or a pipe, has effects of its own."""
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    os.close(touch_ahead.open_regular(str(tmp_path), b"file"))
    for name in (b"folder", b"link", b"pipe", b"absent", b"/dev/null"):
        with pytest.raises(OSError, match=r"."):
            touch_ahead.open_regular(str(tmp_path), name)


def test_it_ends_with_its_stdin_whatever_it_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(PIECE))
    requests = [(b"file", 0, PIECE), (b"absent", 0, PIECE), (b"file", PIECE, SIZE >> 20), (b"file", 0, 0), (b"x", 0, 0)]
    line = b"".join(touch_ahead.REQUEST.pack(start, end, len(path)) + path for path, start, end in requests)
    argv = [sys.executable, "-I", "-S", touch_ahead.__file__, str(tmp_path)]
    done = subprocess.run(argv, input=line + b"cut", capture_output=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.fixture
def deaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KernelReadahead:
    """A helper that never reads what it is told."""
    script = tmp_path / "deaf.py"
    script.write_text("import signal\nsignal.pause()\n")
    monkeypatch.setattr(touch_ahead, "__file__", str(script))
    readahead = KernelReadahead(str(tmp_path), lambda node_id: (b"d" * 100 + b"/file", SIZE))
    readahead.start()
    return readahead


def test_what_does_not_fit_into_the_pipe_is_dropped(deaf: KernelReadahead) -> None:
    deaf.opened(7, 5, by=1)
    for offset in range(0, 40_000 * PIECE, PIECE):
        deaf.read(7, offset, PIECE)
    report = deaf.report()
    assert report is not None
    assert report["ranges"] > 1000
    deaf.closed(7)
    deaf.stop()
    assert deaf.pid is None
    assert deaf.report() is None


def test_its_own_requests_and_unknown_files_are_not_noted(deaf: KernelReadahead) -> None:
    assert deaf.pid is not None
    deaf.opened(7, 5, by=deaf.pid)
    for offset in range(0, 100 * PIECE, PIECE):
        deaf.read(7, offset, PIECE)
        deaf.read(8, offset, PIECE)
    report = deaf.report()
    assert report is not None
    assert report["ranges"] == 0
    deaf.closed(8)
    deaf.stop()


def test_when_it_is_gone_readers_go_on(deaf: KernelReadahead) -> None:
    deaf.opened(7, 5, by=1)
    assert deaf.pid is not None
    os.kill(deaf.pid, 9)
    os.waitid(os.P_PID, deaf.pid, os.WEXITED | os.WNOWAIT)
    for offset in range(0, 100 * PIECE, PIECE):
        deaf.read(7, offset, PIECE)
    wait_until(lambda: deaf.report() is None, "it is missed")
    deaf.opened(9, 5, by=1)
    deaf.closed(9)
    deaf.stop()


def test_the_doctor_says_who_helps_out() -> None:
    kernel = {"read_ahead_kb": 128, "refused": ["read_ahead_kb: Permission denied"]}
    for helper, told in ((None, False), ({"pid": 1, "ranges": 0}, True)):
        report = {"mountpoint": "/mnt", "kernel": {**kernel, "readahead_helper": helper}}
        (finding,) = doctor.readahead(report)
        assert ("a helper process" in finding.what) is told
        assert "read_ahead_kb" in finding.advice
