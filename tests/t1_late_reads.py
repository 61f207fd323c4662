"""Reads that no task waits for, against a scripted head: the right bytes, or word that a task has to do it; once."""

from __future__ import annotations

import errno
import random
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from dadafs.policy.prefetch import Streams
from dadafs.remote_file import RemoteFile
from dadafs.wire.messages import BLOCK_SIZE, Read
from tests.checklogs import ExpectedLog
from tests.harness.reading import BIG, FILES, MIB, OTHER, leftover, run
from tests.harness.scripted_head import (
    Misbehaviour,
    ScriptedHead,
    ScriptedNode,
    after,
    failing,
    fewer_checksums,
    ignored,
    meanwhile,
    reset,
    reset_in_payload,
    scripted_node,
    settle,
    until,
    until_passing_time,
    wrong_byte,
)

PLACE = 3 * MIB + 5


class Late:
    """One such read, and what came of it."""

    def __init__(self, node: ScriptedNode, file: RemoteFile, streams: Streams, offset: int, length: int) -> None:
        self.answers: list[bytes | None] = []
        self.begun = node.reader.read_later(file, streams, offset, length, self._done)

    def _done(self, data: memoryview | None) -> None:
        self.answers.append(None if data is None else bytes(data))


def with_file(test: Callable[[ScriptedHead, ScriptedNode, RemoteFile, Streams], Awaitable[None]]) -> None:
    """Run `test` with the large file open."""

    async def main() -> None:
        async with scripted_node(FILES, freshness=1000.0) as (head, node):
            file = await node.open(b"big")
            await settle()  # the background tasks run, and every data channel stands
            await node.read(file, 0, 10)
            await test(head, node, file, node.reader.open_streams(file))

    run(main)


def test_bytes_here_and_there_are_right() -> None:
    async def test(head: ScriptedHead, node: ScriptedNode, file: RemoteFile, streams: Streams) -> None:
        choose = random.Random(5)
        begun = 0
        for _ in range(300):
            offset, length = choose.randrange(1, len(BIG) - 300_000), choose.choice((1, 4096, 65536, 300_000))
            late = Late(node, file, streams, offset, length)
            if not late.begun:
                assert await node.read(file, offset, length) == BIG[offset : offset + length]
                continue
            begun += 1
            await until(lambda late=late: late.answers, "an answer")
            assert late.answers == [BIG[offset : offset + length]]
        assert begun > 20
        assert not leftover(node)

    with_file(test)


def test_what_it_fetched_is_kept_for_the_next_reader() -> None:
    async def test(head: ScriptedHead, node: ScriptedNode, file: RemoteFile, streams: Streams) -> None:
        late = Late(node, file, streams, PLACE, 4096)
        assert late.begun
        await until(lambda: late.answers, "an answer")
        reads = head.count(Read)
        assert await node.read(file, PLACE, 4096) == BIG[PLACE : PLACE + 4096]
        assert head.count(Read) == reads
        assert node.counters.miss_bytes >= 4096

    with_file(test)


def test_memory_is_given_back_with_the_answers() -> None:
    async def main() -> None:
        async with scripted_node(FILES, freshness=1000.0, budget=2 * MIB) as (_, node):
            file = await node.open(b"big")
            await settle()
            await node.read(file, 0, 10)
            streams = node.reader.open_streams(file)
            choose = random.Random(6)
            begun = 0
            for _ in range(300):
                offset = choose.randrange(1, len(BIG) - 70_000)
                late = Late(node, file, streams, offset, 4096)
                if late.begun:
                    begun += 1
                    await until(lambda late=late: late.answers, "an answer")
                    assert late.answers == [BIG[offset : offset + 4096]]
                assert node.cache.used <= node.cache.budget
            assert begun > 50

    run(main)


def test_readers_that_wait_for_the_same_blocks_get_them() -> None:
    async def test(head: ScriptedHead, node: ScriptedNode, file: RemoteFile, streams: Streams) -> None:
        gate = trio.Event()
        head.misbehave(Read, after(gate))
        late = Late(node, file, streams, PLACE, 4096)
        reads = head.count(Read)
        results: list[bytes] = []

        async def read() -> None:
            results.append(await node.read(file, PLACE, 4096))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(read)
            await settle()
            gate.set()
        await until(lambda: late.answers, "an answer")
        assert [*results, *late.answers] == [BIG[PLACE : PLACE + 4096]] * 3
        assert head.count(Read) <= reads + 1

    with_file(test)


def test_what_is_no_single_miss_is_left_to_a_task() -> None:
    async def test(head: ScriptedHead, node: ScriptedNode, file: RemoteFile, streams: Streams) -> None:
        for offset, length in ((0, 4096), (len(BIG) - 10, 20), (len(BIG), 1), (MIB - 10, 20), (-5, 10), (PLACE, 0)):
            assert not Late(node, file, streams, offset, length).begun, (offset, length)
        await node.read(file, PLACE, 4096)
        assert not Late(node, file, streams, PLACE, 4096).begun  # there already
        file.doubt()
        assert not Late(node, file, streams, PLACE + MIB, 4096).begun  # not believed
        assert not leftover(node)

    with_file(test)


