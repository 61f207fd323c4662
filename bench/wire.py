"""The wire alone: calls a second and bytes a second over loopback between two processes, with the CPU each side pays.

    python -m bench.wire [--tls] [--seconds 2]

The head's side sends from a file in the page cache, as `dadafsd` does; nothing of head or node but the channel runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import trio

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
    cpu: float = 0.0

    def __str__(self) -> str:
        rate = self.calls / self.seconds
        text = f"{self.name:28} {rate:9.0f} calls/s  {self.cpu / self.calls * 1e6:6.1f} us CPU of the node each"
        if self.bytes_each:
            total = self.calls * self.bytes_each
            text += f"  {total / self.seconds / 1e6:7.0f} MB/s  {self.cpu / total * 2**30:5.2f} CPU s/GiB"
        return text


ROWS = [
    Row("stat, one at a time", 0, 1),
    Row("stat, 8 at a time", 0, 8),
    Row("64 KiB, one at a time", BLOCK_SIZE, 1),
    Row("64 KiB, 8 at a time", BLOCK_SIZE, 8),
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


async def measure(port: int, auth: ClientAuth, seconds: float) -> None:
    """Print one line for each of `ROWS`."""
    channel = await connect("127.0.0.1", port, node="bench", role="data", auth=auth, target=Target("x"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run)
        for row in ROWS:
            await run_row(channel, row, seconds)
            print(row, flush=True)
        channel.close()


async def run_row(channel: RequestChannel, row: Row, seconds: float) -> None:
    begun, cpu = time.perf_counter(), time.process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(row.tasks):
            nursery.start_soon(until_time, caller(channel, row), begun + seconds)
    row.seconds, row.cpu = time.perf_counter() - begun, time.process_time() - cpu


async def until_time(call: Callable[[], Awaitable[object]], end: float) -> None:
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


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tls", action="store_true", help="with certificates instead of a key")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row")
    parser.add_argument("--head", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.head:
        told = json.loads(sys.stdin.readline())
        trio.run(serve, bytes.fromhex(told["secret"]), told["tls"])
        return
    secret = os.urandom(32)
    with tempfile.TemporaryDirectory() as folder:
        head_files, node_files = certificates(Path(folder)) if options.tls else ([], [])
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
                trio.run(measure, port, auth, options.seconds)
            finally:
                head.kill()


if __name__ == "__main__":
    main()
