"""Small files opened ahead: a head and a scripted node over real sockets."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from msgspec import structs

from dadafs.checksum import checksum
from dadafs.wire.messages import (
    AHEAD_BYTES,
    AHEAD_FILES,
    INLINE_LIMIT,
    Entry,
    OpenAhead,
    Opened,
    OpenedAhead,
    Resolve,
)
from tests.checklogs import ExpectedLog
from tests.harness.node import Node, NodeFailed, connected
from tests.harness.processes import HeadProcess, wait_until


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree" / "dir").mkdir(parents=True)
    return tmp_path / "tree"


@pytest.fixture
def head(tmp_path: Path, tree: Path, expected_log: ExpectedLog) -> Iterator[HeadProcess]:
    head = HeadProcess(tmp_path / "head", {"data": tree})
    yield head
    head.stop()
    head.check_log(expected_log)


async def open_ahead(node: Node, names: list[bytes], limit: int = AHEAD_BYTES) -> list[tuple[Opened, bytes] | None]:
    """What was opened, each with its content, which is checked."""
    reply, payload = await node.ask(OpenAhead(b"dir", names, limit), OpenedAhead)
    assert len(reply.files) == min(len(names), AHEAD_FILES)
    found: list[tuple[Opened, bytes] | None] = []
    position = 0
    for opened in reply.files:
        if opened is None:
            found.append(None)
            continue
        content = payload[position : position + opened.attr.size] if opened.inline else b""
        position += len(content)
        assert not opened.inline or not content or checksum(content) == opened.checksum
        found.append((opened, content))
    assert position == len(payload)
    return found


def test_contents_come_with_handles_that_can_be_read(head: HeadProcess, tree: Path) -> None:
    contents = {f"file{number}".encode(): os.urandom(number * 1000) for number in range(20)}
    for name, content in contents.items():
        (tree / "dir" / os.fsdecode(name)).write_bytes(content)
    # What was read while a file's times proved nothing is kept for 20 ms: it may be gone when it is looked for again.
    changed = max(entry.stat().st_ctime_ns for entry in os.scandir(tree / "dir"))
    wait_until(lambda: time.time_ns() > changed + 200_000_000, "the times of the files prove what they are")

    async def main() -> None:
        async with connected(head.port) as node:
            for _ in range(2):  # of the origin, then of the head's memory
                for name, found in zip(contents, await open_ahead(node, list(contents)), strict=True):
                    assert found is not None
                    opened, content = found
                    assert opened.inline
                    assert content == contents[name]
                    assert await node.read_file(opened) == content

    trio.run(main)


def test_only_small_regular_files_are_opened(head: HeadProcess, tree: Path) -> None:
    (tree / "dir/small").write_bytes(b"small")
    (tree / "dir/large").write_bytes(bytes(INLINE_LIMIT + 1))
    (tree / "dir/limit").write_bytes(bytes(INLINE_LIMIT))
    (tree / "dir/below").mkdir()
    (tree / "dir/link").symlink_to("small")
    os.mkfifo(tree / "dir/fifo")

    async def main() -> None:
        async with connected(head.port) as node:
            names = [b"absent", b"large", b"below", b"link", b"fifo", b"small", b"limit"]
            found = await open_ahead(node, names)
            assert [one is not None for one in found] == [False] * 5 + [True, True]

    trio.run(main)


def test_no_more_bytes_than_wanted_come(head: HeadProcess, tree: Path) -> None:
    for number in range(10):
        (tree / f"dir/{number}").write_bytes(bytes(1000))

    async def main() -> None:
        async with connected(head.port) as node:
            names = [str(number).encode() for number in range(10)]
            for limit, count in ((0, 0), (-1, 0), (3500, 3), (10_000, 10)):
                found = await open_ahead(node, names, limit)
                assert sum(one is not None for one in found) == count

    trio.run(main)


def test_no_more_files_than_allowed_are_opened(head: HeadProcess, tree: Path) -> None:
    (tree / "dir/file").write_bytes(b"x")

    async def main() -> None:
        async with connected(head.port) as node:
            assert len(await open_ahead(node, [b"file"] * (AHEAD_FILES + 10))) == AHEAD_FILES

    trio.run(main)


@pytest.mark.parametrize("name", [b"..", b"", b"a/../../b", b"x\0y"])
def test_nothing_outside_is_opened(head: HeadProcess, name: bytes) -> None:
    async def main() -> None:
        async with connected(head.port) as node:
            with pytest.raises(NodeFailed) as failure:
                await open_ahead(node, [name])
            assert failure.value.errno == errno.EINVAL

    trio.run(main)


def test_changes_of_what_was_opened_ahead_are_pushed(head: HeadProcess, tree: Path) -> None:
    for name in ("kept", "written", "replaced"):
        (tree / "dir" / name).write_bytes(b"old")
    os.link(tree / "dir/kept", tree / "other name")

    async def main() -> None:
        async with connected(head.port) as node:
            found = await open_ahead(node, [b"kept", b"written", b"replaced"])
            opened = [one[0] for one in found if one is not None]
            assert [one.leased for one in opened] == [False, True, True]  # one can be written under another name
            (tree / "dir/written").write_bytes(b"newer")
            (tree / "aside").write_bytes(b"brand new")
            os.rename(tree / "aside", tree / "dir/replaced")

            def pushed() -> bool:
                news = {change.path: change.attr for change in node.changes()}
                sizes = [news[path].size if news.get(path) else None for path in (b"dir/written", b"dir/replaced")]
                return sizes == [5, 9]

            await node.wait_until(pushed, "both changes")
            now, _ = await node.ask(Resolve(opened[2].handle), Entry)  # its times changed when it lost its name
            assert now.attr is not None
            held = structs.replace(opened[2], attr=now.attr)
            assert await node.read_file(held) == b"old"  # a handle goes on reading the file it opened

    trio.run(main)
