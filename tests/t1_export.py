"""An export's confinement, by openat2 and by the walk that stands in for it; what is read is one version."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dadafs.checksum import block_checksums
from dadafs.wire.messages import Attr
from dadafsd import confine
from dadafsd.confine import Closer, Descriptor, open_beneath, open_by_walk
from dadafsd.export import Export, attributes
from dadafsd.origin_read import Piece, read_piece
from dadafsd.policy.settle import LocalClock
from tests.harness.processes import wait_until

Open = Callable[[int, bytes, int], int]
OPENERS = [pytest.param(open_beneath, id="openat2"), pytest.param(open_by_walk, id="walk")]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "dir/sub").mkdir(parents=True)
    (tree / "dir/file").write_text("inside")
    (tmp_path / "secret").write_text("secret")
    (tree / "up").symlink_to("..")
    (tree / "absolute").symlink_to("/")
    (tree / "within").symlink_to("dir")
    (tree / "dir/final").symlink_to("file")
    return tree


@pytest.mark.parametrize("opener", OPENERS)
def test_what_is_inside_opens(tree: Path, opener: Open) -> None:
    root = os.open(tree, os.O_PATH)
    try:
        for path in (b"dir/file", b"dir/sub", b"dir", b""):
            fd = opener(root, path, os.O_RDONLY)
            assert os.fstat(fd).st_ino == os.stat(tree / os.fsdecode(path)).st_ino
            assert os.get_inheritable(fd) is False
            os.close(fd)
        fd = opener(root, b"up", os.O_PATH | os.O_NOFOLLOW)
        assert os.readlink(b"", dir_fd=fd) == b".."
        os.close(fd)
    finally:
        os.close(root)


LINKS = [b"up/secret", b"absolute/etc/passwd", b"within/file", b"dir/final"]


@pytest.mark.parametrize(
    ("opener", "path"),
    [
        *[(open_beneath, path) for path in [*LINKS, b"../secret", b"/etc/passwd"]],
        *[(open_by_walk, path) for path in LINKS],  # the other two are refused by dadafs.wire.paths
    ],
)
def test_no_link_and_no_way_out_is_followed(tree: Path, opener: Open, path: bytes) -> None:
    root = os.open(tree, os.O_PATH)
    try:
        with pytest.raises(OSError) as caught:
            opener(root, path, os.O_RDONLY)
        assert caught.value.errno in (errno.ELOOP, errno.EXDEV, errno.ENOTDIR)
    finally:
        os.close(root)


def test_magic_links_are_not_followed() -> None:
    root = os.open("/proc", os.O_PATH)
    try:
        with pytest.raises(OSError) as caught:
            open_beneath(root, b"%d/root/etc/passwd" % os.getpid(), os.O_RDONLY)
        assert caught.value.errno in (errno.ELOOP, errno.EXDEV)
    finally:
        os.close(root)


def test_a_directory_swapped_for_a_link_never_leads_out(tree: Path, tmp_path: Path) -> None:
    """A writer swaps `dir` for a link to the outside and back, while the head opens what is below."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("outside")
    export = Export("data", tree)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (tree / "dir").rename(tree / "aside")
            (tree / "dir").symlink_to("../outside")
            (tree / "dir").unlink()
            (tree / "aside").rename(tree / "dir")

    writer = threading.Thread(target=swap)
    writer.start()
    try:
        found = set()
        for _ in range(3000):
            try:
                opened, _ = export.open_file(b"dir/file")
                found.add(os.pread(opened.fd, 100, 0))
            except OSError as error:
                assert error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)  # noqa: PT017
        assert found <= {b"inside"}
    finally:
        stop.set()
        writer.join()


def test_reading_leaves_no_trace(tree: Path) -> None:
    past = time.time_ns() - 10**15
    for path in (tree / "dir/file", tree / "dir"):
        os.utime(path, ns=(past, past))
    export = Export("data", tree)
    opened, _ = export.open_file(b"dir/file")
    assert os.read(opened.fd, 100) == b"inside"
    export.list_directory(b"dir")
    export.xattrs(b"dir/file")
    assert os.stat(tree / "dir/file").st_atime_ns == past
    assert os.stat(tree / "dir").st_atime_ns == past


def test_a_listing_has_everything_with_attributes(tree: Path) -> None:
    os.mkfifo(tree / "dir/fifo")
    attr, items = Export("data", tree).list_directory(b"dir")
    assert attr.ino == os.stat(tree / "dir").st_ino
    by_name = {item.name: item for item in items}
    assert set(by_name) == {b"sub", b"file", b"final", b"fifo"}
    for name, item in by_name.items():
        assert item.attr.ino == os.lstat(tree / "dir" / os.fsdecode(name)).st_ino
    assert by_name[b"final"].target == b"file"


