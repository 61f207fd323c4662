"""What the compiled part says of files that are handed over, without a mount."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from dadafs import handed_files
from dadafs.checksum import checksum
from dadafs.handed_files import MOST
from dadafs.native import fuse_session
from tests.t1_operations import Bench, in_trio

pytestmark = pytest.mark.skipif(fuse_session is None, reason="the compiled part was not built")

native: Any = fuse_session
MOST_SLOTS = 2048  # see handed.c


@pytest.fixture(autouse=True)
def _nothing_handed_over() -> Iterator[None]:
    native.answer()
    yield
    native.answer()


def over(number: int, content: bytes = b"content", seconds: float = 10.0, what: object = None) -> bool:
    return bool(native.hand_over(number, content, checksum(content), seconds, False, what))


def test_what_is_handed_over_can_be_taken_back_once() -> None:
    assert over(5)
    assert not over(5), "it is there already"
    assert not native.rests(5)
    assert native.handed_open() == []
    assert native.take_back(5) == ([], False)
    assert native.take_back(5) is None
    assert over(5)
    native.answer()
    assert native.take_back(5) is None, "it went with its mount"


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_it_has_to_be_believed_for_some_time(seconds: float) -> None:
    assert not over(5, seconds=seconds)


def test_there_is_room_for_so_many() -> None:
    assert MOST < MOST_SLOTS
    assert all(over(number << 12 | 7) for number in range(MOST_SLOTS))
    assert not over(1)
    assert native.take_back(7 << 12 | 7) == ([], False)
    assert over(1)
    for number in range(MOST_SLOTS):
        assert (native.take_back(number << 12 | 7) is None) == (number == 7)
    assert native.take_back(1) == ([], False)


def test_nothing_else_is_taken() -> None:
    for arguments in ((1,), (1, None, 0, 1.0, False, None), ("x", b"", 0, 1.0, False, None), (1, "text", 0, 1, 0, 0)):
        with pytest.raises((TypeError, BufferError)):
            native.hand_over(*arguments)
    for call in (native.take_back, native.rests):
        with pytest.raises((TypeError, OverflowError)):
            call(-1)
        with pytest.raises(TypeError):
            call("x")


def test_content_is_held_and_given_back() -> None:
    class Marked(bytearray):
        pass

    content, what = Marked(b"content"), Marked(b"what")
    assert over(5, content, what=what)
    with pytest.raises(BufferError):
        content.extend(b"more")
    native.take_back(5)
    content.extend(b"more")
    del content, what
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, Marked)]


def test_a_directory_that_cannot_be_listed_has_its_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert native.list(bytes(tmp_path)) == 0
    assert native.list(bytes(tmp_path / "file")) == 20
    assert native.list(bytes(tmp_path / "nothing")) == 2


@asynccontextmanager
async def gone_through(tree: Path, *, listed: bool = True, **options: Any) -> AsyncIterator[Bench]:
    """A program went through the first three of 60 files; the kernel knows all names from a listing, where `listed`."""
    for number in range(60):
        (tree / f"f{number:02d}").write_bytes(b"content %d" % number)
    bench = Bench(tree, **options)
    async with trio.open_nursery() as nursery:
        bench.operations.small_files.start(nursery)
        nursery.start_soon(bench.operations.files.run)
        if listed:
            await bench.listdir()
        for number in range(3):
            told = await bench.lookup(f"f{number:02d}")
            bench.operations.release((await bench.open(told.id))[0])
            await trio.testing.wait_all_tasks_blocked()
        yield bench
        nursery.cancel_scope.cancel()


@in_trio
async def test_only_files_that_the_kernel_knows_from_a_listing_are_handed_over(tmp_path: Path) -> None:
    async with gone_through(tmp_path, listed=False) as bench:
        small = bench.operations.small_files
        assert small.arrived
        assert not len(small.handed)


@in_trio
async def test_those_that_are_not_opened_are_taken_in_while_they_are_believed(tmp_path: Path) -> None:
    async with gone_through(tmp_path) as bench:
        small = bench.operations.small_files
        assert len(small.handed) >= 7
        assert bench.operations.statistics()["handed_files"] == len(small.handed)
        opens = bench.session.asked["open"]
        await trio.sleep(bench.session.freshness * 0.6)
        assert not len(small.handed)
        bench.operations.release((await bench.open((await bench.lookup("f05")).id))[0])
        assert bench.session.asked["open"] == opens, "it is held open by the head, and believed"


@in_trio
async def test_one_that_is_wanted_comes_back_and_the_others_stay(tmp_path: Path) -> None:
    async with gone_through(tmp_path) as bench:
        before = len(bench.operations.small_files.handed)
        handle, _ = await bench.open((await bench.lookup("f05")).id)  # the compiled part saw nothing of this
        assert len(bench.operations.small_files.handed) == before - 1
        assert bench.operations.content_at_open(handle) is not None


@in_trio
async def test_a_push_drops_what_was_not_opened(tmp_path: Path) -> None:
    async with gone_through(tmp_path) as bench:
        handed = bench.operations.small_files.handed
        before = len(handed)
        (tmp_path / "f05").write_bytes(b"something else")
        bench.session.push("f05")
        assert len(handed) == before - 1
        handle, _ = await bench.open((await bench.lookup("f05")).id)
        assert await bench.operations.read(handle, 0, 100) == b"something else"
        bench.session.lose("f06")
        assert len(handed) == before - 2
        bench.session.push("", subtree=True)
        assert not len(handed)


@in_trio
async def test_what_nobody_opens_for_the_time_of_a_lease_is_given_back(tmp_path: Path) -> None:
    async with gone_through(tmp_path, freshness=100.0) as bench:
        assert len(bench.operations.small_files.handed)
        await trio.sleep(bench.session.options.lease * 1.5)
        assert not len(bench.operations.small_files.handed)


@in_trio
async def test_their_content_counts_as_memory_in_use(tmp_path: Path) -> None:
    async with gone_through(tmp_path) as bench:
        cache, files = bench.operations.files.cache, bench.operations.small_files.handed.files()
        assert files
        holders = [memoryview(file.content).obj for file in files]
        whole = sum(len(holder) for holder in {id(holder): holder for holder in holders}.values())
        assert whole == sum(len(file.content) for file in files), "none keeps the rest of a batch in memory"
        assert cache.aside == whole
        bench.session.push("", subtree=True)
        assert cache.aside == 0


@in_trio
async def test_pages_of_one_that_was_given_back_are_dropped_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gone_through(tmp_path, freshness=100.0) as bench:
        monkeypatch.setattr(handed_files, "fuse_session", Opened(native))  # as if each had been opened and closed
        handed = bench.operations.small_files.handed
        names = [file.name for file in handed.files()][:2]
        await trio.sleep(bench.session.options.lease * 1.5)
        assert not len(handed)
        bench.kernel.told.clear()
        for name in names:
            (tmp_path / os.fsdecode(name)).write_bytes(b"it has grown")
            told = await bench.lookup(os.fsdecode(name))  # of what was listed
            assert bench.operations.tree.find(told.id) is None
            bench.session.push(os.fsdecode(name))
            assert ("pages", told.id) in bench.kernel.told
            assert ("pages now", told.id) not in bench.kernel.told
            await bench.getattr(told.id)
            assert ("pages now", told.id) in bench.kernel.told, "before the kernel is told of the size"


class Opened:
    """The compiled part, in which everything that was handed over was opened, and is closed again."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compiled, name)

    def take_back(self, node_id: int) -> tuple[list[tuple[int, int]], bool] | None:
        found = self._compiled.take_back(node_id)
        return None if found is None else ([], True)

    def rests(self, node_id: int) -> bool:
        return True
