"""Reading ahead, and reading within the budget of memory, whoever reads and however many."""

from __future__ import annotations

import os
import random

import trio

from dadafs.policy.prefetch import Streams
from dadafs.wire.messages import Read
from tests.harness.reading import BIG, FILES, MIB, leftover, run, whole
from tests.harness.scripted_head import after, scripted_node, settle, until


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
            await until(lambda: head.count(Read) == 2, "both ends")
            assert sorted(read.fragment for read in head.reads()) == [0, 5]
            await until(lambda: not leftover(node), "both come")
            assert await node.read(file, 0, 100) == BIG[:100]
            assert await node.read(file, len(BIG) - 100, 100) == BIG[-100:]
            assert head.count(Read) == 2
            node.reader.open_streams(file)
            await settle()
            assert head.count(Read) == 2, "once a version"

    run(test)


def test_a_read_that_a_prefetch_is_late_for_joins_it() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (head, node):
            gate = trio.Event()
            head.misbehave(Read, after(gate), after(gate))
            file = await node.open(b"scan.h5")
            await until(lambda: head.count(Read) == 2, "both ends are asked for")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.read, file, 0, 100)
                await settle()
                gate.set()
            assert node.counters.late == 1
            assert head.count(Read) == 2

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
                node.reader.close_streams(streams)
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
