"""Fault: node or head run out of file descriptors while they serve. Reads go on, or fail with a numbered EIO that says
why; nothing hangs, and all is well again once there are descriptors.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dadafs.ctl import client
from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.processes import HeadProcess, LoggedProcess, MountProcess, wait_until

MIB = 1 << 20


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(24):
        (tree / f"file{number}").write_bytes(os.urandom(2 * MIB + number))
    return tree


@contextmanager
def out_of_descriptors(process: LoggedProcess) -> Iterator[None]:
    """`process` gets no new descriptor: its limit is what it has."""
    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)


def same(one: Path, other: Path) -> bool:
    """Whether both can be read and have the same content."""
    try:
        return one.read_bytes() == other.read_bytes()
    except OSError:
        return False


def stats(mount: MountProcess) -> dict[str, Any]:
    """What the mount reports."""
    report: dict[str, Any] = json.loads((mount.mountpoint / ".dadafs" / "stats.json").read_text())
    return report


def test_a_node_reads_on_as_long_as_its_connections_stand(
    tmp_path: Path, tree: Path, expected_log: ExpectedLog
) -> None:
    need_fuse()
    head = HeadProcess(tmp_path / "head", {"data": tree})
    mount = MountProcess(tmp_path / "mnt", head.address, "data", tmp_path / "mount.log")
    try:
        assert same(mount.mountpoint / "file0", tree / "file0")
        with out_of_descriptors(mount):
            for number in range(24):
                assert same(mount.mountpoint / f"file{number}", tree / f"file{number}")
            assert sorted(os.listdir(mount.mountpoint)) == sorted(os.listdir(tree))
            (tree / "file0").write_bytes(b"changed")
            wait_until(lambda: same(mount.mountpoint / "file0", tree / "file0"), "a change is seen all the same")
        assert stats(mount)["counters"]["eio_sites"] == {}
    finally:
        mount.unmount()
        head.stop()
    mount.check_log(expected_log)
    head.check_log(expected_log)


def test_a_node_that_cannot_reconnect_says_why_and_recovers(
    tmp_path: Path, tree: Path, expected_log: ExpectedLog
) -> None:
    need_fuse()
    expected_log.add(r"lost the head|EIO \(N0\d\)|Too many open files")
    head = HeadProcess(tmp_path / "head", {"data": tree})
    mount = MountProcess(tmp_path / "mnt", head.address, "data", tmp_path / "mount.log", options=("-o", "retry=2s"))
    try:
        with out_of_descriptors(mount):
            head.kill()
            head = HeadProcess(tmp_path / "head", {"data": tree}, port=head.port)
            with pytest.raises(OSError, match="Input/output error"):
                (mount.mountpoint / "file1").read_bytes()
            mount.wait_for_line(r"EIO \(N0\d\) .*file1.*Too many open files")
        wait_until(lambda: same(mount.mountpoint / "file1", tree / "file1"), "reads go on")
        assert sum(stats(mount)["counters"]["eio_sites"].values()) >= 1
    finally:
        mount.unmount()
        head.stop()
    mount.check_log(expected_log)


def test_a_head_serves_what_it_has_open_says_why_it_cannot_open_more_and_recovers(
    tmp_path: Path, tree: Path, expected_log: ExpectedLog
) -> None:
    need_fuse()
    expected_log.add(r"EIO \(N0\d\)|site 141 \(descriptors\)|Too many open files")
    head = HeadProcess(tmp_path / "head", {"data": tree})
    mount = MountProcess(tmp_path / "mnt", head.address, "data", tmp_path / "mount.log", options=("-o", "retry=5s"))
    second = None
    try:
        with (mount.mountpoint / "file0").open("rb", buffering=0) as already_open:
            assert os.pread(already_open.fileno(), 10, 0) == (tree / "file0").read_bytes()[:10]
            with out_of_descriptors(head):
                content = os.pread(already_open.fileno(), 2 * MIB, 0)
                assert content == (tree / "file0").read_bytes()[: len(content)]
                assert len(content) == 2 * MIB
                with pytest.raises(OSError, match="Input/output error"):
                    (mount.mountpoint / "file1").read_bytes()
                head.wait_for_line(r"site 141 \(descriptors\): 'data:/.*out of file descriptors")
                mount.wait_for_line(r"EIO \(N0\d\) .*file1.*out of file descriptors")
        for number in range(24):
            wait_until(lambda n=number: same(mount.mountpoint / f"file{n}", tree / f"file{n}"), "all is well again")
        second = MountProcess(tmp_path / "second", head.address, "data", tmp_path / "second.log")
        assert same(second.mountpoint / "file2", tree / "file2")
        with closing(client.Head(str(head.admin_socket))) as admin:
            (tier,) = admin.ask("status")["tiers"]
        assert tier["state"] == "normal", "the disk has done nothing wrong"
    finally:
        if second is not None:
            second.unmount()
        mount.unmount()
        head.stop()
    mount.check_log(expected_log)
    head.check_log(expected_log)
