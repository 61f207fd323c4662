"""Reads of open files against a scripted head: right bytes of one version, whatever happens in between."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from dadafs.policy.prefetch import Streams
from dadafs.remote_file import RemoteFile
from dadafs.wire.messages import BLOCK_SIZE, Attr, LeasesLost, Open, Read, Release, Resolve, Stat
from tests.checklogs import ExpectedLog
from tests.harness.scripted_head import (
    REAL_DEADLINE,
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

MIB = 2**20
BIG = random.Random(1).randbytes(5 * MIB + 12345)
OTHER = random.Random(2).randbytes(5 * MIB + 12345)
FILES = {b"big": BIG, b"small": b"hello", b"empty": b"", b"scan.h5": BIG, b"dir/log": BIG[: 3 * BLOCK_SIZE + 100]}


def run(test: Callable[..., Awaitable[Any]], *, clock: trio.abc.Clock | None = None) -> None:
    """Run `test`; a hang is a failure."""

    async def bounded() -> None:
        with trio.fail_after(REAL_DEADLINE if clock is None else 1e6):
            await test()

    trio.run(bounded, clock=clock)


async def whole(node: ScriptedNode, file: RemoteFile, step: int = 100_000) -> bytes:
    """The file, read in order."""
    parts = []
    offset = 0
    while part := await node.read(file, offset, step):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def leftover(node: ScriptedNode) -> int:
    """Bytes reserved although nothing is in flight."""
    return node.cache.in_flight


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
            assert node.counters.wire_bytes <= 20 * 2 * BLOCK_SIZE
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


# --- damage and outages


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


# --- versions


def test_a_change_in_the_middle_of_a_read_begins_it_again() -> None:
    """Two fragments, the file changes between them: all bytes are of the new version."""

    async def test() -> None:
        async with scripted_node(FILES, prefetch=False) as (head, node):
            file = await node.open(b"big")
            changes: list[tuple[Attr, Attr]] = []
            node.files.on_change(lambda _, old, new: changes.append((old, new)))
            scripted = head.files[b"big"]
            head.misbehave(Read, meanwhile(lambda: None), meanwhile(lambda: scripted.write(OTHER)))
            data = await node.read(file, MIB - 1000, 2000)
            assert data == OTHER[MIB - 1000 : MIB + 1000]
            assert file.epoch == 1
            assert len(changes) == 1
            assert changes[0][1] == scripted.attr
            assert node.counters.read_restarts == 1

    run(test)


def test_a_file_that_never_stands_still_is_eio_in_the_end() -> None:
    async def test() -> None:
        async with scripted_node(FILES, prefetch=False, retry=3.0) as (head, node), trio.open_nursery() as nursery:
            file = await node.open(b"big")
            scripted = head.files[b"big"]
            head.misbehave(Read, *[meanwhile(lambda: scripted.write(scripted.content))] * 1000)
            errors: list[int | None] = []

            async def read() -> None:
                try:
                    await node.read(file, 0, 10)
                except OSError as error:
                    errors.append(error.errno)

            nursery.start_soon(read)
            await until_passing_time(lambda: errors, "it gives up")
            assert errors == [errno.EIO]

    run(test, clock=trio.testing.MockClock())


def test_unchanged_blocks_of_a_changed_file_are_not_sent_again() -> None:
    async def test() -> None:
        async with scripted_node(FILES, leases=True, prefetch=False) as (head, node):
            file = await node.open(b"big")
            assert await whole(node, file) == BIG
            scripted = head.files[b"big"]
            changed = bytearray(BIG)
            changed[2 * MIB + 3 * BLOCK_SIZE + 7] ^= 1
            scripted.write(bytes(changed))
            await head.push_change(b"big")
            await until(lambda: file.epoch == 1, "the push")
            before = node.counters.wire_bytes
            assert await whole(node, file) == changed
            assert node.counters.wire_bytes - before == BLOCK_SIZE
            assert node.counters.blocks_unchanged == -(-len(BIG) // BLOCK_SIZE) - 1

    run(test)


def test_growth_sends_only_what_is_new_and_the_block_that_was_short() -> None:
    async def test() -> None:
        async with scripted_node(FILES, leases=True, prefetch=False) as (head, node):
            file = await node.open(b"dir/log")
            old = head.files[b"dir/log"].content
            assert await whole(node, file) == old
            head.files[b"dir/log"].write(old + b"more")
            await head.push_change(b"dir/log")
            await until(lambda: file.epoch == 1, "the push")
            before = node.counters.wire_bytes
            assert await whole(node, file) == old + b"more"
            assert node.counters.wire_bytes - before == 104

    run(test)


def test_append_keeps_whole_blocks_without_asking() -> None:
    async def test() -> None:
        async with scripted_node(FILES, leases=True, prefetch=False, append=("*/log",)) as (head, node):
            file = await node.open(b"dir/log")
            old = head.files[b"dir/log"].content
            assert await whole(node, file) == old
            head.files[b"dir/log"].write(old + b"more")
            await head.push_change(b"dir/log")
            await until(lambda: file.epoch == 1, "the push")
            head.requests.clear()
            assert await whole(node, file) == old + b"more"
            assert [(read.first, read.count) for read in head.reads()] == [(3, 1)]

    run(test)


def test_a_truncated_file_gives_no_more_than_it_has() -> None:
    async def test() -> None:
        async with scripted_node(FILES, leases=True) as (head, node):
            file = await node.open(b"big")
            await whole(node, file)
            head.files[b"big"].write(BIG[:1000])
            await head.push_change(b"big")
            await until(lambda: file.epoch == 1, "the push")
            assert await whole(node, file) == BIG[:1000]

    run(test)


def test_an_orphan_is_read_through_its_handle() -> None:
    async def test() -> None:
        async with scripted_node(FILES, leases=True, freshness=0.05) as (head, node):
            file = await node.open(b"big")
            head.files[b"big"] = type(head.files[b"big"])(OTHER)
            await head.push_change(b"big")
            await until(lambda: file.orphaned, "the push")
            assert await node.read(file, 4 * MIB, 100) == BIG[4 * MIB : 4 * MIB + 100]
            await trio.sleep(0.1)
            assert await node.read(file, 3 * MIB, 100) == BIG[3 * MIB : 3 * MIB + 100]
            assert head.count(Resolve) >= 1
            fresh = await node.open(b"big")
            assert await node.read(fresh, 0, 100) == OTHER[:100]
            assert await node.read(file, 0, 100) == BIG[:100]

    run(test)


def test_unsettled_data_is_asked_for_again_after_freshness() -> None:
    async def test() -> None:
        async with scripted_node(FILES, prefetch=False, freshness=0.05) as (head, node):
            scripted = head.files[b"big"]
            scripted.settled = False
            file = await node.open(b"big")
            assert not file.settled
            assert await node.read(file, 0, 100) == BIG[:100]
            scripted.content = OTHER  # within one tick of the origin's clock: the same version
            await trio.sleep(0.1)
            assert await node.read(file, 0, 100) == OTHER[:100]

    run(test)


# --- beliefs


def test_a_leased_file_is_read_without_asking_about_it() -> None:
    async def test() -> None:
        async with scripted_node(FILES, leases=True, freshness=0.2) as (head, node):
            file = await node.open(b"big")
            await node.read(file, 0, 100)
            await trio.sleep(0.5)
            head.requests.clear()
            await node.read(file, 0, 100)
            assert head.requests == []

    run(test)


def test_without_a_lease_the_head_is_asked_once_per_freshness() -> None:
    async def test() -> None:
        async with scripted_node(FILES, freshness=0.2) as (head, node):
            file = await node.open(b"big")
            await node.read(file, 0, 100)
            await trio.sleep(0.3)
            head.files[b"big"].write(OTHER)
            for _ in range(3):
                assert await node.read(file, 0, 100) == OTHER[:100]
            assert head.count(Stat) == 1

    run(test)


def test_a_lost_lease_is_asked_about() -> None:
    async def test() -> None:
        async with scripted_node(FILES, leases=True, freshness=0.2) as (head, node):
            file = await node.open(b"big")
            await head.push(LeasesLost([b""]))
            await until(lambda: not file.leased, "the push")
            await trio.sleep(0.3)
            await node.read(file, 0, 100)
            assert head.count(Stat) == 1

    run(test)


def test_a_believed_file_is_opened_at_the_head_only_when_it_is_read() -> None:
    async def test() -> None:
        async with scripted_node(FILES, leases=True) as (head, node):
            answer = await node.session.stat(b"small")
            attr = answer.value.attr
            assert attr is not None
            file = node.files.believed(
                b"small", attr, asked_at=answer.asked_at, generation=answer.generation, leased=True
            )
            streams = node.reader.open_streams(file)
            assert head.count(Open) == 0
            assert bytes(await node.reader.read(file, streams, 0, 10)) == b"hello"
            assert head.count(Open) == 1
            assert head.count(Read) == 0, "its content came with the open"
            file.close()

    run(test)


def test_a_directory_renamed_above_makes_the_file_doubtful_but_readable() -> None:
    async def test() -> None:
        async with scripted_node(FILES, leases=True) as (head, node):
            file = await node.open(b"dir/log")
            head.files[b"new/log"] = head.files.pop(b"dir/log")
            await head.push_change(b"dir", subtree=True)
            await until(lambda: not file.leased, "the push")
            assert await whole(node, file) == head.files[b"new/log"].content

    run(test)


def test_handles_go_back_to_the_head_when_nobody_uses_them(expected_log: ExpectedLog) -> None:
    async def test() -> None:
        async with scripted_node(FILES, lease=5.0) as (head, node):
            file = await node.open(b"big")
            again = await node.open(b"big")
            assert again is file
            file.close()
            await settle()
            assert len(head.held) == 2
            again.close()
            await until_passing_time(lambda: not head.held, "the handles are given back")
            assert head.count(Release) >= 1
            assert node.files.find(file.identity) is None

    run(test, clock=trio.testing.MockClock())


# --- prefetch and memory


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


def test_no_descriptor_is_leaked() -> None:
    async def test() -> None:
        for _ in range(3):
            async with scripted_node(FILES) as (_, node):
                await whole(node, await node.open(b"big"))

    run(test)
    before = len(os.listdir("/proc/self/fd"))
    run(test)
    assert len(os.listdir("/proc/self/fd")) <= before
