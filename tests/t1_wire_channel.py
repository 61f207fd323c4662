"""Channels over real sockets: whole frames whatever the kernel does with them, and a clear end otherwise."""

from __future__ import annotations

import os
import socket
import struct
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from dadafs.wire import frame
from dadafs.wire.channel import Channel, ChannelClosed, PayloadVanished
from dadafs.wire.frame import BEFORE_AUTHENTICATION, FROM_HEAD, FROM_NODE, FrameError, Kind
from dadafs.wire.messages import Attr, Blocks, Done, Entry, Hello, Item, Listing, Stat, encode
from tests.harness.wire import ATTR, channel_pair, in_order, run, tcp_pair, until

MIB = 2**20
DONE = Done()


async def take(channel: Channel) -> tuple[frame.Kind, int, object, bytes]:
    """The next frame, with its payload."""
    got = await channel.receive()
    payload = bytearray(got.payload_length)
    await channel.receive_payload(memoryview(payload))
    return got.kind, got.request_id, got.message, bytes(payload)


@pytest.mark.parametrize("size", [0, 1, 100, 16 * 1024, 70_000, MIB, 16 * MIB])
def test_frames_arrive_as_they_were_sent(size: int) -> None:
    payload = os.urandom(size)

    async def test() -> None:
        one, other = channel_pair()
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(one.send, Kind.REPLY, number, Entry(ATTR), payload)
            got = [await take(other) for _ in range(3)]
        assert sorted(number for _, number, _, _ in got) == [0, 1, 2]
        assert all(part == (Kind.REPLY, part[1], Entry(ATTR), payload) for part in got)
        assert one.bytes_sent == other.bytes_received > 3 * size
        one.close()
        other.close()

    run(test)


def test_frames_leave_in_the_order_in_which_sending_was_begun() -> None:
    """Also where the channel owes the others a turn: what is decided first is said first."""

    async def test() -> None:
        one, other = channel_pair()
        begun = trio.Event()

        async def first() -> None:
            begun.set()
            await one.send(Kind.REPLY, 1, DONE)

        one._credit = -1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await begun.wait()
            await one.send(Kind.PUSH, 2, DONE)
            assert [(await take(other))[1] for _ in range(2)] == [1, 2]
        one.close()
        other.close()

    run(test)


def test_a_payload_in_pieces_is_one_payload() -> None:
    few = [os.urandom(size) for size in (100_000, 0, 1, 300_000)]
    many = [os.urandom(10) for _ in range(5000)]  # more than the kernel takes in one call

    async def test(pieces: list[bytes]) -> None:
        one, other = channel_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.send, Kind.REPLY, 1, DONE, [memoryview(piece) for piece in pieces])
            assert (await take(other))[3] == b"".join(pieces)
        one.close()
        other.close()

    run(test, few)
    run(test, many)


