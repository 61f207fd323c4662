"""P3: a change in the tree is seen within `freshness`, by stat, readdir, new and already-open readers, and mmap.

Every test runs twice: with the default freshness, where forgetting in time would be enough, and with one of ten
minutes, where only the head's notices can make the change visible before the test gives up.
"""

from __future__ import annotations

import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.checklogs import ExpectedLog
from tests.conftest import Mounted, need_fuse
from tests.harness.processes import mounted_tree, wait_until

SIZE = 3 * 65536 + 777


@pytest.fixture(params=["1s", "10min"], scope="module")
def freshness(request: pytest.FixtureRequest) -> str:
    """The mount option."""
    return str(request.param)


@pytest.fixture(scope="module")
def shared(freshness: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """One mount for all tests of this file; each works in a directory of its own."""
    need_fuse()
    folder = tmp_path_factory.mktemp("freshness")
    tree = folder / "tree"
    tree.mkdir()
    options = ("-o", f"freshness={freshness}")
    with mounted_tree(folder, tree, ExpectedLog(), mount_options=options) as (head, mount):
        yield Mounted(tree, mount.mountpoint, head, mount)


class Place:
    """A directory of the tree, and the same directory in the mount."""

    def __init__(self, shared: Mounted, name: str) -> None:
        self.tree = shared.tree / name
        self.mnt = shared.mnt / name
        self.tree.mkdir()
        wait_until(lambda: self.mnt.is_dir(), "the new directory is seen")
        assert os.listdir(self.mnt) == []


@pytest.fixture
def place(shared: Mounted, request: pytest.FixtureRequest) -> Place:
    return Place(shared, request.node.name.removeprefix("test_"))


def seen(condition: Callable[[], object], what: str) -> None:
    wait_until(condition, what)


def known(path: Path, content: bytes) -> None:
    """The mount has seen, listed, and read the file."""
    seen(lambda: path.exists(), f"{path.name} is seen")
    seen(lambda: path.read_bytes() == content, f"{path.name} has its content")
    seen(lambda: path.name in os.listdir(path.parent), f"{path.name} by readdir")


def test_new_file_after_a_cached_enoent(place: Place) -> None:
    path = place.mnt / "late"
    for _ in range(3):
        assert not path.exists()
    (place.tree / "late").write_bytes(b"here")
    seen(lambda: path.exists(), "the new file by stat")
    seen(lambda: "late" in os.listdir(place.mnt), "the new file by readdir")
    seen(lambda: path.read_bytes() == b"here", "its content")


def test_new_file_in_a_listed_directory(place: Place) -> None:
    (place.tree / "first").write_bytes(b"1")
    known(place.mnt / "first", b"1")
    for number in range(5):
        name = f"next{number}"
        (place.tree / name).write_bytes(b"x" * number)
        seen(lambda name=name: name in os.listdir(place.mnt), f"{name} by readdir")
        seen(lambda name=name, number=number: (place.mnt / name).stat().st_size == number, f"{name} by stat")


def test_directory_times_follow_what_happens_inside(place: Place) -> None:
    before = place.mnt.stat().st_mtime_ns
    (place.tree / "file").write_bytes(b"")
    seen(lambda: place.mnt.stat().st_mtime_ns == place.tree.stat().st_mtime_ns != before, "the directory's time")


def test_growth(place: Place) -> None:
    (place.tree / "file").write_bytes(b"a" * SIZE)
    known(place.mnt / "file", b"a" * SIZE)
    with (place.mnt / "file").open("rb") as already_open, (place.tree / "file").open("ab") as writer:
        assert len(already_open.read()) == SIZE
        for step in range(1, 4):
            writer.write(b"b" * 1000)
            writer.flush()
            size = SIZE + step * 1000
            seen(lambda size=size: (place.mnt / "file").stat().st_size == size, "the new size by stat")
            seen(lambda size=size: os.fstat(already_open.fileno()).st_size == size, "the new size by fstat")
            assert already_open.read() == b"b" * 1000
            assert (place.mnt / "file").read_bytes() == b"a" * SIZE + b"b" * (1000 * step)


def test_same_size_rewrite_in_place(place: Place) -> None:
    (place.tree / "file").write_bytes(b"a" * SIZE)
    known(place.mnt / "file", b"a" * SIZE)
    with (place.mnt / "file").open("rb", buffering=0) as already_open:
        already_open.read(SIZE)
        with (place.tree / "file").open("r+b") as writer:
            writer.seek(65536)
            writer.write(b"b" * 100)
        new = b"a" * 65536 + b"b" * 100 + b"a" * (SIZE - 65536 - 100)
        seen(lambda: os.pread(already_open.fileno(), SIZE, 0) == new, "the rewrite by an open reader")
        seen(lambda: (place.mnt / "file").read_bytes() == new, "the rewrite by a new reader")


def test_rewrite_that_restores_size_and_mtime(place: Place) -> None:
    target = place.tree / "file"
    target.write_bytes(b"a" * SIZE)
    os.utime(target, (1_000_000, 1_000_000))
    known(place.mnt / "file", b"a" * SIZE)
    with (place.mnt / "file").open("rb", buffering=0) as already_open:
        already_open.read(SIZE)
        with target.open("r+b") as writer:
            writer.write(b"b" * SIZE)
        os.utime(target, (1_000_000, 1_000_000))
        seen(lambda: os.pread(already_open.fileno(), SIZE, 0) == b"b" * SIZE, "the rewrite by an open reader")
        seen(lambda: (place.mnt / "file").read_bytes() == b"b" * SIZE, "the rewrite by a new reader")


def test_mapped_pages_follow_a_rewrite(place: Place) -> None:
    (place.tree / "file").write_bytes(b"a" * SIZE)
    known(place.mnt / "file", b"a" * SIZE)
    with (place.mnt / "file").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    try:
        assert mapped[:] == b"a" * SIZE
        with (place.tree / "file").open("r+b") as writer:
            writer.write(b"b" * 70000)
        seen(lambda: mapped[:] == b"b" * 70000 + b"a" * (SIZE - 70000), "the rewrite through the map")
    finally:
        mapped.close()


def test_replaced_by_rename(place: Place) -> None:
    (place.tree / "file").write_bytes(b"old")
    known(place.mnt / "file", b"old")
    with (place.mnt / "file").open("rb", buffering=0) as already_open:
        (place.tree / "new").write_bytes(b"brand new")
        os.rename(place.tree / "new", place.tree / "file")
        seen(lambda: (place.mnt / "file").read_bytes() == b"brand new", "the new file")
        seen(lambda: os.listdir(place.mnt) == ["file"], "one name by readdir")
        assert (place.mnt / "file").stat().st_ino == (place.tree / "file").stat().st_ino
        assert os.pread(already_open.fileno(), 100, 0) == b"old"
        assert os.fstat(already_open.fileno()).st_size == 3


def test_truncated(place: Place) -> None:
    (place.tree / "file").write_bytes(b"a" * SIZE)
    known(place.mnt / "file", b"a" * SIZE)
    with (place.mnt / "file").open("rb", buffering=0) as already_open:
        already_open.read(SIZE)
        os.truncate(place.tree / "file", 1000)
        seen(lambda: os.pread(already_open.fileno(), SIZE, 0) == b"a" * 1000, "the cut by an open reader")
        seen(lambda: (place.mnt / "file").stat().st_size == 1000, "the cut by stat")
        seen(lambda: (place.mnt / "file").read_bytes() == b"a" * 1000, "the cut by a new reader")
        os.truncate(place.tree / "file", 0)
        seen(lambda: os.pread(already_open.fileno(), SIZE, 0) == b"", "nothing is left")


def test_deleted(place: Place) -> None:
    (place.tree / "file").write_bytes(b"a" * SIZE)
    known(place.mnt / "file", b"a" * SIZE)
    with (place.mnt / "file").open("rb", buffering=0) as already_open:
        assert already_open.read(10) == b"a" * 10
        os.unlink(place.tree / "file")
        seen(lambda: not (place.mnt / "file").exists(), "the deletion by stat")
        seen(lambda: os.listdir(place.mnt) == [], "the deletion by readdir")
        assert os.pread(already_open.fileno(), SIZE, 0) == b"a" * SIZE
    with pytest.raises(FileNotFoundError):
        (place.mnt / "file").open("rb")


def test_directory_renamed(place: Place) -> None:
    (place.tree / "before" / "deep").mkdir(parents=True)
    (place.tree / "before" / "deep" / "file").write_bytes(b"content")
    known(place.mnt / "before" / "deep" / "file", b"content")
    os.rename(place.tree / "before", place.tree / "after")
    seen(lambda: (place.mnt / "after" / "deep" / "file").exists(), "the new name")
    seen(lambda: not (place.mnt / "before").exists(), "the old name is gone")
    seen(lambda: not (place.mnt / "before" / "deep" / "file").exists(), "the old path is gone")
    assert (place.mnt / "after" / "deep" / "file").read_bytes() == b"content"
    seen(lambda: os.listdir(place.mnt) == ["after"], "the names by readdir")


def test_directory_deleted_and_made_again(place: Place) -> None:
    (place.tree / "folder").mkdir()
    (place.tree / "folder" / "old").write_bytes(b"old")
    known(place.mnt / "folder" / "old", b"old")
    os.unlink(place.tree / "folder" / "old")
    os.rmdir(place.tree / "folder")
    (place.tree / "folder").mkdir()
    (place.tree / "folder" / "new").write_bytes(b"new")
    seen(lambda: (place.mnt / "folder" / "new").exists(), "what the new directory holds")
    seen(lambda: os.listdir(place.mnt / "folder") == ["new"], "its listing")
    seen(lambda: not (place.mnt / "folder" / "old").exists(), "what it held is gone")


def test_file_becomes_a_directory(place: Place) -> None:
    (place.tree / "thing").write_bytes(b"file")
    known(place.mnt / "thing", b"file")
    os.unlink(place.tree / "thing")
    (place.tree / "thing").mkdir()
    seen(lambda: (place.mnt / "thing").is_dir(), "a directory now")
    seen(lambda: os.listdir(place.mnt / "thing") == [], "an empty one")


def test_mode_owner_and_link_count(place: Place) -> None:
    (place.tree / "file").write_bytes(b"x")
    known(place.mnt / "file", b"x")
    os.chmod(place.tree / "file", 0o640)
    seen(lambda: (place.mnt / "file").stat().st_mode & 0o777 == 0o640, "the new mode")
    os.link(place.tree / "file", place.tree / "second")
    seen(lambda: (place.mnt / "file").stat().st_nlink == 2, "the link count by the first name")
    seen(lambda: (place.mnt / "second").exists(), "the second name")
    assert (place.mnt / "file").stat().st_ino == (place.mnt / "second").stat().st_ino


def test_a_link_to_a_file_that_was_only_looked_at(place: Place) -> None:
    """Its directory is watched, which says nothing of a link that is made in another one; but that one is watched, too.

    It came when its directory had been listed: nobody asked the head for it, and nobody watches the file itself.
    """
    (place.tree / "there").mkdir()
    seen(lambda: os.listdir(place.mnt) == ["there"], "the directory")
    assert os.listdir(place.mnt / "there") == []
    (place.tree / "file").write_bytes(b"content")
    seen(lambda: sorted(os.listdir(place.mnt)) == ["file", "there"], "the file")
    seen(lambda: (place.mnt / "file").stat().st_size == 7, "its size")
    listed = time.monotonic()  # while it was being made, which may have cost the first listing its lease
    wait_until(lambda: time.monotonic() > listed + 1.2, "a directory that is not watched is asked for again")
    assert os.listdir(place.mnt / "there") == []
    os.link(place.tree / "file", place.tree / "there" / "other")
    seen(lambda: (place.mnt / "file").stat().st_nlink == 2, "the link count by the first name")


def test_symbolic_link_changed(place: Place) -> None:
    (place.tree / "a").write_bytes(b"a")
    (place.tree / "b").write_bytes(b"b")
    (place.tree / "link").symlink_to("a")
    seen(lambda: (place.mnt / "link").is_symlink(), "the link")
    assert (place.mnt / "link").read_bytes() == b"a"
    os.unlink(place.tree / "link")
    (place.tree / "link").symlink_to("b")
    seen(lambda: os.readlink(place.mnt / "link") == "b", "the new target")
    seen(lambda: (place.mnt / "link").read_bytes() == b"b", "what it leads to")


def test_a_write_through_another_name_is_seen(place: Place) -> None:
    (place.tree / "there").mkdir()
    (place.tree / "file").write_bytes(b"a" * 100)
    os.link(place.tree / "file", place.tree / "there" / "other")
    known(place.mnt / "file", b"a" * 100)
    with (place.tree / "there" / "other").open("r+b") as writer:
        writer.write(b"b" * 100)
    seen(lambda: (place.mnt / "file").read_bytes() == b"b" * 100, "the write through the other name")


def written_through_a_new_name(place: Place, content: bytes) -> None:
    """`file` gets a name in a directory that no node has asked for, and is written under that."""
    (place.tree / "there").mkdir()
    os.link(place.tree / "file", place.tree / "there" / "other")
    with (place.tree / "there" / "other").open("r+b") as writer:
        writer.write(content)


def test_a_write_through_a_name_made_later_is_seen(place: Place) -> None:
    """Nobody has the file open, and its own directory tells nothing of the new name."""
    (place.tree / "file").write_bytes(b"a" * 100)
    known(place.mnt / "file", b"a" * 100)
    written_through_a_new_name(place, b"b" * 100)
    seen(lambda: (place.mnt / "file").read_bytes() == b"b" * 100, "the write through the other name")
    seen(lambda: (place.mnt / "file").stat().st_nlink == 2, "the link count")
    with (place.tree / "there" / "other").open("ab") as writer:
        writer.write(b"more")
    seen(lambda: (place.mnt / "file").read_bytes() == b"b" * 100 + b"more", "the next one, too")


def test_a_file_that_was_only_looked_at_has_its_content_when_it_is_opened(place: Place) -> None:
    """What such a write hides is the attributes of a file that no node opened, not its content."""
    (place.tree / "file").write_bytes(b"a" * 100)
    seen(lambda: (place.mnt / "file").exists(), "the file")
    written_through_a_new_name(place, b"b" * 100)
    assert (place.mnt / "file").read_bytes() == b"b" * 100


def test_what_is_held_open_in_a_directory_that_comes_back(place: Place) -> None:
    """The kernel keeps the name of an open file in a directory that it was told to forget: it must not lead anywhere.

    Here the file was moved and written meanwhile; its number may as well have been given to another file.
    """
    (place.tree / "sub").mkdir()
    (place.tree / "sub" / "b").write_bytes(b"old")
    known(place.mnt / "sub" / "b", b"old")
    with (place.mnt / "sub" / "b").open("rb") as held:
        assert held.read() == b"old"
        (place.tree / "sub").rename(place.tree / "away")
        seen(lambda: not (place.mnt / "sub").exists(), "the directory is gone")
    (place.tree / "away" / "b").rename(place.tree / "b")
    (place.tree / "b").write_bytes(b"new and longer")
    (place.tree / "away").rename(place.tree / "sub")
    seen(lambda: (place.mnt / "sub").exists(), "the directory is back")
    seen(lambda: (place.mnt / "b").read_bytes() == b"new and longer", "the file under its new name")
    assert content_or_error(place.mnt / "sub" / "b") in (b"old", FileNotFoundError)
    number = (place.tree / "b").stat().st_ino
    assert (place.mnt / "b").stat().st_ino == number
    assert {entry.inode() for entry in os.scandir(place.mnt) if entry.name == "b"} == {number}
    seen(lambda: not (place.mnt / "sub" / "b").exists(), "the old name leads nowhere")


@pytest.mark.parametrize("depth", [1, 2])
def test_an_open_file_in_a_directory_that_was_renamed(place: Place, freshness: str, depth: int) -> None:
    """It goes on being read, and what is written to it is seen: nobody watches it under a name that the node knows."""
    deep = "/".join(["deep"] * depth)
    (place.tree / deep).mkdir(parents=True)
    (place.tree / deep / "file").write_bytes(b"first")
    known(place.mnt / deep / "file", b"first")
    with (place.mnt / deep / "file").open("rb") as held:
        (place.tree / "deep").rename(place.tree / "moved")
        seen(lambda: not (place.mnt / "deep").exists(), "the directory is gone")
        assert os.fstat(held.fileno()).st_size == 5
        assert os.pread(held.fileno(), 100, 0) == b"first"
        with (place.tree / deep.replace("deep", "moved", 1) / "file").open("ab") as writer:
            writer.write(b", second")
        if freshness == "10min":
            return
        seen(lambda: os.fstat(held.fileno()).st_size == 13, "what was appended, by fstat")
        seen(lambda: os.pread(held.fileno(), 100, 0) == b"first, second", "what was appended")


def test_what_was_deleted_in_a_directory_that_was_away(place: Place) -> None:
    """Where the kernel kept the name of a file that is open, or of a directory in use, it was told of those, too."""
    (place.tree / "sub" / "deep").mkdir(parents=True)
    files = ["b", "deep/c"]
    for name in files:
        (place.tree / "sub" / name).write_bytes(b"old")
        known(place.mnt / "sub" / name, b"old")
    here = os.open(place.mnt / "sub" / "deep", os.O_RDONLY | os.O_DIRECTORY)
    held = [(place.mnt / "sub" / name).open("rb") for name in files]
    (place.tree / "sub").rename(place.tree / "away")
    seen(lambda: not (place.mnt / "sub").exists(), "the directory is gone")
    shutil.rmtree(place.tree / "away" / "deep")
    (place.tree / "away" / "b").unlink()
    (place.tree / "away").rename(place.tree / "sub")
    seen(lambda: (place.mnt / "sub").exists(), "the directory is back")
    for name in ["deep", *files]:
        seen(lambda name=name: not (place.mnt / "sub" / name).exists(), f"{name} is gone")
    for file in held:
        file.close()
    os.close(here)


def test_a_directory_that_was_made_again(place: Place) -> None:
    """It may get the number of the old one, which the kernel still has in use; nothing is left of what was in that."""
    for turn in range(5):
        (place.tree / "sub").mkdir()
        seen(lambda: (place.mnt / "sub").exists(), "the directory is seen")
        names = [f"{turn}{letter}" for letter in "abc"]
        for name in names:
            (place.tree / "sub" / name).write_bytes(b"content")
            known(place.mnt / "sub" / name, b"content")
        held = [(place.mnt / "sub" / name).open("rb") for name in names]
        shutil.rmtree(place.tree / "sub")
        if turn % 2:
            seen(lambda: not (place.mnt / "sub").exists(), "the directory is gone")
        (place.tree / "sub").mkdir()
        seen(lambda: (place.mnt / "sub").exists(), "the directory is back")
        for name in names:
            seen(lambda name=name: not (place.mnt / "sub" / name).exists(), f"{name} is gone")
        seen(lambda: os.listdir(place.mnt / "sub") == [], "it is empty")
        for file in held:
            file.close()
        (place.tree / "sub").rmdir()
        seen(lambda: not (place.mnt / "sub").exists(), "the directory is gone again")


def content_or_error(path: Path) -> bytes | type[OSError]:
    try:
        return path.read_bytes()
    except OSError as error:
        return type(error)
