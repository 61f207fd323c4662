"""Reads that the compiled part answers: same bytes and same counts as without it, and everything else left alone."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from dadafs.checksum import block_checksums
from dadafs.wire import frame
from dadafs.wire.channel import Channel, ChannelClosed
from dadafs.wire.frame import FROM_HEAD, FROM_NODE, Kind
from dadafs.wire.in_place import Ended
from dadafs.wire.messages import BLOCK_SIZE, Attr, Blocks, Done, Message, Read, Stat, Version, decode, encode
from dadafsd import hot_reads, residency
from dadafsd.counters import Counters
from dadafsd.export import Export
from dadafsd.exported import Exported, ExportOptions, assemble
from dadafsd.fragments import Found
from dadafsd.hot_reads import HotReads, Memory
from dadafsd.open_files import OpenFile
from dadafsd.origin_read import Piece
from dadafsd.packing import LEAST
from dadafsd.replies import blocks_reply
from dadafsd.service import Service
from dadafsd.sessions import Session, Sessions
from dadafsd.store.record import DATA_OFFSET, FragmentKey, Stored
from dadafsd.store.settings import KIND_RAM
from dadafsd.store_access import Record
from tests.harness.places import from_memory
from tests.harness.wire import channel_pair, run

pytestmark = pytest.mark.skipif(hot_reads.compiled is None, reason="the compiled part was not built")

SIOCOUTQNSD = 0x894B  # how many bytes TCP has not sent yet, see tcp(7)
MIB = 1 << 20
SIZE = MIB + 5 * BLOCK_SIZE + 123  # the second fragment ends in mid block
DATA = os.urandom(SIZE)
VERSION = Version(7, 1 << 40, SIZE, -1, (1 << 62) + 1)
ATTR = Attr(7, 1 << 40, 0o100644, 1, 0, 0, 0, SIZE, 1, 512, 0, -1, (1 << 62) + 1)
HANDLE = (1 << 62) + 5


def part(fragment: int) -> bytes:
    return DATA[fragment * MIB : (fragment + 1) * MIB]


class Bench:
    """A session of one export with an open file, whose two fragments are in memory; and a connection of it."""

    def __init__(self, exported: Exported, hot: HotReads) -> None:
        self.exported, self.hot = exported, hot
        self.service = Service(Sessions(), exported.counters)
        self.session = Session(1, "node", "", exported, 1.0, 30.0)
        self.service.open_session(self.session)
        self.file = OpenFile(b"scan_1/file", ATTR)
        self.file.scan = exported.counters.scan("data", b"scan_1/file")
        self.session.handles[HANDLE] = self.file
        self.raw: Callable[[int], bool] = lambda size: True
        self.alone = True
        self.answers = hot.answers(self.session, MIB, lambda size: self.raw(size), lambda: self.alone)
        for fragment in (0, 1):
            exported.fragments.memory.put(self.key(fragment), self.piece(fragment), len(part(fragment)))

    def key(self, fragment: int) -> FragmentKey:
        return FragmentKey("data", VERSION, fragment, MIB)

    def piece(self, fragment: int) -> Piece:
        return Piece(part(fragment), block_checksums(part(fragment)), True)

    def python(self, request: Message) -> bytes | None:
        """The frame that the service answers with, or None."""
        reply = self.service.at_hand(self.session, request)
        if reply is None:
            return None
        return frame.pack(Kind.REPLY, 5, encode(reply.message), reply.size) + b"".join(reply.buffers)

    def ask(self, request: Message | bytes) -> tuple[int, bytes, int]:
        """How answering it ended, what was sent, and how many bytes are left in the buffer."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for one in (ours, theirs):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
                one.setblocking(False)
            sent = request if isinstance(request, bytes) else framed(request)
            theirs.send(sent)
            return self._taken(ours, theirs)

    def _taken(self, ours: socket.socket, theirs: socket.socket) -> tuple[int, bytes, int]:
        assert self.answers is not None
        ended, start, end, _, _, rest = self.answers.answer(ours.fileno(), memoryview(bytearray(16384)), 0, 0)
        ours.shutdown(socket.SHUT_WR)
        got = b"".join(iter(lambda: theirs.recv(MIB), b""))
        if rest is not None:
            head, data, fd, offset, length, _ = rest
            got += head + (data[offset : offset + length] if data is not None else os.pread(fd, length, offset))
        return ended, got, end - start


