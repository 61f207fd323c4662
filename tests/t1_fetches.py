"""Replies received by the compiled part (`native/fetches.c`), over real sockets, against the wire's own code."""

from __future__ import annotations

import os
import random
import select
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from dadafs import data_channel
from dadafs.checksum import block_checksums
from dadafs.data_channel import HotFile
from dadafs.native import fuse_session
from dadafs.wire import frame
from dadafs.wire.frame import FROM_NODE, HEADER_SIZE, Kind
from dadafs.wire.messages import (
    BLOCK_SIZE,
    Attr,
    Blocks,
    Changed,
    Encoding,
    Failed,
    Message,
    Read,
    Version,
    all_sent,
    decode,
    encode,
)

pytestmark = pytest.mark.skipif(not data_channel.COMPILED, reason="the compiled part, or its checksums, are not there")

VERSION = Version(66305, 12345678, 512 << 20, 1764000000123456789, 1764000000987654321)
ATTR = Attr(66305, 12345678, 0o100644, 1, 0, 0, 0, 512 << 20, 8, 4096, 1, 2, 3)
Outcome = tuple[list[int] | None, bool, bool, str]


class Pair:
    """The compiled part at one end of a connection, the test at the other."""

    def __init__(self) -> None:
        assert fuse_session is not None
        self.mine, self.head = socket.socketpair()
        self.head.settimeout(20)
        self.foreign: dict[int, bytearray] = {}
        self.taken: list[tuple[int, bytes, int]] = []
        self.over: list[int] = []
        self.fetches = fuse_session.Fetches(self.mine.fileno(), self._take, self.over.append)

    def _take(self, number: int, metadata: bytes, length: int) -> bytearray | None:
        self.taken.append((number, metadata, length))
        return self.foreign.get(number)

    def fetch(self, into: bytearray, count: int | None = None, *, first: int = 0, version: Version = VERSION) -> Asked:
        """Ask for `count` blocks."""
        return Asked(self, into, -(-len(into) // BLOCK_SIZE) if count is None else count, first, version)

    def reply(self, number: int, message: Message, payload: bytes = b"", kind: Kind = Kind.REPLY) -> None:
        """Send a frame and have it received."""
        self.send(frame.pack(kind, number, encode(message), len(payload)) + payload)

    def send(self, data: bytes) -> None:
        """Send bytes, a piece at a time, and have each received at once."""
        view = memoryview(data)
        while view:
            with suppress(BlockingIOError):
                view = view[self.head.send(view, socket.MSG_DONTWAIT) :]
            self.receive()

    def receive(self) -> None:
        """Receive what is there."""
        while self.fetches.receive():
            pass

    def close(self) -> None:
        """End both ends."""
        self.fetches.close()
        self.mine.close()
        self.head.close()


class Asked:
    """One request and what came of it."""

    def __init__(self, pair: Pair, into: bytearray, count: int, first: int, version: Version) -> None:
        self.outcomes: list[Outcome] = []
        arguments = (17, data_channel.astuple(version), 5, first, count, False, into, self._done)
        self.number = int(pair.fetches.fetch(*arguments))

    def _done(self, *outcome: object) -> None:
        self.outcomes.append(outcome)  # type: ignore[arg-type]


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def blocks_of(data: bytes, **changes: object) -> Blocks:
    """What a head says of `data`."""
    sums = block_checksums(data)
    fields = {"checksums": sums, "sent": all_sent(len(sums)), "size": len(data), "tier": "ssd", **changes}
    return Blocks(**fields)  # type: ignore[arg-type]


@given(
    handle=st.integers(0, 2**64 - 1),
    dev=st.integers(0, 2**64 - 1),
    ino=st.integers(0, 2**64 - 1),
    size=st.integers(0, 2**63 - 1),
    mtime=st.integers(-(2**63), 2**63 - 1),
    ctime=st.integers(-(2**63), 2**63 - 1),
    fragment=st.integers(0, 2**43),
    first=st.integers(0, 2**16),
    count=st.integers(1, 64),
    prefetch=st.booleans(),
)
def test_requests_are_those_that_the_wire_knows(
    handle: int,
    dev: int,
    ino: int,
    size: int,
    mtime: int,
    ctime: int,
    fragment: int,
    first: int,
    count: int,
    prefetch: bool,
) -> None:
    version = Version(dev, ino, size, mtime, ctime)
    pair = Pair()
    try:
        number = pair.fetches.fetch(
            handle, data_channel.astuple(version), fragment, first, count, prefetch, bytearray(1), print
        )
        got = pair.head.recv(1000)
    finally:
        pair.close()
    header = frame.unpack(got, 0, FROM_NODE)
    metadata = got[HEADER_SIZE:]
    frame.verify(header, metadata)
    assert (header.kind, header.request_id, header.payload_length) == (Kind.REQUEST, number, 0)
    assert decode(metadata) == Read(handle, version, fragment, first, count, [], prefetch)


@pytest.mark.parametrize("length", [1, 100, BLOCK_SIZE, 3 * BLOCK_SIZE + 7, 16 * BLOCK_SIZE, 64 * BLOCK_SIZE])
def test_blocks_arrive_verified(pair: Pair, length: int) -> None:
    data, into = os.urandom(length), bytearray(length)
    asked = pair.fetch(into)
    pair.send(frame.pack(Kind.REPLY, asked.number, encode(blocks_of(data, settled=length > 1)), length))
    assert not asked.outcomes
    pair.send(data)
    assert asked.outcomes == [(block_checksums(data), True, length > 1, "ssd")]
    assert into == data
    assert pair.fetches.pending == 0


def test_replies_in_any_order_and_in_any_pieces(pair: Pair) -> None:
    choose = random.Random(3)
    for _ in range(40):
        asked = []
        for _ in range(choose.randrange(1, 6)):
            data = choose.randbytes(choose.randrange(1, 3 * BLOCK_SIZE))
            into = bytearray(len(data))
            asked.append((pair.fetch(into), into, data))
        choose.shuffle(asked)
        stream = b"".join(
            frame.pack(Kind.REPLY, each.number, encode(blocks_of(data)), len(data)) + data for each, _, data in asked
        )
        while stream:
            piece = choose.choice((1, 19, 20, 21, 100, 5000, 100_000))
            pair.send(stream[:piece])
            stream = stream[piece:]
        for each, into, data in asked:
            assert each.outcomes == [(block_checksums(data), True, True, "ssd")]
            assert into == data


def test_damage_is_told_of_with_what_was_promised(pair: Pair) -> None:
    data = os.urandom(3 * BLOCK_SIZE)
    asked = pair.fetch(bytearray(len(data)))
    pair.reply(asked.number, blocks_of(data), data[:BLOCK_SIZE] + b"x" + data[BLOCK_SIZE + 1 :])
    assert asked.outcomes == [(block_checksums(data), False, True, "ssd")]


DATA = bytes(range(256)) * 512  # two blocks


@pytest.mark.parametrize(
    ("message", "payload"),
    [
        (Changed(ATTR), b""),
        (Failed(5, "no"), b""),
        (blocks_of(DATA, encoding=Encoding.LZ4), DATA[:100]),
        (blocks_of(DATA, encoding=Encoding.LZ4), DATA),
        (blocks_of(DATA, sent=1), DATA),
        (blocks_of(DATA[:BLOCK_SIZE]), DATA[:BLOCK_SIZE]),
        (blocks_of(DATA + b"more"), DATA + b"more"),
        (blocks_of(DATA, size=5), DATA),
        (blocks_of(DATA, checksums=[1] * 65), DATA),
        (blocks_of(DATA, tier="elsewhere"), DATA),
        (blocks_of(DATA), DATA[:-1]),
        (Blocks([], 0, 0), b""),
    ],
)
def test_anything_else_is_left_to_be_asked_for_again(pair: Pair, message: Message, payload: bytes) -> None:
    into = bytearray(len(DATA))
    asked = pair.fetch(into)
    pair.reply(asked.number, message, payload)
    assert asked.outcomes == [(None, False, False, "")]
    after = pair.fetch(into)
    pair.reply(after.number, blocks_of(DATA), DATA)  # the channel goes on
    assert after.outcomes[0][1]
    assert into == DATA


def test_requests_of_python_are_answered_beside(pair: Pair) -> None:
    data = os.urandom(100_000)
    pair.foreign[7] = bytearray(len(data) + 5)
    asked = pair.fetch(bytearray(len(DATA)))
    message = Failed(5, "with a payload")
    pair.reply(7, message, data)
    pair.reply(8, message, data)  # nobody wants its payload
    pair.reply(asked.number, blocks_of(DATA), DATA)
    assert pair.taken == [(7, encode(message), len(data)), (8, encode(message), len(data))]
    assert pair.over == [7, 8]
    assert pair.foreign[7][: len(data)] == data
    assert asked.outcomes[0][1]


def test_a_request_given_up_is_not_written_to(pair: Pair) -> None:
    into = bytearray(len(DATA))
    asked = pair.fetch(into)
    stream = frame.pack(Kind.REPLY, asked.number, encode(blocks_of(DATA)), len(DATA)) + DATA
    pair.send(stream[: HEADER_SIZE + 200])
    assert pair.fetches.give_up(asked.number)
    assert not pair.fetches.give_up(asked.number)
    into[:] = bytes(len(DATA))
    into += b"may be resized: nobody looks at it any more"
    pair.send(stream[HEADER_SIZE + 200 :])
    assert into.startswith(bytes(len(DATA)))
    assert not asked.outcomes
    assert pair.fetches.pending == 0


def test_a_reply_of_pythons_may_be_given_up_in_the_middle(pair: Pair) -> None:
    pair.foreign[7] = bytearray(len(DATA))
    stream = frame.pack(Kind.REPLY, 7, encode(Failed(5, "no")), len(DATA)) + DATA
    pair.send(stream[:5000])
    pair.fetches.divert(7)
    pair.foreign[7].clear()
    pair.send(stream[5000:])
    assert pair.over == [7]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n....", "does not send"),
        (frame.pack(Kind.PUSH, 0, b"\x91\x2b", 0), "does not send"),
        (frame.pack(Kind.REPLY, 2**31 + 5, encode(Failed(5, "no")), 0), "no request"),
        (frame._HEADER.pack(b"dF", Kind.REPLY, 0, 7, 2**31, 0, 0), "oversized"),
        (frame._HEADER.pack(b"dF", Kind.REPLY, 0, 7, 10, 2**31, 0), "oversized"),
        (frame.pack(Kind.REPLY, 7, b"\x91\x2b", 0)[:-1] + b"\x2c", "damaged"),
    ],
)
def test_what_breaks_the_protocol_ends_the_channel(pair: Pair, data: bytes, why: str) -> None:
    asked = pair.fetch(bytearray(10))
    with pytest.raises(ValueError, match=why):
        pair.send(data)
    assert not pair.fetch(bytearray(10)).number
    pair.fetches.close()
    assert asked.outcomes == [(None, False, False, "")]


