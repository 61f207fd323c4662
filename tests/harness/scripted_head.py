"""A small head over a real loopback socket, whose files and whose misbehaviour a test scripts.

    async with scripted_node(files={b"a": b"..."}) as (head, node):
        head.misbehave(Read, once(wrong_checksum))
        assert await node.read(b"a", 0, 10) == b"..."

It keeps its files in memory, speaks the wire protocol with its own frames, and remembers the requests that it got.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import trio
import trio.testing

from dadafs.checksum import block_checksums, checksum
from dadafs.counters import Counters
from dadafs.policy.prefetch import Streams
from dadafs.ram_cache import RamCache
from dadafs.reader import Reader
from dadafs.remote_file import RemoteFile, RemoteFiles
from dadafs.session import Session, SessionOptions
from dadafs.wire.auth import ClientAuth, ServerAuth
from dadafs.wire.channel import Channel, ChannelClosed
from dadafs.wire.frame import FrameError, Kind, pack
from dadafs.wire.messages import (
    BLOCK_SIZE,
    INLINE_LIMIT,
    Attach,
    Attr,
    Blocks,
    Change,
    Changed,
    Changes,
    Done,
    Entry,
    Failed,
    Item,
    Keepalive,
    List,
    Listing,
    Message,
    Open,
    Opened,
    Pass,
    Read,
    RefusalCode,
    Refused,
    Release,
    Resolve,
    Stat,
    Statfs,
    StatfsReply,
    Welcome,
    encode,
)
from dadafs.wire.server import Doorkeeper, TurnedAway, authenticate, refuse

log = logging.getLogger(__name__)
REAL_DEADLINE = 60.0
ROOT = Attr(1, 1, 0o40755, 2, 0, 0, 0, 4096, 8, 4096, 1, 2, 3)

#: Called instead of answering; True when it dealt with the request.
Misbehaviour = Callable[["Connection", int, Message], Awaitable[bool]]


async def until(condition: Callable[[], object], what: str) -> None:
    """Return when `condition()` is true; counts real seconds, so it works under a mock clock."""
    end = time.monotonic() + REAL_DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {REAL_DEADLINE} s: {what}")
        time.sleep(0.001)  # noqa: ASYNC251 - lets the kernel move bytes; trio's own sleep follows the mock clock
        for _ in range(5):
            await trio.lowlevel.checkpoint()


async def until_passing_time(condition: Callable[[], object], what: str) -> None:
    """The same under a mock clock, which moves on by 0.2 s again and again."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    end = time.monotonic() + REAL_DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {REAL_DEADLINE} s: {what}")
        clock.jump(0.2)
        await settle()


async def settle() -> None:
    """Let everything happen that can without time passing."""
    for _ in range(5):
        time.sleep(0.001)  # noqa: ASYNC251 - real bytes have to move
        for _ in range(10):
            await trio.lowlevel.checkpoint()


