"""Calls over one channel: any order, any cancellation, and one clear end for all when the connection dies."""

from __future__ import annotations

import os
import random
import socket
import struct
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from dadafs.wire import frame
from dadafs.wire.auth import ClientAuth, Refusal, ServerAuth
from dadafs.wire.channel import Channel, ChannelClosed, Frame
from dadafs.wire.client import ConnectFailed, RequestChannel, Target, connect
from dadafs.wire.frame import Kind
from dadafs.wire.keys import Key, KeyRing
from dadafs.wire.messages import (
    Attr,
    Blocks,
    Done,
    Entry,
    Failed,
    Goodbye,
    Message,
    Pass,
    Read,
    Refused,
    Stat,
    encode,
)
from dadafs.wire.server import refuse
from tests.checklogs import ExpectedLog
from tests.harness.wire import (
    ATTR,
    WELCOME,
    SmallHead,
    attach,
    calls,
    channel_pair,
    reply_with,
    run,
    small_head,
    until,
)

MIB = 2**20
READ = Read(1, ATTR.version, 0, 0, 16)
BLOCKS = Blocks([1] * 16, 0xFFFF, MIB)


async def echo(channel: Channel, request: Frame) -> None:
    """Answers `Stat(path)` with a link to `path`."""
    assert isinstance(request.message, Stat)
    await channel.send(Kind.REPLY, request.request_id, Entry(None, request.message.path))


def test_a_call_gets_its_reply() -> None:
    async def test() -> None:
        async with small_head(echo) as head, calls(head) as channel:
            assert channel.welcome == WELCOME
            assert await channel.call(Stat(b"a/b")) == Entry(None, b"a/b")
            assert await channel.call(Stat(b"")) == Entry(None, b"")
            assert channel.pending == 0
            (peer,) = head.peers
            assert (peer.node, peer.role, peer.address, peer.method, peer.key_id) == (
                "node", "control", "127.0.0.1", "psk", "test",
            )  # fmt: skip

    run(test)


def test_failures_are_replies_too() -> None:
    async def test() -> None:
        async with small_head(reply_with(Failed(5, "no"))) as head, calls(head) as channel:
            assert await channel.call(Stat(b"a")) == Failed(5, "no")

    run(test)


def test_many_calls_at_once_each_get_their_own_reply() -> None:
    async def test() -> None:
        async with small_head(echo) as head, calls(head) as channel:

            async def ask(number: int) -> None:
                for turn in range(20):
                    path = b"%d/%d" % (number, turn)
                    assert await channel.call(Stat(path)) == Entry(None, path)

            async with trio.open_nursery() as nursery:
                for number in range(30):
                    nursery.start_soon(ask, number)

    run(test)


def test_replies_may_come_in_any_order() -> None:
    held: list[Frame] = []

    async def backwards(channel: Channel, request: Frame) -> None:
        held.append(request)
        if len(held) == 10:
            for one in reversed(held):
                await echo(channel, one)

    async def test() -> None:
        got = {}

        async def ask(number: int) -> None:
            got[number] = await channel.call(Stat(b"%d" % number))

        async with small_head(backwards) as head, calls(head) as channel, trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(ask, number)
        assert got == {number: Entry(None, b"%d" % number) for number in range(10)}

    run(test)


# --- payloads -----------------------------------------------------------------------------------------------------


def test_a_payload_goes_into_the_buffer_that_the_sink_names() -> None:
    payload = os.urandom(MIB)

    async def test() -> None:
        async with small_head(reply_with(BLOCKS, payload)) as head, calls(head) as channel:
            buffer = bytearray(MIB + 10)
            asked: list[tuple[Message, int]] = []

            def sink(reply: Message, length: int) -> memoryview:
                asked.append((reply, length))
                return memoryview(buffer)[5:]

            assert await channel.call(READ, sink=sink) == BLOCKS
            assert asked == [(BLOCKS, MIB)]
            assert buffer == bytes(5) + payload + bytes(5)

    run(test)


def test_a_payload_that_nobody_wants_is_dropped() -> None:
    async def test() -> None:
        async with small_head(reply_with(BLOCKS, bytes(MIB))) as head, calls(head) as channel:
            assert await channel.call(READ) == BLOCKS
            assert await channel.call(READ, sink=lambda reply, length: None) == BLOCKS

    run(test)


def test_a_sink_that_fails_fails_its_call_only() -> None:
    def failing(reply: Message, length: int) -> memoryview:
        raise MemoryError("no room")

    async def test() -> None:
        async with small_head(reply_with(BLOCKS, bytes(MIB))) as head, calls(head) as channel:
            with pytest.raises(MemoryError):
                await channel.call(READ, sink=failing)
            with pytest.raises(ValueError, match="a buffer of 3 bytes"):
                await channel.call(READ, sink=lambda reply, length: memoryview(bytearray(3)))
            assert await channel.call(READ) == BLOCKS

    run(test)


