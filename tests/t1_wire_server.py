"""The head's door: strangers, floods, garbage and slowness, while nodes come in as ever."""

from __future__ import annotations

import logging
import socket
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dadafs.wire import frame
from dadafs.wire.auth import ServerAuth
from dadafs.wire.channel import Channel
from dadafs.wire.frame import FROM_HEAD, Kind
from dadafs.wire.messages import Attach, Challenge, Confirm, Hello, Proof, Refused, Stat, encode
from dadafs.wire.server import Doorkeeper, TurnedAway, authenticate, is_loopback, peer_address
from tests.harness.wire import RING, SmallHead, attach, run, small_head, tcp_pair, until

HELLO = Hello(1, 1, "control", "node", b"n" * 32, ["psk"])


def stranger(head: SmallHead, source: str = "127.0.0.1") -> socket.socket:
    """A raw connection to `head`, from the address `source`."""
    return socket.create_connection(head.address, source_address=(source, 0))


async def turned_away(head: SmallHead, said: bytes) -> str:
    """What the head notes when somebody says `said`."""
    sock = stranger(head)
    sock.sendall(said)
    await until(lambda: head.turned_away)
    sock.close()
    return head.turned_away.pop()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n" + bytes(20), "not a dadafs peer"),
        (frame.pack(Kind.REQUEST, 1, encode(Stat(b"")), 0), "not a message"),
        (frame.pack(Kind.REQUEST, 1, encode(HELLO), 0), "did not begin with Hello"),
        (frame.pack(Kind.HANDSHAKE, 0, encode(Attach("data", 0, 1, 1)), 0), "did not begin with Hello"),
        (frame.pack(Kind.HANDSHAKE, 0, encode(Proof("", b"")), 0), "did not begin with Hello"),
        (frame.pack(Kind.HANDSHAKE, 0, encode(HELLO), 0) * 2, "did not answer with Proof"),
        (
            frame.pack(Kind.HANDSHAKE, 0, encode(HELLO), 0)
            + frame.pack(Kind.HANDSHAKE, 0, encode(Attach("data", 0, 1, 1)), 0),
            "did not answer with Proof",
        ),
        (frame.pack(Kind.HANDSHAKE, 0, bytes(5000), 0), "oversized"),
        (frame.pack(Kind.HANDSHAKE, 0, encode(HELLO), 2**20), "oversized"),
    ],
    ids=["http", "request", "wrong kind", "attach", "proof", "hello twice", "no proof", "metadata", "payload"],
)
def test_nothing_is_served_before_authentication(said: bytes, reason: str) -> None:
    async def test() -> None:
        async with small_head() as head:
            assert reason in await turned_away(head, said)
            assert head.peers == []
            assert head.door.strangers == 0

    run(test)


def test_a_replayed_connection_does_not_open() -> None:
    """What a node said is recorded on the way, and said again word for word."""

    async def test() -> None:
        async with small_head() as head:
            recorded = await record_a_node(head)
            assert len(head.peers) == 1
            assert "not one that this head knows" in await turned_away(head, recorded)
            assert len(head.peers) == 1

    run(test)


async def record_a_node(head: SmallHead) -> bytes:
    """Everything that a node sends until it is welcome."""
    recorded = bytearray()

    async def pump(source: trio.SocketStream, sink: trio.SocketStream, copy: bytearray | None) -> None:
        async for data in source:
            if copy is not None:
                copy += data
            await sink.send_all(data)

    async def tap(stream: trio.SocketStream) -> None:
        async with stream, await trio.open_tcp_stream(*head.address) as onward, trio.open_nursery() as nursery:
            nursery.start_soon(pump, stream, onward, recorded)
            nursery.start_soon(pump, onward, stream, None)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, tap, 0, host="127.0.0.1"))
        tapped = SmallHead(head.auth)
        tapped.address = listener.socket.getsockname()
        (await attach(tapped)).close()
        nursery.cancel_scope.cancel()
    return bytes(recorded)


def test_refused_nodes_can_read_why() -> None:
    """Also when they have said more already, which would turn a plain close into a reset."""

    async def test() -> None:
        async with small_head() as head:
            sock = stranger(head)
            improper = Hello(1, 1, "admin", "node", b"n" * 32, ["psk"])
            sock.sendall(frame.pack(Kind.HANDSHAKE, 0, encode(improper), 0) + b"more" * 1000)
            channel = Channel(sock, limits=FROM_HEAD)
            assert (await channel.receive()).message == Refused("not-allowed", "this is no proper greeting")
            channel.close()

    run(test)