def test_a_lost_connection_ends_the_channel(pair: Pair) -> None:
    asked = pair.fetch(bytearray(10))
    pair.head.close()
    with pytest.raises(ConnectionError, match=r"closed the connection|reset"):
        pair.receive()
    pair.fetches.close()
    assert asked.outcomes == [(None, False, False, "")]


def test_a_callback_may_close_and_begin(pair: Pair) -> None:
    assert fuse_session is not None
    later: list[Asked] = []

    def done(*_: object) -> None:
        later.append(pair.fetch(bytearray(len(DATA))))
        if len(later) == 2:
            pair.fetches.close()

    for _ in range(2):
        number = pair.fetches.fetch(1, data_channel.astuple(VERSION), 0, 0, 2, False, bytearray(len(DATA)), done)
        with suppress(ConnectionError):
            pair.reply(number, blocks_of(DATA), DATA)
    assert [each.outcomes for each in later] == [[(None, False, False, "")], [(None, False, False, "")]]


def test_nothing_is_sent_while_python_sends(pair: Pair) -> None:
    pair.fetches.hold(True)
    assert not pair.fetch(bytearray(10)).number
    pair.fetches.hold(False)
    assert pair.fetch(bytearray(10)).number


def test_more_requests_than_there_is_room_for_are_refused(pair: Pair) -> None:
    pair.head.setblocking(False)
    asked = []
    while True:
        one = pair.fetch(bytearray(10))
        if not one.number:
            break
        asked.append(one)
        with suppress(BlockingIOError):
            pair.head.recv(1 << 20)
    assert 16 <= len(asked) <= 1000
    pair.fetches.close()
    assert all(one.outcomes == [(None, False, False, "")] for one in asked)


