"""The node process is killed: the path gives errors, it does not look empty, and it can be mounted again (S15)."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.processes import HeadProcess, MountProcess


def test_a_dead_mount_is_an_error_and_can_be_replaced(tmp_path: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"x" * 1000)
    head = HeadProcess(tmp_path / "head", {"data": tree})
    mount = MountProcess(tmp_path / "mnt", head.address, "data", tmp_path / "mount.log")
    try:
        assert (mount.mountpoint / "file").stat().st_size == 1000
        mount.kill()
        with pytest.raises(OSError, match="not connected") as caught:
            os.listdir(mount.mountpoint)
        assert caught.value.errno == errno.ENOTCONN
        subprocess.run([sys.executable, "-m", "dadafs", "umount", str(mount.mountpoint)], check=True, timeout=60)
        assert os.listdir(mount.mountpoint) == []
        mount = MountProcess(tmp_path / "mnt", head.address, "data", tmp_path / "mount2.log")
        assert (mount.mountpoint / "file").read_bytes() == b"x" * 1000
    finally:
        mount.unmount()
        head.stop()
    head.check_log(expected_log)
