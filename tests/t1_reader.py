"""Reads of open files against a scripted head: the bytes of the file, each fetched once."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import trio

from dadafs.policy.prefetch import NEIGHBOURHOOD, Streams
from dadafs.wire.messages import BLOCK_SIZE, Read
from tests.harness.reading import BIG, FILES, MIB, leftover, run, whole
from tests.harness.scripted_head import after, scripted_node, settle, until

# --- bytes


@pytest.mark.parametrize("step", [4096, 100_000, BLOCK_SIZE, MIB, 3 * MIB])
def test_sequential_reads_give_the_file(step: int) -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (_, node):
            file = await node.open(b"big")
            assert await whole(node, file, step) == BIG
            await until(lambda: not leftover(node), "nothing stays reserved")
            assert node.counters.wire_bytes <= len(BIG) + 2 * MIB

    run(test)


def test_random_reads_give_the_file_and_move_little_more_than_is_read() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (_, node):
            file = await node.open(b"big")
            generator = random.Random(3)
            for _ in range(20):
                offset, length = generator.randrange(len(BIG)), 4096
                assert await node.read(file, offset, length) == BIG[offset : offset + length]
            assert node.counters.wire_bytes <= 20 * (NEIGHBOURHOOD + BLOCK_SIZE)
            for _ in range(50):
                offset, length = generator.randrange(len(BIG)), generator.randrange(2 * MIB)
                assert await node.read(file, offset, length) == BIG[offset : offset + length]

    run(test)


def test_ends_of_files() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (head, node):
            file = await node.open(b"big")
            assert await node.read(file, len(BIG) - 10, 100) == BIG[-10:]
            assert await node.read(file, len(BIG), 100) == b""
            assert await node.read(file, len(BIG) + 5, 100) == b""
            empty = await node.open(b"empty")
            assert await node.read(empty, 0, 100) == b""
            small = await node.open(b"small")
            reads = head.count(Read)
            assert await node.read(small, 1, 3) == b"ell"
            assert head.count(Read) == reads, "its content came with the open"

    run(test)


def test_a_second_read_needs_no_head() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (head, node):
            file = await node.open(b"big")
            first = await whole(node, file)
            head.requests.clear()
            assert await whole(node, file) == first
            assert head.count(Read) == 0
            assert node.counters.hit_bytes >= len(BIG)

    run(test)


def test_what_lies_in_two_fragments_is_handed_over_as_it_is() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (_, node):
            file = await node.open(b"big")
            content = await whole(node, file)
            streams = node.reader.open_streams(file)
            pieces = node.reader.read_at_once(file, streams, MIB - 5000, 2 * MIB)
            assert isinstance(pieces, tuple)
            assert [len(piece) for piece in pieces] == [5000, MIB, MIB - 5000]
            assert b"".join(pieces) == content[MIB - 5000 :][: 2 * MIB]
            assert isinstance(node.reader.read_at_once(file, streams, MIB, MIB), memoryview)

    run(test)


def test_a_program_does_not_wait_for_what_is_asked_for_ahead() -> None:
    async def test() -> None:
        async with scripted_node(FILES, prefetch=True) as (_, node):
            file = await node.open(b"big")
            streams = node.reader.open_streams(file)
            later: list[Callable[[], None]] = []
            for start in (0, MIB // 2):
                await node.reader.read(file, streams, start, MIB // 2)
            await until(lambda: node.reader.read_at_once(file, Streams(MIB), MIB, MIB), "the next fragment is there")
            ahead = node.counters.prefetched
            node.reader.afterwards = lambda work: later.append(work) or True
            assert node.reader.read_at_once(file, streams, MIB, MIB) is not None
            assert node.counters.prefetched == ahead
            assert len(later) == 1
            later.pop()()
            assert node.counters.prefetched > ahead

    run(test)


def test_replies_in_any_order() -> None:
    async def test() -> None:
        async with scripted_node(FILES, prefetch=True) as (head, node), trio.open_nursery() as nursery:
            gates = [trio.Event() for _ in range(4)]
            head.misbehave(Read, *(after(gate) for gate in gates))
            file = await node.open(b"big")
            results: dict[int, bytes] = {}

            async def read(fragment: int) -> None:
                results[fragment] = await node.read(file, fragment * MIB + 5, 1000)

            for fragment in range(4):
                nursery.start_soon(read, fragment)
            await until(lambda: head.count(Read) == 4, "all are asked for")
            for gate in reversed(gates):
                gate.set()
                await settle()
            await until(lambda: len(results) == 4, "all are answered")
            for fragment, data in results.items():
                assert data == BIG[fragment * MIB + 5 :][:1000]

    run(test)


# --- single flight


def test_many_readers_of_one_place_ask_once() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (head, node):
            file = await node.open(b"big")
            gate = trio.Event()
            head.misbehave(Read, after(gate))
            results: list[bytes] = []

            async def read() -> None:
                results.append(await node.read(file, 3 * MIB, 4096))

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(read)
                await until(lambda: head.count(Read), "one asks")
                await settle()
                gate.set()
            assert results == [BIG[3 * MIB : 3 * MIB + 4096]] * 20
            assert head.count(Read) == 1

    run(test)


def test_a_reader_that_gives_up_does_not_take_the_others_with_it() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (head, node):
            file = await node.open(b"big")
            gate = trio.Event()
            head.misbehave(Read, after(gate))
            results: list[bytes] = []

            async def read(scope: trio.CancelScope) -> None:
                with scope:
                    results.append(await node.read(file, 3 * MIB, 4096))

            async with trio.open_nursery() as nursery:
                scopes = [trio.CancelScope() for _ in range(3)]
                nursery.start_soon(read, scopes[0])
                await until(lambda: head.count(Read), "the first asks")
                nursery.start_soon(read, scopes[1])
                nursery.start_soon(read, scopes[2])
                await settle()
                scopes[0].cancel()
                await until(lambda: len(results) == 2, "the others are served all the same")
                gate.set()
            assert results == [BIG[3 * MIB : 3 * MIB + 4096]] * 2
            await until(lambda: not leftover(node), "nothing stays reserved")

    run(test)
