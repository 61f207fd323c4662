"""A scripted node for tests: speaks the wire protocol over real sockets, remembers pushes, caches nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import lz4.block
import trio

from dadafs.checksum import block_checksums
from dadafs.wire.auth import ClientAuth
from dadafs.wire.client import RequestChannel, Target, connect
from dadafs.wire.frame import Kind
from dadafs.wire.messages import (
    BLOCK_SIZE,
    DEFAULT_FRAGMENT_SIZE,
    Attr,
    Blocks,
    Change,
    Changed,
    Changes,
    Encoding,
    Entry,
    Failed,
    Item,
    Keepalive,
    LeasesLost,
    List,
    Listing,
    Message,
    Open,
    Opened,
    Pass,
    Read,
    Stat,
)

Wanted = TypeVar("Wanted", bound=Message)
DEADLINE = 60.0
#: Blocks of a whole fragment.
WHOLE = DEFAULT_FRAGMENT_SIZE // BLOCK_SIZE


class NodeFailed(OSError):
    """The head answered `Failed`."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.errno, failed.message)
        self.site = failed.site


class Node:
    """One session: a control channel and a data channel."""

    def __init__(self, control: RequestChannel, data: RequestChannel, pushes: list[Message]) -> None:
        self.control = control
        self.data = data
        self.pushes = pushes
        self.welcome = control.welcome
        self.packed = 0  # replies that came as LZ4
        self._arrived = trio.Event()

    def pushed(self, message: Message) -> None:
        """Called for each push, in order."""
        self.pushes.append(message)
        self._arrived.set()
        self._arrived = trio.Event()

    async def ask(self, request: Message, wanted: type[Wanted], *, data: bool = False) -> tuple[Wanted, bytes]:
        """The reply, which must be a `wanted`, and its payload. Raises NodeFailed for `Failed`."""
        payload = bytearray()

        def sink(_: Message, length: int) -> memoryview:
            payload.extend(bytes(length))
            return memoryview(payload)

        with trio.fail_after(DEADLINE):
            reply = await (self.data if data else self.control).call(request, sink=sink)
        if isinstance(reply, Failed):
            raise NodeFailed(reply)
        assert isinstance(reply, wanted), reply
        return reply, bytes(payload)

    async def stat(self, path: bytes, *, lease: bool = False) -> Entry:
        return (await self.ask(Stat(path, lease), Entry))[0]

    async def open(self, path: bytes, *, inline: bool = False, expect: tuple[int, int] | None = None) -> Opened:
        return (await self.ask(Open(path, expect, inline), Opened))[0]

    async def list_all(self, path: bytes, *, lease: bool = False) -> tuple[Attr, list[Item]]:
        """All pages of a directory."""
        listing, _ = await self.ask(List(path, lease=lease), Listing)
        items, page, number = list(listing.items), 0, listing.listing
        while listing.more:
            page += 1
            listing, _ = await self.ask(List(path, number, page, lease), Listing)
            items += listing.items
        return listing.attr, items

    async def read(self, request: Read) -> tuple[Blocks | Changed, bytes]:
        """Blocks with their payload, each block sent checked against its checksum; or the news of a change."""
        reply, payload = await self.ask(request, Message, data=True)
        if isinstance(reply, Changed):
            return reply, b""
        assert isinstance(reply, Blocks), reply
        if reply.encoding == Encoding.LZ4:
            self.packed += 1
            payload = lz4.block.decompress(payload, uncompressed_size=reply.size)
        assert len(payload) == reply.size
        sums = [value for i, value in enumerate(reply.checksums) if reply.sent >> i & 1]
        assert block_checksums(payload) == sums
        return reply, payload

    async def read_file(self, opened: Opened) -> bytes:
        """A whole file, fragment by fragment."""
        version, size = opened.attr.version, self.welcome.fragment_size
        data = []
        for fragment in range(-(-version.size // size)):
            reply, payload = await self.read(Read(opened.handle, version, fragment, 0, size // BLOCK_SIZE))
            assert isinstance(reply, Blocks), reply
            data.append(payload)
        return b"".join(data)

    async def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Return when `condition()` is true, which is looked at after each push; fail with `what` at the deadline."""
        with trio.move_on_after(DEADLINE):
            while not condition():
                await self._arrived.wait()
            return
        raise AssertionError(f"not within {DEADLINE} s: {what}")

    def changes(self) -> list[Change]:
        """Every change pushed so far, in order."""
        return [change for push in self.pushes if isinstance(push, Changes) for change in push.changes]

    def lost(self) -> list[bytes]:
        """Every lost lease so far."""
        return [path for push in self.pushes if isinstance(push, LeasesLost) for path in push.paths]

    async def pass_after(self, sent_ns: int) -> None:
        """Send a keepalive and wait for its pass."""
        with trio.fail_after(DEADLINE):
            await self.control.channel.send(Kind.REQUEST, 0, Keepalive(sent_ns))
            while not any(isinstance(push, Pass) and push.sent_ns == sent_ns for push in self.pushes):
                await self._arrived.wait()


@asynccontextmanager
async def connected(
    port: int,
    export: str = "data",
    *,
    host: str = "127.0.0.1",
    auth: ClientAuth | None = None,
    name: str = "node",
    freshness: float = 1.0,
) -> AsyncIterator[Node]:
    """A session with the head at `port`."""
    auth = auth or ClientAuth()
    pushes: list[Message] = []
    holder: list[Node] = []

    def on_push(message: Message) -> None:
        holder[0].pushed(message) if holder else pushes.append(message)

    target = Target(export, freshness_ns=int(freshness * 1e9))
    control = await connect(host, port, node=name, role="control", auth=auth, target=target, on_push=on_push)
    joined = Target(export, control.welcome.session, freshness_ns=int(freshness * 1e9))
    data = await connect(host, port, node=name, role="data", auth=auth, target=joined)
    node = Node(control, data, pushes)
    holder.append(node)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.run)
        nursery.start_soon(data.run)
        try:
            yield node
        finally:
            control.close()
            data.close()
            nursery.cancel_scope.cancel()
