"""What each request costs the head: its CPU per GiB and per 1,000 requests, without a node's share and without a mount.

    python -m bench.head [--rows origin,ssd,...] [--profile] [--json FILE] [--quick]

A scripted node asks a real `dadafsd` over loopback, a few requests under way at a time as a node has them. Seconds are
the CPU of the head's process, all threads, writing its cache included; wall-clock figures are those of this machine.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import trio

from bench.lab import data, report
from bench.lab.side import Side, process_table, wait_for
from bench.peers.dadafs import ask_head
from dadafs.wire.auth import ClientAuth
from dadafs.wire.client import RequestChannel, Target, connect
from dadafs.wire.messages import BLOCK_SIZE, Failed, List, Message, Open, Opened, Read, Release, Stat

MIB = 1 << 20
SIZES = {"quick": data.QUICK, "small": data.SMALL, "full": data.FULL}
#: Requests under way at a time: a node prefetches a few fragments, and a scan of a tree asks one name at a time.
READS = 4


@dataclass
class Node:
    """A session with the head, with one data channel and one buffer for each read under way."""

    control: RequestChannel
    data: RequestChannel
    admin: Path
    buffers: list[memoryview] = field(default_factory=lambda: [memoryview(bytearray(MIB)) for _ in range(READS)])

    async def ask(self, request: Message, buffer: memoryview | None = None) -> Message:
        """The reply. Raises RuntimeError where the head has none."""
        channel = self.data if isinstance(request, Read) else self.control
        reply = await channel.call(request, sink=lambda _, length: buffer[:length] if buffer is not None else None)
        if isinstance(reply, Failed):
            raise RuntimeError(f"the head failed: {reply}")
        return reply

    def flushed(self) -> None:
        """Wait until the head has written what it had queued."""
        wait_for(lambda: not ask_head(self.admin, "status")["write_queue"]["used"], "everything queued is written")

    async def at_once(self, requests: list[Message]) -> None:
        """All requests, `READS` at a time."""
        waiting = iter(requests)

        async def work(buffer: memoryview) -> None:
            for request in waiting:
                await self.ask(request, buffer)

        async with trio.open_nursery() as nursery:
            for buffer in self.buffers:
                nursery.start_soon(work, buffer)


@asynccontextmanager
async def session(port: int, admin: Path) -> AsyncIterator[Node]:
    """A node's session with the head on loopback."""
    auth = ClientAuth()
    control = await connect("127.0.0.1", port, node="bench", role="control", auth=auth, target=Target("data"))
    joined = Target("data", control.welcome.session)
    channel = await connect("127.0.0.1", port, node="bench", role="data", auth=auth, target=joined)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.run)
        nursery.start_soon(channel.run)
        yield Node(control, channel, admin)
        control.close()
        channel.close()


# --- loads ----------------------------------------------------------------------------------------------------------


async def _opened(node: Node, path: str) -> Opened:
    reply = await node.ask(Open(path.encode(), want_inline=False))
    assert isinstance(reply, Opened)
    return reply