@pytest.mark.parametrize(
    "fault", [reset, reset_in_payload, wrong_byte, fewer_checksums, failing(errno.EIO), failing(errno.ESTALE)]
)
def test_whatever_goes_wrong_a_task_reads_the_right_bytes(fault: Misbehaviour, expected_log: ExpectedLog) -> None:
    if fault in (wrong_byte, fewer_checksums):
        expected_log.add("damaged data")

    async def test(head: ScriptedHead, node: ScriptedNode, file: RemoteFile, streams: Streams) -> None:
        head.misbehave(Read, fault)
        late = Late(node, file, streams, PLACE, 2 * BLOCK_SIZE)
        assert late.begun
        await until(lambda: late.answers, "an answer")
        assert late.answers == [None]
        assert await node.read(file, PLACE, 2 * BLOCK_SIZE) == BIG[PLACE : PLACE + 2 * BLOCK_SIZE]
        await until(lambda: not leftover(node), "nothing stays reserved")
        assert late.answers == [None]

    with_file(test)


def test_a_file_that_changed_meanwhile_is_read_by_a_task_in_its_new_version() -> None:
    async def test(head: ScriptedHead, node: ScriptedNode, file: RemoteFile, streams: Streams) -> None:
        head.misbehave(Read, meanwhile(lambda: head.files[b"big"].write(OTHER)))
        late = Late(node, file, streams, PLACE, 4096)
        await until(lambda: late.answers, "an answer")
        assert late.answers == [None]
        assert await node.read(file, PLACE, 4096) == OTHER[PLACE : PLACE + 4096]

    with_file(test)


def test_a_version_learnt_before_the_answer_makes_it_useless() -> None:
    async def test(head: ScriptedHead, node: ScriptedNode, file: RemoteFile, streams: Streams) -> None:
        gate = trio.Event()
        head.misbehave(Read, after(gate))
        late = Late(node, file, streams, PLACE, 4096)
        await until(lambda: head.reads()[-1].fragment == 3, "it is asked for")
        head.files[b"big"].write(OTHER)
        await head.push_change(b"big")
        await until(lambda: file.attr.mtime_ns == head.files[b"big"].mtime_ns, "the push arrived")
        gate.set()
        await until(lambda: late.answers, "an answer")
        assert late.answers == [None]
        assert await node.read(file, PLACE, 4096) == OTHER[PLACE : PLACE + 4096]

    with_file(test)


def test_a_head_that_takes_its_time_gets_a_task() -> None:
    async def main() -> None:
        async with scripted_node(FILES, freshness=1000.0) as (head, node):
            file = await node.open(b"big")
            await settle()
            await node.read(file, 0, 10)
            streams = node.reader.open_streams(file)
            head.misbehave(Read, ignored)
            late = Late(node, file, streams, PLACE, 4096)
            assert late.begun
            await settle()
            assert late.answers == []
            await until_passing_time(lambda: late.answers, "it is given up")
            assert late.answers == [None]
            assert await node.read(file, PLACE, 4096) == BIG[PLACE : PLACE + 4096]
            assert not leftover(node)

    run(main, clock=trio.testing.MockClock())


def test_an_answer_that_comes_after_it_was_given_up_changes_nothing() -> None:
    async def main() -> None:
        async with scripted_node(FILES, freshness=1000.0) as (head, node):
            file = await node.open(b"big")
            await settle()
            await node.read(file, 0, 10)
            gate = trio.Event()
            head.misbehave(Read, after(gate))
            late = Late(node, file, node.reader.open_streams(file), PLACE, 4096)
            await until_passing_time(lambda: late.answers, "it is given up")
            gate.set()
            await settle()
            assert late.answers == [None]
            assert await node.read(file, PLACE, 4096) == BIG[PLACE : PLACE + 4096]

    run(main, clock=trio.testing.MockClock())


def test_when_the_mount_ends_every_read_is_answered() -> None:
    lates: list[Late] = []

    async def main() -> None:
        async with scripted_node(FILES, freshness=1000.0) as (head, node):
            file = await node.open(b"big")
            await settle()
            await node.read(file, 0, 10)
            head.misbehave(Read, ignored)
            lates.append(Late(node, file, node.reader.open_streams(file), PLACE, 4096))
            assert lates[0].begun
            await settle()

    run(main)
    assert lates[0].answers == [None]


FAULTS = [reset, reset_in_payload, wrong_byte, fewer_checksums, failing(errno.ESTALE)]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_prefetch_that_goes_wrong_is_made_again_by_a_task(fault: Misbehaviour, expected_log: ExpectedLog) -> None:
    """The reader that waits for it gets the right bytes, and nothing stays reserved."""
    if fault in (wrong_byte, fewer_checksums):
        expected_log.add("damaged data")

    async def test(head: ScriptedHead, node: ScriptedNode, file: RemoteFile, streams: Streams) -> None:
        for start in (0, MIB // 2):  # a stream is proven: what follows is prefetched
            await node.reader.read(file, streams, start, MIB // 2)
        await until(lambda: not leftover(node), "what was asked for is there")
        before = node.counters.prefetched
        head.misbehave(Read, *[fault] * 2)
        data = [await node.reader.read(file, streams, start, MIB) for start in range(MIB, 6 * MIB, MIB)]
        assert b"".join(data) == BIG[MIB : 6 * MIB]
        assert node.counters.prefetched > before
        data.clear()
        await until(lambda: not leftover(node), "nothing stays reserved")

    with_file(test)


def test_a_prefetch_says_on_the_wire_that_nobody_waits_for_it() -> None:
    async def test(head: ScriptedHead, node: ScriptedNode, file: RemoteFile, streams: Streams) -> None:
        for start in range(0, 3 * MIB, MIB // 2):
            await node.reader.read(file, streams, start, MIB // 2)
        await until(lambda: not leftover(node), "all is there")
        ahead = [read for read in head.reads() if read.prefetch]
        assert {read.fragment for read in ahead} >= {3, 4}
        assert all(not read.prefetch for read in head.reads() if read.fragment == 0)

    with_file(test)
