"""Small files read one after the other through a real mount: opened ahead, and never the wrong bytes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.checklogs import ExpectedLog
from tests.conftest import Mounted, need_fuse
from tests.harness.processes import mounted_tree, wait_until

COUNT = 300


@pytest.fixture
def mounted(tmp_path: Path, expected_log: ExpectedLog) -> Iterator[Mounted]:
    """A mount that forgets nothing by itself, so that a slow machine asks no more often than a fast one."""
    need_fuse()
    tree = tmp_path / "tree"
    tree.mkdir()
    with mounted_tree(tmp_path, tree, expected_log, mount_options=("-o", "freshness=10min")) as (head, mount):
        yield Mounted(tree, mount.mountpoint, head, mount)


def counters(mnt: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((mnt / ".dadafs/stats.json").read_text())["counters"]
    return found


def content(number: int, version: int = 0) -> bytes:
    return f"{number} {version} ".encode() * (1 + number % 400)


def filled(directory: Path) -> None:
    directory.mkdir()
    for number in range(COUNT):
        (directory / f"{number:04d}").write_bytes(content(number))


def settled(directory: Path) -> None:
    """Wait until the times of the files prove their state: what was written this very moment may be written again."""
    newest = max(entry.stat().st_ctime for entry in os.scandir(directory))
    wait_until(lambda: time.time() > newest + 1.0, "the files are older than a second")


def read_in_order(mounted: Mounted, numbers: range) -> None:
    """A program that goes through `dir`."""
    for number in numbers:
        assert (mounted.mnt / "dir" / f"{number:04d}").read_bytes() == content(number)


def test_in_order_most_opens_and_looks_need_no_round_trip(mounted: Mounted) -> None:
    filled(mounted.tree / "dir")
    before = counters(mounted.mnt)["requests"]
    read_in_order(mounted, range(COUNT))
    found = counters(mounted.mnt)
    assert found["opened_ahead"] >= COUNT - 10
    assert found["ahead_used"] >= COUNT - 10
    assert found["requests"] - before < COUNT / 8


def test_workers_that_share_a_directory_get_their_own_bytes(mounted: Mounted) -> None:
    filled(mounted.tree / "dir")

    def read(number: int) -> bool:
        return (mounted.mnt / "dir" / f"{number:04d}").read_bytes() == content(number)

    with ThreadPoolExecutor(8) as workers:
        assert all(workers.map(read, range(COUNT)))
    assert counters(mounted.mnt)["opened_ahead"] > 0


def test_what_changed_after_it_was_opened_ahead_is_read_as_it_is(mounted: Mounted) -> None:
    directory = mounted.tree / "dir"
    filled(directory)
    read_in_order(mounted, range(40))
    wait_until(lambda: counters(mounted.mnt)["opened_ahead"] >= 42, "the next files are opened ahead")
    changed = range(40, 100)
    for number in changed[0::3]:
        (directory / f"{number:04d}").write_bytes(content(number, 1))
    for number in changed[1::3]:
        (mounted.tree / "aside").write_bytes(content(number, 1))
        os.rename(mounted.tree / "aside", directory / f"{number:04d}")
    for number in changed[2::3]:
        (directory / f"{number:04d}").unlink()

    def as_it_is(number: int) -> bool:
        path = mounted.mnt / "dir" / f"{number:04d}"
        if number in changed[2::3]:
            return not path.exists()
        return path.exists() and path.read_bytes() == content(number, 1)

    for number in changed:
        wait_until(lambda number=number: as_it_is(number), f"file {number} is as it is")


def test_a_directory_is_listed_once_more_of_its_names_are_asked_for(mounted: Mounted) -> None:
    filled(mounted.tree / "dir")
    before = counters(mounted.mnt)["requests"]
    for number in range(COUNT):
        assert (mounted.mnt / "dir" / f"{number:04d}").stat().st_size == len(content(number))
    assert counters(mounted.mnt)["requests"] - before < COUNT / 8
    before = counters(mounted.mnt)["requests"]
    for number in range(100):
        assert not (mounted.mnt / "dir" / f"missing{number}").exists()
    assert counters(mounted.mnt)["requests"] - before <= 110  # each asked for, and the directory not listed again


def test_a_file_made_a_moment_ago_is_there_for_who_asks_for_it(mounted: Mounted) -> None:
    filled(mounted.tree / "dir")
    for number in range(20):
        assert (mounted.mnt / "dir" / f"{number:04d}").stat().st_size == len(content(number))
    for number in range(20):  # no time for a push: the listing that saved look-ups does not know of them
        (mounted.tree / "dir" / f"new{number}").write_bytes(content(number))
        assert (mounted.mnt / "dir" / f"new{number}").read_bytes() == content(number)
    assert len(os.listdir(mounted.mnt / "dir")) == COUNT + 20


def open_counts(mnt: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((mnt / ".dadafs/stats.json").read_text())["open"]
    return found


def in_place(mnt: Path) -> int:
    return int(json.loads((mnt / ".dadafs/stats.json").read_text())["kernel"]["answered_in_place"])


def test_names_that_will_be_asked_for_are_known_to_the_kernel(mounted: Mounted) -> None:
    filled(mounted.tree / "dir")
    read_in_order(mounted, range(5))
    wait_until(lambda: open_counts(mounted.mnt)["listed_nodes"] > COUNT - 60, "the kernel has listed the directory")
    before = in_place(mounted.mnt)
    for number in range(200, COUNT):
        assert (mounted.mnt / "dir" / f"{number:04d}").stat().st_size == len(content(number))
    assert in_place(mounted.mnt) - before < 50


def test_what_was_opened_ahead_is_read_without_a_request(mounted: Mounted) -> None:
    filled(mounted.tree / "dir")
    settled(mounted.tree / "dir")
    os.listdir(mounted.mnt / "dir")
    read_in_order(mounted, range(40))
    wait_until(lambda: counters(mounted.mnt)["opened_ahead"] >= 100, "the next files are opened ahead")
    before, hits = in_place(mounted.mnt), counters(mounted.mnt)["hit"]
    read_in_order(mounted, range(40, 90))
    assert in_place(mounted.mnt) - before <= 2 * 50 + 25  # an open and a release each
    assert counters(mounted.mnt)["hit"] - hits >= 50, "what was given with an open counts as read from memory"


def test_a_handle_reads_on_what_it_opened_though_the_name_is_another_file_now(mounted: Mounted) -> None:
    directory = mounted.tree / "dir"
    filled(directory)
    os.listdir(mounted.mnt / "dir")
    read_in_order(mounted, range(40))
    with (mounted.mnt / "dir" / "0040").open("rb") as old:
        (mounted.tree / "aside").write_bytes(content(40, 1))
        os.rename(mounted.tree / "aside", directory / "0040")
        wait_until(lambda: (mounted.mnt / "dir/0040").read_bytes() == content(40, 1), "the new file is there")
        assert old.read() == content(40)


def test_content_that_came_with_an_open_follows_changes_in_place(mounted: Mounted) -> None:
    directory = mounted.tree / "dir"
    filled(directory)
    os.listdir(mounted.mnt / "dir")
    read_in_order(mounted, range(41))
    with (mounted.mnt / "dir" / "0041").open("rb") as file:
        for version in (1, 2):
            (directory / "0041").write_bytes(content(41, version))

            def as_written(version: int = version) -> bool:
                file.seek(0)
                return file.read() == content(41, version)

            wait_until(as_written, "the open file shows the change")


def test_the_next_directory_is_prepared_for_who_goes_through_them_in_order(mounted: Mounted) -> None:
    for number in range(4):
        filled(mounted.tree / f"dir{number}")
    for directory in range(2):
        for number in range(COUNT):
            assert (mounted.mnt / f"dir{directory}" / f"{number:04d}").read_bytes() == content(number)
    wait_until(lambda: counters(mounted.mnt)["opened_ahead"] > 2 * COUNT, "files of the third directory are opened")
    before = counters(mounted.mnt)["requests"]
    for number in range(10):
        assert (mounted.mnt / "dir2" / f"{number:04d}").read_bytes() == content(number)
    assert counters(mounted.mnt)["requests"] - before <= 3


def test_directories_are_listed_ahead_of_a_walk(mounted: Mounted) -> None:
    for number in range(20):
        (mounted.tree / "top" / f"{number:02d}").mkdir(parents=True)
        (mounted.tree / "top" / f"{number:02d}" / "file").write_bytes(b"content")
    os.listdir(mounted.mnt / "top")
    os.listdir(mounted.mnt / "top/00")
    assert os.listdir(mounted.mnt / "top/01") == ["file"]
    wait_until(lambda: open_counts(mounted.mnt)["believed_listings"] >= 5, "the next directories are listed")
    (mounted.tree / "top/02/new").write_bytes(b"new")
    wait_until(lambda: sorted(os.listdir(mounted.mnt / "top/02")) == ["file", "new"], "what changed since is seen")
    for number in range(20):
        assert "file" in os.listdir(mounted.mnt / "top" / f"{number:02d}")


def test_a_large_directory_is_listed_whole_while_some_of_it_is_known(mounted: Mounted) -> None:
    filled(mounted.tree / "dir")
    os.link(mounted.tree / "dir/0150", mounted.tree / "dir/0150 again")
    for number in (7, 100, 299):
        assert (mounted.mnt / "dir" / f"{number:04d}").read_bytes() == content(number)
    for _ in range(2):
        assert sorted(os.listdir(mounted.mnt / "dir")) == sorted(os.listdir(mounted.tree / "dir"))
        with os.scandir(mounted.mnt / "dir") as found:
            assert all(entry.inode() == (mounted.tree / "dir" / entry.name).stat().st_ino for entry in found)
    assert (mounted.mnt / "dir/0150 again").stat().st_ino == (mounted.tree / "dir/0150").stat().st_ino
