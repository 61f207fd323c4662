"""LZ4 on the wire: decided fragment by fragment from a sample, packed once for all nodes, raw wherever in doubt."""

from __future__ import annotations

import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import lz4.block
import pytest
import trio

from dadafs.checksum import block_checksums
from dadafs.wire.channel import Channel, Delivery
from dadafs.wire.frame import Kind
from dadafs.wire.messages import BLOCK_SIZE, Blocks, Done, Encoding, Version
from dadafsd import packing
from dadafsd.counters import Counters
from dadafsd.fragments import Found, Wanted
from dadafsd.origin_read import Piece
from dadafsd.packing import LEAST, Packing
from dadafsd.policy.packing import ENOUGH, Link
from dadafsd.replies import Reply, blocks_reply
from dadafsd.store.record import FragmentKey
from tests.harness.wire import channel_pair, run

SIZE = 5 * LEAST + 123
TEXT = (b"all happy families are alike; " * (SIZE // 30 + 1))[:SIZE]
NOISE = random.Random(1).randbytes(SIZE)
SLOW, FAST = 100_000_000, 5_000_000_000


class Network:
    """A channel of which only the rate is asked."""

    def __init__(self, rate: int, *, idle: bool = False) -> None:
        self._delivery = Delivery(rate, idle)

    def delivery(self) -> Delivery:
        return self._delivery


def in_loop(body: Callable[[Packing, Counters], Awaitable[None]], mode: str) -> None:
    async def main() -> None:
        counters = Counters()
        one = Packing(counters, lambda: mode)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run)
            with trio.fail_after(60):
                await body(one, counters)
            nursery.cancel_scope.cancel()

    trio.run(main)


def reply_with(data: bytes, *, ino: int = 1, known: tuple[int, ...] = (), settled: bool = True) -> Reply:
    """A read of all of a fragment that is in memory."""
    key = FragmentKey("data", Version(1, ino, len(data), 1, 1), 0, 1 << 20)
    want = Wanted(key, 0, len(data), 0, -(-len(data) // BLOCK_SIZE), prefetch=False, verify=False)
    sums = block_checksums(data)
    return blocks_reply(Found("memory", settled, sums, 0, piece=Piece(data, sums, settled)), want, known)


def unpacked(reply: Reply) -> bytes:
    message = reply.message
    assert isinstance(message, Blocks)
    payload = b"".join(reply.buffers)
    if message.encoding == Encoding.LZ4:
        payload = lz4.block.decompress(payload, uncompressed_size=message.size)
    assert len(payload) == message.size
    return payload


@pytest.mark.parametrize(
    ("mode", "network", "data", "pays"),
    [
        ("auto", Network(SLOW), TEXT, True),
        ("auto", Network(SLOW), NOISE, False),
        ("auto", Network(FAST), TEXT, False),
        ("auto", Network(SLOW, idle=True), TEXT, False),
        ("on", Network(FAST), TEXT, True),
        ("on", Network(FAST), NOISE, False),
        ("on", Network(FAST), TEXT[: LEAST - 1], False),
        ("off", Network(SLOW), TEXT, False),
    ],
)
def test_it_is_used_where_it_pays(mode: str, network: Any, data: bytes, pays: bool) -> None:
    async def body(one: Packing, _: Counters) -> None:
        link = Link()
        for _ in range(ENOUGH - 1):
            one.pays(reply_with(data), network, link)
        assert one.pays(reply_with(data), network, link) is pays

    in_loop(body, mode)


def test_a_packed_payload_is_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(one: Packing, counters: Counters) -> None:
        plain = reply_with(TEXT)
        packed = await one.pack(plain)
        assert isinstance(packed.message, Blocks)
        assert packed.message.encoding == Encoding.LZ4
        assert unpacked(packed) == TEXT
        monkeypatch.setattr(packing, "_packed", None)
        assert (await one.pack(reply_with(TEXT))).buffers == packed.buffers, "packed once for everybody"
        assert one.pays(reply_with(TEXT), Network(SLOW), Link())  # type: ignore[arg-type]
        monkeypatch.setattr(packing, "_sample", None)
        assert one.pays(reply_with(TEXT), Network(SLOW), Link())  # type: ignore[arg-type]
        assert counters.events["packed"] == 2
        assert counters.events["packed_bytes_saved"] == 2 * (SIZE - packed.size)

    in_loop(body, "on")


def test_blocks_that_the_node_knows_are_left_out_before_packing() -> None:
    async def body(one: Packing, _: Counters) -> None:
        data = b"".join(bytes([number]) * BLOCK_SIZE for number in range(5))
        sums = block_checksums(data)
        packed = await one.pack(reply_with(data, known=(0, sums[1], 0, sums[3], 0)))
        blocks = [data[i * BLOCK_SIZE : (i + 1) * BLOCK_SIZE] for i in (0, 2, 4)]
        assert unpacked(packed) == b"".join(blocks)
        assert unpacked(await one.pack(reply_with(data))) == data, "another choice of blocks has another name"

    in_loop(body, "on")


def test_what_cannot_be_packed_goes_raw() -> None:
    async def body(one: Packing, counters: Counters) -> None:
        noise = reply_with(NOISE)
        assert await one.pack(noise) is noise
        damaged = reply_with(TEXT)
        damaged.buffers[0] = memoryview(b"x" + TEXT[1:])
        assert await one.pack(damaged) is damaged, "whoever verifies it finds it, and nobody gets it a second time"
        assert unpacked(await one.pack(reply_with(TEXT))) == TEXT
        assert counters.events["packed"] == 1

    in_loop(body, "on")


def test_unsettled_bytes_have_no_name() -> None:
    async def body(one: Packing, _: Counters) -> None:
        await one.pack(reply_with(TEXT, settled=False))
        other = TEXT[::-1]
        assert unpacked(await one.pack(reply_with(other, settled=False))) == other

    in_loop(body, "on")


def test_busy_processors_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(one: Packing, _: Counters) -> None:
        assert one.pays(reply_with(TEXT), Network(FAST), Link())  # type: ignore[arg-type]
        monkeypatch.setattr(one, "_slots", 0)
        assert not one.pays(reply_with(TEXT), Network(FAST), Link())  # type: ignore[arg-type]

    in_loop(body, "on")


def test_the_kernel_says_what_the_network_takes() -> None:
    async def main() -> None:
        one, other = channel_pair()
        buffer = memoryview(bytearray(1 << 20))
        async with trio.open_nursery() as nursery:
            while (found := one.delivery()) is None:
                nursery.start_soon(one.send, Kind.REPLY, 1, Done(), bytes(1 << 20))
                await other.receive()
                await other.receive_payload(buffer)
        assert found.rate > 0
        one.close()
        assert one.delivery() is None
        other.close()

    run(main)


def test_what_is_no_network_has_no_rate() -> None:
    ends = socket.socketpair()
    for end in ends:
        assert Channel(end).delivery() is None
        end.close()


def test_fragments_that_do_not_shrink_are_told_of() -> None:
    told: list[FragmentKey] = []

    async def main() -> None:
        one = Packing(Counters(), lambda: "on", told.append)
        link, network = Link(), Network(SLOW)
        for data, shrinks in ((TEXT, True), (NOISE, False)):
            assert one.pays(reply_with(data), network, link) is shrinks  # type: ignore[arg-type]
        assert not one.pays(reply_with(NOISE, ino=2, settled=False), network, link)  # type: ignore[arg-type]

    trio.run(main)
    assert [key.version.ino for key in told] == [1]
