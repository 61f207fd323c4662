"""What was fetched once is kept, also where readers are faster than the disk; and a disk that hangs holds up nobody."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import trio

from dadafs.wire.messages import Blocks, Read
from tests.checklogs import ExpectedLog
from tests.harness.admin import Socket
from tests.harness.disks import loop_disk
from tests.harness.node import WHOLE, connected
from tests.harness.processes import HeadProcess, wait_until

MIB = 1 << 20
FILES, FRAGMENTS = 6, 12


def make_files(tree: Path) -> None:
    """Files older than the margin of timestamps."""
    tree.mkdir()
    for number in range(FILES):
        (tree / f"{number}").write_bytes(os.urandom(FRAGMENTS * MIB))
    written_at = (tree / f"{FILES - 1}").stat().st_ctime
    wait_until(lambda: time.time() > written_at + 0.1, "the files are older than the margin of timestamps")


def started(tmp_path: Path, cache: Path, **settings: str) -> HeadProcess:
    """A head with a small queue of writes."""
    config = tmp_path / "dadafsd.toml"
    top = "".join(f'{name} = "{value}"\n' for name, value in {"write_queue": "4MiB", **settings}.items())
    config.write_text(f"""
        {top}
        [[export]]
        name = "data"
        directory = "{tmp_path}/tree"
        [[tier]]
        name = "ssd"
        directory = "{cache}"
        size = "256MiB"
        sync = "data"
    """)
    return HeadProcess(tmp_path / "head", {}, options=("--config", str(config), "--cache-dir", ""))


async def read_file(port: int, tree: Path, number: int, *, prefetch: bool) -> None:
    """A node reads a file, two fragments at a time."""
    fragments = iter(range(FRAGMENTS))
    content = (tree / f"{number}").read_bytes()
    async with connected(port, name=f"node{number}") as node:
        opened = await node.open(b"%d" % number)

        async def read(mine: Iterable[int]) -> None:
            for index in mine:
                asked = Read(opened.handle, opened.attr.version, index, 0, WHOLE, prefetch=prefetch)
                reply, payload = await node.read(asked)
                assert isinstance(reply, Blocks)
                assert payload == content[index * MIB : (index + 1) * MIB]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, fragments)
            nursery.start_soon(read, fragments)


def read_files(head: HeadProcess, tree: Path, files: int, *, prefetch: bool) -> None:
    """All at once, each by a node of its own."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(files):
                nursery.start_soon(lambda n: read_file(head.port, tree, n, prefetch=prefetch), number)

    trio.run(main)


def origin_bytes(admin: Socket) -> int:
    return sum(row["count"] for row in admin.ask("counters")["origin"] if row["what"] == "bytes")


def event(admin: Socket, name: str) -> int:
    events: dict[str, Any] = admin.ask("counters")["events"]
    return int(events.get(name, 0))


def written(admin: Socket) -> None:
    wait_until(lambda: admin.ask("status")["write_queue"]["used"] == 0, "everything is written")


def test_readers_faster_than_the_disk_read_everything_once(tmp_path: Path, expected_log: ExpectedLog) -> None:
    make_files(tmp_path / "tree")
    head = started(tmp_path, tmp_path / "cache", memory="0")
    admin = Socket(head.admin_socket)
    read_files(head, tmp_path / "tree", FILES, prefetch=True)
    written(admin)
    assert event(admin, "store_writes_dropped") == 0
    read_files(head, tmp_path / "tree", FILES, prefetch=True)
    assert origin_bytes(admin) == FILES * FRAGMENTS * MIB
    head.stop()
    head.check_log(expected_log)


def test_a_disk_that_hangs_holds_up_nobody_and_gets_later_what_memory_has(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    make_files(tmp_path / "tree")
    with loop_disk(tmp_path, "ext4", 256 * MIB) as disk:
        head = started(tmp_path, disk.path / "cache")
        admin = Socket(head.admin_socket)
        with disk.frozen():
            read_files(head, tmp_path / "tree", 1, prefetch=False)
            assert event(admin, "store_writes_dropped") >= FRAGMENTS - 4
            assert event(admin, "store_writes") == 0
        wait_until(lambda: event(admin, "store_writes") == FRAGMENTS, "all of it is written after all")
        assert event(admin, "store_writes_late") >= FRAGMENTS - 4
        assert admin.ask("cached", export="data", path="0")["tiers"]["ssd"] >= FRAGMENTS * MIB
        admin.ask("set", name="memory", value="0")
        read_files(head, tmp_path / "tree", 1, prefetch=False)
        assert origin_bytes(admin) == FRAGMENTS * MIB
        head.stop()
        head.check_log(expected_log)
