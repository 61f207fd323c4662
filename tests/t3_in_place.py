"""Requests answered in place by the compiled part: the replies that pyfuse3 gives, and pyfuse3's own for the rest."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dadafs.native import fuse_session
from tests.checklogs import ExpectedLog
from tests.conftest import Mounted, need_fuse
from tests.harness.processes import mounted_tree, wait_until

#: Opens one file again and again, and is killed in the middle of it.
_HAMMER = """
import os, sys
print("begun", flush=True)
while True:
    fd = os.open(sys.argv[1], os.O_RDONLY)
    os.pread(fd, 4096, 0)
    os.fstat(fd)
    os.close(fd)
"""


@pytest.fixture
def mounted(tmp_path: Path, expected_log: ExpectedLog) -> Iterator[Mounted]:
    """A mount that forgets nothing by itself: what is known stays known on a slow machine, too."""
    need_fuse()
    tree = tmp_path / "tree"
    tree.mkdir()
    with mounted_tree(tmp_path, tree, expected_log, mount_options=("-o", "freshness=10min")) as (head, mount):
        yield Mounted(tree, mount.mountpoint, head, mount)


def in_place(mnt: Path) -> int:
    """How many requests were answered in place so far."""
    return int(json.loads((mnt / ".dadafs/stats.json").read_text())["kernel"]["answered_in_place"])


def test_attributes_are_answered_in_place_as_well(mounted: Mounted) -> None:
    (mounted.tree / "file").write_bytes(b"content")
    os.setxattr(mounted.tree / "file", b"user.sample", b"bone" * 100)
    path = mounted.mnt / "file"
    assert os.getxattr(path, b"user.sample") == b"bone" * 100
    before = in_place(mounted.mnt)
    for _ in range(200):
        assert os.getxattr(path, b"user.sample") == b"bone" * 100
        with pytest.raises(OSError) as none:
            os.getxattr(path, b"user.other")
        assert none.value.errno == errno.ENODATA
    assert in_place(mounted.mnt) - before >= 2 * 200
    libc = ctypes.CDLL(None, use_errno=True)
    name, small = os.fsencode(path), ctypes.create_string_buffer(10)
    assert libc.getxattr(name, b"user.sample", None, 0) == 400
    assert libc.getxattr(name, b"user.sample", small, 10) == -1
    assert ctypes.get_errno() == errno.ERANGE


def test_what_is_known_is_answered_in_place(mounted: Mounted) -> None:
    (mounted.tree / "dir").mkdir()
    (mounted.tree / "dir/file").write_bytes(b"content")
    path = mounted.mnt / "dir/file"
    assert path.read_bytes() == b"content"
    before = in_place(mounted.mnt)
    for _ in range(200):
        assert path.read_bytes() == b"content"
    assert in_place(mounted.mnt) - before >= 2 * 200 - 10  # each open and each release


def test_random_reads_of_a_cached_file_are_right(mounted: Mounted) -> None:
    content = random.Random(1).randbytes(3_000_000)
    (mounted.tree / "file").write_bytes(content)
    fd = os.open(mounted.mnt / "file", os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

        def read(seed: int) -> bool:
            choose = random.Random(seed)
            for _ in range(200):
                offset, length = choose.randrange(len(content) + 5000), choose.randrange(1, 300_000)
                os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
                if os.pread(fd, length, offset) != content[offset : offset + length]:
                    return False
            return True

        with ThreadPoolExecutor(8) as readers:
            assert all(readers.map(read, range(8)))
    finally:
        os.close(fd)


def test_a_read_across_fragments_is_answered_in_place(mounted: Mounted) -> None:
    content = random.Random(2).randbytes(4 << 20)
    (mounted.tree / "file").write_bytes(content)
    path = mounted.mnt / "file"
    assert path.read_bytes() == content
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        before = in_place(mounted.mnt)
        for turn in range(100):
            offset, length = (1 + turn % 3 << 20) - 4096 * (1 + turn), 4096 * (2 + 2 * turn)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(fd, length, offset) == content[offset : offset + length]
        assert in_place(mounted.mnt) - before >= 90
    finally:
        os.close(fd)


def test_what_was_closed_is_known_to_be_closed(mounted: Mounted) -> None:
    (mounted.tree / "small").mkdir()
    for number in range(40):
        (mounted.tree / f"small/{number:02d}").write_bytes(b"%02d" % number * 1000)
    for turn in range(3):
        held = os.open(mounted.mnt / "small/00", os.O_RDONLY)
        for number in range(40):
            assert (mounted.mnt / f"small/{number:02d}").read_bytes() == b"%02d" % number * 1000
        opened = json.loads((mounted.mnt / ".dadafs/stats.json").read_text())["open"]["open_files"]
        assert opened == 1, f"turn {turn}"
        os.close(held)
    assert json.loads((mounted.mnt / ".dadafs/stats.json").read_text())["open"]["open_files"] == 0


def test_nothing_is_put_off_where_no_read_is_being_answered() -> None:
    assert fuse_session is not None
    assert fuse_session.afterwards(lambda: None) is False


def test_attributes_are_those_of_the_tree(mounted: Mounted) -> None:
    tree = mounted.tree / "dir"
    tree.mkdir()
    for name, mode, when in (("old", 0o640, -1_500_000_001), ("new", 0o4711, 4_000_000_000_123_456_789)):
        (tree / name).write_bytes(name.encode() * 1000)
        os.chmod(tree / name, mode)
        os.utime(tree / name, ns=(when, when))
    (tree / "link").symlink_to("old")
    os.mkfifo(tree / "pipe")
    for name in ("old", "new", "link", "pipe", "."):
        there = os.lstat(tree / name)
        for _ in range(3):  # asked of the head, then known
            here = os.stat(mounted.mnt / "dir" / name, follow_symlinks=False)
            for field in ("mode", "nlink", "uid", "gid", "size", "blocks", "mtime_ns", "ctime_ns", "ino"):
                assert getattr(here, f"st_{field}") == getattr(there, f"st_{field}"), (name, field)


def test_what_is_not_there_or_not_allowed_fails_as_ever(mounted: Mounted) -> None:
    (mounted.tree / "file").write_bytes(b"x")
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            os.stat(mounted.mnt / "absent")
        with pytest.raises(NotADirectoryError):
            os.stat(mounted.mnt / "file/below")
        with pytest.raises(OSError) as failure:
            os.open(mounted.mnt / "file", os.O_RDWR)
        assert failure.value.errno == errno.EROFS
    assert (mounted.mnt / ".dadafs/log").read_bytes() is not None


def test_callers_that_are_killed_leave_nothing_open_and_stop_nothing(mounted: Mounted) -> None:
    (mounted.tree / "file").write_bytes(b"content" * 500)
    path = mounted.mnt / "file"
    for _ in range(20):
        with subprocess.Popen([sys.executable, "-c", _HAMMER, path], stdout=subprocess.PIPE) as hammer:
            assert hammer.stdout is not None
            hammer.stdout.readline()
            assert path.read_bytes() == b"content" * 500
            hammer.send_signal(signal.SIGKILL)

    def open_files() -> int:
        return int(json.loads((mounted.mnt / ".dadafs/stats.json").read_text())["open"]["open_files"])

    wait_until(lambda: open_files() == 0, "every file is closed")


def test_a_storm_of_requests_leaves_the_loop_its_turn(mounted: Mounted) -> None:
    (mounted.tree / "file").write_bytes(b"old")
    path = mounted.mnt / "file"
    assert path.read_bytes() == b"old"
    hammers = [subprocess.Popen([sys.executable, "-c", _HAMMER, path], stdout=subprocess.PIPE) for _ in range(4)]
    try:
        for hammer in hammers:
            assert hammer.stdout is not None
            hammer.stdout.readline()
        for version in range(5):
            (mounted.tree / "file").write_bytes(b"new %d" % version)
            wait_until(lambda version=version: path.read_bytes() == b"new %d" % version, "the change is seen")
        found = json.loads((mounted.mnt / ".dadafs/stats.json").read_text())
        assert found["counters"]["disconnects"] == 0
    finally:
        for hammer in hammers:
            hammer.kill()
            hammer.communicate()


def test_only_known_names_and_keywords_are_taken() -> None:
    assert fuse_session is not None
    with pytest.raises(TypeError):
        fuse_session.answer(print)
    fuse_session.answer(lookup=print)
    fuse_session.answer()
    assert fuse_session.answered() == 0
