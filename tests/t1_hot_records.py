"""Records are kept open after they were used, as many as the descriptors of the process allow."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from dadafsd.counters import Counters
from dadafsd.store import FragmentStore, TierSettings
from dadafsd.store_access import HOT_RECORDS, MOST_HOT_RECORDS, StoreAccess, hot_records
from tests.harness.fragments import MIB, insert, key_of

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


def test_how_many_follows_from_the_descriptors_and_from_what_the_tiers_hold() -> None:
    large = 1 << 40
    assert hot_records(512, large) == HOT_RECORDS
    assert HOT_RECORDS < hot_records(20_000, large) < MOST_HOT_RECORDS
    assert hot_records(1 << 20, large) == MOST_HOT_RECORDS
    assert hot_records(1 << 20, 4096 * MIB) == 1024, "eviction would have to pass over all of a small tier"
