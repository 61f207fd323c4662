"""LZ4 on the wire, decided fragment by fragment: a sample in the loop, the work in a thread, raw where in doubt."""

from __future__ import annotations

import os
from collections.abc import Callable

import lz4.block
import msgspec
import trio

from dadafs.checksum import block_checksums
from dadafs.wire.channel import Channel
from dadafs.wire.messages import Blocks, Encoding
from dadafsd.counters import Counters
from dadafsd.origin_pool import OriginPool
from dadafsd.policy.packing import WORTH_IT, Link, Speed, most
from dadafsd.policy.recent import Recent
from dadafsd.replies import Reply
from dadafsd.store.record import FragmentKey

#: Smaller payloads go raw.
LEAST = 64 * 1024
#: Bytes from the middle of a payload that stand for it: 2 us where they do not shrink, 15 where they do.
SAMPLE = 16 * 1024
#: Packed fragments kept in memory, in bytes: nodes read the same ones at about the same time.
KEPT = 16 * 1024 * 1024
#: A fragment that takes longer to pack than this, in seconds, goes raw.
DEADLINE = 1.0


class Packing:
    """Made in a running loop; `mode` is `auto`, `off` or `on`, asked each time.

    `dense` is told of fragments that do not shrink enough for any network.
    """

    def __init__(
        self, counters: Counters, mode: Callable[[], str], dense: Callable[[FragmentKey], None] = lambda _: None
    ) -> None:
        self._counters = counters
        self._mode = mode
        self._dense = dense
        self._slots = max(1, (os.cpu_count() or 1) // 2)
        self._pool = OriginPool("packing", self._slots, DEADLINE)
        self._speed = Speed()
        self._kept: Recent[bytes] = Recent(KEPT)

    async def run(self) -> None:
        """The task of this object; never returns."""
        await self._pool.enforce_deadlines()

    def pays(self, reply: Reply, channel: Channel, link: Link) -> bool:
        """Whether to pack this reply before it is sent on `channel`; for the loop, so it never waits."""
        if type(reply.message) is not Blocks or reply.message.size < LEAST:
            return False
        enough = self._enough(reply.message.size, channel, link)
        if not enough or self._pool.busy >= self._slots:  # the processors are the narrow place
            return False
        if reply.packed_as in self._kept:
            return True
        sample = _sample(reply)
        if not sample:
            return False
        part = len(lz4.block.compress(sample, store_size=False)) / len(sample)
        if part > WORTH_IT and reply.packed_as is not None:
            self._dense(reply.packed_as[0])
        return part <= enough

    def never_pays(self, size: int, channel: Channel, link: Link) -> bool:
        """Whether payloads of `size` bytes together go raw on `channel` for now, however much they would shrink."""
        return not self._enough(size, channel, link)

    def _enough(self, size: int, channel: Channel, link: Link) -> float:
        """The part of its size to which a payload must shrink to be packed; 0: none is."""
        mode = self._mode()
        if mode == "off":
            return 0.0
        if mode == "auto" and link.due(size):
            delivery = channel.delivery()
            if delivery is not None:
                link.measured(delivery.rate, idle=delivery.idle)
        return most(link.rate, self._speed.at(trio.current_time()), always=mode == "on")

    async def pack(self, reply: Reply) -> Reply:
        """The same reply with its payload as one LZ4 block; as it is where that failed or made nothing smaller."""
        assert isinstance(reply.message, Blocks)
        packed = self._kept.get(reply.packed_as, trio.current_time())
        if packed is None:
            begun = trio.current_time()
            try:
                packed = await self._pool.run(_packed, reply)
            except OSError:
                return reply
            finally:
                now = trio.current_time()
                self._speed.packed(reply.message.size, now - begun, now)
            if len(packed) >= reply.message.size:
                return reply
            if reply.packed_as is not None:
                self._kept.put(reply.packed_as, packed, len(packed))
        self._counters.events["packed"] += 1
        self._counters.events["packed_bytes_saved"] += reply.message.size - len(packed)
        return Reply(msgspec.structs.replace(reply.message, encoding=Encoding.LZ4), [memoryview(packed)])


def _sample(reply: Reply) -> bytes | bytearray:
    """Some bytes from the middle of the payload; none where they are not in memory."""
    if reply.buffers:
        buffer = max(reply.buffers, key=len)
        start = max(0, (len(buffer) - SAMPLE) // 2)
        return bytes(buffer[start : start + SAMPLE])
    part = max(reply.parts, key=lambda part: part.length, default=None)
    if part is None:
        return b""
    found = bytearray(min(SAMPLE, part.length))
    try:
        got = part.record.read_resident(found, part.offset + (part.length - len(found)) // 2)
    except OSError:
        return b""
    return found if got == len(found) else b""


def _packed(reply: Reply) -> bytes:
    """The payload as one LZ4 block; blocking, for a thread. Raises `OSError`."""
    blocks = reply.message
    assert isinstance(blocks, Blocks)
    pieces: list[bytes | memoryview] = [*reply.buffers]
    for part in reply.parts:
        found = os.pread(part.record.fd, part.length, part.offset)
        if len(found) != part.length:
            raise OSError("the record is too short")  # whoever sends it finds out in the same way
        pieces.append(found)
    data: bytes | memoryview = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if block_checksums(data) != [sums for i, sums in enumerate(blocks.checksums) if blocks.sent >> i & 1]:
        raise OSError("damaged")  # goes raw, and the node says so; damage must not be kept
    packed: bytes = lz4.block.compress(data, store_size=False)
    return packed
