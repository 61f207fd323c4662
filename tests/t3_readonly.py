"""P1: every call that would write fails with EROFS, as root too, and the tree stays as it was."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Mounted
from tests.harness.processes import wait_until


def _fill(tree: Path) -> None:
    (tree / "folder" / "inner").mkdir(parents=True)
    (tree / "file").write_bytes(b"content")
    (tree / "empty").mkdir()
    (tree / "link").symlink_to("file")


WRITING_CALLS: dict[str, Callable[[Path], object]] = {
    "create": lambda mnt: os.open(mnt / "new", os.O_CREAT | os.O_WRONLY),
    "create exclusively": lambda mnt: os.open(mnt / "new", os.O_CREAT | os.O_EXCL),
    "open for writing": lambda mnt: os.open(mnt / "file", os.O_WRONLY),
    "open for reading and writing": lambda mnt: os.open(mnt / "file", os.O_RDWR),
    "open to append": lambda mnt: os.open(mnt / "file", os.O_WRONLY | os.O_APPEND),
    "open to truncate": lambda mnt: os.open(mnt / "file", os.O_TRUNC),
    "open a temporary file": lambda mnt: os.open(mnt / "folder", os.O_TMPFILE | os.O_RDWR),
    "truncate": lambda mnt: os.truncate(mnt / "file", 1),
    "mkdir": lambda mnt: os.mkdir(mnt / "new"),
    "mknod": lambda mnt: os.mknod(mnt / "new"),
    "mkfifo": lambda mnt: os.mkfifo(mnt / "new"),
    "unlink": lambda mnt: os.unlink(mnt / "file"),
    "rmdir": lambda mnt: os.rmdir(mnt / "empty"),
    "rename": lambda mnt: os.rename(mnt / "file", mnt / "other"),
    "rename over": lambda mnt: os.rename(mnt / "file", mnt / "link"),
    "link": lambda mnt: os.link(mnt / "file", mnt / "hard"),
    "symlink": lambda mnt: os.symlink("file", mnt / "soft"),
    "chmod": lambda mnt: os.chmod(mnt / "file", 0o600),
    "chown": lambda mnt: os.chown(mnt / "file", 1, 1),
    "utime": lambda mnt: os.utime(mnt / "file", (1, 1)),
    "setxattr": lambda mnt: os.setxattr(mnt / "file", b"user.a", b"b"),
    "removexattr": lambda mnt: os.removexattr(mnt / "file", b"user.a"),
}


def test_every_writing_call_fails_with_erofs(mounted: Mounted) -> None:
    _fill(mounted.tree)
    wait_until(lambda: (mounted.mnt / "link").is_symlink(), "the tree is seen")
    before = sorted(os.walk(mounted.tree))
    for name, call in WRITING_CALLS.items():
        with pytest.raises(OSError) as failed:
            call(mounted.mnt)
        assert failed.value.errno == errno.EROFS, name
    assert sorted(os.walk(mounted.tree)) == before
    assert (mounted.tree / "file").read_bytes() == b"content"


def test_a_shared_writable_mapping_is_refused(mounted: Mounted) -> None:
    import mmap

    _fill(mounted.tree)
    wait_until(lambda: (mounted.mnt / "file").exists(), "the file is seen")
    descriptor = os.open(mounted.mnt / "file", os.O_RDONLY)
    try:
        with pytest.raises(PermissionError):
            mmap.mmap(descriptor, 7, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(descriptor)


def test_reading_leaves_no_trace_in_the_tree(mounted: Mounted) -> None:
    _fill(mounted.tree)
    os.utime(mounted.tree / "file", (1, 2))
    wait_until(lambda: (mounted.mnt / "file").exists(), "the file is seen")
    assert (mounted.mnt / "file").read_bytes() == b"content"
    assert (mounted.tree / "file").stat().st_atime == 1


def test_the_mount_says_what_it_is(mounted: Mounted) -> None:
    line = next(line for line in Path("/proc/self/mounts").read_text().splitlines() if str(mounted.mnt) in line)
    source, _, fstype, options, *_ = line.split()
    assert fstype == "fuse.dadafs"
    assert source == f"{mounted.head.address}:/data"
    assert {"ro", "nosuid", "nodev", "noatime"} <= set(options.split(","))