def framed(request: Message, number: int = 5) -> bytes:
    return frame.pack(Kind.REQUEST, number, encode(request), 0)


def in_loop(body: Callable[[Bench], None]) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as tree:
            async with trio.open_nursery() as nursery:
                counters, hot = Counters(), HotReads()
                export = Export("data", Path(tree))
                memory = Memory(16 * MIB, hot)
                exported = assemble(export, ExportOptions(), memory, None, counters, nursery, hot_reads=hot)
                body(Bench(exported, hot))
                nursery.cancel_scope.cancel()

    trio.run(main)


class Stand:
    """A record without a store."""

    def __init__(self, path: Path, data: bytes, kind: str = "disk") -> None:
        path.write_bytes(bytes(DATA_OFFSET) + data)
        fd = os.open(path, os.O_RDONLY)
        self.record = Record(Stored(fd, DATA_OFFSET, len(data), block_checksums(data), "nvme", kind), 0.0)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    with from_memory(tmp_path) as found:
        yield found


READS = [(0, 0, 16), (0, 0, 1), (0, 3, 2), (0, 15, 1), (0, 0, 1000), (1, 0, 16), (1, 5, 1), (1, 4, 2), (1, 5, 64)]


@pytest.mark.parametrize(("fragment", "first", "count"), READS)
def test_the_same_reply_as_from_the_service(fragment: int, first: int, count: int) -> None:
    def body(bench: Bench) -> None:
        request = Read(HANDLE, VERSION, fragment, first, count, prefetch=first == 3)
        assert bench.ask(request) == (Ended.LEFT, b"", len(framed(request))), "it was not read before"
        expected = bench.python(request)
        assert expected is not None
        ended, got, left = bench.ask(request)
        assert got == expected
        assert ended != Ended.LEFT
        assert left == 0

    in_loop(body)


@pytest.mark.parametrize(("fragment", "first", "count"), READS)
@pytest.mark.parametrize("kind", ["disk", KIND_RAM])
def test_the_same_reply_from_a_record(place: Path, fragment: int, first: int, count: int, kind: str) -> None:
    if kind == KIND_RAM and not residency.have_cachestat:
        pytest.skip("cachestat needs Linux 6.5")

    def body(bench: Bench) -> None:
        bench.exported.fragments.memory.clear()
        record = Stand(place / "record", part(fragment), kind).record
        bench.hot.keep_record(bench.key(fragment), record, -1)
        want = bench.exported.fragments.wanted(VERSION, fragment, first, count, prefetch=False, verify=False)
        found = Found("nvme", True, record.checksums, 0, record=record)
        reply = blocks_reply(found, want, [])
        payload = part(fragment)[first * BLOCK_SIZE : (first + count) * BLOCK_SIZE]
        _, got, left = bench.ask(Read(HANDLE, VERSION, fragment, first, count))
        assert got == frame.pack(Kind.REPLY, 5, encode(reply.message), reply.size) + payload
        assert left == 0

    in_loop(body)


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


