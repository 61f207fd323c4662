"""Reading ahead, and reading within the budget of memory, whoever reads and however many."""

from __future__ import annotations

import os
import random

import trio

from dadafs.policy.prefetch import NEIGHBOURHOOD, Streams
from dadafs.wire.messages import BLOCK_SIZE, Message, Read
from tests.harness.reading import BIG, FILES, MIB, leftover, run, whole
from tests.harness.scripted_head import Connection, after, scripted_node, settle, until


def test_sequential_reading_is_ahead_of_the_reader() -> None:
    async def test() -> None:
        async with scripted_node({b"long": BIG * 4}, budget=64 * MIB) as (_, node):
            file = await node.open(b"long")
            assert await whole(node, file, 128 * 1024) == BIG * 4
            assert node.counters.prefetch_used >= 15
            assert node.counters.wasted == 0
            assert node.cache.prefetch_room > 0

    run(test)


def test_both_ends_of_an_hdf5_file_are_asked_for_on_open() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (head, node):
            file = await node.open(b"scan.h5")
            await until(lambda: len(head.reads()) == 3, "both ends")
            assert sorted(read.fragment for read in head.reads()) == [0, 0, 5]
            assert sum(read.count * BLOCK_SIZE <= NEIGHBOURHOOD for read in head.reads()) == 2
            await until(lambda: not leftover(node), "both come")
            for start in (0, len(BIG) - 100):
                assert await node.read(file, start, 100) == BIG[start:][:100]
            for start in (0, 5 * MIB):
                assert await node.read(file, start, MIB) == BIG[start:][:MIB]
            assert len(head.reads()) == 3
            node.reader.open_streams(file)
            await settle()
            assert len(head.reads()) == 3, "once a version"

    run(test)


def test_the_front_of_an_hdf5_file_is_read_while_the_rest_is_on_its_way() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (head, node):
            gate = trio.Event()

            async def rest_is_late(_: Connection, __: int, request: Message) -> bool:
                if isinstance(request, Read) and request.count * BLOCK_SIZE > NEIGHBOURHOOD:
                    await gate.wait()
                return False

            head.misbehave(Read, *[rest_is_late] * 3)
            file = await node.open(b"scan.h5")
            with trio.fail_after(10):
                assert await node.read(file, 0, 4096) == BIG[:4096]
                assert await node.read(file, len(BIG) - 4096, 4096) == BIG[-4096:]
            gate.set()
            await until(lambda: not leftover(node), "all comes")

    run(test)


def test_a_read_that_a_prefetch_is_late_for_joins_it() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (head, node):
            gate = trio.Event()
            head.misbehave(Read, *[after(gate)] * 3)
            file = await node.open(b"scan.h5")
            await until(lambda: len(head.reads()) == 3, "both ends are asked for")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.read, file, 0, 100)
                await settle()
                gate.set()
            assert node.counters.late == 1
            assert len(head.reads()) == 3

    run(test)


def test_what_lies_in_two_runs_of_a_fragment_is_answered_at_once() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (_, node):
            file = await node.open(b"scan.h5")
            await until(lambda: not leftover(node), "both ends come")
            pieces = node.reader.read_at_once(file, node.reader.open_streams(file), 1000, MIB - 1000)
            assert isinstance(pieces, tuple)
            assert [len(piece) for piece in pieces] == [NEIGHBOURHOOD - 1000, MIB - NEIGHBOURHOOD]
            assert b"".join(pieces) == BIG[1000:MIB]

    run(test)


def test_the_next_file_of_a_scan_is_read_as_the_last_one_was() -> None:
    async def test() -> None:
        files = {b"scan/data_1": BIG * 4, b"scan/data_2": BIG * 4, b"other/data": BIG * 4}
        async with scripted_node(files, budget=96 * MIB) as (_, node):

            async def prefetched(path: bytes, end: int) -> int:
                file = await node.open(path)
                streams = node.reader.open_streams(file)
                before = node.counters.prefetched
                for offset in range(0, end, MIB // 2):
                    await node.reader.read(file, streams, offset, MIB // 2)
                node.reader.close_streams(file, streams)
                return node.counters.prefetched - before

            await prefetched(b"scan/data_1", 4 * len(BIG))
            assert await prefetched(b"scan/data_2", MIB) >= 4
            assert await prefetched(b"other/data", MIB) <= 2

    run(test)


def test_a_program_that_reopens_for_every_frame_is_prefetched_for() -> None:
    async def test() -> None:
        async with scripted_node({b"long": BIG * 4}, leases=True, budget=64 * MIB) as (_, node):
            for frame in range(32):
                file, _ = await node.files.open(b"long")
                streams = node.reader.open_streams(file)
                offset = frame * 500_000
                data = await node.reader.read(file, streams, offset, 500_000)
                assert data == (BIG * 4)[offset : offset + 500_000]
                del data
                node.reader.close_streams(file, streams)
                file.close()
            assert node.counters.prefetch_used >= 8

    run(test)


def test_more_readers_than_the_budget_holds_are_all_served_within_it() -> None:
    async def test() -> None:
        async with scripted_node(FILES, budget=6 * MIB) as (_, node):
            file = await node.open(b"big")
            peak = 0

            async def read(seed: int) -> None:
                nonlocal peak
                generator = random.Random(seed)
                for _ in range(10):
                    offset, length = generator.randrange(len(BIG)), generator.randrange(MIB)
                    assert await node.read(file, offset, length) == BIG[offset : offset + length]
                    peak = max(peak, node.cache.used)

            async with trio.open_nursery() as nursery:
                for seed in range(24):
                    nursery.start_soon(read, seed)
            assert peak <= node.cache.budget
            await until(lambda: not leftover(node), "nothing stays reserved")

    run(test)


def test_readers_that_hold_on_to_what_they_read_are_served_one_after_the_other() -> None:
    """Views of more than the budget are being looked at: there is no room, and everybody gets on all the same."""

    async def test() -> None:
        async with scripted_node({b"long": BIG * 4}, budget=3 * MIB) as (_, node):
            file = await node.open(b"long")
            held: list[bytes | memoryview] = []

            async def read(fragment: int) -> None:
                held.append(await node.reader.read(file, Streams(MIB), fragment * MIB, MIB))

            async with trio.open_nursery() as nursery:
                for fragment in range(20):
                    nursery.start_soon(read, fragment)
            assert sorted(map(bytes, held)) == sorted((BIG * 4)[i * MIB : (i + 1) * MIB] for i in range(20))
            assert node.counters.bypass > 0
            held.clear()
            assert await node.read(file, 0, 100) == BIG[:100]
            assert node.cache.used <= node.cache.budget
            await until(lambda: not leftover(node), "nothing stays reserved")

    run(test)


def test_no_descriptor_is_leaked() -> None:
    async def test() -> None:
        for _ in range(3):
            async with scripted_node(FILES) as (_, node):
                await whole(node, await node.open(b"big"))

    run(test)
    before = len(os.listdir("/proc/self/fd"))
    run(test)
    assert len(os.listdir("/proc/self/fd")) <= before
