"""Blocks of files, asked for on the data channels of a session.

blocks = await session.blocks.read(Read(...), sink, deadline=deadline)
give_up = session.blocks.read_now(Read(...), sink, generation, answered)     # no task waits; None: not now
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import lz4.block
import trio

from dadafs.counters import Counters
from dadafs.data_channel import DataChannel
from dadafs.head_errors import SessionLost, failed, nonsense
from dadafs.links import Links, Slot
from dadafs.wire.channel import ChannelClosed
from dadafs.wire.client import RequestChannel
from dadafs.wire.messages import Blocks, Changed, Encoding, Failed, Message, Read, all_sent

if TYPE_CHECKING:
    from dadafs.session import Session

#: Called once as answered(blocks, verified), with None where `read` would tell what went wrong.
Answered = Callable[[Blocks | None, bool], None]


class BlockReads:
    """The reads of one session, spread over its data channels."""

    def __init__(self, session: Session, links: Links, counters: Counters) -> None:
        self._session = session
        self._links = links
        self._counters = counters
        self._together: Slot | None = None  # whose channel is corked

    async def read(
        self,
        read: Read,
        sink: memoryview,
        *,
        generation: int | None = None,
        deadline: float | None = None,
        tried: set[int] | None = None,
    ) -> Blocks | Changed:
        """Read blocks into `sink` (decoded, NOT verified). `generation` is that of the handle.

        `tried` holds the numbers of data channels to avoid where there is a choice; the one used is added.
        Raises SessionLost where the handle's session is over, OSError otherwise.
        """
        self._counters.requests += 1
        deadline = self._session.deadline() if deadline is None else deadline
        generation = self._links.generation if generation is None else generation
        receiver = _Receiver(sink)
        asked_at = trio.current_time()
        with trio.move_on_at(deadline):
            while True:
                slot, channel = await self._data_channel(generation, tried)
                slot.outstanding += len(sink)
                try:
                    reply = await channel.call(read, sink=receiver.take)
                except ChannelClosed:
                    self._counters.retried_requests += 1
                    if slot.channel is channel:
                        await self._links.changed()
                    continue
                except ValueError as error:
                    raise OSError(errno.EIO, f"the head's reply makes no sense: {error}") from None
                finally:
                    slot.outstanding = max(0, slot.outstanding - len(sink))
                if isinstance(channel, DataChannel) and isinstance(reply, Blocks) and reply.encoding != Encoding.RAW:
                    channel.packs = True
                return self._received(reply, receiver, trio.current_time() - asked_at)
        raise self._session.no_answer(b"")

    def read_now(
        self, read: Read, sink: memoryview, generation: int, answered: Answered, now: float
    ) -> Callable[[], bool] | None:
        """`read` without a task, where a data channel takes the request at once; else None, and nothing was asked.

        `answered` is called once, later, with the blocks, decoded into `sink`, and whether they were verified; or with
        None: whatever went wrong, `read` would tell. The function returned gives the read up; False where it was
        answered already.
        """
        slot = self._together or self._least_busy(None)
        if slot is None or slot.channel is None or generation != self._links.generation:
            return None
        channel = slot.channel
        if isinstance(channel, DataChannel) and not channel.packs:
            give_up = self._fetch_now(channel, slot, read, sink, answered, now)
        else:
            give_up = self._call_now(channel, slot, read, sink, answered, now)
        if give_up is None:
            return None
        self._counters.requests += 1
        slot.outstanding += len(sink)

        def given_up() -> bool:
            over = give_up()
            if over:
                slot.outstanding = max(0, slot.outstanding - len(sink))
            return over

        return given_up

    @contextmanager
    def together(self) -> Iterator[None]:
        """The reads begun with `read_now` meanwhile go to one data channel, and travel together; await nothing."""
        slot = self._least_busy(None)
        channel = slot.channel if slot is not None else None
        if not isinstance(channel, DataChannel):
            yield
            return
        self._together = slot
        channel.cork(True)
        try:
            yield
        finally:
            self._together = None
            channel.cork(False)

    def _fetch_now(
        self, channel: DataChannel, slot: Slot, read: Read, sink: memoryview, answered: Answered, asked_at: float
    ) -> Callable[[], bool] | None:
        """The compiled part asks, receives and verifies."""
        size = len(sink)

        def landed(checksums: list[int] | None, intact: bool, settled: bool, tier: str) -> None:
            slot.outstanding = max(0, slot.outstanding - size)
            if checksums is None:
                answered(None, False)
                return
            self._counters.wire_bytes += size
            self._counters.fetched(tier, trio.current_time() - asked_at)
            sent = all_sent(len(checksums))
            answered(Blocks(checksums, sent, size, settled=settled, tier=tier), intact)

        number = channel.fetch(read, sink, landed)
        return (lambda: channel.give_up(number)) if number else None

    def _call_now(
        self, channel: RequestChannel, slot: Slot, read: Read, sink: memoryview, answered: Answered, asked_at: float
    ) -> Callable[[], bool] | None:
        receiver = _Receiver(sink)

        def settled(reply: Message | None, error: Exception | None) -> None:
            slot.outstanding = max(0, slot.outstanding - len(sink))
            blocks: Blocks | Changed | None = None
            if reply is not None and error is None:
                with suppress(OSError):
                    blocks = self._received(reply, receiver, trio.current_time() - asked_at)
            answered(blocks if isinstance(blocks, Blocks) else None, False)

        request_id = channel.call_now(read, receiver.take, settled)
        return None if request_id is None else (lambda: channel.abandon(request_id))

    def quiet_channel(self) -> DataChannel | None:
        """A data channel of the compiled part's for many small reads: one that owes nothing, where there is one."""
        usable = [each.channel for each in self._links.slots if isinstance(each.channel, DataChannel)]
        plain = [channel for channel in usable if not channel.packs]
        return min(plain, key=lambda channel: channel.pending, default=None)

    def _least_busy(self, tried: set[int] | None) -> Slot | None:
        """The data channel that owes the least, of those that are not in `tried`; None where there is none."""
        best: Slot | None = None
        for slot in self._links.slots:
            if slot.channel is None or (tried and slot.number in tried):
                continue
            if best is None or slot.outstanding < best.outstanding:
                best = slot
        return best

    async def _data_channel(self, generation: int, tried: set[int] | None) -> tuple[Slot, RequestChannel]:
        """The data channel that owes the least, preferably one that is not in `tried`."""
        while True:
            if self._links.stopped:
                raise OSError(errno.EIO, "the mount is ending")
            if self._links.generation != generation:
                raise SessionLost
            best = self._least_busy(tried)
            if best is not None and best.channel is not None:
                if tried is not None:
                    tried.add(best.number)
                return best, best.channel
            if tried and any(slot.channel is not None for slot in self._links.slots):
                tried.clear()
            else:
                await self._links.changed()

    def _received(self, reply: Message, receiver: _Receiver, seconds: float) -> Blocks | Changed:
        if isinstance(reply, Changed):
            return reply
        if isinstance(reply, Failed):
            raise failed(reply, b"")
        if not isinstance(reply, Blocks):
            raise nonsense(reply, b"")
        self._counters.wire_bytes += receiver.length
        self._counters.fetched(reply.tier, seconds)
        receiver.decode(reply)
        return reply


