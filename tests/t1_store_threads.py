"""Many threads look up, insert, evict, damage and resize at once: whatever is found is right, and the books balance."""

from __future__ import annotations

import random
import threading
from pathlib import Path

from dadafs.checksum import block_checksums
from dadafsd.store import FragmentStore, TierSettings
from tests.checklogs import ExpectedLog
from tests.harness.fragments import MIB, data_of, insert, key_of
from tests.harness.processes import wait_until

KEYS = [key_of(number) for number in range(60)]
DATA = {key: (data_of(key), block_checksums(data_of(key))) for key in KEYS}
THREADS = 8
ROUNDS = 250


def work(store: FragmentStore, seed: int, wrong: list[str]) -> None:
    """One thread's random calls; what is wrong goes to `wrong`."""
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        key = chance.choice(KEYS)
        data, checksums = DATA[key]
        draw = chance.random()
        if draw < 0.5:
            stored = store.lookup(key)
            if stored is not None:
                with stored:
                    if stored.read() != data or stored.checksums != checksums:
                        wrong.append(f"wrong data for {key}")
        elif draw < 0.9:
            store.insert(key, data, checksums)
        elif draw < 0.94:
            store.damaged(key)
        elif draw < 0.97:
            store.evict("data", key.version.identity)
        else:
            store.resize("ssd", size=chance.choice([8, 12, 16]) * MIB)


def test_threads_on_the_same_keys(tmp_path: Path, expected_log: ExpectedLog) -> None:
    expected_log.add("is dropped: data damaged")
    settings = TierSettings(tmp_path / "cache", 12 * MIB)
    store = FragmentStore.open([settings])
    wrong: list[str] = []
    try:
        threads = [threading.Thread(target=work, args=(store, seed, wrong)) for seed in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        store.resize("ssd", size=64 * MIB)
        assert all(insert(store, key) for key in KEYS)
        on_disk = sum(path.stat().st_size for path in (tmp_path / "cache" / "fragments").glob("*/*"))
        assert store.status()[0].used == on_disk
        assert store.status()[0].counts.errors == 0
    finally:
        store.close()
    again = FragmentStore.open([settings])
    try:
        wait_until(lambda: again.status()[0].scanned, "the scan is done")
        assert list((tmp_path / "cache" / "new").glob("[0-9a-f]*")) == []
    finally:
        again.close()


def test_a_store_is_closed_while_it_is_used(tmp_path: Path) -> None:
    """Calls that come too late pass through; none reaches a descriptor that is something else by then."""
    store = FragmentStore.open([TierSettings(tmp_path / "cache", 64 * MIB)])
    tiers = store.tiers
    assert all(insert(store, key) for key in KEYS[:10])
    ready = threading.Barrier(3)
    wrong: list[str] = []

    def keep_reading() -> None:
        ready.wait()
        while tiers[0].files.is_open:
            for key in KEYS[:10]:
                stored = tiers[0].lookup(key)
                if stored is not None:
                    with stored:
                        wrong.extend([] if stored.read() == DATA[key][0] else ["wrong data"])

    threads = [threading.Thread(target=keep_reading) for _ in range(2)]
    for thread in threads:
        thread.start()
    ready.wait()
    store.close()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert store.lookup(KEYS[0]) is None
    assert not insert(store, KEYS[0])
    assert tiers[0].lookup(KEYS[0]) is None


def test_a_snapshot_is_taken_over_while_the_tier_is_used(tmp_path: Path) -> None:
    """What is inserted and read before the old index is there is not forgotten when it comes."""
    settings = TierSettings(tmp_path / "cache", 64 * MIB)
    store = FragmentStore.open([settings])
    assert all(insert(store, key) for key in KEYS[:40])
    store.close()
    for _ in range(5):
        again = FragmentStore.open([settings])
        try:
            assert all(insert(again, key) for key in KEYS[40:])
            wait_until(lambda store=again: store.status()[0].scanned, "the scan is done")
            assert again.status()[0].fragments == len(KEYS)
            on_disk = sum(path.stat().st_size for path in (tmp_path / "cache" / "fragments").glob("*/*"))
            assert again.status()[0].used == on_disk
        finally:
            again.close()