def test_whatever_a_head_sends_ends_nothing_but_the_channel() -> None:
    choose = random.Random(11)
    good = frame.pack(Kind.REPLY, 2**31 + 256, encode(blocks_of(DATA)), len(DATA))
    for _ in range(1500):
        pair = Pair()
        pair.foreign[7] = bytearray(choose.randrange(5000))
        asked = pair.fetch(bytearray(len(DATA)))
        metadata = bytearray(encode(choose.choice([blocks_of(DATA), Changed(ATTR), Failed(1, "x")])))
        for _ in range(choose.randrange(3)):
            metadata[choose.randrange(len(metadata))] = choose.randrange(256)
        number = choose.choice((asked.number, asked.number, 7, choose.randrange(2**32)))
        metadata = metadata[: choose.randrange(len(metadata) + 1)]
        stream = frame.pack(Kind.REPLY, number, bytes(metadata), choose.choice((0, 5, len(DATA))))
        if choose.random() < 0.3:
            broken = bytearray(choose.choice((stream, good)))
            broken[choose.randrange(len(broken))] ^= 1 << choose.randrange(8)
            stream = bytes(broken)
        with suppress(ValueError, ConnectionError):
            pair.send(stream + DATA)
            pair.send(choose.randbytes(500))
        pair.close()
        assert len(asked.outcomes) == 1