async def sequential(node: Node, tree: data.Tree) -> int:
    """The large file, whole fragments in order; bytes."""
    opened = await _opened(node, tree.BIG)
    size = opened.attr.size
    await node.at_once([Read(opened.handle, opened.attr.version, i, 0, 16) for i in range(size // MIB)])
    return size


async def filled(node: Node, tree: data.Tree) -> int:
    """The large file into the cache directory, no faster than its disk takes it; bytes."""
    opened = await _opened(node, tree.BIG)
    fragments = opened.attr.size // MIB
    for first in range(0, fragments, 32):
        some = range(first, min(first + 32, fragments))
        await node.at_once([Read(opened.handle, opened.attr.version, i, 0, 16) for i in some])
        node.flushed()
    return opened.attr.size


async def random_blocks(node: Node, tree: data.Tree) -> int:
    """One block here and there, as a random 4 KiB read asks for it; requests."""
    opened = await _opened(node, tree.BIG)
    fragments, blocks = opened.attr.size // MIB, MIB // BLOCK_SIZE
    places = [(i * 37 % fragments, i * 11 % blocks) for i in range(10 * fragments)]
    await node.at_once([Read(opened.handle, opened.attr.version, *place, 1) for place in places])
    return len(places)


def _names(tree: data.Tree) -> list[bytes]:
    sizes = tree.sizes
    pairs = itertools.product(range(sizes.directories), range(sizes.files_per_directory))
    return [tree.small(directory, index).encode() for directory, index in pairs]


async def stats(node: Node, tree: data.Tree) -> int:
    """Every small file looked at, one after the other; requests."""
    names = _names(tree)
    for name in names:
        await node.ask(Stat(name))
    return len(names)


async def listings(node: Node, tree: data.Tree) -> int:
    """Every directory of small files; names."""
    for directory in range(tree.sizes.directories):
        await node.ask(List(tree.small(directory, 0).rpartition("/")[0].encode()))
    return tree.small_count


async def opens(node: Node, tree: data.Tree) -> int:
    """Every small file opened, which brings its bytes, and released, some hundred at a time; files."""
    names, handles = _names(tree), []
    for name in names:
        reply = await node.ask(Open(name), node.buffers[0])
        assert isinstance(reply, Opened)
        handles.append(reply.handle)
        if len(handles) == 128:
            await node.ask(Release(handles))
            handles = []
    await node.ask(Release(handles))
    return len(names)


@dataclass(frozen=True)
class Row:
    """A load, what was done before it in the same head, and the memory that the head may keep fragments in."""

    load: Callable[[Node, data.Tree], Awaitable[int]]
    before: Callable[[Node, data.Tree], Awaitable[int]] | None = None
    memory: str = "64MiB"

    @property
    def unit(self) -> str:
        return "GiB" if self.load is sequential else "1,000"


ROWS = {
    "origin": Row(sequential),
    "ssd": Row(sequential, filled, "1MiB"),
    "memory": Row(sequential, sequential, "1GiB"),
    "random origin": Row(random_blocks),
    "random ssd": Row(random_blocks, filled, "1MiB"),
    "stat": Row(stats),
    "stat again": Row(stats, stats),
    "list": Row(listings),
    "open": Row(opens),
    "open again": Row(opens, opens),
}


# --- measuring ------------------------------------------------------------------------------------------------------


async def _measured(row: Row, port: int, pid: int, admin: Path, tree: data.Tree) -> dict[str, Any]:
    async with session(port, admin) as node:
        if row.before is not None:
            await row.before(node, tree)
        node.flushed()
        cpu, begun = process_table()[pid][1], trio.current_time()
        done = await row.load(node, tree)
        seconds, answered = trio.current_time() - begun, process_table()[pid][1]
        node.flushed()
    units = done / (1 << 30 if row.unit == "GiB" else 1000)
    return {
        "per": row.unit,
        "cpu s": (process_table()[pid][1] - cpu) / units,
        "cpu s until answered": (answered - cpu) / units,
        "MB/s" if row.unit == "GiB" else "requests/s": done / seconds / (1e6 if row.unit == "GiB" else 1),
    }


def measure(name: str, tree: data.Tree, profile: Path | None) -> dict[str, Any]:
    """One row, in a head of its own that has an empty cache. With `profile`, its loop is profiled into that file."""
    row = ROWS[name]
    with (
        tempfile.TemporaryDirectory(prefix="dadabench-") as folder,
        contextlib.closing(Side(None, Path(folder))) as side,
    ):
        admin = Path(folder, "admin.sock")
        argv = ["-m", "cProfile", "-o", str(profile)] if profile else []
        argv += ["-m", "dadafsd", "--listen", "127.0.0.1:0", "--export", f"data={tree.root}"]
        argv += ["--cache-dir", f"{folder}/cache", "--cache-size", "4GiB", "--admin-socket", str(admin)]
        process = side.start("dadafsd", side.python(*argv), r"^ready on .*\n", DADAFSD_MEMORY=row.memory)
        port = int(Path(folder, "dadafsd.log").read_text().partition("ready on ")[2].split()[0].rpartition(":")[2])
        return {"row": name, **trio.run(_measured, row, port, process.pid, admin, tree)}


@click.command(help=__doc__)
@click.option("--rows", "chosen", help=f"Comma-separated, of: {', '.join(ROWS)}; default all.")
@click.option("--profile", type=click.Path(path_type=Path), help="Profile the head's loop into FILE, for pstats.")
@click.option("--work", type=click.Path(path_type=Path), help="Where the test data is kept; default temporary.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there.")
@click.option("--markdown", is_flag=True, help="Print the table in Markdown.")
@click.option("--size", type=click.Choice(sorted(SIZES)), default="small", show_default=True)
@click.option("--quick", is_flag=True, help="Only check that everything runs.")
def main(
    chosen: str | None,
    profile: Path | None,
    work: Path | None,
    json_path: Path | None,
    markdown: bool,
    size: str,
    quick: bool,
) -> None:
    names = chosen.split(",") if chosen else list(ROWS)
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise click.UsageError(f"There is no row {unknown[0]!r}; choose from {', '.join(ROWS)}.")
    size = "quick" if quick else size
    with tempfile.TemporaryDirectory(prefix="dadabench-") as scratch:
        tree = data.make_tree((work or Path(scratch)) / size, SIZES[size])
        data.read_everything(tree.root)
        rows = [measure(name, tree, profile) for name in names]
    columns = ["row", "per", "cpu s", "cpu s until answered", "MB/s", "requests/s"]
    lines = [[row.get(column) for column in columns] for row in rows]
    if markdown:
        print(report.markdown(columns, lines))
    else:
        report.console().print(report.table("head", columns, lines))
    if json_path:
        report.write_json(json_path, report.document("head", rows, size=size))


if __name__ == "__main__":
    main()
