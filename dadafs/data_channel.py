"""A data channel whose replies are received by the compiled part (`native/fetches.c`).

    channel = compiled(await connect(..., role="data"))
    number = channel.fetch(read, into, done)     # no task, no interpreter until `done`

What `RequestChannel` offers works as before: the compiled part asks here for the buffer of any reply that is not one of
its own. With TLS, or where the compiled part was not built, a data channel stays what it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import msgspec
import trio
import xxhash

from dadafs.native import fuse_session
from dadafs.wire.channel import Channel
from dadafs.wire.client import RequestChannel
from dadafs.wire.messages import Message, Read, Version, decode

astuple = msgspec.structs.astuple
log = logging.getLogger(__name__)

#: Called once as done(checksums, intact, settled, tier); checksums None: it has to be asked for in another way.
Done = Callable[[list[int] | None, bool, bool, str], None]


class HotFile(Protocol):
    """`_dadafs_fuse.HotFile`: one file in one state, as the compiled part reads it."""

    usable: bool

    def believe(self, seconds: float) -> None:
        """It is in this state for so long from now on."""

    def hold(self, fragment: int, first: int, count: int, held: bool) -> None:
        """Whether the RAM cache has these blocks of a fragment."""

    def cool(self) -> None:
        """Nothing of this state is read any more."""


def _usable() -> bool:
    """Whether the compiled part is there, and finds the checksums that the package xxhash computes with."""
    path = getattr(getattr(xxhash, "_xxhash", None), "__file__", None)
    if path is None or fuse_session is None or not hasattr(fuse_session, "Fetches"):
        return False
    return bool(fuse_session.use_hash(path))


#: Whether data channels are received by the compiled part where they can be.
COMPILED = _usable()


def compiled(channel: RequestChannel) -> RequestChannel:
    """`channel`, received by the compiled part where that can be."""
    plain = channel.channel
    if not COMPILED or type(plain) is not Channel or not plain.at_rest:
        return channel
    return DataChannel(channel)


class DataChannel(RequestChannel):
    """See `RequestChannel`; takes the place of `plain`, which must not be used any more.

    `packs`: the head sends packed replies here, which `fetch` does not know: ask with `call_now`.
    """

    MOST_IDS = 2**31 - 1  # those above are the compiled part's own

    def __init__(self, plain: RequestChannel) -> None:
        super().__init__(plain.channel, plain.welcome)
        self.packs = False
        self._sends = 0
        self._replies: dict[int, Message] = {}  # whose payload is being received
        assert fuse_session is not None
        self._fetches = fuse_session.Fetches(self.channel.socket.fileno(), self._take, self._landed)
        self.channel.gate = self._fetches.gate

    @property
    def pending(self) -> int:
        """How many calls and fetches wait for their reply."""
        return len(self._waiting) + int(self._fetches.pending)

    @property
    def received(self) -> int:
        """Bytes received so far."""
        return self.channel.bytes_received + int(self._fetches.received)

    def fetch(self, read: Read, into: memoryview, done: Done) -> int:
        """Ask for blocks that nobody has yet, all of `into`; the number to give it up by, 0 where nothing was asked."""
        return int(
            self._fetches.fetch(
                read.handle,
                astuple(read.version),
                read.fragment,
                read.first,
                read.count,
                read.prefetch,
                into,
                done,
            )
        )

    def cork(self, corked: bool) -> None:
        """Requests begun while corked are sent together afterwards."""
        self._fetches.cork(corked)

    def give_up(self, number: int) -> bool:
        """`done` will not be called, nor the buffer written to; False where it was called already."""
        return bool(self._fetches.give_up(number))

    def hot_file(self, handle: int, version: Version, fragment_size: int, bits: int) -> HotFile:
        """The file that the head holds open as `handle`, for the compiled part to read through this channel.

        It remembers which blocks the RAM cache has in at most `bits` bits, so of a large file not exactly.
        """
        assert fuse_session is not None
        hot: HotFile = fuse_session.HotFile(self._fetches, handle, astuple(version), fragment_size, bits)
        return hot

    async def _send(self, request_id: int, request: Message) -> None:
        self._sends += 1
        self._fetches.hold(True)
        try:
            await super()._send(request_id, request)
        finally:
            self._sends -= 1
            self._fetches.hold(self._sends > 0)

    def _divert(self, request_id: int) -> None:
        self._fetches.divert(request_id)

    async def run(self) -> str:
        """Receive until the connection ends; returns the reason. All calls that still wait raise ChannelClosed."""
        try:
            while self.channel.closed is None:
                if self._fetches.receive():
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(self._fetches.gate)
        except ConnectionError as error:
            self.channel.close(str(error))
        except ValueError as error:
            self._break(str(error))
        except trio.ClosedResourceError:
            pass  # the reason is known
        finally:
            self.close(self.channel.closed or "closed on this side")
        return self.channel.closed or ""

    def _take(self, request_id: int, metadata: bytes, length: int) -> memoryview | None:
        """Where the payload of a reply goes, asked by the compiled part; `_landed` follows."""
        waiting = self._waiting.get(request_id)
        if waiting is None:
            if request_id not in self._abandoned:
                self._break("a reply to no request")
            return None
        try:
            message = decode(metadata)
        except msgspec.DecodeError as error:
            self._break(f"not a message of this protocol: {error}")
            return None
        self._replies[request_id] = message
        self._receiving = request_id
        return self._buffer_for(message, length, waiting) if length else None

    def _landed(self, request_id: int) -> None:
        """A reply is here with its payload."""
        self._receiving = None
        message = self._replies.pop(request_id, None)
        waiting = self._waiting.pop(request_id, None)
        if waiting is None or message is None:
            self._abandoned.discard(request_id)
            return
        waiting.reply = message
        waiting.settle()

    def _break(self, why: str) -> None:
        log.warning("connection to %s closed: %s", self.channel.peer, why)
        self.channel.close(why)

    def close(self, reason: str = "closed on this side") -> None:
        """Close at once; all calls that wait raise ChannelClosed."""
        super().close(reason)
        self._replies.clear()
        self._fetches.close()