# --- cancellation -------------------------------------------------------------------------------------------------


def test_a_cancelled_call_leaves_the_channel_whole() -> None:
    held: list[Frame] = []

    async def slow(channel: Channel, request: Frame) -> None:
        if request.message == READ:
            held.append(request)
            return
        for one in held:
            await channel.send(Kind.REPLY, one.request_id, BLOCKS, bytes(MIB))
        held.clear()
        await echo(channel, request)

    async def test() -> None:
        async with small_head(slow) as head, calls(head) as channel:
            for _ in range(3):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(partial(channel.call, READ, sink=lambda reply, length: pytest.fail("too late")))
                    await until(lambda: held)
                    nursery.cancel_scope.cancel()
                assert channel.pending == 0
                assert await channel.call(Stat(b"next")) == Entry(None, b"next")
            assert not channel._abandoned

    run(test)


def test_a_call_cancelled_in_the_middle_of_its_payload_gives_its_buffer_back_at_once() -> None:
    go_on = trio.Event()
    buffer = bytearray(MIB)

    async def halfway(channel: Channel, request: Frame) -> None:
        if request.message != READ:
            return await echo(channel, request)
        head = frame.pack(Kind.REPLY, request.request_id, encode(BLOCKS), MIB)
        channel._socket.sendall(head + b"\x01" * 10_000)
        await go_on.wait()
        rest = trio.SocketStream(trio.socket.from_stdlib_socket(channel._socket))
        await rest.send_all(b"\x02" * (MIB - 10_000))

    async def test() -> None:
        async with small_head(halfway) as head, calls(head) as channel:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(channel.call, READ, sink=lambda reply, length: memoryview(buffer)))
                await until(lambda: buffer[9_999])
                nursery.cancel_scope.cancel()
            buffer[:] = b"\x07" * MIB  # somebody else's now
            go_on.set()
            assert await channel.call(Stat(b"next")) == Entry(None, b"next")
            assert buffer == b"\x07" * MIB

    run(test)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_calls_cancelled_at_any_moment_never_disturb_another(seed: int) -> None:
    """Replies come in any order and in pieces, calls are cancelled anywhere; every buffer holds what it should."""
    chance = random.Random(seed)

    async def answer(channel: Channel, request: Frame) -> None:
        assert isinstance(request.message, Read)
        waiting.append(request)
        while waiting and (len(waiting) > 5 or chance.random() < 0.7):
            one = waiting.pop(chance.randrange(len(waiting)))
            assert isinstance(one.message, Read)
            size = chance.choice([1, 1000, 30_000, 300_000])
            await channel.send(Kind.REPLY, one.request_id, BLOCKS, bytes([one.message.fragment]) * size)

    async def ask(channel: RequestChannel, number: int) -> None:
        for _ in range(5):
            buffer = bytearray(300_000)
            got: list[int] = []

            def sink(reply: Message, length: int, buffer: bytearray = buffer, got: list[int] = got) -> memoryview:
                got.append(length)
                return memoryview(buffer)

            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after, scope, chance.randrange(40))
                    await channel.call(Read(1, ATTR.version, number, 0, 1), sink=sink)
                    assert buffer[: got[0]] == bytes([number]) * got[0]
                    nursery.cancel_scope.cancel()
            if scope.cancelled_caught:
                buffer[:] = b"\xff" * len(buffer)
                for _ in range(3):
                    await trio.lowlevel.checkpoint()
                assert buffer == b"\xff" * len(buffer)

    async def test() -> None:
        async with small_head(answer) as head, calls(head) as channel:
            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(ask, channel, number)
                nursery.start_soon(nudge, channel, nursery)
            assert channel.closed is None
            assert channel.pending == 0

    async def nudge(channel: RequestChannel, nursery: trio.Nursery) -> None:
        """More requests, for as long as others wait: the head answers old ones when new ones come."""
        while len(nursery.child_tasks) > 1:
            with trio.move_on_after(0.001):
                await channel.call(Read(1, ATTR.version, 99, 0, 1))

    waiting: list[Frame] = []
    run(test)


async def cancel_after(scope: trio.CancelScope, turns: int) -> None:
    for _ in range(turns):
        await trio.lowlevel.checkpoint()
    if turns < 30:
        scope.cancel()


