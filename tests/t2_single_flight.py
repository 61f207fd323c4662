"""The origin is protected: however many read the same, it is read once; and what is kept is found again."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from dadafs.wire.messages import BLOCK_SIZE, Blocks, Open, Opened, Read
from tests.checklogs import ExpectedLog
from tests.harness.node import WHOLE, Node, connected
from tests.harness.processes import HeadProcess, wait_until

MIB = 1 << 20
NODES = 8


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(bytes(range(256)) * 4096 * 4)
    (tree / "small").write_bytes(b"small" * 100)
    changed = (tree / "small").stat().st_ctime_ns
    wait_until(lambda: time.time_ns() - changed > 50_000_000, "files older than the margin")
    return tree


@pytest.fixture
def head(tmp_path: Path, tree: Path, expected_log: ExpectedLog) -> Iterator[HeadProcess]:
    head = HeadProcess(tmp_path / "head", {"data": tree})
    yield head
    head.stop()
    head.check_log(expected_log)


def counters(head: HeadProcess) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as peer, peer.makefile("rwb") as stream:
        peer.settimeout(60)
        peer.connect(str(head.admin_socket))
        stream.write(json.dumps({"command": "counters"}).encode() + b"\n")
        stream.flush()
        return dict(json.loads(stream.readline()))


def origin_reads(head: HeadProcess) -> int:
    return sum(row["count"] for row in counters(head)["origin"] if row["what"] == "reads")


async def read_all(node: Node, fragments: int) -> None:
    opened = await node.open(b"file")
    for index in range(fragments):
        reply, payload = await node.read(Read(opened.handle, opened.attr.version, index, 0, WHOLE))
        assert isinstance(reply, Blocks)
        assert payload == bytes(range(256)) * 4096


def test_many_nodes_read_one_file_once(head: HeadProcess) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(connected(head.port, name=f"node{i}")) for i in range(NODES)]
            async with trio.open_nursery() as nursery:
                for node in nodes:
                    nursery.start_soon(read_all, node, 4)

    trio.run(main)
    assert origin_reads(head) == 4


def test_many_nodes_open_one_small_file_and_it_is_read_once(head: HeadProcess) -> None:
    async def main() -> None:
        for i in range(4):
            async with connected(head.port, name=f"node{i}") as node:
                opened, payload = await node.ask(Open(b"small"), Opened)
                assert opened.inline
                assert payload == b"small" * 100

    trio.run(main)
    assert origin_reads(head) == 1


def test_a_random_reader_costs_the_origin_what_it_reads(head: HeadProcess) -> None:
    async def main() -> None:
        async with connected(head.port) as node:
            opened = await node.open(b"file")
            version = opened.attr.version
            for index in range(4):
                reply, payload = await node.read(Read(opened.handle, version, index, 3, 1))
                assert isinstance(reply, Blocks)
                assert len(payload) == BLOCK_SIZE
            bytes_read = sum(row["count"] for row in counters(head)["origin"] if row["what"] == "bytes")
            assert bytes_read == 4 * BLOCK_SIZE
            # A second read of the same fragment proves that it is wanted: it is filled in behind the answer.
            await node.read(Read(opened.handle, version, 0, 9, 1))
            with trio.fail_after(60):
                while True:
                    reply, _ = await node.read(Read(opened.handle, version, 0, 1, 1))
                    assert isinstance(reply, Blocks)
                    if reply.tier == "memory":
                        break

    trio.run(main)


def test_all_zero_known_checksums_ask_for_a_verified_answer(head: HeadProcess, expected_log: ExpectedLog) -> None:
    """A node that found a damaged block asks so; the head checks its disk, drops what is damaged, and reads again."""
    expected_log.add("is dropped: data damaged")

    async def main() -> None:
        async with connected(head.port) as node:
            await read_all(node, 4)
            opened = await node.open(b"file")
            records = wait_for_records(head, 4)
            for record in records:
                with open(record, "r+b") as file:
                    file.seek(4096 + 5 * BLOCK_SIZE)
                    file.write(b"damage")
            reply, payload = await node.read(Read(opened.handle, opened.attr.version, 1, 0, WHOLE, [0] * WHOLE))
            assert isinstance(reply, Blocks)
            assert reply.tier == "origin"
            assert payload == bytes(range(256)) * 4096

    trio.run(main)
    assert counters(head)["events"]["store_damaged"] == 1


def wait_for_records(head: HeadProcess, count: int) -> list[Path]:
    """The store's files once there are so many whole ones."""

    def records() -> list[Path]:
        return [path for path in head.cache_dir.rglob("*") if path.is_file() and path.stat().st_size == MIB + 4096]

    wait_until(lambda: len(records()) == count, "all fragments are on disk")
    return records()