class _Receiver:
    """Where the payload of a `Blocks` goes: straight into the sink, or decoded into it afterwards."""

    __slots__ = ("_packed", "_sink", "length")

    def __init__(self, sink: memoryview) -> None:
        self._sink = sink
        self._packed: bytearray | None = None
        self.length = 0

    def take(self, reply: Message, length: int) -> memoryview | None:
        """The buffer for a payload of `length` bytes. Raises ValueError for more than was asked for."""
        self.length = length
        self._packed = None
        if not isinstance(reply, Blocks):
            return None
        if length > len(self._sink) or reply.size > len(self._sink):
            raise ValueError("more bytes than were asked for")
        if reply.encoding == Encoding.RAW:
            if length != reply.size:
                raise ValueError("another payload than announced")
            return self._sink
        if reply.encoding != Encoding.LZ4:
            raise ValueError(f"unknown encoding {reply.encoding}")
        self._packed = bytearray(length)
        return memoryview(self._packed)

    def decode(self, reply: Blocks) -> None:
        """Decode a packed payload into the sink; damage shows when the blocks are verified."""
        packed, self._packed = self._packed, None
        if packed is None:
            return
        try:
            plain = lz4.block.decompress(packed, uncompressed_size=reply.size)
        except lz4.block.LZ4BlockError:
            return
        self._sink[: len(plain)] = plain
