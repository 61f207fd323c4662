"""Many small files opened and read at a time: the compiled part and Python's own way find the same."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dadafs.checksum import block_checksums
from dadafs.wire.messages import INLINE_LIMIT, Version
from dadafsd import confine, long_writes
from dadafsd.confine import open_small, read_small
from dadafsd.export import Export, fstat
from dadafsd.opening import Found, open_all
from dadafsd.origin_read import read_all
from dadafsd.policy.settle import LocalClock

MOST = 4096  # files in one call, see opening.c
OLD = 10**18
compiled = pytest.mark.skipif(open_small(0, [], 0, 0) is None, reason="not built, or the kernel has no openat2")


@pytest.fixture(params=[pytest.param("compiled", marks=compiled), "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "python":
        monkeypatch.setattr(confine, "_compiled", None)
    return str(request.param)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree" / "below").mkdir(parents=True)
    return tmp_path / "tree"


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def nothing(version: Version) -> bool:
    return False


def opened(
    tree: Path, *paths: bytes, limit: int = 1 << 20, in_memory: Callable[[Version], bool] = nothing
) -> list[Found | None]:
    return open_all(Export("data", tree), paths, limit, LocalClock(margin_ns=0), in_memory)


def contents(found: Sequence[Found | None]) -> list[bytes | None]:
    return [None if one is None or one[2] is None else one[2].data for one in found]


def test_small_regular_files_come_with_what_they_are_and_their_content(way: str, tree: Path) -> None:
    for size in (1, 4096, 4097, INLINE_LIMIT):
        (tree / "below" / str(size)).write_bytes(os.urandom(size))
        os.utime(tree / "below" / str(size), ns=(OLD, OLD))
    names = [b"below/1", b"below/4096", b"below/4097", b"below/%d" % INLINE_LIMIT]
    found = opened(tree, *names)
    for name, one in zip(names, found, strict=True):
        assert one is not None
        held, attr, piece = one
        assert attr == fstat(held)
        data = (tree / os.fsdecode(name)).read_bytes()
        assert piece is not None
        assert (piece.data, piece.checksums, piece.settled) == (data, block_checksums(data), True)
        assert os.pread(held.fd, len(data) + 1, 0) == data
        assert not os.get_inheritable(held.fd)


def test_nothing_else_is_opened(way: str, tree: Path) -> None:
    (tree / "small").write_bytes(b"small")
    (tree / "large").write_bytes(bytes(INLINE_LIMIT + 1))
    (tree / "empty").write_bytes(b"")
    (tree / "link").symlink_to("small")
    (tree / "away").symlink_to(tree.parent)
    (tree.parent / "outside").write_bytes(b"outside")
    os.mkfifo(tree / "fifo")
    wrong = [b"", b"absent", b"large", b"below", b"link", b"away/outside", b"../outside", b"fifo", b"small/file"]
    found = opened(tree, *wrong, b"small", b"empty")
    assert [one is not None for one in found] == [False] * len(wrong) + [True, True]
    assert contents(found)[-2:] == [b"small", None]


def test_those_behind_the_first_that_does_not_fit_are_left_out(way: str, tree: Path) -> None:
    for name, size in (("a", 10), ("b", 10), ("large", INLINE_LIMIT + 1), ("c", 10), ("d", 11), ("e", 1)):
        (tree / name).write_bytes(bytes(size))
    names = b"a", b"b", b"large", b"c", b"d", b"e"
    for limit, count in ((0, 0), (-1, 0), (9, 0), (10, 1), (30, 2), (INLINE_LIMIT + 20, 2)):
        assert sum(one is not None for one in opened(tree, *names, limit=limit)) == count
    found = opened(tree, *names, limit=INLINE_LIMIT + 21)  # there would be room for the large one
    assert [one is not None for one in found] == [True, True, False, True, True, True]


def test_what_memory_has_is_not_read_again(way: str, tree: Path) -> None:
    (tree / "known").write_bytes(b"known")
    (tree / "new").write_bytes(b"new")
    known = (tree / "known").stat().st_ino
    found = opened(tree, b"known", b"new", in_memory=lambda version: version.ino == known)
    assert contents(found) == [None, b"new"]
    assert None not in found


def test_no_descriptor_is_left_open(way: str, tree: Path) -> None:
    (tree / "small").write_bytes(b"small")
    (tree / "large").write_bytes(bytes(INLINE_LIMIT + 1))
    before = descriptors()
    found = opened(tree, b"small", b"large", b"below", b"absent", b"small")
    del found
    assert descriptors() == before


@compiled
def test_a_file_that_changed_since_it_was_opened_is_left_out(tree: Path) -> None:
    for name in ("same", "grown", "cut", "written", "overtaken"):
        (tree / name).write_bytes(b"content")
        os.utime(tree / name, ns=(OLD, OLD))
    small = Export("data", tree).open_small([b"same", b"grown", b"cut", b"written", b"overtaken"], INLINE_LIMIT, 1000)
    assert small is not None
    files = [one for one in small if one is not None]
    (tree / "grown").write_bytes(b"contents")
    os.truncate(tree / "cut", 3)
    (tree / "written").write_bytes(b"another")
    long_writes.overtake(files[4].attr.version)
    pieces = read_all(files, LocalClock())
    assert [None if piece is None else piece.data for piece in pieces] == [b"content", None, None, None, None]


@compiled
def test_what_makes_no_sense_is_refused(tree: Path) -> None:
    (tree / "small").write_bytes(b"small")
    root = os.open(tree, os.O_PATH)
    before = descriptors()
    for paths in ([b"small", b"a\0b"], [b"small", "small"], [b"small"] * (MOST + 1)):
        with pytest.raises((TypeError, ValueError)):
            open_small(root, paths, 100, 100)  # type: ignore[arg-type]
    assert open_small(-1, [b"small"], 100, 100) == [None]
    assert descriptors() == before
    found = os.stat(tree / "small")
    good = root, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    sizes = [[(*good[:3], size, *good[4:])] for size in (-1, INLINE_LIMIT + 1, 1 << 70)]
    for files in (*sizes, [good[:-1]], [None], [good] * (MOST + 1)):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            read_small(files, INLINE_LIMIT)  # type: ignore[arg-type]
    assert read_small([good], INLINE_LIMIT) == [None], "a descriptor that cannot be read"
    os.close(root)
