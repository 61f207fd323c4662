"""What is known of a cache that is still being looked through after its start, and that it is said."""

from __future__ import annotations

from pathlib import Path

import trio

from dadafsd.counters import Counters
from dadafsd.store import FragmentStore, TierSettings
from dadafsd.store_access import StoreAccess
from tests.harness.fragments import MIB, insert, key_of


def test_a_store_says_when_it_knows_all_that_it_holds(tmp_path: Path) -> None:
    settings = TierSettings(tmp_path / "cache", 8 * MIB)
    store = FragmentStore.open([settings])
    assert insert(store, key_of(1))
    store.close()
    (tmp_path / "cache" / "index").unlink()

    async def main() -> None:
        store = FragmentStore.open([settings], housekeeping=False)
        access = StoreAccess(store, Counters(), queue_limit=MIB)
        try:
            assert not access.scanned
            assert store.cached("data", (2049, 7)) == {"ssd": 0}, "not known yet"
            assert not await access.wait_scanned(0.01)
            await trio.to_thread.run_sync(store.housekeep)
            assert await access.wait_scanned(60)
            assert store.cached("data", (2049, 7))["ssd"] > 0
        finally:
            store.close()

    trio.run(main)
