"""Reads of files that change, and what is believed of them without asking: bytes of one version, whatever happens."""

from __future__ import annotations

import errno

import trio

from dadafs.wire.messages import BLOCK_SIZE, Attr, LeasesLost, Open, Read, Release, Resolve, Stat
from tests.checklogs import ExpectedLog
from tests.harness.reading import BIG, FILES, MIB, OTHER, run, whole
from tests.harness.scripted_head import meanwhile, scripted_node, settle, until, until_passing_time

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
