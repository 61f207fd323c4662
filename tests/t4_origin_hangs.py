"""The origin hangs (its server is gone): cached reads go on, others fail in bounded time, and it recovers (P4)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.moody_origin import moody_origin
from tests.harness.processes import mounted_tree, wait_until
from tests.harness.readers import Reader, sha256

_TROUBLE = r"EIO|origin|deadline|hang|stuck|timed out|no answer"


def _attempt(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"print(len(open({str(path)!r}, 'rb').read()))"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_hung_origin_stops_nobody_whose_data_is_cached(tmp_path: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    expected_log.add(_TROUBLE)
    source = tmp_path / "source"
    source.mkdir()
    (source / "cached").write_bytes(os.urandom(4 << 20))
    (source / "unread").write_bytes(os.urandom(4 << 20))
    with (
        moody_origin(tmp_path, source) as origin,
        mounted_tree(tmp_path, origin.path, expected_log, mount_options=("-o", "retry=4s,stale_if_offline")) as (
            _,
            mount,
        ),
    ):
        with (mount.mountpoint / "cached").open("rb") as held:
            whole = held.read()
            origin.feel("hang")
            assert os.pread(held.fileno(), 1 << 20, 1 << 20) == whole[1 << 20 : 2 << 20]
            attempts = [_attempt(mount.mountpoint / "unread") for _ in range(3)]
            for attempt in attempts:
                assert "Input/output error" in attempt.communicate(timeout=60)[1]
        origin.feel("")
        wait_until(lambda: _digest(mount.mountpoint / "unread") == sha256(source / "unread"), "the origin is back")


def test_more_calls_than_threads_into_a_hung_origin_all_end(tmp_path: Path, expected_log: ExpectedLog) -> None:
    """Each call ends by its deadline although more are waiting than the head has threads for."""
    need_fuse()
    expected_log.add(_TROUBLE)
    source = tmp_path / "source"
    source.mkdir()
    with (
        moody_origin(tmp_path, source) as origin,
        mounted_tree(tmp_path, origin.path, expected_log, mount_options=("-o", "retry=3s")) as (_, mount),
    ):
        origin.feel("hang")
        attempts = [_attempt(mount.mountpoint / f"name{i}") for i in range(24)]
        for attempt in attempts:
            assert "Input/output error" in attempt.communicate(timeout=60)[1]
        origin.feel("")
        (source / "later").write_bytes(b"later")
        wait_until(lambda: _text(mount.mountpoint / "later") == b"later", "the origin is back")


def _digest(path: Path) -> str:
    try:
        return Reader(path).digest()
    except AssertionError:
        return ""


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
