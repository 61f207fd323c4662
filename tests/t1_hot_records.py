"""Records are kept open after they were used, as many as the descriptors of the process allow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
import trio.testing

from dadafsd.counters import Counters
from dadafsd.export import Export
from dadafsd.exported import ExportOptions, assemble
from dadafsd.hot_reads import HotReads, Memory, compiled
from dadafsd.store import FragmentStore, TierSettings
from dadafsd.store.record import Stored
from dadafsd.store_access import (
    HOT_RECORDS,
    HOT_SECONDS,
    MOST_HOT_RECORDS,
    PIECES,
    Record,
    StoreAccess,
    hot_records,
)
from tests.checklogs import ExpectedLog
from tests.harness.fragments import FRAGMENT, MIB, insert, key_of
from tests.harness.places import from_memory

RECORDS = 12


@pytest.mark.parametrize("kept", [4, 8, RECORDS])
def test_the_last_ones_are_found_open(tmp_path: Path, kept: int) -> None:
    async def main() -> None:
        store = FragmentStore.open([TierSettings(tmp_path / "cache", 8 * MIB)], housekeeping=False)
        store.housekeep()
        access = StoreAccess(store, Counters(), queue_limit=MIB, hot_records=kept)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(access.run)
                for number in range(RECORDS):
                    assert insert(store, key_of(number))
                    assert await access.lookup(key_of(number), prefetch=False, verify=False) is not None
                found = [number for number in range(RECORDS) if access.hot(key_of(number)) is not None]
                nursery.cancel_scope.cancel()
            assert found == list(range(RECORDS - kept, RECORDS))
        finally:
            access.forget_hot()
            store.close()

    trio.run(main)


def test_the_compiled_part_has_what_is_kept_open_and_nothing_else(tmp_path: Path, expected_log: ExpectedLog) -> None:
    """However a record is let go of; and one that only the compiled part uses is not the oldest."""
    expected_log.add("data damaged")

    async def main() -> None:
        store = FragmentStore.open([TierSettings(tmp_path / "cache", 8 * MIB)], housekeeping=False)
        store.housekeep()
        hot = HotReads()
        access = StoreAccess(store, Counters(), queue_limit=MIB, hot_records=3, hot_reads=hot)

        async def read(number: int) -> None:
            record = await access.lookup(key_of(number), prefetch=False, verify=False)
            assert record is not None
            access.sent_hot(key_of(number), record)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(access.run)
                for number in range(RECORDS):
                    assert insert(store, key_of(number))
                for number in range(5):
                    await read(number)
                assert _entries(hot) == [key_of(number).packed for number in (2, 3, 4)]
                await access.damaged(key_of(3))
                assert len(hot) == 2
                await access.forget("data", key_of(4).version.identity)
                access.sent_hot(key_of(4), Record(Stored(os.open("/dev/null", 0), 0, 1, [0]), 0.0))
                assert len(hot) == 0, "all records are of one file; and what is not kept open is not kept"
                for number in range(3):
                    assert insert(store, key_of(number))
                    await read(number)
                monkeypatch.setattr(hot, "idle", lambda key, _: -1.0 if key == key_of(0) else float("inf"))
                assert insert(store, key_of(3))
                await read(3)
                assert {key_of(number).packed for number in (0, 2, 3)} == set(_entries(hot))
                access.forget_hot()
                assert len(hot) == 0
                nursery.cancel_scope.cancel()
        finally:
            access.forget_hot()
            store.close()

    with pytest.MonkeyPatch.context() as monkeypatch:
        trio.run(main)


def test_a_record_is_closed_when_nobody_used_it_for_a_while(tmp_path: Path) -> None:
    async def main() -> None:
        store = FragmentStore.open([TierSettings(tmp_path / "cache", 8 * MIB)], housekeeping=False)
        store.housekeep()
        hot = HotReads()
        access = StoreAccess(store, Counters(), queue_limit=MIB, hot_reads=hot)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(access.run)
                await trio.testing.wait_all_tasks_blocked()
                for number in range(3):
                    assert insert(store, key_of(number))
                    found = access.at_hand(key_of(number)) or await access.lookup(
                        key_of(number), prefetch=False, verify=False
                    )
                    assert found is not None
                    access.sent_hot(key_of(number), found)
                del found
                monkeypatch.setattr(hot, "idle", lambda key, _: 1.0 if key == key_of(1) else float("inf"))
                await trio.sleep(HOT_SECONDS * 1.3)
                assert _entries(hot) == [key_of(1).packed]
                monkeypatch.setattr(hot, "idle", lambda *_: float("inf"))
                await trio.sleep(HOT_SECONDS * 1.3)
                assert len(hot) == 0
                nursery.cancel_scope.cancel()
        finally:
            access.forget_hot()
            store.close()

    with pytest.MonkeyPatch.context() as monkeypatch:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))


def test_who_goes_through_a_file_finds_the_next_records_open(tmp_path: Path) -> None:
    """As far as there are any, and only who does so."""

    async def main(directory: Path) -> None:
        store = FragmentStore.open([TierSettings(directory / "cache", 8 * MIB)], housekeeping=False)
        store.housekeep()
        hot = HotReads()
        access = StoreAccess(store, Counters(), queue_limit=MIB, hot_reads=hot)
        keys = [key_of(number, size=RECORDS * FRAGMENT + 1) for number in range(RECORDS + 1)]
        for key in (*keys[:3], *keys[4:]):
            assert insert(store, key)

        def opened_by_reading(number: int) -> list[int]:
            before = set(access._hot)
            record = access.at_hand(keys[number])
            assert record is not None
            access.open_ahead(keys[number])
            return [key.fragment for key in access._hot if key not in before]

        try:
            assert opened_by_reading(7) == [7], "somewhere"
            assert opened_by_reading(0) == [0], "the beginning"
            assert opened_by_reading(1) == [1, 2], "there is no fourth one"
            assert opened_by_reading(2) == []
            access.forget_hot()
            assert opened_by_reading(4) == [4]
            assert opened_by_reading(5) == [5, 6, 7, 8, 9, 10, 11, 12], "up to the end"
            assert opened_by_reading(6) == []
            if compiled is not None:
                assert _entries(hot) == [key.packed for key in keys[6:]]
        finally:
            access.forget_hot()
            store.close()

    with from_memory(tmp_path) as directory:
        trio.run(main, directory)


def test_who_reads_here_and_there_in_a_file_finds_records_open(tmp_path: Path) -> None:
    """Once it is plain that he does; one piece of each of many files opens nothing else."""

    async def main(directory: Path) -> None:
        store = FragmentStore.open([TierSettings(directory / "cache", 64 * MIB)], housekeeping=False)
        store.housekeep()
        counters, hot = Counters(), HotReads()
        access = StoreAccess(store, counters, queue_limit=MIB, hot_reads=hot)
        count = 6 * PIECES
        keys = [key_of(number, size=count * FRAGMENT) for number in range(count)]
        for key in keys:
            assert insert(store, key)
        try:
            async with trio.open_nursery() as nursery:
                options = ExportOptions(fragment_size=FRAGMENT)
                export = Export("data", directory)
                exported = assemble(export, options, Memory(0, hot), access, counters, nursery, hot_reads=hot)

                def opened_by_reading(number: int) -> list[int]:
                    before = set(access._hot)
                    wanted = exported.fragments.wanted(keys[0].version, number, 2, 1, prefetch=False, verify=False)
                    assert exported.fragments.at_hand(wanted) is not None
                    return [key.fragment for key in access._hot if key not in before]

                for number in range(PIECES - 1):
                    assert opened_by_reading(3 * number) == [3 * number]
                assert opened_by_reading(30) == list(range(30, 39)), "it is plain now"
                assert opened_by_reading(25) == list(range(25, 30)), "those that are open already are"
                assert opened_by_reading(count - 2) == [count - 2, count - 1], "up to the end"
                nursery.cancel_scope.cancel()
        finally:
            access.forget_hot()
            store.close()

    with from_memory(tmp_path) as directory:
        trio.run(main, directory)


def _entries(hot: HotReads) -> list[bytes]:
    return list(hot._entries)


def test_how_many_follows_from_the_descriptors_and_from_what_the_tiers_hold() -> None:
    large = 1 << 40
    assert hot_records(512, large) == HOT_RECORDS
    assert HOT_RECORDS < hot_records(20_000, large) < MOST_HOT_RECORDS
    assert hot_records(1 << 20, large) == MOST_HOT_RECORDS
    assert hot_records(1 << 20, 4096 * MIB) == 1024, "eviction would have to pass over all of a small tier"