def test_ids_of_calls_under_way_are_not_used_again() -> None:
    async def test() -> None:
        one, other = channel_pair()
        channel = RequestChannel(one, WELCOME)
        channel._last_id = frame.MAX_REQUEST_ID - 1
        channel._waiting[1] = channel._waiting[frame.MAX_REQUEST_ID] = None  # type: ignore[assignment]
        channel._abandoned.add(2)
        assert [channel._next_id(), channel._next_id()] == [3, 4]
        channel._waiting.clear()
        channel.close()
        other.close()

    run(test)


# --- pushes -------------------------------------------------------------------------------------------------------


def test_pushes_are_handled_in_order_before_what_follows_them() -> None:
    said: list[object] = []

    async def chatty(channel: Channel, request: Frame) -> None:
        for number in range(5):
            await channel.send(Kind.PUSH, 0, Pass(number))
        await echo(channel, request)
        await channel.send(Kind.PUSH, 0, Goodbye(7))

    async def test() -> None:
        async with small_head(chatty) as head, calls(head, on_push=said.append) as channel:
            said.append(await channel.call(Stat(b"a")))
            await until(lambda: len(said) == 7)

    run(test)
    assert said[:5] == [Pass(number) for number in range(5)]
    assert Entry(None, b"a") in said[5:]
    assert Goodbye(7) in said[5:]


def test_a_push_that_cannot_be_handled_ends_the_connection(expected_log: ExpectedLog) -> None:
    expected_log.add("handler of pushes failed")

    async def pushing(channel: Channel, request: Frame) -> None:
        await channel.send(Kind.PUSH, 0, Pass(1))

    def failing(message: Message) -> None:
        raise KeyError("a bug")

    async def test() -> None:
        async with small_head(pushing) as head, calls(head, on_push=failing) as channel:
            with pytest.raises(ChannelClosed, match="handler of pushes failed"):
                await channel.call(Stat(b"a"))

    run(test)


# --- ends ---------------------------------------------------------------------------------------------------------


async def fails_all(channel_closed: list[str], channel: object, request: Message) -> None:
    with pytest.raises(ChannelClosed) as caught:
        await channel.call(request, sink=lambda reply, length: memoryview(bytearray(length)))  # type: ignore[attr-defined]
    channel_closed.append(str(caught.value))


@pytest.mark.parametrize("when", ["before", "inside the payload"])
@pytest.mark.parametrize("how", ["closed", "reset"])
def test_when_the_connection_dies_every_call_is_told(when: str, how: str) -> None:
    reasons: list[str] = []

    async def dying(channel: Channel, request: Frame) -> None:
        if request.request_id < 5:
            return
        if when == "inside the payload":
            channel._socket.sendall(frame.pack(Kind.REPLY, request.request_id, encode(BLOCKS), MIB) + bytes(1000))
        if how == "reset":
            channel._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        channel.close()

    async def test() -> None:
        async with small_head(dying) as head, calls(head) as channel:
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(fails_all, reasons, channel, READ)
            assert channel.closed is not None
            assert channel.pending == 0
            with pytest.raises(ChannelClosed):
                await channel.call(READ)

    run(test)
    assert len(reasons) == 5
    assert len(set(reasons)) == 1


def test_closing_on_this_side_tells_every_call() -> None:
    reasons: list[str] = []

    async def silent(channel: Channel, request: Frame) -> None:
        pass

    async def test() -> None:
        async with small_head(silent) as head, calls(head) as channel, trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(fails_all, reasons, channel, READ)
            await until(lambda: channel.pending == 3)
            await channel.aclose()

    run(test)
    assert reasons == ["closed on this side"] * 3


def test_run_returns_the_reason() -> None:
    async def test() -> None:
        async with small_head() as head:
            channel = await attach(head)
            assert "closed the connection" in await channel.run()

    run(test)


@pytest.mark.parametrize(
    ("kind", "request_id", "payload", "says"),
    [
        (Kind.REPLY, 4711, b"", "a reply to no request"),
        (Kind.REQUEST, 1, b"", "kind REQUEST"),
        (Kind.HANDSHAKE, 0, b"", "kind HANDSHAKE"),
        (Kind.PUSH, 0, b"x", "a push with a payload"),
        (Kind.PUSH, 1, b"", "a push with"),
    ],
)
def test_a_head_that_breaks_the_protocol_is_left(
    kind: Kind, request_id: int, payload: bytes, says: str, expected_log: ExpectedLog
) -> None:
    expected_log.add(f"connection to 127.0.0.1:.* closed: .*{says}")

    async def wrong(channel: Channel, request: Frame) -> None:
        await channel.send(kind, request_id, Done(), payload)

    async def test() -> None:
        async with small_head(wrong) as head, calls(head) as channel:
            with pytest.raises(ChannelClosed):
                await channel.call(Stat(b"a"))

    run(test)


# --- connecting ---------------------------------------------------------------------------------------------------


