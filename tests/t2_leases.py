"""A head over a local tree and scripted nodes: every change of a leased path is pushed before the next pass."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from dadafs.ctl import client
from dadafs.wire.messages import Attr, Done, GiveBack, List, Listing, Open, Opened, Release
from tests.checklogs import ExpectedLog
from tests.harness.node import Node, connected
from tests.harness.processes import HeadProcess


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this module's tree and head live: one head serves all tests, each with a tree that it finds empty."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture
def tree(folder: Path) -> Path:
    for path in (folder / "tree").iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return folder / "tree"


@pytest.fixture(scope="module")
def head(folder: Path) -> Iterator[HeadProcess]:
    (folder / "tree").mkdir()
    head = HeadProcess(folder / "head", {"data": folder / "tree"})
    yield head
    head.stop()
    head.check_log(ExpectedLog())


def write(path: Path, text: str) -> None:
    with path.open("w") as out:
        out.write(text)


async def leased_stat(node: Node, path: bytes) -> Attr | None:
    """stat until the head grants a lease (events of our own writes may still be on their way)."""
    with trio.fail_after(60):
        while True:
            entry = await node.stat(path, lease=True)
            if entry.leased:
                return entry.attr


async def leased_list(node: Node, path: bytes) -> Listing:
    with trio.fail_after(60):
        while True:
            listing, _ = await node.ask(List(path), Listing)
            if listing.leased:
                return listing


async def news(node: Node) -> dict[bytes, Attr | None]:
    """What was pushed last for each path, once a pass has vouched that it is everything."""
    node.ticks = getattr(node, "ticks", 0) + 1
    await node.pass_after(node.ticks)
    return {change.path: change.attr for change in node.changes()}


def change_append(tree: Path) -> None:
    with (tree / "dir/file").open("a") as out:
        out.write("more")


def change_rewrite(tree: Path) -> None:
    write(tree / "dir/file", "FILE")


def change_truncate(tree: Path) -> None:
    os.truncate(tree / "dir/file", 1)


def change_mode(tree: Path) -> None:
    (tree / "dir/file").chmod(0o600)


def change_replace(tree: Path) -> None:
    write(tree / "aside", "new file")
    (tree / "aside").rename(tree / "dir/file")


def change_delete(tree: Path) -> None:
    (tree / "dir/file").unlink()


def change_times(tree: Path) -> None:
    os.utime(tree / "dir/file", (1, 1))


CHANGES = [change_append, change_rewrite, change_truncate, change_mode, change_replace, change_delete, change_times]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_leased_file_is_pushed(head: HeadProcess, tree: Path, change: Callable[[Path], None]) -> None:
    (tree / "dir").mkdir()
    write(tree / "dir/file", "file")

    async def main() -> None:
        async with connected(head.port) as node:
            before = await leased_stat(node, b"dir/file")
            assert before is not None
            # The session before this one may still be told of how the tree was made, and this one with it.
            assert (await news(node)).get(b"dir/file", before) == before
            change(tree)
            pushed = (await news(node))[b"dir/file"]
            now = (await node.stat(b"dir/file")).attr
            assert pushed == now
            assert pushed != before

    trio.run(main)


def test_a_name_that_was_not_there_is_pushed_when_it_comes(head: HeadProcess, tree: Path) -> None:
    async def main() -> None:
        async with connected(head.port) as node:
            assert await leased_stat(node, b"new") is None
            assert await leased_stat(node, b"a/b/c") is None
            write(tree / "new", "x")
            (tree / "a/b").mkdir(parents=True)
            write(tree / "a/b/c", "x")
            pushed = await news(node)
            assert pushed[b"new"] is not None
            assert pushed[b"a"] is not None
            assert any(change.path == b"a" and change.subtree for change in node.changes())

    trio.run(main)


def test_a_listing_is_leased_with_everything_in_it(head: HeadProcess, tree: Path) -> None:
    (tree / "dir/sub").mkdir(parents=True)
    write(tree / "dir/file", "x")
    write(tree / "dir/linked", "x")
    os.link(tree / "dir/linked", tree / "elsewhere")

    async def main() -> None:
        async with connected(head.port) as node:
            await leased_list(node, b"dir")
            write(tree / "dir/new", "x")
            write(tree / "elsewhere", "written under the other name")
            write(tree / "dir/sub/inside", "x")
            (tree / "dir/file").unlink()
            pushed = await news(node)
            for name in (b"dir/new", b"dir/linked", b"dir/sub", b"dir"):
                attr = pushed[name]
                assert attr is not None, name
                assert attr == (await node.stat(name)).attr
            assert pushed[b"dir/file"] is None

    trio.run(main)


def test_a_renamed_directory_takes_everything_below_with_it(head: HeadProcess, tree: Path) -> None:
    (tree / "a/b/c").mkdir(parents=True)
    write(tree / "a/b/c/file", "x")

    async def main() -> None:
        async with connected(head.port) as node:
            await leased_stat(node, b"a/b/c/file")
            (tree / "a/b").rename(tree / "a/z")
            assert (await news(node))[b"a/b"] is None
            assert any(change.path == b"a/b" and change.subtree for change in node.changes())
            assert await leased_stat(node, b"a/b/c/file") is None
            (tree / "a/b/c").mkdir(parents=True)
            assert (await news(node))[b"a/b"] is not None
            assert await leased_stat(node, b"a/b/c/file") is None
            write(tree / "a/b/c/file", "another")
            assert (await news(node))[b"a/b/c/file"] is not None
            # What moved away is somebody else's path now.
            write(tree / "a/z/c/file", "old place")
            count = len(node.changes())
            await news(node)
            assert all(change.path != b"a/b/c/file" for change in node.changes()[count:])

    trio.run(main)


def test_a_write_through_a_mapping_is_found_in_an_open_file(head: HeadProcess, tree: Path) -> None:
    import mmap

    (tree / "file").write_bytes(bytes(10_000))

    async def main() -> None:
        async with connected(head.port) as node:
            with open(tree / "file", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
                await leased_stat(node, b"file")
                await node.ask(Open(b"file"), Opened)
                mapped[5000] = 1
                await node.wait_until(
                    lambda: any(change.path == b"file" for change in node.changes()), "the write was pushed"
                )

    trio.run(main)


def test_a_name_made_elsewhere_is_found_by_the_file_itself(head: HeadProcess, tree: Path) -> None:
    """The file is not open any more; its directory tells nothing of a link into another one, nor of writes there."""
    for name in ("dir", "elsewhere"):
        (tree / name).mkdir()
    write(tree / "dir/file", "file")
    write(tree / "dir/other", "other")

    async def main() -> None:
        async with connected(head.port) as node:
            for path in (b"dir/file", b"dir/other"):
                opened = await node.open(path)
                await node.ask(Release([opened.handle]), Done)
                await leased_stat(node, path)
            os.link(tree / "dir/file", tree / "elsewhere/link")
            pushed = await news(node)
            assert pushed.keys() == {b"dir/file"}
            attr = pushed[b"dir/file"]
            assert attr is not None
            assert attr.nlink == 2, "the node relies on it no more, and asks"
            assert (await leased_stat(node, b"dir/file")) == attr
            node.pushes.clear()
            with (tree / "elsewhere/link").open("a") as out:
                out.write("more")
            attr = (await news(node))[b"dir/file"]
            assert attr is not None
            assert attr.size == 8
            os.unlink(tree / "elsewhere/link")
            node.pushes.clear()
            await leased_stat(node, b"dir/file")
            write(tree / "dir/file", "alone again")
            attr = (await news(node))[b"dir/file"]
            assert attr is not None
            assert attr.size == 11

    trio.run(main)


def test_files_that_are_watched_themselves_are_bounded(tmp_path: Path, expected_log: ExpectedLog) -> None:
    tree = tmp_path / "tree"
    (tree / "elsewhere").mkdir(parents=True)
    for number in range(30):
        write(tree / f"file{number}", "file")
    config = tmp_path / "config.toml"
    config.write_text(f'[[export]]\nname = "data"\ndirectory = "{tree}"\nwatches = 50\n')
    head = HeadProcess(tmp_path / "head", {}, options=("--config", str(config)))

    async def main() -> None:
        async with connected(head.port) as node:
            for number in range(30):
                opened = await node.open(b"file%d" % number)
                await node.ask(Release([opened.handle]), Done)
                await leased_stat(node, b"file%d" % number)
            with closing(client.Head(str(head.admin_socket))) as admin:
                (export,) = admin.ask("status")["exports"]
            assert export["leases"]["files"] == 10
            os.link(tree / "file29", tree / "elsewhere/link")
            write(tree / "file0", "changed")
            assert (await news(node)).keys() == {b"file29", b"file0"}, "those opened last, and every other change"

    try:
        trio.run(main)
    finally:
        head.stop()
    head.check_log(expected_log)


def test_what_was_given_back_is_not_pushed(head: HeadProcess, tree: Path) -> None:
    write(tree / "kept", "x")
    write(tree / "file", "x")

    async def main() -> None:
        async with connected(head.port) as node:
            await leased_stat(node, b"file")
            await leased_stat(node, b"kept")
            await node.ask(GiveBack([b"file"]), Done)
            before = len(node.changes())  # the events of our own first writes may have come late
            write(tree / "file", "changed")
            write(tree / "kept", "changed")
            await news(node)
            pushed = {change.path for change in node.changes()[before:]}
            assert b"kept" in pushed
            assert b"file" not in pushed

    trio.run(main)


def test_every_node_is_told(head: HeadProcess, tree: Path) -> None:
    write(tree / "file", "x")

    async def main() -> None:
        async with connected(head.port) as one, connected(head.port) as two, connected(head.port) as idle:
            await leased_stat(one, b"file")
            await leased_stat(two, b"file")
            write(tree / "file", "changed")
            for node in (one, two):
                assert b"file" in await news(node)
            assert await news(idle) == {}

    trio.run(main)


def test_leases_lost_to_a_replaced_tree(tmp_path: Path, expected_log: ExpectedLog) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    write(tree / "file", "x")
    head = HeadProcess(tmp_path / "head", {"data": tree})

    async def main() -> None:
        async with connected(head.port) as node:
            await leased_stat(node, b"file")
            os.rename(tree, tree.with_name("moved"))
            await node.wait_until(lambda: b"" in node.lost(), "all leases are lost")

    trio.run(main)
    head.stop()
    head.check_log(expected_log)


def test_a_lease_never_outlives_a_change(head: HeadProcess, tree: Path) -> None:
    """A writer keeps changing; whatever is believed at a pass is what the tree had when the keepalive was sent."""
    (tree / "dir").mkdir()
    names = [f"n{i}" for i in range(4)]

    async def main() -> None:
        async with connected(head.port) as node:
            for turn in range(300):
                name = names[turn % 4]
                path = tree / "dir" / name
                beliefs: dict[bytes, int | None] = {}
                entry = await node.stat(f"dir/{name}".encode(), lease=True)
                seen = len(node.changes())
                match turn % 5:
                    case 0 | 1:
                        write(path, "x" * turn)
                    case 2:
                        path.unlink(missing_ok=True)
                    case 3:
                        (tree / "dir").rename(tree / f"old{turn}")
                        (tree / "dir").mkdir()
                    case 4:
                        write(tree / "aside", "y" * turn)
                        (tree / "aside").rename(path)
                if not entry.leased:
                    continue
                beliefs[b"f"] = None if entry.attr is None else entry.attr.size
                await node.pass_after(turn)
                for change in node.changes()[seen:]:
                    if change.path == f"dir/{name}".encode():
                        beliefs[b"f"] = None if change.attr is None else change.attr.size
                    elif change.subtree and change.path == b"dir":
                        beliefs.clear()
                if node.lost():
                    beliefs.clear()
                    node.pushes.clear()
                truth = path.stat().st_size if path.exists() else None
                assert beliefs.get(b"f", truth) == truth, turn

    trio.run(main)
