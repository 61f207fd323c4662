"""Reads of open files while blocks are damaged, connections break and the head restarts: right bytes or an error."""

from __future__ import annotations

import errno
import random
from typing import Any

import pytest
import trio

from dadafs.wire.messages import Open, Read
from tests.checklogs import ExpectedLog
from tests.harness.reading import BIG, FILES, MIB, OTHER, leftover, run, whole
from tests.harness.scripted_head import (
    failing,
    fewer_checksums,
    ignored,
    reset,
    reset_in_payload,
    scripted_node,
    settle,
    until,
    until_passing_time,
    wrong_byte,
)


@pytest.mark.parametrize("damage", [wrong_byte, fewer_checksums])
def test_damaged_blocks_are_fetched_again(damage: Any, expected_log: ExpectedLog) -> None:
    expected_log.add("damaged data of big")

    async def test() -> None:
        async with scripted_node(FILES, prefetch=False) as (head, node):
            head.misbehave(Read, damage, damage)
            file = await node.open(b"big")
            assert await node.read(file, 0, 200_000) == BIG[:200_000]
            assert node.counters.checksum_errors == 2
            reads = head.reads()
            assert reads[0].known == []
            assert reads[1].known == [0] * reads[1].count, "all zero asks the head to verify what it has"

    run(test)


def test_damage_time_and_again_is_eio(expected_log: ExpectedLog) -> None:
    expected_log.add("damaged data of big")

    async def test() -> None:
        async with scripted_node(FILES, prefetch=False) as (head, node):
            head.misbehave(Read, wrong_byte, wrong_byte, wrong_byte)
            file = await node.open(b"big")
            with pytest.raises(OSError) as caught:
                await node.read(file, 0, 4096)
            assert caught.value.errno == errno.EIO
            assert not leftover(node)
            assert await node.read(file, 0, 4096) == BIG[:4096]

    run(test)


@pytest.mark.parametrize("fault", [reset, reset_in_payload])
def test_a_connection_lost_in_a_read(fault: Any) -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (head, node):
            head.misbehave(Read, fault, fault, fault)
            file = await node.open(b"big")
            assert await whole(node, file) == BIG
            assert node.session.generation == 1, "a data channel is not the session"

    run(test)


def test_a_head_that_restarts_in_the_middle(expected_log: ExpectedLog) -> None:
    expected_log.add("lost the head")

    async def test() -> None:
        async with scripted_node(FILES) as (head, node), trio.open_nursery() as nursery:
            file = await node.open(b"big")
            assert await node.read(file, 0, 1000) == BIG[:1000]
            await head.stop()
            results: list[bytes] = []

            async def read() -> None:
                results.append(await node.read(file, 4 * MIB, 1000))

            nursery.start_soon(read)
            await settle()
            await head.start(nursery)
            await until(lambda: results, "it goes on")
            assert results == [BIG[4 * MIB : 4 * MIB + 1000]]
            assert head.count(Open) == 2
            nursery.cancel_scope.cancel()

    run(test)


def test_another_file_after_the_restart_is_estale(expected_log: ExpectedLog) -> None:
    expected_log.add("lost the head")

    async def test() -> None:
        async with scripted_node(FILES) as (head, node), trio.open_nursery() as nursery:
            file = await node.open(b"big")
            await head.stop()
            head.files[b"big"] = type(head.files[b"big"])(OTHER)
            await head.start(nursery)
            with pytest.raises(OSError) as caught:
                await node.read(file, 4 * MIB, 1000)
            assert caught.value.errno == errno.ESTALE
            fresh = await node.open(b"big")
            assert fresh is not file
            assert await node.read(fresh, 4 * MIB, 1000) == OTHER[4 * MIB : 4 * MIB + 1000]
            nursery.cancel_scope.cancel()

    run(test)


def test_a_handle_that_the_head_dropped_is_opened_again() -> None:
    async def test() -> None:
        async with scripted_node(FILES) as (head, node):
            file = await node.open(b"big")
            head.held.clear()
            assert await node.read(file, 4 * MIB, 1000) == BIG[4 * MIB : 4 * MIB + 1000]

    run(test)


def test_an_error_of_the_head_reaches_the_reader() -> None:
    async def test() -> None:
        async with scripted_node(FILES, prefetch=False) as (head, node):
            file = await node.open(b"big")
            head.misbehave(Read, failing(errno.EACCES))
            with pytest.raises(OSError) as caught:
                await node.read(file, 0, 10)
            assert caught.value.errno == errno.EACCES
            assert not leftover(node)

    run(test)


def test_no_answer_is_eio_at_the_deadline() -> None:
    async def test() -> None:
        async with scripted_node(FILES, prefetch=False, retry=3.0) as (head, node), trio.open_nursery() as nursery:
            file = await node.open(b"big")
            head.misbehave(Read, *[ignored] * 50)
            errors: list[int | None] = []

            async def read() -> None:
                try:
                    await node.read(file, 0, 10)
                except OSError as error:
                    errors.append(error.errno)

            nursery.start_soon(read)
            await until_passing_time(lambda: errors, "the deadline")
            assert errors == [errno.EIO]
            await until_passing_time(lambda: not leftover(node), "nothing stays reserved")

    run(test, clock=trio.testing.MockClock())


def test_a_head_with_other_fragments_after_its_restart(expected_log: ExpectedLog) -> None:
    expected_log.add("lost the head")

    async def test() -> None:
        async with scripted_node(FILES) as (head, node), trio.open_nursery() as nursery:
            file = await node.open(b"big")
            assert await whole(node, file) == BIG
            await head.stop()
            head.fragment_size = 256 * 1024
            await head.start(nursery)
            await until(lambda: node.session.generation == 2, "it is back")
            assert await whole(node, file) == BIG
            nursery.cancel_scope.cancel()

    run(test)


def test_random_faults_never_give_a_wrong_byte(expected_log: ExpectedLog) -> None:
    """Readers at random places, a writer, and a head that misbehaves: every read is of some one version."""
    expected_log.add("damaged data|lost the head")

    async def test() -> None:
        generator = random.Random(11)
        versions: list[tuple[float, bytes]] = [(float("inf"), BIG)]  # until when it was the present one
        async with scripted_node({b"f.h5": BIG}, budget=8 * MIB, freshness=0.05) as (head, node):
            file = await node.open(b"f.h5")
            scripted = head.files[b"f.h5"]
            for round_ in range(150):
                fault = generator.choice([None, None, wrong_byte, reset, reset_in_payload, fewer_checksums])
                if fault is not None and not head._misbehaviour.get(Read):
                    head.misbehave(Read, fault)
                if round_ % 10 == 9:
                    changed = bytearray(scripted.content)
                    for _ in range(20):
                        changed[generator.randrange(len(changed))] ^= 255
                    versions[-1] = (trio.current_time(), versions[-1][1])
                    versions.append((float("inf"), bytes(changed)))
                    scripted.write(bytes(changed))
                offset, length = generator.randrange(len(BIG)), generator.randrange(2 * MIB)
                started = trio.current_time()
                data = await node.read(file, offset, length)
                fresh = [version for until_, version in versions if until_ > started - 0.05]
                assert any(data == version[offset : offset + length] for version in fresh)
            await until(lambda: not leftover(node), "nothing stays reserved")

    run(test)