def test_a_file_is_sent_in_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel: no byte of it passes through this process."""
    data = os.urandom(5 * MIB)
    (tmp_path / "file").write_bytes(data)
    sendfile, by_kernel = os.sendfile, []

    def counting(out: int, file: int, offset: int, count: int) -> int:
        by_kernel.append(sendfile(out, file, offset, count))
        return by_kernel[-1]

    monkeypatch.setattr(os, "sendfile", counting)

    async def test() -> None:
        one, other = channel_pair()
        with open(tmp_path / "file", "rb") as file:
            segments = [(3 * MIB, 2 * MIB), (0, 1), (65536, 65536), (5 * MIB - 1, 1)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    in_order,
                    partial(one.send_file, Kind.REPLY, 9, Entry(ATTR), file.fileno(), segments),
                    partial(one.send_file, Kind.REPLY, 10, DONE, file.fileno(), []),
                )
                kind, number, message, payload = await take(other)
                assert (kind, number, message) == (Kind.REPLY, 9, Entry(ATTR))
                assert payload == b"".join(data[offset : offset + length] for offset, length in segments)
                assert sum(by_kernel) == len(payload)
                assert await take(other) == (Kind.REPLY, 10, DONE, b"")
        one.close()
        other.close()

    run(test)


def test_a_file_shorter_than_promised_ends_the_connection(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"short")

    async def test() -> None:
        one, other = channel_pair()
        with open(tmp_path / "file", "rb") as file, pytest.raises(PayloadVanished, match="shorter than promised"):
            await one.send_file(Kind.REPLY, 1, DONE, file.fileno(), [(0, 100)])
        with pytest.raises(ChannelClosed, match="closed the connection"):
            await take(other)
        with pytest.raises(ChannelClosed, match="shorter than promised"):
            await one.send(Kind.REPLY, 2, DONE)

    run(test)


def test_a_file_that_cannot_be_read_is_told_from_a_lost_connection(tmp_path: Path) -> None:
    async def test() -> None:
        one, other = channel_pair()
        fd = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(PayloadVanished, match="could not be read"):
            await one.send_file(Kind.REPLY, 1, DONE, fd, [(0, 100)])
        os.close(fd)
        other.close()
        one, other = channel_pair()
        other.close()
        (tmp_path / "file").write_bytes(bytes(MIB))
        with open(tmp_path / "file", "rb") as file, pytest.raises(ChannelClosed, match="connection was lost") as caught:
            while True:
                await one.send_file(Kind.REPLY, 1, DONE, file.fileno(), [(0, MIB)])
        assert not isinstance(caught.value, PayloadVanished)

    run(test)


def test_delivery_byte_by_byte() -> None:
    async def test() -> None:
        raw, sock = tcp_pair()
        other = Channel(sock, limits=FROM_HEAD)
        stream = frame.pack(Kind.REPLY, 5, encode(Entry(ATTR)), 3) + b"abc" + frame.pack(Kind.PUSH, 0, encode(DONE), 0)

        async def drip() -> None:
            for position in range(len(stream)):
                raw.send(stream[position : position + 1])
                await until(lambda wanted=position: other.bytes_received > wanted)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            assert await take(other) == (Kind.REPLY, 5, Entry(ATTR), b"abc")
            assert await take(other) == (Kind.PUSH, 0, DONE, b"")
        raw.close()
        other.close()

    run(test)


def test_many_small_frames_in_one_read() -> None:
    async def test() -> None:
        raw, sock = tcp_pair()
        other = Channel(sock, limits=FROM_HEAD)
        raw.sendall(b"".join(frame.pack(Kind.REPLY, n, encode(Stat(b"a" * n)), 2) + b"xy" for n in range(300)))
        for n in range(300):
            assert await take(other) == (Kind.REPLY, n, Stat(b"a" * n), b"xy")
        raw.close()
        other.close()

    run(test)


def test_metadata_larger_than_the_buffer() -> None:
    items = [Item(b"name %d" % number, ATTR) for number in range(20_000)]
    listing = Listing(ATTR, items, 1, False)

    async def test() -> None:
        one, other = channel_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                in_order, partial(one.send, Kind.REPLY, 1, listing), partial(one.send, Kind.REPLY, 2, DONE)
            )
            assert await take(other) == (Kind.REPLY, 1, listing, b"")
            assert await take(other) == (Kind.REPLY, 2, DONE, b"")
        assert len(other._buffer) <= 64 * 1024  # an extra large buffer is given back
        one.close()
        other.close()

    run(test)


def test_a_payload_can_be_skipped_and_must_be_taken() -> None:
    async def test() -> None:
        one, other = channel_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.send, Kind.REPLY, 1, DONE, bytes(MIB))
            assert (await other.receive()).payload_length == MIB
            with pytest.raises(RuntimeError):
                await other.receive()
            with pytest.raises(ValueError, match="a buffer of 10 bytes"):
                await other.receive_payload(memoryview(bytearray(10)))
            await other.skip_payload()
            nursery.start_soon(one.send, Kind.REPLY, 2, DONE, b"xyz")
            assert await take(other) == (Kind.REPLY, 2, DONE, b"xyz")
        one.close()
        other.close()

    run(test)


def test_a_stream_of_small_frames_lets_other_tasks_run() -> None:
    async def test() -> None:
        raw, sock = tcp_pair()
        other = Channel(sock, limits=FROM_NODE)
        raw.sendall(frame.pack(Kind.REQUEST, 1, encode(Stat(b"a")), 0) * 2000)
        turns = 0

        async def ticker() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ticker)
            for _ in range(2000):
                await other.receive()
            nursery.cancel_scope.cancel()
        assert turns >= 5
        raw.close()
        other.close()

    run(test)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_frames_survive_any_segmentation(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.sampled_from([0, 1, 100, 20_000, 100_000]), min_size=1, max_size=5))
    sent = [
        (number, Stat(b"p" * data.draw(st.integers(0, 9000))), bytes([number]) * size)
        for number, size in enumerate(sizes)
    ]
    stream = b"".join(frame.pack(Kind.REPLY, n, encode(m), len(p)) + p for n, m, p in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    async def test() -> None:
        raw, sock = tcp_pair()
        other = Channel(sock, limits=FROM_HEAD)
        writer = trio.SocketStream(trio.socket.from_stdlib_socket(raw))

        async def write() -> None:
            for piece in pieces:
                await writer.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()

        async with trio.open_nursery() as nursery:
            raw.setblocking(False)
            nursery.start_soon(write)
            for number, message, payload in sent:
                assert await take(other) == (Kind.REPLY, number, message, payload)
        await writer.aclose()
        other.close()

    run(test)


# --- ends ---------------------------------------------------------------------------------------------------------


def test_the_end_between_and_inside_frames() -> None:
    whole = frame.pack(Kind.REPLY, 1, encode(DONE), 10) + bytes(10)

    async def test() -> None:
        for length in range(len(whole)):
            raw, sock = tcp_pair()
            other = Channel(sock, limits=FROM_HEAD)
            raw.sendall(whole[:length])
            raw.close()
            with pytest.raises(ChannelClosed, match="closed the connection"):
                await take(other)
            with pytest.raises(ChannelClosed, match="closed the connection"):
                await other.receive()
            with pytest.raises(ChannelClosed, match="closed the connection"):
                await other.send(Kind.REPLY, 1, DONE)

    run(test)


def reset(sock: socket.socket) -> None:
    """Close so that the other side gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_a_reset_in_the_middle_of_a_payload() -> None:
    async def test() -> None:
        raw, sock = tcp_pair()
        other = Channel(sock, limits=FROM_HEAD)
        raw.sendall(frame.pack(Kind.REPLY, 1, encode(DONE), MIB) + bytes(1000))
        got = await other.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_closed, other.receive_payload, memoryview(bytearray(got.payload_length)))
            await until(lambda: other.bytes_received > 1000)
            reset(raw)
        assert other.closed is not None
        assert "reset" in other.closed

    run(test)


