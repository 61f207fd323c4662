"""A mount that may not raise `read_ahead_kb` has a helper process that touches ahead; with it every promise holds.

For root, who may raise it, the mount process is told that it may not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.processes import DEADLINE, HeadProcess, MountProcess, wait_until

MIB = 2**20
SIZE = 24 * MIB + 4711

#: Runs in the mount process before anything else.
REFUSE = """
from dadafs import kernel_tuning
kernel_tuning._write = lambda path, value: "Permission denied"
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "big").write_bytes(os.urandom(SIZE))
    return tree


@pytest.fixture
def mount(tmp_path: Path, tree: Path, expected_log: ExpectedLog) -> Iterator[MountProcess]:
    """A mount whose kernel settings stay the defaults."""
    need_fuse()
    (tmp_path / "sitecustomize.py").write_text(REFUSE)
    env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    head = HeadProcess(tmp_path / "head", {"data": tree})
    mount = MountProcess(tmp_path / "mnt", head.address, "data", tmp_path / "mount.log", env=env)
    yield mount
    mount.unmount()
    head.stop()
    mount.check_log(expected_log)
    head.check_log(expected_log)


def kernel(mount: MountProcess) -> dict[str, Any]:
    """What the mount reports of the kernel's settings."""
    report: dict[str, Any] = json.loads((mount.mountpoint / ".dadafs" / "stats.json").read_text())["kernel"]
    return report


def helper(mount: MountProcess) -> dict[str, int]:
    """The helper's process and what it was given."""
    found = kernel(mount)["readahead_helper"]
    assert found is not None
    return dict(found)


def running(pid: int) -> bool:
    """Whether a process with this number runs (one that ended and waits for its parent does not)."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_what_is_read_through_is_touched_ahead_and_right(mount: MountProcess, tree: Path) -> None:
    file = mount.mountpoint / "big"
    with file.open("rb", buffering=0) as stream:
        pieces = []
        while piece := stream.read(MIB):
            pieces.append(piece)
    assert b"".join(pieces) == (tree / "big").read_bytes()
    assert helper(mount)["ranges"] >= 8


def test_random_reads_are_not(mount: MountProcess, tree: Path) -> None:
    file, content = mount.mountpoint / "big", (tree / "big").read_bytes()
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        for number in range(40):
            offset = number * 7919 * 997 % SIZE
            assert os.pread(descriptor, 4096, offset) == content[offset : offset + 4096]
    finally:
        os.close(descriptor)
    assert helper(mount)["ranges"] == 0


def test_a_rewrite_is_seen_by_who_reads_on(mount: MountProcess, tree: Path) -> None:
    file = mount.mountpoint / "big"
    with file.open("rb", buffering=0) as stream:
        assert len(stream.read(8 * MIB)) == 8 * MIB
        with (tree / "big").open("r+b") as writer:
            writer.write(b"n" * SIZE)
        wait_until(lambda: os.pread(stream.fileno(), MIB, 9 * MIB) == b"n" * MIB, "the rewrite, where touched ahead")
        os.truncate(tree / "big", 10 * MIB)
        wait_until(lambda: os.fstat(stream.fileno()).st_size == 10 * MIB, "the cut")
        assert os.pread(stream.fileno(), 2 * MIB, 9 * MIB) == b"n" * MIB


def test_without_the_helper_reads_go_on(mount: MountProcess, tree: Path) -> None:
    pid = helper(mount)["pid"]
    os.kill(pid, 9)
    wait_until(lambda: not running(pid), "the helper is gone")
    assert (mount.mountpoint / "big").read_bytes() == (tree / "big").read_bytes()
    assert kernel(mount)["readahead_helper"] is None


def test_it_ends_with_the_mount_and_is_in_nobodys_way(mount: MountProcess) -> None:
    pid = helper(mount)["pid"]
    (mount.mountpoint / "big").read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "dadafs", "umount", str(mount.mountpoint)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not running(pid), "the helper ends")
    assert mount.process.wait(DEADLINE) == 0


def test_it_ends_when_the_mount_process_is_killed(mount: MountProcess) -> None:
    pid = helper(mount)["pid"]
    (mount.mountpoint / "big").read_bytes()
    mount.kill()
    wait_until(lambda: not running(pid), "the helper ends")
    with pytest.raises(OSError, match="not connected"):
        os.listdir(mount.mountpoint)


def test_where_the_kernel_may_be_told_there_is_no_helper(tmp_path: Path, tree: Path, expected_log: ExpectedLog) -> None:
    """Nor where no more than the kernel's own was wished."""
    need_fuse()
    head = HeadProcess(tmp_path / "head", {"data": tree})
    options = () if os.geteuid() == 0 else ("-o", "read_ahead=128KiB")
    mount = MountProcess(tmp_path / "mnt", head.address, "data", tmp_path / "mount.log", options=options)
    try:
        found = kernel(mount)
        wished = 1024 if os.geteuid() == 0 else 128
        assert (found["readahead_helper"] is None) == (found["read_ahead_kb"] >= wished)
    finally:
        mount.unmount()
        head.stop()
    mount.check_log(expected_log)
