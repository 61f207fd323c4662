"""The wire alone: calls a second and bytes a second over loopback between two processes, with the CPU each side pays.

    python -m bench.wire [--tls] [--seconds 2] [--json FILE] [--quick]

The head's side sends from a file in the page cache, as `dadafsd` does; nothing of head or node but the channel runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import trio

from bench.lab import report
from bench.lab.side import process_table
from dadafs.wire.auth import ClientAuth, ServerAuth
from dadafs.wire.channel import Channel, ChannelClosed
from dadafs.wire.client import RequestChannel, Target, connect
from dadafs.wire.frame import Kind
from dadafs.wire.keys import Key, KeyRing
from dadafs.wire.messages import BLOCK_SIZE, Attr, Blocks, Entry, Message, Read, Stat, Version, Welcome
from dadafs.wire.server import Doorkeeper, authenticate
from dadafs.wire.tls import client_context, server_context

MIB = 1 << 20
FILE_SIZE = 16 * MIB
ATTR = Attr(1, 2, 0o40755, 2, 0, 0, 0, 4096, 8, 4096, 1, 2, 3)


@dataclass
class Row:
    """One measurement: `bytes_each` of payload a call, `tasks` calls under way at a time."""

    name: str
    bytes_each: int
    tasks: int
    calls: int = 0
    seconds: float = 0.0
    node_cpu: float = 0.0
    head_cpu: float = 0.0

    def figures(self) -> dict[str, Any]:
        """Rates, and the CPU that a call and a GiB cost each side."""
        found: dict[str, Any] = {"row": self.name, "calls/s": self.calls / self.seconds}
        sides = {"node": self.node_cpu, "head": self.head_cpu}
        found |= {f"{side} cpu us/call": cpu / self.calls * 1e6 for side, cpu in sides.items()}
        if self.bytes_each:
            total = self.calls * self.bytes_each
            found["MB/s"] = total / self.seconds / 1e6
            found |= {f"{side} cpu s/GiB": cpu / total * 2**30 for side, cpu in sides.items()}
        return found


COLUMNS = (
    "row",
    "calls/s",
    "MB/s",
    "node cpu us/call",
    "head cpu us/call",
    "node cpu s/GiB",
    "head cpu s/GiB",
)
ROWS = [
    Row("stat, one at a time", 0, 1),
    Row("stat, 8 at a time", 0, 8),
    Row("64 KiB, one at a time", 64 * 1024, 1),
    Row("64 KiB, 8 at a time", 64 * 1024, 8),
    Row("1 MiB, one at a time", MIB, 1),
    Row("1 MiB, 4 at a time", MIB, 4),
]


# --- the head's side ----------------------------------------------------------------------------------------------


async def serve(secret: bytes, tls: list[str]) -> None:
    """Print the port, then answer until killed."""
    auth = ServerAuth(KeyRing([Key("bench", secret)]), server_context(*tls) if tls else None)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listener.socket.getsockname()[1], flush=True)
    with tempfile.TemporaryFile() as file:
        file.write(os.urandom(FILE_SIZE))
        file.flush()
        async with trio.open_nursery() as nursery:
            while True:
                sock, _ = await listener.socket.accept()
                nursery.start_soon(answer_all, sock, auth, file.fileno())


async def answer_all(sock: trio.socket.SocketType, auth: ServerAuth, fd: int) -> None:
    channel, _ = await authenticate(sock, auth, door=Doorkeeper())
    await channel.receive()
    await channel.send(Kind.HANDSHAKE, 0, Welcome(1, 2, MIB, BLOCK_SIZE, ATTR, "head"))
    try:
        while True:
            await answer(channel, fd)
    except ChannelClosed:
        pass


async def answer(channel: Channel, fd: int) -> None:
    frame = await channel.receive()
    request = frame.message
    if isinstance(request, Read):
        length = request.count * BLOCK_SIZE
        blocks = Blocks([1] * request.count, (1 << request.count) - 1, length)
        offset = request.fragment * MIB % (FILE_SIZE - MIB)
        await channel.send_file(Kind.REPLY, frame.request_id, blocks, fd, [(offset, length)])
    else:
        await channel.send(Kind.REPLY, frame.request_id, Entry(ATTR))


# --- the node's side ----------------------------------------------------------------------------------------------


async def measure(port: int, auth: ClientAuth, seconds: float, head: int) -> list[dict[str, Any]]:
    """The figures of each of `ROWS`; `head` is the process of the other side."""
    channel = await connect("127.0.0.1", port, node="bench", role="data", auth=auth, target=Target("x"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run)
        for row in ROWS:
            await run_row(channel, row, seconds, head)
        channel.close()
    return [row.figures() for row in ROWS]


async def run_row(channel: RequestChannel, row: Row, seconds: float, head: int) -> None:
    begun, cpu, served = time.perf_counter(), time.process_time(), process_table()[head][1]
    async with trio.open_nursery() as nursery:
        for _ in range(row.tasks):
            nursery.start_soon(until_time, caller(channel, row), begun + seconds)
    row.seconds, row.node_cpu = time.perf_counter() - begun, time.process_time() - cpu
    row.head_cpu = process_table()[head][1] - served


async def until_time(call: Callable[[], Awaitable[object]], end: float) -> None:
    await call()  # at least one, however busy the machine is
    while time.perf_counter() < end:
        await call()


def caller(channel: RequestChannel, row: Row) -> Callable[[], Awaitable[object]]:
    """One task's call, over and over into the same buffer."""
    buffer = memoryview(bytearray(row.bytes_each))
    version = Version(1, 2, FILE_SIZE, 4, 5)

    def sink(_: Message, length: int) -> memoryview:
        return buffer

    async def call() -> None:
        row.calls += 1
        if row.bytes_each:
            await channel.call(Read(1, version, row.calls, 0, row.bytes_each // BLOCK_SIZE), sink=sink)
        else:
            await channel.call(Stat(b"some/path/in/the/tree"))

    return call


# --- both -----------------------------------------------------------------------------------------------------------


def certificates(folder: Path) -> tuple[list[str], list[str]]:
    """PEM files for a head on loopback and for a node, made with trustme."""
    import trustme

    from tests.harness.certificates import issue

    authority = trustme.CA()
    return list(issue(folder / "head", authority, "127.0.0.1")), list(issue(folder / "node", authority, "node"))


def between_processes(seconds: float, with_tls: bool) -> list[dict[str, Any]]:
    """Start the head's side and measure against it."""
    secret = os.urandom(32)
    with tempfile.TemporaryDirectory() as folder:
        head_files, node_files = certificates(Path(folder)) if with_tls else ([], [])
        argv = [sys.executable, "-m", "bench.wire", "--head"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as head:
            assert head.stdin is not None
            assert head.stdout is not None
            try:
                head.stdin.write(json.dumps({"secret": secret.hex(), "tls": head_files}) + "\n")
                head.stdin.flush()
                port = int(head.stdout.readline())
                tls = client_context(*node_files) if node_files else None
                auth = ClientAuth(tls=tls) if tls else ClientAuth(KeyRing([Key("bench", secret)]))
                return trio.run(measure, port, auth, seconds, head.pid)
            finally:
                head.kill()


@click.command(help=__doc__)
@click.option("--tls", "with_tls", is_flag=True, help="With certificates instead of a key.")
@click.option("--seconds", default=2.0, show_default=True, help="For each row.")
@click.option("--quick", is_flag=True, help="A moment for each row: only check that it runs.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there.")
@click.option("--markdown", is_flag=True, help="Print the table in Markdown.")
@click.option("--head", is_flag=True, hidden=True)
def main(with_tls: bool, seconds: float, quick: bool, json_path: Path | None, markdown: bool, head: bool) -> None:
    if head:
        told = json.loads(sys.stdin.readline())
        trio.run(serve, bytes.fromhex(told["secret"]), told["tls"])
        return
    rows = between_processes(0.05 if quick else seconds, with_tls)
    lines = [[row.get(column) for column in COLUMNS] for row in rows]
    if markdown:
        print(report.markdown(COLUMNS, lines))
    else:
        report.console().print(report.table("wire", COLUMNS, lines))
    if json_path:
        report.write_json(json_path, report.document("wire", rows, seconds=seconds, tls=with_tls))


if __name__ == "__main__":
    main()