def test_the_checksums_are_those_of_the_package() -> None:
    path = xxhash._xxhash.__file__  # type: ignore[attr-defined]
    assert fuse_session is not None
    assert fuse_session.use_hash(path)
    pair = Pair()
    data = os.urandom(BLOCK_SIZE + 1)
    asked = pair.fetch(bytearray(len(data)))
    sums = [xxhash.xxh3_64_intdigest(data[:BLOCK_SIZE]), xxhash.xxh3_64_intdigest(data[BLOCK_SIZE:])]
    pair.reply(asked.number, blocks_of(data, checksums=sums), data)
    assert asked.outcomes == [(sums, True, True, "ssd")]
    pair.close()


def test_a_hot_file_bounds_what_it_is_told(pair: Pair) -> None:
    assert fuse_session is not None
    with pytest.raises(ValueError, match="fragments of"):
        fuse_session.HotFile(pair.fetches, 1, data_channel.astuple(VERSION), 1000, 64)
    with pytest.raises(TypeError):
        fuse_session.HotFile(object(), 1, data_channel.astuple(VERSION), 1 << 20, 64)
    hot: HotFile = fuse_session.HotFile(pair.fetches, 1, data_channel.astuple(VERSION), 1 << 20, 64)
    hot.hold(2**63, 5, 5, True)
    hot.hold(511, 0, 2**31, True)
    hot.hold(511, 0, 2**31, False)
    assert hot.usable
    pair.fetches.close()
    assert not hot.usable


def test_a_descriptor_tells_that_there_is_something_to_receive(pair: Pair) -> None:
    def told() -> bool:
        return bool(select.select([pair.fetches.gate], [], [], 0)[0])

    assert not told()
    data = os.urandom(BLOCK_SIZE)
    asked = pair.fetch(bytearray(len(data)))
    pair.head.sendall(frame.pack(Kind.REPLY, asked.number, encode(blocks_of(data)), len(data)))
    assert told()
    pair.receive()
    assert not told()
    pair.head.sendall(data)
    assert told()
    pair.receive()
    assert asked.outcomes
    assert not told()
    pair.head.close()
    assert told()
    pair.fetches.close()
    assert pair.fetches.gate == -1