async def expect_closed(function, *args) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ChannelClosed):
        await function(*args)


def test_closing_wakes_whoever_waits() -> None:
    async def test() -> None:
        one, other = channel_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_closed, one.receive)
            nursery.start_soon(expect_closed, one.send, Kind.REPLY, 1, DONE, bytes(16 * MIB))
            nursery.start_soon(expect_closed, one.send, Kind.REPLY, 2, DONE, bytes(16 * MIB))
            await trio.testing.wait_all_tasks_blocked()
            one.close("enough")
            one.close("again")
        assert one.closed == "enough"
        other.close()

    run(test)


def test_a_send_cancelled_in_the_middle_of_a_frame_ends_the_connection() -> None:
    async def test() -> None:
        one, other = channel_pair()
        with trio.move_on_after(0) as scope:
            scope.deadline = float("inf")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.send, Kind.REPLY, 1, DONE, bytes(16 * MIB))
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        with pytest.raises(ChannelClosed, match="middle of a frame"):
            await one.send(Kind.REPLY, 2, DONE)
        with pytest.raises(ChannelClosed):
            await take(other)

    run(test)


def test_a_send_cancelled_before_its_frame_began_does_no_harm() -> None:
    async def test() -> None:
        one, other = channel_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.send, Kind.REPLY, 1, DONE, bytes(16 * MIB))
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as waiting:
                waiting.start_soon(one.send, Kind.REPLY, 2, DONE)
                await trio.testing.wait_all_tasks_blocked()
                waiting.cancel_scope.cancel()
            nursery.start_soon(one.send, Kind.REPLY, 3, DONE)
            assert (await take(other))[1] == 1
            assert (await take(other))[1] == 3
        one.close()
        other.close()

    run(test)


def test_a_cancelled_receive_can_be_repeated() -> None:
    async def test() -> None:
        raw, sock = tcp_pair()
        other = Channel(sock, limits=FROM_HEAD)
        stream = frame.pack(Kind.REPLY, 1, encode(Entry(ATTR)), 0)
        for position in range(len(stream)):
            raw.sendall(stream[position : position + 1])
            if position < len(stream) - 1:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(other.receive)
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.cancel_scope.cancel()
        assert (await take(other))[2] == Entry(ATTR)
        raw.close()
        other.close()

    run(test)


def test_a_receive_cancelled_in_a_payload_ends_the_connection() -> None:
    async def test() -> None:
        raw, sock = tcp_pair()
        other = Channel(sock, limits=FROM_HEAD)
        raw.sendall(frame.pack(Kind.REPLY, 1, encode(DONE), 100) + bytes(50))
        await other.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.receive_payload, memoryview(bytearray(100)))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with pytest.raises(ChannelClosed, match="middle of a payload"):
            await other.receive()
        raw.close()

    run(test)


def test_a_reader_that_never_drains_is_cut_off() -> None:
    """The deadline is trio's, so the mock clock brings it about at once."""

    async def test() -> None:
        one, other = channel_pair(send_timeout=60)
        with pytest.raises(ChannelClosed, match="took no data for 60 s"):
            while True:
                await one.send(Kind.REPLY, 1, DONE, bytes(MIB))
        other.close()

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0.2))