def test_descriptors_are_closed_with_their_last_reference(tree: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    held = [Descriptor(os.open(tree, os.O_PATH)) for _ in range(10)]
    assert count() == before + 10
    held.clear()
    assert count() == before
    closer = Closer()
    held = [Descriptor(os.open(tree, os.O_PATH), closer) for _ in range(10)]
    held.clear()
    wait_until(lambda: count() == before, "the closer has closed them")


def test_a_piece_is_of_one_version_or_not_at_all(tmp_path: Path) -> None:
    """A writer rewrites the file in place; every piece that is given out is of one write."""
    path = tmp_path / "file"
    size = 3 * 65536 + 100
    path.write_bytes(b"\0" * size)
    stop = threading.Event()

    def rewrite() -> None:
        turn = 0
        with path.open("r+b", buffering=0) as file:
            while not stop.is_set():
                turn += 1
                os.pwrite(file.fileno(), bytes([turn % 256]) * size, 0)
                time.sleep(0.0005)

    export = Export("data", tmp_path)
    held, attr = export.open_file(b"file")
    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        changed = 0
        for _ in range(2000):
            piece = read_piece(held, attr.version, 0, size, LocalClock())
            if isinstance(piece, Attr):
                attr = piece
                changed += 1
                continue
            assert piece.checksums == block_checksums(piece.data)
            assert not piece.settled, "a file being rewritten is never settled"
        assert changed
    finally:
        stop.set()
        writer.join()


def test_a_piece_of_a_quiet_file_is_settled_and_mixed_reads_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    export = Export("data", tmp_path)
    held, attr = export.open_file(b"file")
    wait_until(lambda: time.time_ns() - attr.ctime_ns > 30_000_000, "the file is old enough")
    piece = read_piece(held, attr.version, 0, 1000, LocalClock())
    assert isinstance(piece, Piece)
    assert piece.settled
    path.write_bytes(b"y" * 500)
    found = read_piece(held, attr.version, 0, 1000, LocalClock())
    assert isinstance(found, Attr)
    assert found.size == 500


@pytest.mark.parametrize("way", ["compiled", "python"])
def test_a_large_directory_is_listed_as_lstat_sees_it(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "python":
        monkeypatch.setattr(confine, "_compiled", None)
    for number in range(3000):  # several calls of the compiled part
        (tmp_path / f"{'long ' * (number % 40)}{number}").write_bytes(bytes(number % 7))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    os.link(tmp_path / "0", tmp_path / "second name of 0")
    for number, text in enumerate(("0", "nowhere", "x" * 4000, "\udcff\n")):
        os.symlink(text, tmp_path / f"link {number}")
    os.rename(os.fsencode(tmp_path) + b"/0", os.fsencode(tmp_path) + b"/0\xff\n")
    export = Export("data", tmp_path)
    there = {name: os.path.join(os.fsencode(tmp_path), name) for name in os.listdir(os.fsencode(tmp_path))}
    before = {
        name: attributes(os.lstat(path)) for name, path in there.items()
    }  # reading a link changes its access time
    _, items = export.list_directory(b"")
    assert [item.name for item in items] == sorted(there)
    for item in items:
        path = there[item.name]
        assert item.attr == before[item.name]
        assert item.target == (os.readlink(path) if os.path.islink(path) else None)
    assert export.list_directory(b"folder")[1] == []


@pytest.mark.parametrize("way", ["compiled", "python"])
def test_names_that_vanish_while_a_directory_is_listed_are_left_out(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "python":
        monkeypatch.setattr(confine, "_compiled", None)
    stays = {f"stays{number}".encode() for number in range(50)}
    for name in stays:
        (tmp_path / os.fsdecode(name)).touch()
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            for number in range(20):
                (tmp_path / f"goes{number}").touch()
                os.symlink("x", tmp_path / f"link{number}")
            for number in range(20):
                (tmp_path / f"goes{number}").unlink()
                (tmp_path / f"link{number}").unlink()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        export = Export("data", tmp_path)
        for _ in range(100):
            found = {item.name for item in export.list_directory(b"")[1]}
            assert stays <= found
    finally:
        ended.set()
        thread.join()


def test_what_is_no_directory_cannot_be_listed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        Export("data", tmp_path).list_directory(b"file")
    with (tmp_path / "file").open("rb") as file, pytest.raises(NotADirectoryError):
        list(confine.list_names(file.fileno()))
