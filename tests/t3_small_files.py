"""Small files read one after the other through a real mount: opened ahead, and never the wrong bytes."""

from __future__ import annotations

import json
import os
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


def test_in_order_most_opens_and_looks_need_no_round_trip(mounted: Mounted) -> None:
    filled(mounted.tree / "dir")
    before = counters(mounted.mnt)["requests"]
    for number in range(COUNT):
        assert (mounted.mnt / "dir" / f"{number:04d}").read_bytes() == content(number)
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
    for number in range(40):
        assert (mounted.mnt / "dir" / f"{number:04d}").read_bytes() == content(number)
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