class ScriptedFile:
    """One file in memory; each `write` makes a new version."""

    _next_ino = 100

    def __init__(self, content: bytes) -> None:
        ScriptedFile._next_ino += 1
        self.ino = ScriptedFile._next_ino
        self.content = content
        self.mtime_ns = 1_000_000_000
        self.settled = True

    def write(self, content: bytes) -> None:
        """The file is changed in place."""
        self.content = content
        self.mtime_ns += 1

    @property
    def attr(self) -> Attr:
        size = len(self.content)
        return Attr(1, self.ino, 0o100644, 1, 0, 0, 0, size, size // 512, 4096, 1, self.mtime_ns, self.mtime_ns)


class Connection:
    """One authenticated connection of a node."""

    def __init__(self, head: ScriptedHead, channel: Channel, role: str) -> None:
        self.head = head
        self.channel = channel
        self.role = role

    async def reply(self, request_id: int, message: Message, payload: bytes = b"") -> None:
        """Answer a request."""
        await self.channel.send(Kind.REPLY, request_id, message, payload)


class ScriptedHead:
    """The head; change its attributes at any time."""

    def __init__(
        self, files: dict[bytes, bytes], *, auth: ServerAuth | None = None, fragment_size: int = 2**20
    ) -> None:
        self.files = {path: ScriptedFile(content) for path, content in files.items()}
        self.auth = auth or ServerAuth(allow_none=True)
        self.fragment_size = fragment_size
        self.append_patterns: list[str] = []
        self.freshness_ns = 0  # 0: whatever a node asks for
        self.boot = 1
        self.port = 0
        self.leases = False
        self.silent = False  # accepts and takes requests, answers nothing
        self.passing = True  # answers keepalives
        self.refusal: Refused | None = None
        self.held: dict[int, ScriptedFile] = {}
        self.requests: list[Message] = []
        self.connections: list[Connection] = []
        self._misbehaviour: dict[type[Message], list[Misbehaviour]] = {}
        self._door = Doorkeeper()
        self._listeners: list[trio.SocketListener] = []
        self._next = 0

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self, nursery: trio.Nursery) -> None:
        """Listen on loopback; on the same port again after `stop`."""
        self._listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = self._listeners[0].socket.getsockname()[1]
        nursery.start_soon(self._accept, self._listeners[0], nursery)

    async def stop(self) -> None:
        """Stop listening and cut every connection; open handles are lost."""
        for listener in self._listeners:
            await listener.aclose()
        self.cut()
        self.boot += 1
        self.held.clear()

    def cut(self, role: str = "") -> None:
        """Reset the connections (all, or those of one role)."""
        for connection in list(self.connections):
            if not role or connection.role == role:
                connection.channel.close("cut by the test")

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        with suppress(trio.ClosedResourceError), listener.socket:
            while True:
                stream = await listener.accept()
                nursery.start_soon(self._serve, stream.socket)

    async def _serve(self, sock: trio.socket.SocketType) -> None:
        with sock:
            while self.silent:
                await trio.sleep(0.05)
            with suppress(TurnedAway):
                channel, peer = await authenticate(sock, self.auth, door=self._door)
                try:
                    await self._attach(channel, peer.role)
                finally:
                    channel.close()

    async def _attach(self, channel: Channel, role: str) -> None:
        with suppress(ChannelClosed, FrameError):
            frame = await channel.receive()
            assert isinstance(frame.message, Attach)
            if self.refusal is not None:
                await refuse(channel, self.refusal.code, self.refusal.message)
                return
            session = frame.message.session
            if not session:
                self._next += 1
                session = self._next
            await channel.send(Kind.HANDSHAKE, 0, self._welcome(session))
            await self._requests(Connection(self, channel, role))

    def _welcome(self, session: int) -> Welcome:
        return Welcome(
            session,
            self.boot,
            self.fragment_size,
            BLOCK_SIZE,
            ROOT,
            "scripted",
            self.append_patterns,
            freshness_ns=self.freshness_ns,
        )

    async def _requests(self, connection: Connection) -> None:
        self.connections.append(connection)
        try:
            async with trio.open_nursery() as nursery:
                with suppress(ChannelClosed, FrameError):
                    while True:
                        frame = await connection.channel.receive()
                        nursery.start_soon(self._answer, connection, frame.request_id, frame.message)
                nursery.cancel_scope.cancel()
        finally:
            self.connections.remove(connection)
            connection.channel.close()

    # --- scripting -------------------------------------------------------------------------------------------------

    def misbehave(self, kind: type[Message], *behaviours: Misbehaviour) -> None:
        """The next requests of this kind meet these behaviours, one each."""
        self._misbehaviour.setdefault(kind, []).extend(behaviours)

    async def push(self, message: Message) -> None:
        """Push to every control channel."""
        for connection in self.connections:
            if connection.role == "control":
                await connection.channel.send(Kind.PUSH, 0, message)

    async def push_change(self, path: bytes, *, subtree: bool = False) -> None:
        """Push what is now at `path`."""
        file = self.files.get(path)
        attr = None if file is None else file.attr
        await self.push(Changes([Change(path, attr, None, subtree)]))

    def count(self, kind: type[Message]) -> int:
        """How many requests of this kind came."""
        return sum(isinstance(request, kind) for request in self.requests)

    def reads(self) -> list[Read]:
        """All reads that came."""
        return [request for request in self.requests if isinstance(request, Read)]

    # --- answers ---------------------------------------------------------------------------------------------------

    async def _answer(self, connection: Connection, request_id: int, request: Message) -> None:
        if not isinstance(request, Keepalive):
            self.requests.append(request)
        queue = self._misbehaviour.get(type(request))
        with suppress(ChannelClosed):
            if self.silent or (queue and await queue.pop(0)(connection, request_id, request)):
                return
            if isinstance(request, Keepalive):
                if self.passing:
                    await connection.channel.send(Kind.PUSH, 0, Pass(request.sent_ns))
                return
            message, payload = self.answer(request)
            await connection.reply(request_id, message, payload)

    def answer(self, request: Message) -> tuple[Message, bytes]:
        """The right answer."""
        if isinstance(request, Stat):
            file = self.files.get(request.path)
            attr = ROOT if not request.path else None if file is None else file.attr
            return Entry(attr, None, self.leases), b""
        if isinstance(request, List):
            items = [Item(name, file.attr) for name, file in self.files.items()]
            return Listing(ROOT, items, 0, False, self.leases), b""
        if isinstance(request, Open):
            return self._open(request)
        if isinstance(request, Resolve):
            held = self.held.get(request.handle)
            return (_lost(), b"") if held is None else (Entry(held.attr, None, self._leased(held)), b"")
        if isinstance(request, Read):
            return self._read(request)
        if isinstance(request, Release):
            for handle in request.handles:
                self.held.pop(handle, None)
            return Done(), b""
        if isinstance(request, Statfs):
            return StatfsReply(4096, 4096, 1, 1, 1, 1, 1, 1, 255), b""
        return Failed(errno.EINVAL, "not scripted"), b""

    def _leased(self, file: ScriptedFile) -> bool:
        return self.leases and file in self.files.values()

    def _open(self, request: Open) -> tuple[Message, bytes]:
        file = self.files.get(request.path)
        if file is None:
            return Failed(errno.ENOENT, "no such file"), b""
        if request.expect is not None and tuple(request.expect) != (1, file.ino):
            return _lost(), b""
        self._next += 1
        handle = self._next
        self.held[handle] = file
        inline = request.want_inline and len(file.content) <= INLINE_LIMIT
        content = file.content if inline else b""
        sums = checksum(content) if content else 0
        return Opened(handle, file.attr, self.leases, inline, sums, file.settled), content

    def _read(self, request: Read) -> tuple[Message, bytes]:
        file = self.held.get(request.handle)
        if file is None:
            return _lost(), b""
        if request.version != file.attr.version:
            return Changed(file.attr), b""
        start = request.fragment * self.fragment_size + request.first * BLOCK_SIZE
        end = min(start + request.count * BLOCK_SIZE, (request.fragment + 1) * self.fragment_size)
        data = file.content[start:end]
        sums = block_checksums(data)
        known = request.known or [0] * len(sums)
        sent = [i for i, value in enumerate(sums) if value != known[i]]
        payload = b"".join(data[i * BLOCK_SIZE : (i + 1) * BLOCK_SIZE] for i in sent)
        return Blocks(sums, sum(1 << i for i in sent), len(payload), 0, file.settled, "memory"), payload