READ = Read(HANDLE, VERSION, 0, 0, 1)
OTHERS: dict[str, Message | bytes] = {
    "known checksums": Read(HANDLE, VERSION, 0, 0, 1, [0]),
    "another handle": Read(HANDLE + 1, VERSION, 0, 0, 1),
    "another state": Read(HANDLE, Version(7, 1 << 40, SIZE, -1, 5), 0, 0, 1),
    "another file": Read(HANDLE, Version(7, 5, SIZE, -1, 5), 0, 0, 1),
    "another fragment": Read(HANDLE, VERSION, 2, 0, 1),
    "nothing": Read(HANDLE, VERSION, 0, 0, 0),
    "beyond": Read(HANDLE, VERSION, 0, MIB // BLOCK_SIZE, 1),
    "far beyond": Read(HANDLE, VERSION, 0, (1 << 64) - 1, 1),
    "too much": Read(HANDLE, VERSION, 0, 0, (1 << 64) - 1),
    "negative": Read(HANDLE, VERSION, 0, -1, 1),
    "negative size": Read(HANDLE, Version(7, 1 << 40, -1, -1, 5), 0, 0, 1),
    "a time that no file has": Read(HANDLE, Version(7, 1 << 40, SIZE, -1, (1 << 64) - 1), 0, 0, 1),
    "another request": Stat(b"name"),
    "no request": Done(),
    "damaged header": damaged(framed(READ), 5),
    "damaged metadata": damaged(framed(READ), 25),
    "a push": frame.pack(Kind.PUSH, 5, encode(READ), 0),
    "a payload": frame.pack(Kind.REQUEST, 5, encode(READ), 1) + b"x",
    "flags": damaged(framed(READ), 3),
    "another protocol": b"GET / HTTP/1.1\r\n\r\n...",
    "too long": frame.pack(Kind.REQUEST, 5, encode(Stat(bytes(1000))), 0),
    "something behind": frame.pack(Kind.REQUEST, 5, encode(READ) + b"\0", 0),
    "cut": frame.pack(Kind.REQUEST, 5, encode(READ)[:-1], 0),
    "empty": frame.pack(Kind.REQUEST, 5, b"", 0),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_left_to_python_is_left_whole(what: str) -> None:
    def body(bench: Bench) -> None:
        assert bench.python(READ) is not None
        before = bench.exported.counters.as_dict()
        sent = OTHERS[what] if isinstance(OTHERS[what], bytes) else framed(OTHERS[what])  # type: ignore[arg-type]
        assert bench.ask(sent) == (Ended.LEFT, b"", len(sent))
        assert bench.exported.counters.as_dict() == before

    in_loop(body)


def test_the_handle_must_be_one_of_the_same_file() -> None:
    def body(bench: Bench) -> None:
        assert bench.python(READ) is not None
        bench.file.identity = (7, 8)
        assert bench.ask(READ)[0] == Ended.LEFT
        bench.file.identity = (7, 1 << 40)
        assert bench.ask(READ)[0] != Ended.LEFT
        bench.session.handles.clear()
        assert bench.ask(READ)[0] == Ended.LEFT

    in_loop(body)


def test_whatever_arrives_is_answered_rightly_or_left() -> None:
    """Metadata that is not what a node sends, under a right check; never a crash, never an answer to something else."""
    numbers = st.one_of(st.integers(0, 20), st.integers(-(1 << 63), (1 << 64) - 1))

    def body(bench: Bench) -> None:
        for fragment in (0, 1):
            assert bench.python(Read(HANDLE, VERSION, fragment, 0, 1)) is not None

        @settings(deadline=None, max_examples=300)
        @given(st.binary(max_size=80), st.integers(0, 60), st.integers(0, 3), numbers, numbers)
        def check(noise: bytes, at: int, fragment: int, first: int, count: int) -> None:
            metadata = encode(Read(HANDLE, VERSION, fragment, first, count))
            for changed in (metadata, metadata[:at] + noise + metadata[at + len(noise) :], noise):
                sent = frame.pack(Kind.REQUEST, 5, changed, 0)
                ended, got, _ = bench.ask(sent)
                if got:
                    request = decode(changed)
                    assert bench.python(request) == got
                else:
                    assert ended == Ended.LEFT

        check()

    in_loop(body)


def test_every_piece_of_a_request_waits_for_the_others() -> None:
    def body(bench: Bench) -> None:
        expected = bench.python(READ)
        sent = framed(READ)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            buffer, start, end = memoryview(bytearray(16384)), 0, 0
            for i in range(len(sent)):
                assert bench.answers is not None
                assert theirs.send(sent[i : i + 1]) == 1
                ended, start, end, received, out, _ = bench.answers.answer(ours.fileno(), buffer, start, end)
                assert received == 1
                assert ended == Ended.WAIT or out > 0
                assert (end - start, out > 0) == ((i + 1, False) if i + 1 < len(sent) else (0, True))
            assert expected is not None
            assert out == len(expected)

    in_loop(body)


def test_it_is_counted_as_the_service_does() -> None:
    def body(bench: Bench) -> None:
        counters, again = bench.exported.counters, 5
        for fragment, first, count in READS:
            assert bench.python(Read(HANDLE, VERSION, fragment, first, count)) is not None
        once = counters.as_dict()
        bench.file.read_as = None
        for _ in range(again):
            for fragment, first, count in READS:
                assert bench.ask(Read(HANDLE, VERSION, fragment, first, count))[1]
        assert bench.file.read_as == VERSION
        for number in range(again):
            for fragment, first, count in READS:
                assert bench.python(Read(HANDLE, VERSION, fragment, first, count)) is not None, number
        assert counters.as_dict() == _times(once, 1 + 2 * again)
        assert counters.scans["data", "scan_1"].tiers == {"memory": counters.served["data", "node", "memory"].bytes}

    in_loop(body)


def _times(counted: Any, factor: int) -> Any:
    if isinstance(counted, dict):
        return {key: value if key == "events" else _times(value, factor) for key, value in counted.items()}
    if isinstance(counted, list):
        return [_times(value, factor) for value in counted]
    return counted * factor if isinstance(counted, int | float) else counted


def test_an_older_state_is_not_what_the_file_was_read_as_last() -> None:
    def body(bench: Bench) -> None:
        assert bench.python(READ) is not None
        newer = Version(7, 1 << 40, SIZE, -1, VERSION.ctime_ns + 1)
        bench.file.read_as = newer
        assert bench.ask(READ)[1]
        assert bench.file.read_as == newer

    in_loop(body)


def test_whether_payloads_go_raw_is_asked_for_now_and_then() -> None:
    def body(bench: Bench) -> None:
        wide = Read(HANDLE, VERSION, 0, 0, LEAST // BLOCK_SIZE)
        assert bench.python(wide) is not None
        asked: list[int] = []
        bench.raw = lambda size: not asked.append(size)  # type: ignore[func-returns-value]
        for _ in range(9):
            assert bench.ask(wide)[1]
        assert asked == [LEAST, 4 * LEAST, 4 * LEAST]
        bench.raw = lambda size: False
        left = [bench.ask(wide)[0] == Ended.LEFT for _ in range(6)]
        assert left == [False] * 3 + [True] * 3, "the last answer holds for 256 KiB; a refusal for one read"
        assert bench.python(Read(HANDLE, VERSION, 1, 0, 1)) is not None
        assert bench.ask(Read(HANDLE, VERSION, 1, 5, 1))[1], "so little is never packed"

    in_loop(body)


def test_what_was_found_not_to_shrink_goes_raw_whatever_the_network_takes() -> None:
    def body(bench: Bench) -> None:
        asked: list[int] = []
        bench.raw = lambda size: bool(asked.append(size))  # type: ignore[func-returns-value]
        for fragment in (0, 1):
            assert bench.python(Read(HANDLE, VERSION, fragment, 0, 1)) is not None
        bench.hot.never_shrinks(bench.key(0))
        bench.hot.never_shrinks(bench.key(5))
        assert bench.ask(Read(HANDLE, VERSION, 0, 0, 4))[1]
        assert not asked
        assert bench.ask(Read(HANDLE, VERSION, 1, 0, 4))[0] == Ended.LEFT

    in_loop(body)


def test_pages_that_are_not_in_memory_are_not_waited_for(tmp_path: Path) -> None:
    def body(bench: Bench) -> None:
        record = Stand(tmp_path / "record", part(0)).record
        bench.hot.keep_record(bench.key(0), record, -1)
        os.fsync(record.fd)
        os.posix_fadvise(record.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if record.resident(0, 1):
            pytest.skip("this file system keeps its pages")
        before = bench.exported.counters.as_dict()
        for count in (1, 16):
            assert bench.ask(Read(HANDLE, VERSION, 0, 0, count))[0] == Ended.LEFT
        assert bench.exported.counters.as_dict() == before

    in_loop(body)


def test_what_python_wants_to_look_at_is_left_to_it(place: Path) -> None:
    def body(bench: Bench) -> None:
        record = Stand(place / "record", part(0)).record
        bench.hot.keep_record(bench.key(0), record, 0.0)
        assert bench.ask(READ)[0] == Ended.LEFT
        bench.hot.keep_record(bench.key(0), record, 3600.0)
        assert bench.ask(READ)[0] != Ended.LEFT
        bench.hot.drop(bench.key(0), record)
        assert bench.ask(READ)[0] == Ended.LEFT

    in_loop(body)


# --- through a channel ----------------------------------------------------------------------------------------------


async def served(bench: Bench, channel: Channel) -> None:
    """As a connection does: what is not answered in place is answered by the service, or has `Done`."""
    assert bench.answers is not None
    while True:
        await channel.answer_in_place(bench.answers)
        got = await channel.receive()
        reply = bench.service.at_hand(bench.session, got.message)
        if reply is None:
            await channel.send(Kind.REPLY, got.request_id, Done())
        else:
            await channel.send(Kind.REPLY, got.request_id, reply.message, reply.buffers)


def in_channel(body: Callable[[Bench, Channel, Channel], Any], *, parked: bool = True) -> None:
    """With the task that answers for all connections that wait, or where each one waits for itself."""

    async def main() -> None:
        found: list[Bench] = []
        with tempfile.TemporaryDirectory() as tree:
            async with trio.open_nursery() as nursery:
                counters, hot = Counters(), HotReads()
                exported = assemble(
                    Export("data", Path(tree)), ExportOptions(), Memory(16 * MIB, hot), None, counters, nursery,
                    hot_reads=hot,
                )  # fmt: skip
                found.append(Bench(exported, hot))
                if parked:
                    nursery.start_soon(hot.run)
                    await trio.testing.wait_all_tasks_blocked()
                head, node = channel_pair()
                head.authenticated(FROM_NODE)
                node.authenticated(FROM_HEAD)
                await body(found[0], head, node)
                head.close()
                node.close()
                nursery.cancel_scope.cancel()

    run(main)


@pytest.mark.parametrize("parked", [False, True])
@pytest.mark.parametrize("from_file", [False, True])
def test_replies_that_the_socket_takes_in_parts_are_whole(place: Path, from_file: bool, parked: bool) -> None:
    """Hot reads and others, many under way, to a reader who takes his time: in order, complete, and each once."""
    count = 60

    async def body(bench: Bench, head: Channel, node: Channel) -> None:
        if from_file:
            record = Stand(place / "record", part(0)).record
            bench.hot.keep_record(bench.key(0), record, -1)
        else:
            assert bench.python(READ) is not None
        requests = [Stat(b"x") if i % 7 == 3 else Read(HANDLE, VERSION, 0, i % 5, i % 13 + 1) for i in range(count)]

        async def ask() -> None:
            for number, request in enumerate(requests):
                await node.send(Kind.REQUEST, number, request)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(served, bench, head)
            for number, request in enumerate(requests):
                got = await node.receive()
                payload = bytearray(got.payload_length)
                await node.receive_payload(memoryview(payload))
                assert got.request_id == number
                if isinstance(request, Read):
                    assert isinstance(got.message, Blocks)
                    assert payload == part(0)[request.first * BLOCK_SIZE : (request.first + request.count) * BLOCK_SIZE]
            nursery.cancel_scope.cancel()
        assert head.bytes_sent == node.bytes_received
        assert head.bytes_received == node.bytes_sent
        tally = bench.exported.counters.served["data", "node", "nvme" if from_file else "memory"]
        assert tally.reads == sum(isinstance(request, Read) for request in requests) + (not from_file)

    in_channel(body, parked=parked)


@pytest.mark.parametrize("parked", [False, True])
def test_whoever_is_cancelled_in_the_middle_of_a_reply_closes_the_channel(parked: bool) -> None:
    async def body(bench: Bench, head: Channel, node: Channel) -> None:
        assert bench.python(READ) is not None
        whole = Read(HANDLE, VERSION, 0, 0, 16)
        for number in range(20):
            await node.send(Kind.REQUEST, number, whole)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(served, bench, head)
                await trio.testing.wait_all_tasks_blocked()  # the socket is full
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        assert head.closed == "a send was interrupted in the middle of a frame"

    in_channel(body, parked=parked)


def test_nothing_is_answered_in_place_while_somebody_else_is_sending() -> None:
    async def body(bench: Bench, head: Channel, node: Channel) -> None:
        assert bench.python(READ) is not None
        assert bench.answers is not None
        await node.send(Kind.REQUEST, 1, READ)
        await head._sending.acquire()
        await head.answer_in_place(bench.answers)
        assert head.bytes_sent == 0
        assert (await head.receive()).request_id == 1
        head._sending.release()

    in_channel(body)


@pytest.mark.parametrize("parked", [False, True])
def test_the_end_of_the_connection_is_told(parked: bool) -> None:
    async def body(bench: Bench, head: Channel, node: Channel) -> None:
        async def closed() -> None:
            await trio.testing.wait_all_tasks_blocked()
            node.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(closed)
            with pytest.raises(ChannelClosed, match="the peer closed the connection"):
                await served(bench, head)

    in_channel(body, parked=parked)


async def asked(node: Channel, number: int, request: Message = READ) -> Message:
    await node.send(Kind.REQUEST, number, request)
    got = await node.receive()
    await node.skip_payload()
    assert got.request_id == number
    return got.message


def test_the_task_of_a_connection_that_waits_is_woken_only_for_what_is_left_to_it() -> None:
    async def body(bench: Bench, head: Channel, node: Channel) -> None:
        assert bench.python(READ) is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served, bench, head)
            await trio.testing.wait_all_tasks_blocked()
            (task,) = nursery.child_tasks
            for number in range(20):
                assert isinstance(await asked(node, number), Blocks)
                assert list(bench.hot._waiting.values()) == [task]
            assert isinstance(await asked(node, 20, Stat(b"x")), Done)
            assert isinstance(await asked(node, 21), Blocks)
            tally = bench.exported.counters.served["data", "node", "memory"]
            assert tally.reads == 22
            nursery.cancel_scope.cancel()

    in_channel(body)


def test_a_connection_that_is_closed_while_it_waits_leaves_nothing_behind() -> None:
    """Its descriptor may belong to another one at once."""

    async def body(bench: Bench, head: Channel, node: Channel) -> None:
        assert bench.python(READ) is not None

        async def ended(channel: Channel) -> None:
            with pytest.raises(ChannelClosed, match="not admitted any more"):
                await served(bench, channel)

        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ended, head)
                await trio.testing.wait_all_tasks_blocked()
                assert len(bench.hot._waiting) == 1
                head.close("not admitted any more")
                assert not bench.hot._waiting
                node.close()
                head, node = channel_pair(send_timeout=1.0)
                head.authenticated(FROM_NODE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served, bench, head)
            assert isinstance(await asked(node, 1), Blocks)
            nursery.cancel_scope.cancel()
        head.close()
        node.close()

    in_channel(body)


def test_a_cancelled_wait_loses_nothing() -> None:
    async def body(bench: Bench, head: Channel, node: Channel) -> None:
        assert bench.python(READ) is not None
        sent = framed(READ)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served, bench, head)
            await trio.testing.wait_all_tasks_blocked()
            assert node._socket.send(sent[:30]) == 30
            (answers,) = bench.hot._waiting
            bench.hot._loop.serve(-1, ())  # it has received that
            nursery.cancel_scope.cancel()
        assert (head.closed, head.bytes_received) == (None, 30)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served, bench, head)
            assert node._socket.send(sent[30:]) == len(sent) - 30
            got = await node.receive()
            await node.skip_payload()
            assert got.request_id == 5
            assert bench.hot._waiting.keys() <= {answers}
            nursery.cancel_scope.cancel()

    in_channel(body)