@pytest.mark.parametrize(
    "said", [b"", b"d", frame.pack(Kind.HANDSHAKE, 0, encode(HELLO), 0)], ids=["nothing", "d", "hello"]
)
def test_a_stranger_who_falls_silent_is_turned_away_in_time(said: bytes) -> None:
    async def test() -> None:
        one, other = tcp_pair()
        one.sendall(said)
        with pytest.raises(TurnedAway, match="not authenticated within 10 s"):
            await authenticate(other, ServerAuth(RING), door=Doorkeeper())
        assert other.fileno() == -1
        one.close()

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0.2))


def test_a_stranger_who_drips_is_turned_away_in_time() -> None:
    """The deadline is for the whole handshake: it does not begin anew with each byte."""

    async def test() -> None:
        one, other = tcp_pair()

        async def drip() -> None:
            for byte in frame.pack(Kind.HANDSHAKE, 0, encode(HELLO), 0):
                one.send(bytes([byte]))
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            with pytest.raises(TurnedAway, match="not authenticated within 10 s"):
                await authenticate(other, ServerAuth(RING), door=Doorkeeper())
            assert trio.current_time() == pytest.approx(10, abs=0.5)
            nursery.cancel_scope.cancel()
        one.close()

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_flood_from_one_address_leaves_the_door_open_for_others() -> None:
    async def test() -> None:
        async with small_head() as head:
            head.door.per_address = 20
            flood = [stranger(head, "127.0.0.2") for _ in range(100)]
            await until(lambda: head.door.turned_away >= 80)
            assert head.door.strangers == 20
            channel = await attach(head)
            channel.close()
            for sock in flood:
                sock.close()
            await until(lambda: head.door.strangers == 0)

    run(test)


def test_a_flood_from_many_addresses_is_bounded() -> None:
    async def test() -> None:
        async with small_head() as head:
            head.door.max_strangers = 30
            flood = [stranger(head, f"127.0.1.{number}") for number in range(60)]
            await until(lambda: head.door.turned_away == 30)
            assert head.door.strangers == 30
            assert all("too many connections" in line for line in head.turned_away)
            for sock in flood:
                sock.close()
            await until(lambda: head.door.strangers == 0)
            (await attach(head)).close()

    run(test)


def test_authenticated_nodes_do_not_count_as_strangers() -> None:
    async def test() -> None:
        async with small_head() as head:
            head.door.max_strangers = 1
            channels = [await attach(head) for _ in range(3)]
            assert head.door.strangers == 0
            for channel in channels:
                channel.close()

    run(test)


def test_a_flood_writes_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dadafs.wire.server")

    async def test() -> None:
        door = Doorkeeper()
        for _ in range(50):
            door.turn_away("10.0.0.1", "garbage")
        await trio.sleep(11)
        door.turn_away("10.0.0.2", "more garbage")
        assert door.turned_away == 51

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.INFO, "turned away 10.0.0.1: garbage"),
        (logging.INFO, "turned away 10.0.0.2: more garbage (and 49 more before)"),
    ]


# --- fuzzing ------------------------------------------------------------------------------------------------------

FRAMES = st.builds(
    frame.pack,
    st.sampled_from(Kind),
    st.integers(0, 2**32 - 1),
    st.one_of(
        st.binary(max_size=300),
        st.sampled_from(
            [
                encode(message)
                for message in (
                    HELLO,
                    Challenge(1, "psk", b"n" * 32),
                    Proof("test", b"m" * 32),
                    Confirm(b""),
                    Stat(b""),
                )
            ]
        ),
    ),
    st.integers(0, 2**32 - 1) | st.just(0),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(FRAMES | st.binary(max_size=400), max_size=4).map(b"".join), min_size=5, max_size=5))
def test_no_garbage_gets_in_or_takes_the_head_down(said: list[bytes]) -> None:
    async def test() -> None:
        async with small_head() as head:
            for text in said:
                sock = stranger(head)
                sock.sendall(text)
                sock.shutdown(socket.SHUT_WR)
                await until(lambda: head.turned_away)
                head.turned_away.clear()
                sock.close()
            assert head.peers == []
            assert head.door.strangers == 0
            (await attach(head)).close()

    run(test)


# --- addresses ----------------------------------------------------------------------------------------------------


def test_addresses() -> None:
    one, other = tcp_pair()
    assert peer_address(one) == "127.0.0.1"
    left, right = socket.socketpair()
    assert peer_address(left) == "local"
    for sock in (one, other, left, right):
        sock.close()
    assert [is_loopback(address) for address in ("local", "127.0.0.1", "127.9.9.9", "::1")] == [True] * 4
    assert not any(is_loopback(address) for address in ("10.0.0.1", "fe80::1", "0.0.0.0", "::"))


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1")])
def test_an_ipv4_node_on_an_ipv6_listener_is_named_by_its_ipv4_address(host: str, expected: str) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        one = socket.create_connection((host, server.getsockname()[1]))
        other, _ = server.accept()
    assert peer_address(other) == expected
    assert is_loopback(peer_address(other))
    one.close()
    other.close()
