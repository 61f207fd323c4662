"""What is opened and listed before a program asks for it: when, and that nothing older than a push comes of it."""

from __future__ import annotations

import os
from pathlib import Path

import trio
import trio.testing

from dadafs.checksum import block_checksums
from dadafs.handed_files import Arrived
from dadafs.small_files import SOON
from tests.t1_operations import ROOT, Bench, in_trio


def directories(tree: Path, count: int) -> None:
    for number in range(count):
        (tree / f"d{number}").mkdir()
        (tree / f"d{number}" / "file").write_bytes(b"content")
        (tree / f"e{number}").write_bytes(b"a file between them")


async def walked(bench: Bench, *names: str) -> None:
    """Open these directories one after the other, with time between them."""
    for name in names:
        node_id = (await bench.lookup(name)).id
        known = bench.operations.directories.opendir_known(node_id)
        handle = await bench.operations.directories.opendir(node_id) if known is None else known
        bench.operations.directories.releasedir(handle)
        await trio.testing.wait_all_tasks_blocked()


@in_trio
async def test_a_walk_in_order_waits_for_no_listing(tmp_path: Path) -> None:
    directories(tmp_path, 8)
    bench = Bench(tmp_path)
    await bench.listdir()
    async with trio.open_nursery() as nursery:
        bench.operations.directories.ahead.start(nursery)
        await walked(bench, "d0")
        assert bench.session.asked["list"] == 2, "one directory proves nothing"
        await walked(bench, "d1")
        assert bench.session.asked["list"] == 5
        for number in range(2, 8):
            node_id = (await bench.lookup(f"d{number}")).id
            handle = bench.operations.directories.opendir_known(node_id)
            assert handle is not None
            bench.operations.directories.releasedir(handle)
            await trio.testing.wait_all_tasks_blocked()
        assert bench.session.asked["list"] == 9, "each once"


@in_trio
async def test_who_opens_directories_here_and_there_gets_none_ahead(tmp_path: Path) -> None:
    directories(tmp_path, 8)
    bench = Bench(tmp_path)
    await bench.listdir()
    async with trio.open_nursery() as nursery:
        bench.operations.directories.ahead.start(nursery)
        await walked(bench, "d3", "d6", "d1", "d4")
    assert bench.session.asked["list"] == 5


@in_trio
async def test_what_was_listed_ahead_hears_of_changes_and_goes_with_its_directory(tmp_path: Path) -> None:
    directories(tmp_path, 4)
    bench = Bench(tmp_path)
    await bench.listdir()
    async with trio.open_nursery() as nursery:
        bench.operations.directories.ahead.start(nursery)
        await walked(bench, "d0", "d1")
        (tmp_path / "d2" / "new").write_bytes(b"")
        await trio.sleep(0.01)
        bench.session.push("d2/new")
        assert await bench.listdir((await bench.lookup("d2")).id) == [b"file", b"new"]
    tree = bench.operations.tree
    for name in (*(f"d{number}" for number in range(4)), *(f"e{number}" for number in range(4))):
        told = bench.operations.lookup_known(ROOT, name.encode())
        assert told is not None
        tree.forget(told.id, 1000)
    for path in ("d2/file", "d2/new"):
        tree.forget((tmp_path / path).stat().st_ino, 1000)
    assert bench.operations.statistics()["nodes"] == 1, "nothing is held that the kernel has forgotten"


@in_trio
async def test_a_directory_that_cannot_be_listed_ahead_is_listed_when_it_is_opened(tmp_path: Path) -> None:
    directories(tmp_path, 4)
    bench = Bench(tmp_path)
    await bench.listdir()
    (tmp_path / "d2" / "file").unlink()
    (tmp_path / "d2").rmdir()
    async with trio.open_nursery() as nursery:
        bench.operations.directories.ahead.start(nursery)
        await walked(bench, "d0", "d1")
    (tmp_path / "d2").mkdir()
    bench.session.push("d2")
    assert await bench.listdir((await bench.lookup("d2")).id) == []


def files(tree: Path, count: int) -> None:
    for number in range(count):
        (tree / f"f{number:02d}").write_bytes(b"content %d" % number)