def test_while_somebody_works_on_a_request_the_connection_waits_for_itself() -> None:
    async def body(bench: Bench, head: Channel, node: Channel) -> None:
        assert bench.python(READ) is not None
        bench.alone = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served, bench, head)
            await trio.testing.wait_all_tasks_blocked()
            assert not bench.hot._waiting
            assert isinstance(await asked(node, 1), Blocks)
            nursery.cancel_scope.cancel()

    in_channel(body)


def test_a_peer_that_takes_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_reads, "STUCK_SECONDS", 0.02)

    async def body(bench: Bench, head: Channel, node: Channel) -> None:
        assert bench.python(READ) is not None
        head.send_timeout = 0.02

        async def ask() -> None:
            await trio.testing.wait_all_tasks_blocked()
            for number in range(20):
                await node.send(Kind.REQUEST, number, Read(HANDLE, VERSION, 0, 0, 16))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            with pytest.raises(ChannelClosed, match="the peer took no data"):
                await served(bench, head)

    in_channel(body)


def test_others_have_their_turn_while_requests_keep_coming() -> None:
    async def body(bench: Bench, head: Channel, node: Channel) -> None:
        assert bench.python(READ) is not None
        turns = 0

        async def other() -> None:
            nonlocal turns
            one, two = socket.socketpair()
            with one, two:
                one.setblocking(False)
                while True:
                    await trio.to_thread.run_sync(two.send, b"x")
                    await trio.lowlevel.wait_readable(one)
                    one.recv(1)
                    turns += 1

        def pump() -> None:
            node._socket.setblocking(True)
            while turns < 20:  # for ever, where the others had none
                node._socket.sendall(framed(READ))
                left = len(expected)
                while left:
                    left -= len(node._socket.recv(left))
            node._socket.setblocking(False)

        expected = bench.python(READ)
        assert expected is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served, bench, head)
            nursery.start_soon(other)
            await trio.to_thread.run_sync(pump)
            nursery.cancel_scope.cancel()

    in_channel(body)