def test_a_reader_that_never_drains_a_file_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(16 * MIB))

    async def test() -> None:
        one, other = channel_pair(send_timeout=60)
        with open(tmp_path / "file", "rb") as file, pytest.raises(ChannelClosed, match="took no data for 60 s"):
            while True:
                await one.send_file(Kind.REPLY, 1, DONE, file.fileno(), [(0, 16 * MIB)])
        other.close()

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0.2))


# --- the peer breaks the protocol ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "limits", "says"),
    [
        (b"GET / HTTP/1.1\r\nHost: head\r\n\r\n", BEFORE_AUTHENTICATION, "not a dadafs peer"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", BEFORE_AUTHENTICATION, "not a dadafs peer"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20), BEFORE_AUTHENTICATION, "not a dadafs peer"),
        (frame.pack(Kind.HANDSHAKE, 0, bytes(4097), 0), BEFORE_AUTHENTICATION, "oversized"),
        (frame.pack(Kind.HANDSHAKE, 0, encode(DONE), 1), BEFORE_AUTHENTICATION, "oversized"),
        (frame.pack(Kind.HANDSHAKE, 0, encode(Stat(b"")), 0), BEFORE_AUTHENTICATION, "not a message"),
        (frame.pack(Kind.REQUEST, 1, encode(Stat(b"")), 1), FROM_NODE, "oversized"),
        (frame.pack(Kind.REPLY, 1, encode(DONE), 16 * MIB + 1), FROM_HEAD, "oversized"),
        (frame.pack(Kind.REPLY, 1, b"\xc1 garbage", 0), FROM_HEAD, "not a message"),
        (frame.pack(Kind.REPLY, 1, b"", 0), FROM_HEAD, "not a message"),
        (frame.pack(Kind.REPLY, 1, encode(DONE) + b"\0", 0), FROM_HEAD, "not a message"),
        (frame.pack(Kind.REPLY, 1, encode(DONE), 0)[:-1] + b"\xff", FROM_HEAD, "check does not match"),
    ],
    ids=["http", "ssh", "tls", "metadata", "payload", "early", "request", "reply", "garbage", "empty", "tail", "check"],
)
def test_whatever_is_no_frame_closes_with_a_reason(stream: bytes, limits: frame.Limits, says: str) -> None:
    async def test() -> None:
        raw, sock = tcp_pair()
        channel = Channel(sock, limits=limits)
        raw.sendall(stream)
        with pytest.raises(FrameError, match=says):
            await channel.receive()
        assert channel.closed is not None
        assert says in channel.closed
        with pytest.raises(ChannelClosed, match=says):
            await channel.receive()
        raw.close()

    run(test)


def test_the_handshake_keeps_raw_bytes_and_its_end_keeps_what_was_buffered() -> None:
    hello = Hello(1, 1, "control", "node", b"n" * 32, ["psk"])

    async def test() -> None:
        raw, sock = tcp_pair()
        channel = Channel(sock)
        raw.sendall(
            frame.pack(Kind.HANDSHAKE, 0, encode(hello), 0) + frame.pack(Kind.REQUEST, 7, encode(Stat(b"a")), 0)
        )
        got = await channel.receive()
        assert (got.message, got.raw) == (hello, encode(hello))
        channel.authenticated(FROM_NODE)
        got = await channel.receive()
        assert (got.message, got.raw) == (Stat(b"a"), b"")
        raw.close()
        channel.close()

    run(test)


def test_a_finished_channel_lets_the_peer_read_what_was_sent() -> None:
    async def test() -> None:
        one, other = channel_pair()
        await other.send(Kind.REQUEST, 1, Stat(b"unread"))  # unread data would turn a plain close into a reset
        await one.send(Kind.REPLY, 1, Entry(Attr(*range(13))))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.finish)
            assert (await take(other))[2] == Entry(Attr(*range(13)))
            with pytest.raises(ChannelClosed, match="closed the connection"):
                await other.receive()
        assert one.closed

    run(test)


def test_a_unix_socket_does_as_well() -> None:
    async def test() -> None:
        left, right = socket.socketpair()
        one, other = Channel(left, limits=FROM_HEAD), Channel(right, limits=FROM_HEAD)
        await one.send(Kind.REPLY, 1, Blocks([1], 1, 3), b"abc")
        assert await take(other) == (Kind.REPLY, 1, Blocks([1], 1, 3), b"abc")
        one.close()
        other.close()

    run(test)