async def opened_ahead(bench: Bench, *names: str) -> None:
    """These files have arrived and are not taken in."""
    batch = await bench.session.open_ahead(b"", [os.fsencode(name) for name in names], 1 << 20)
    position, root = 0, bench.operations.tree.root
    for path, opened in zip(map(os.fsencode, names), batch.files, strict=True):
        assert opened is not None
        content = batch.content[position : position + opened.attr.size]
        position += opened.attr.size
        file = Arrived(path, root, path, opened, content, batch.asked_at, batch.generation)
        bench.operations.small_files.arrived[path] = file


@in_trio
async def test_files_in_order_are_opened_ahead_and_taken_in(tmp_path: Path) -> None:
    files(tmp_path, 60)
    bench = Bench(tmp_path)
    small = bench.operations.small_files
    async with trio.open_nursery() as nursery:
        small.start(nursery)
        for number in range(3):
            bench.operations.release((await bench.open((await bench.lookup(f"f{number:02d}")).id))[0])
        await trio.testing.wait_all_tasks_blocked()
        assert small.arrived, "whoever opens them, or has a moment to spare, takes them in"
        await trio.sleep(2 * SOON)
        assert not small.arrived, "nobody had"
        opens = bench.session.asked["open"]
        bench.operations.release((await bench.open((await bench.lookup("f03")).id))[0])
        assert bench.session.asked["open"] == opens


@in_trio
async def test_what_came_with_an_open_is_held_with_its_checksum(tmp_path: Path) -> None:
    files(tmp_path, 2)
    bench = Bench(tmp_path)
    await opened_ahead(bench, "f01")
    assert bench.operations.small_files.take_one()
    found = (tmp_path / "f01").stat()
    file = bench.operations.files.find((found.st_dev, found.st_ino))
    assert file is not None
    extent = file.cached.covering(0, 0, 1)
    assert extent is not None
    assert extent.checksums == block_checksums(b"content 1"), "an unchanged block is known by it later"


@in_trio
async def test_what_has_arrived_is_taken_in_one_by_one(tmp_path: Path) -> None:
    files(tmp_path, 4)
    bench = Bench(tmp_path)
    small = bench.operations.small_files
    await opened_ahead(bench, "f01", "f02")
    assert small.take_one()
    assert list(small.arrived) == [b"f02"]
    assert small.take_one()
    assert not small.take_one()
    before = bench.session.asked["open"]
    for name in ("f01", "f02"):
        bench.operations.release((await bench.open((await bench.lookup(name)).id))[0])
    assert bench.session.asked["open"] == before


@in_trio
async def test_the_kernel_is_shown_a_directory_that_no_program_listed(tmp_path: Path) -> None:
    files(tmp_path, 20)
    for listed in (False, True):
        bench = Bench(tmp_path)
        if listed:
            await bench.listdir()
        async with trio.open_nursery() as nursery:
            bench.operations.small_files.start(nursery)
            for number in range(6):
                bench.operations.release((await bench.open((await bench.lookup(f"f{number:02d}")).id))[0])
                await trio.testing.wait_all_tasks_blocked()
        assert bench.kernel.told.count(("list", b"")) == (0 if listed else 1)


@in_trio
async def test_a_file_that_has_arrived_is_opened_without_a_round_trip_and_with_its_content(tmp_path: Path) -> None:
    files(tmp_path, 4)
    bench = Bench(tmp_path)
    await opened_ahead(bench, "f01", "f02")
    before = bench.session.asked["open"]
    handle, keep = await bench.open((await bench.lookup("f02")).id)
    assert bench.session.asked["open"] == before
    assert not keep
    content = bench.operations.content_at_open(handle)
    assert content is not None
    assert bytes(content) == b"content 2"
    assert bench.operations.counters.hit == 1
    again, keep = await bench.open((await bench.lookup("f02")).id)
    assert keep
    assert bench.operations.content_at_open(again) is None, "a page of it may be locked"
    assert list(bench.operations.small_files.arrived) == [b"f01"]