def test_a_reply_does_not_wait_for_one_that_somebody_else_will_send() -> None:
    """Replies that follow each other travel together; where the next one is left to Python, nothing is held back."""

    def body(bench: Bench) -> None:
        assert bench.python(READ) is not None
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as theirs,
            listener.accept()[0] as ours,
        ):
            ours.setblocking(False)
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            theirs.sendall(framed(READ) + framed(Read(HANDLE, VERSION, 1, 0, 1)))
            select.select([ours], [], [], 20)
            assert bench.answers is not None
            ended, *_, sent, rest = bench.answers.answer(ours.fileno(), memoryview(bytearray(16384)), 0, 0)
            assert (ended, sent > BLOCK_SIZE, rest) == (Ended.LEFT, True, None)
            not_sent = fcntl.ioctl(ours, SIOCOUTQNSD, bytes(4))
            assert int.from_bytes(not_sent, sys.byteorder) == 0

    in_loop(body)


def test_what_the_loop_has_to_do_is_known() -> None:
    """It is no part of trio's interface: a trio that hides it costs speed."""

    async def main() -> None:
        assert hot_reads._waker() >= 0

    trio.run(main)


# --- what is let go of ---------------------------------------------------------------------------------------------


def test_what_leaves_memory_is_not_sent_any_more() -> None:
    def body(bench: Bench) -> None:
        memory, second = bench.exported.fragments.memory, Read(HANDLE, VERSION, 1, 0, 1)
        for forget in (
            memory.clear,
            lambda: memory.discard(bench.key(1)),
            lambda: memory.discard_where(lambda key: key.fragment == 1),
            lambda: bench.exported.fragments.forget(VERSION.identity),
            lambda: memory.put(bench.key(1), bench.piece(1), len(part(1))),
        ):
            memory.put(bench.key(1), bench.piece(1), len(part(1)))
            assert bench.python(second) is not None
            assert bench.ask(second)[1]
            forget()
            assert bench.ask(second)[0] == Ended.LEFT

    in_loop(body)


