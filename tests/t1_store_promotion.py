"""What is read again and again from a disk is copied into memory, also while its record is kept open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from dadafsd.counters import Counters
from dadafsd.store import FragmentStore, TierSettings
from dadafsd.store.settings import KIND_RAM
from dadafsd.store_access import APART, StoreAccess
from tests.harness.fragments import MIB, data_of, insert, key_of, read

KEY = key_of(1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FragmentStore]:
    """A tier in memory above a disk, and a fragment that only the disk has."""
    memory = TierSettings(tmp_path / "ram", 4 * MIB, name="ram", kind=KIND_RAM)
    opened = FragmentStore.open([memory, TierSettings(tmp_path / "ssd", 32 * MIB, name="ssd")], housekeeping=False)
    opened.housekeep()
    opened.use("data", ["ssd"])
    assert insert(opened, KEY)
    opened.use("data", [])
    yield opened
    opened.close()


def run(store: FragmentStore, test: Callable[[StoreAccess, Counters], Awaitable[None]]) -> None:
    async def main() -> None:
        counters = Counters()
        access = StoreAccess(store, counters, queue_limit=MIB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(access.run)
            with trio.fail_after(60):
                await test(access, counters)
            nursery.cancel_scope.cancel()

    trio.run(main)


async def promoted(store: FragmentStore, counters: Counters) -> None:
    while not counters.events["promoted"]:
        await trio.sleep(0.01)
    found = store.lookup(KEY)
    assert found is not None
    with found:
        assert found.tier == "ram"
    assert read(store, KEY) == data_of(KEY)


def test_a_second_use_that_is_apart_from_the_first(store: FragmentStore) -> None:
    async def test(access: StoreAccess, counters: Counters) -> None:
        record = await access.lookup(KEY, prefetch=False, verify=False)
        assert record is not None
        for _ in range(20):
            assert access.hot(KEY) is record
        assert record.promotable, "one reader who goes through it piece by piece"
        record.found_at -= APART + 1
        assert access.hot(KEY) is record
        assert not record.promotable
        await promoted(store, counters)

    run(store, test)


def test_a_second_look_up(store: FragmentStore) -> None:
    async def test(access: StoreAccess, counters: Counters) -> None:
        await access.lookup(KEY, prefetch=False, verify=False)
        access.forget_hot()
        await access.lookup(KEY, prefetch=False, verify=False)
        await promoted(store, counters)

    run(store, test)


def test_what_the_export_does_not_keep_in_memory_stays_on_disk(store: FragmentStore) -> None:
    store.use("data", ["ssd"])

    async def test(access: StoreAccess, counters: Counters) -> None:
        record = await access.lookup(KEY, prefetch=False, verify=False)
        assert record is not None
        assert not record.promotable

    run(store, test)