def _lost() -> Failed:
    return Failed(errno.ESTALE, os.strerror(errno.ESTALE))


# --- misbehaviours ------------------------------------------------------------------------------------------------


async def ignored(connection: Connection, request_id: int, request: Message) -> bool:
    """No answer, ever."""
    return True


async def reset(connection: Connection, request_id: int, request: Message) -> bool:
    """The connection is reset instead of an answer."""
    connection.channel.close("cut by the test")
    return True


async def reset_in_payload(connection: Connection, request_id: int, request: Message) -> bool:
    """The connection is reset when half of the payload was sent."""
    message, payload = connection.head.answer(request)
    frame = pack(Kind.REPLY, request_id, encode(message), len(payload))
    channel = connection.channel
    await channel._enter()  # half a frame in the middle of another one would be another fault
    try:
        await channel._send_views([memoryview(frame + payload[: len(payload) // 2])], 0)
    finally:
        channel._sending.release()
    channel.close("cut by the test")
    return True


async def wrong_byte(connection: Connection, request_id: int, request: Message) -> bool:
    """One byte of the payload is damaged on the way."""
    message, payload = connection.head.answer(request)
    damaged = bytearray(payload)
    if damaged:
        damaged[len(damaged) // 2] ^= 1
    await connection.reply(request_id, message, bytes(damaged))
    return True


async def fewer_checksums(connection: Connection, request_id: int, request: Message) -> bool:
    """The reply does not describe all of its blocks."""
    message, payload = connection.head.answer(request)
    if not isinstance(message, Blocks):
        return False
    short = Blocks(message.checksums[:-1], message.sent, message.size)
    await connection.reply(request_id, short, payload)
    return True


def failing(code: int) -> Misbehaviour:
    """`Failed` with this errno."""

    async def fail(connection: Connection, request_id: int, request: Message) -> bool:
        await connection.reply(request_id, Failed(code, os.strerror(code), 7))
        return True

    return fail


def after(event: trio.Event) -> Misbehaviour:
    """The right answer, but only when `event` is set."""

    async def wait(connection: Connection, request_id: int, request: Message) -> bool:
        await event.wait()
        return False

    return wait


def meanwhile(action: Callable[[], object]) -> Misbehaviour:
    """Something happens between the request and its answer."""

    async def act(connection: Connection, request_id: int, request: Message) -> bool:
        action()
        return False

    return act


# --- the node's side ----------------------------------------------------------------------------------------------


class ScriptedNode:
    """The node's modules, wired together as the mount does, without a kernel."""

    def __init__(self, options: SessionOptions, budget: int) -> None:
        self.counters = Counters()
        self.session = Session(options, self.counters)
        self.cache = RamCache(budget, counters=self.counters)
        self.files = RemoteFiles(self.session, self.cache, self.counters)
        self.reader = Reader(self.session, self.cache, self.counters)
        self._streams: dict[RemoteFile, Streams] = {}

    async def start(self, nursery: trio.Nursery, *, prefetch: bool = True) -> None:
        """Connect, and start what runs in the background."""
        welcome = await self.session.start(nursery)
        assert welcome.fragment_size == self.cache.fragment_size
        nursery.start_soon(self.files.run)
        if prefetch:
            self.reader.start(nursery)

    async def open(self, path: bytes) -> RemoteFile:
        """Open `path` at the head."""
        file, _ = await self.files.open(path)
        self._streams.setdefault(file, self.reader.open_streams(file))
        return file

    async def read(self, file: RemoteFile, offset: int, length: int) -> bytes:
        """A copy of what a read gives."""
        return bytes(await self.reader.read(file, self._streams[file], offset, length))


@asynccontextmanager
async def scripted_node(
    files: dict[bytes, bytes],
    *,
    budget: int = 16 * 2**20,
    prefetch: bool = True,
    fragment_size: int = 2**20,
    leases: bool = False,
    append: tuple[str, ...] = (),
    auth: ServerAuth | None = None,
    client_auth: ClientAuth | None = None,
    **options: object,
) -> AsyncIterator[tuple[ScriptedHead, ScriptedNode]]:
    """A head with these files and a node connected to it; both end with the block."""
    head = ScriptedHead(files, auth=auth, fragment_size=fragment_size)
    head.leases = leases
    head.append_patterns = list(append)
    async with trio.open_nursery() as nursery:
        await head.start(nursery)
        where = SessionOptions("127.0.0.1", head.port, "data", node="test", auth=client_auth, **options)  # type: ignore[arg-type]
        node = ScriptedNode(where, budget)
        await node.start(nursery, prefetch=prefetch)
        yield head, node
        await node.session.stop()
        nursery.cancel_scope.cancel()


__all__ = [
    "REAL_DEADLINE",
    "RefusalCode",
    "ScriptedHead",
    "ScriptedNode",
    "scripted_node",
    "settle",
    "until",
    "until_passing_time",
]
