"""Two ends of a channel over real sockets, and a small head that answers what a test tells it to."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from dadafs.wire.auth import ClientAuth, ServerAuth
from dadafs.wire.channel import Channel, ChannelClosed, Frame
from dadafs.wire.client import RequestChannel, Target, connect
from dadafs.wire.frame import FROM_HEAD, Kind, Limits
from dadafs.wire.keys import Key, KeyRing
from dadafs.wire.messages import BLOCK_SIZE, Attr, Message, Welcome
from dadafs.wire.server import Doorkeeper, Peer, TurnedAway, authenticate

RING = KeyRing([Key("test", b"k" * 32)])
ATTR = Attr(1, 2, 0o40755, 2, 0, 0, 0, 4096, 8, 4096, 1, 2, 3)
WELCOME = Welcome(1, 2, 2**20, BLOCK_SIZE, ATTR, "head")
DEADLINE = 60.0

Answer = Callable[[Channel, Frame], Awaitable[None]]


def run(test: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run the asynchronous `test`, which must end within the deadline."""

    async def bounded() -> Any:
        with trio.fail_after(DEADLINE):
            return await test(*args)

    return trio.run(bounded)


SMALL = 64 * 1024


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets with small buffers, so that a megabyte does not fit between them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        one = socket.create_connection(server.getsockname())
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        other, _ = server.accept()
    return one, other


def channel_pair(limits: Limits = FROM_HEAD, **options: Any) -> tuple[Channel, Channel]:
    """Two authenticated channels that are connected to each other."""
    one, other = tcp_pair()
    return Channel(one, peer="one", limits=limits, **options), Channel(other, peer="other", limits=limits, **options)


class SmallHead:
    """Accepts, authenticates, welcomes, then calls `answer(channel, frame)` for each request."""

    def __init__(self, auth: ServerAuth, answer: Answer | None = None, **options: Any) -> None:
        self.auth = auth
        self.answer = answer
        self.options = options
        self.door = Doorkeeper()
        self.peers: list[Peer] = []
        self.channels: list[Channel] = []
        self.turned_away: list[str] = []
        self.address = ("", 0)

    async def serve(self, nursery: trio.Nursery) -> None:
        """Listen on a free port; returns when `address` is known."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.address = listener.socket.getsockname()
        nursery.start_soon(self._accept, nursery, listener)

    async def _accept(self, nursery: trio.Nursery, listener: trio.SocketListener) -> None:
        async with listener:
            while True:
                sock, _ = await listener.socket.accept()
                nursery.start_soon(self._connection, sock)

    async def _connection(self, sock: trio.socket.SocketType) -> None:
        try:
            channel, peer = await authenticate(sock, self.auth, door=self.door, **self.options)
        except TurnedAway as error:
            self.turned_away.append(str(error))
            return
        self.peers.append(peer)
        self.channels.append(channel)
        try:
            await channel.receive()  # Attach
            await channel.send(Kind.HANDSHAKE, 0, WELCOME)
            while self.answer is not None:
                await self.answer(channel, await channel.receive())
        except ChannelClosed:
            pass
        finally:
            channel.close("the test is over")


@asynccontextmanager
async def small_head(
    answer: Answer | None = None, auth: ServerAuth | None = None, **options: Any
) -> AsyncIterator[SmallHead]:
    """A `SmallHead` that serves for as long as the block runs."""
    head = SmallHead(auth or ServerAuth(RING), answer, **options)
    async with trio.open_nursery() as nursery:
        await head.serve(nursery)
        yield head
        nursery.cancel_scope.cancel()
    for channel in head.channels:
        channel.close("the test is over")


async def attach(head: SmallHead, auth: ClientAuth | None = None, **options: Any) -> RequestChannel:
    """A node's connection to `head`; its `run` is not started."""
    options = {"node": "node", "role": "control", "target": Target("data"), "timeout": DEADLINE, **options}
    return await connect("127.0.0.1", head.address[1], auth=auth or ClientAuth(RING), **options)


@asynccontextmanager
async def calls(head: SmallHead, auth: ClientAuth | None = None, **options: Any) -> AsyncIterator[RequestChannel]:
    """A node's connection to `head`, running; closed afterwards."""
    channel = await attach(head, auth, **options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run)
        try:
            yield channel
        finally:
            channel.close("the test is over")


async def in_order(*calls: Callable[[], Awaitable[None]]) -> None:
    """Await `calls` one after the other."""
    for call in calls:
        await call()


async def until(condition: Callable[[], object]) -> None:
    """Let other tasks run until `condition()` is true; the deadline is that of `run`."""
    while not condition():
        await trio.sleep(0.001)


def reply_with(message: Message, payload: bytes = b"") -> Answer:
    """An answer that is always the same."""

    async def answer(channel: Channel, frame: Frame) -> None:
        await channel.send(Kind.REPLY, frame.request_id, message, payload)

    return answer
