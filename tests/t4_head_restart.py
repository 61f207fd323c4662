"""The head is killed and started again while programs read: they wait and go on (P4, S13)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.processes import HeadProcess, MountProcess
from tests.harness.readers import Reader, sha256

_LOST = (
    r"(head|connection|session|control channel|data channel).*(lost|closed|unreachable|gone|reconnect|reset|refused)"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "big").write_bytes(os.urandom(48 << 20))
    (tree / "small").write_bytes(b"small")
    return tree


def test_readers_go_on_after_kill_and_restart(tmp_path: Path, tree: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    expected_log.add(_LOST)
    head = HeadProcess(tmp_path / "head", {"data": tree})
    mount = MountProcess(tmp_path / "mnt", head.address, "data", tmp_path / "mount.log", options=("-o", "retry=5min"))
    try:
        readers = [Reader(mount.mountpoint / "big") for _ in range(3)]
        for _ in range(3):
            head.kill()
            head = HeadProcess(tmp_path / "head", {"data": tree}, port=head.port)
        for reader in readers:
            assert reader.digest() == sha256(tree / "big")
        assert (mount.mountpoint / "small").read_bytes() == b"small"
    finally:
        mount.unmount()
        head.stop()
    mount.check_log(expected_log)


def test_open_handle_survives_a_restart_but_never_becomes_another_file(
    tmp_path: Path, tree: Path, expected_log: ExpectedLog
) -> None:
    """S11: after a restart the name may be another file; the old handle must not read it."""
    need_fuse()
    expected_log.add(_LOST)
    head = HeadProcess(tmp_path / "head", {"data": tree})
    mount = MountProcess(
        tmp_path / "mnt",
        head.address,
        "data",
        tmp_path / "mount.log",
        options=("--ram-cache", "16MiB", "-o", "retry=5min"),
    )
    try:
        with (mount.mountpoint / "big").open("rb", buffering=0) as file:
            first = os.pread(file.fileno(), 4096, 0)
            head.kill()
            (tree / "new").write_bytes(os.urandom(48 << 20))
            old = (tree / "big").read_bytes()
            (tree / "new").rename(tree / "big")
            head = HeadProcess(tmp_path / "head", {"data": tree}, port=head.port)
            assert first == old[:4096]
            try:
                piece = os.pread(file.fileno(), 4096, 40 << 20)
            except OSError as exc:
                assert exc.errno == 116, exc  # noqa: PT017 - ESTALE or the old bytes, both are right
            else:
                assert piece == old[40 << 20 : (40 << 20) + 4096]
        assert (mount.mountpoint / "big").read_bytes() == (tree / "big").read_bytes()
    finally:
        mount.unmount()
        head.stop()
    mount.check_log(expected_log)


def test_an_outage_longer_than_retry_is_an_error_in_bounded_time(
    tmp_path: Path, tree: Path, expected_log: ExpectedLog
) -> None:
    """P4: after `retry` there is EIO, not a hang; when the head is back everything works again."""
    need_fuse()
    expected_log.add(_LOST)
    expected_log.add(r"EIO")
    head = HeadProcess(tmp_path / "head", {"data": tree})
    mount = MountProcess(tmp_path / "mnt", head.address, "data", tmp_path / "mount.log", options=("-o", "retry=2s"))
    try:
        head.kill()
        probe = subprocess.run(
            [sys.executable, "-c", f"open({str(mount.mountpoint / 'never-seen')!r}).read()"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Input/output error" in probe.stderr
        head = HeadProcess(tmp_path / "head", {"data": tree}, port=head.port)
        digest = ""
        for _ in range(20):
            try:
                digest = Reader(mount.mountpoint / "big").digest()
                break
            except AssertionError:
                continue
        assert digest == sha256(tree / "big")
    finally:
        mount.unmount()
        head.stop()
    mount.check_log(expected_log)