def test_memory_keeps_what_only_the_compiled_part_uses() -> None:
    def body(bench: Bench) -> None:
        memory, first, second = bench.exported.fragments.memory, READ, Read(HANDLE, VERSION, 1, 0, 1)
        for request in (first, second):
            assert bench.python(request) is not None
        assert bench.ask(first)[1]
        memory.limit = MIB
        memory.shrink()
        assert bench.ask(first)[1]
        assert bench.ask(second)[0] == Ended.LEFT
        memory.limit = 0
        memory.shrink()
        assert len(memory) == len(bench.hot) == 0

    in_loop(body)


def test_unsettled_bytes_are_left_to_python() -> None:
    def body(bench: Bench) -> None:
        piece = Piece(part(0), block_checksums(part(0)), False)
        bench.exported.fragments.memory.put(bench.key(0), piece, MIB)
        assert bench.python(READ) is not None
        assert bench.ask(READ)[0] == Ended.LEFT

    in_loop(body)


def test_without_the_compiled_part_nothing_is_kept_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_reads, "compiled", None)

    def body(bench: Bench) -> None:
        assert bench.answers is None
        assert bench.python(READ) is not None
        assert len(bench.hot) == 0

    in_loop(body)


def test_all_may_be_cancelled_at_once_in_any_order() -> None:
    async def main() -> None:
        for order in (1, -1):
            async with trio.open_nursery() as nursery:
                hot, counters = HotReads(), Counters()
                with tempfile.TemporaryDirectory() as tree:
                    export = Export("data", Path(tree))
                    memory = Memory(MIB, hot)
                    exported = assemble(export, ExportOptions(), memory, None, counters, nursery, hot_reads=hot)
                    bench = Bench(exported, hot)
                head, node = channel_pair()
                head.authenticated(FROM_NODE)
                scopes = [trio.CancelScope(), trio.CancelScope()]

                async def within(scope: trio.CancelScope, task: Callable[..., Any], *arguments: Any) -> None:
                    with scope:
                        await task(*arguments)

                async with trio.open_nursery() as both:
                    both.start_soon(within, scopes[0], hot.run)
                    await trio.testing.wait_all_tasks_blocked()
                    both.start_soon(within, scopes[1], served, bench, head)
                    await trio.testing.wait_all_tasks_blocked()
                    assert len(hot._waiting) == 1
                    for scope in scopes[::order]:
                        scope.cancel()
                        await trio.testing.wait_all_tasks_blocked()
                assert not hot._waiting
                head.close()
                node.close()
                nursery.cancel_scope.cancel()

    run(main)