async def try_to_connect(port: int, host: str = "127.0.0.1", timeout: float = 10) -> None:
    await connect(host, port, node="n", role="control", auth=ClientAuth(), target=Target("x"), timeout=timeout)


def test_no_head_at_that_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectFailed, match=rf"cannot connect to 127.0.0.1:{port}: Connection refused"):
        run(try_to_connect, port)
    with pytest.raises(ConnectFailed, match=rf"cannot connect to \[::1\]:{port}"):
        run(try_to_connect, port, "::1")
    with pytest.raises(ConnectFailed, match=r"cannot connect to no-such-host\.invalid"):
        run(try_to_connect, port, "no-such-host.invalid")


def test_a_head_that_accepts_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        clock = trio.testing.MockClock(autojump_threshold=0.2)
        with pytest.raises(ConnectFailed, match="did not answer within 10 s"):
            trio.run(try_to_connect, server.getsockname()[1], clock=clock)


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", b""])
def test_something_else_listens_there(greeting: bytes) -> None:
    async def test() -> None:
        async def other(stream: trio.SocketStream) -> None:
            async with stream:
                if greeting:
                    await stream.send_all(greeting)

        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, other, 0, host="127.0.0.1"))
            with pytest.raises(ConnectFailed, match="does not answer as a head"):
                await try_to_connect(listener.socket.getsockname()[1])
            nursery.cancel_scope.cancel()

    run(test)


def refusal_of(auth: ClientAuth, server: ServerAuth) -> Refusal:
    async def test() -> Refusal:
        async with small_head(auth=server) as head:
            with pytest.raises(Refusal) as caught:
                await attach(head, auth)
            await until(lambda: head.turned_away)
            assert caught.value.message in head.turned_away[0]
        return caught.value

    refusal = run(test)
    assert isinstance(refusal, Refusal)
    return refusal


def test_a_wrong_key_is_refused_in_words() -> None:
    ring = KeyRing([Key("test", b"x" * 32)])
    server = ServerAuth(KeyRing([Key("test", b"k" * 32)]))
    refusal = refusal_of(ClientAuth(ring), server)
    assert (refusal.code, refusal.message) == ("wrong-key", "the node's key is not one that this head knows")


def test_a_node_without_a_key_is_refused_in_words() -> None:
    refusal = refusal_of(ClientAuth(), ServerAuth(KeyRing([Key("test", b"k" * 32)])))
    assert (refusal.code, refusal.message) == (
        "method", "this head accepts authentication by psk, the node offers none",
    )  # fmt: skip


def test_the_head_can_refuse_what_is_asked_for() -> None:
    class Choosy(SmallHead):
        async def _connection(self, sock: trio.socket.SocketType) -> None:
            from dadafs.wire.server import authenticate

            channel, _ = await authenticate(sock, self.auth, door=self.door)
            await channel.receive()
            await refuse(channel, "unknown-export", "there is no export 'data'")

    async def test() -> None:
        async with trio.open_nursery() as nursery:
            head = Choosy(ServerAuth(KeyRing([Key("test", b"k" * 32)])))
            await head.serve(nursery)
            with pytest.raises(Refusal, match="there is no export 'data'") as caught:
                await attach(head)
            assert caught.value.code == "unknown-export"
            nursery.cancel_scope.cancel()

    run(test)


def test_what_a_head_says_cannot_disturb_a_terminal() -> None:
    async def test() -> None:
        async def rude(stream: trio.SocketStream) -> None:
            await stream.send_all(frame.pack(Kind.HANDSHAKE, 0, encode(Refused("busy\n", "\x1b[2J" + "x" * 2000)), 0))

        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, rude, 0, host="127.0.0.1"))
            with pytest.raises(Refusal) as caught:
                await try_to_connect(listener.socket.getsockname()[1])
            assert (caught.value.code, caught.value.message) == ("busy?", "?[2J" + "x" * 496)
            nursery.cancel_scope.cancel()

    run(test)


def test_without_authentication_where_both_sides_were_told_so() -> None:
    async def test() -> None:
        async with small_head(echo, ServerAuth(allow_none_on_loopback=True)) as head:
            async with calls(head, ClientAuth()) as channel:
                assert await channel.call(Stat(b"a")) == Entry(None, b"a")
            assert (head.peers[0].method, head.peers[0].key_id) == ("none", "")

    run(test)


def test_attributes_survive_the_journey() -> None:
    attr = Attr(2**63, 2**64 - 1, 0o40755, 1, 2**32 - 2, 2**32 - 2, 0, 2**62, 1, 1, -1, -(10**18), 2**62)

    async def test() -> None:
        async with small_head(reply_with(Entry(attr))) as head, calls(head) as channel:
            assert await channel.call(Stat(b"a")) == Entry(attr)

    run(test)