@in_trio
async def test_content_that_its_times_do_not_prove_is_not_given_with_the_open(tmp_path: Path) -> None:
    files(tmp_path, 2)
    bench = Bench(tmp_path, settled=False)
    await opened_ahead(bench, "f01")
    handle, _ = await bench.open((await bench.lookup("f01")).id)
    assert bench.operations.content_at_open(handle) is None


@in_trio
async def test_what_has_arrived_is_dropped_where_a_push_is_newer(tmp_path: Path) -> None:
    files(tmp_path, 6)
    bench = Bench(tmp_path)
    small = bench.operations.small_files
    await opened_ahead(bench, "f01", "f02", "f03")
    (tmp_path / "f02").write_bytes(b"another content")
    bench.session.push("f02")
    assert list(small.arrived) == [b"f01", b"f03"]
    handle, _ = await bench.open((await bench.lookup("f02")).id)
    assert await bench.operations.read(handle, 0, 100) == b"another content"
    bench.session.push("", subtree=True)
    assert not small.arrived
    await opened_ahead(bench, "f04")
    bench.session.lose("")
    assert not small.arrived


def scans(tree: Path, count: int) -> None:
    """Directories of small files."""
    for number in range(count):
        (tree / f"d{number}").mkdir()
        files(tree / f"d{number}", 30)


async def read_through(bench: Bench, name: str) -> None:
    """A program opens all files of a directory, one after the other; the kernel asks for each name."""
    node_id = (await bench.lookup(name)).id
    for number in range(30):
        told = await bench.lookup(f"f{number:02d}", node_id)
        bench.operations.release((await bench.open(told.id))[0])
        await trio.testing.wait_all_tasks_blocked()


def listed(bench: Bench) -> list[object]:
    return [told[1] for told in bench.kernel.told if told[0] == "list"]


@in_trio
async def test_behind_the_first_directory_the_next_one_is_only_listed(tmp_path: Path) -> None:
    scans(tmp_path, 5)
    bench = Bench(tmp_path, freshness=100.0)
    await bench.listdir()
    await bench.lookup("d1")
    async with trio.open_nursery() as nursery:
        bench.operations.small_files.start(nursery)
        await read_through(bench, "d0")
        assert set(listed(bench)) == {b"d0", b"d1"}
        assert bench.operations.counters.opened_ahead <= 30, "of this directory, not of the next"
        nursery.cancel_scope.cancel()


@in_trio
async def test_what_a_directory_is_in_is_listed_where_nobody_has(tmp_path: Path) -> None:
    (tmp_path / "above").mkdir()
    scans(tmp_path / "above", 3)
    bench = Bench(tmp_path, freshness=100.0)
    above = (await bench.lookup("above")).id
    async with trio.open_nursery() as nursery:
        bench.operations.small_files.start(nursery)
        node_id = (await bench.lookup("d0", above)).id
        for number in range(30):
            told = await bench.lookup(f"f{number:02d}", node_id)
            bench.operations.release((await bench.open(told.id))[0])
            await trio.testing.wait_all_tasks_blocked()
        assert b"above" in listed(bench)
        nursery.cancel_scope.cancel()


@in_trio
async def test_two_directories_are_prepared_for_a_program_that_is_quick(tmp_path: Path) -> None:
    scans(tmp_path, 8)
    for pause, prepared in ((0.0, {b"d2", b"d3"}), (60.0, {b"d2"})):
        bench = Bench(tmp_path, freshness=100.0)
        bench.kernel.on_list = bench.shown  # the kernel lists what it is told to
        await bench.listdir()
        async with trio.open_nursery() as nursery:
            bench.operations.small_files.start(nursery)
            await read_through(bench, "d0")
            await trio.sleep(pause)
            before = bench.operations.counters.opened_ahead
            await read_through(bench, "d1")
            await trio.testing.wait_all_tasks_blocked()
            assert {name for name in listed(bench) if name not in {b"d0", b"d1"}} == prepared
            opened = bench.operations.counters.opened_ahead - before
            assert opened >= 30 * len(prepared), "their files, too"
            nursery.cancel_scope.cancel()
