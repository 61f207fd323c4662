"""Several tiers: memory before disks, what is promoted, which export uses which tier, and what is counted for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dadafs.checksum import block_checksums
from dadafs.errors import UserError
from dadafsd.store import FragmentKey, FragmentStore, TierSettings
from dadafsd.store.settings import KIND_RAM
from tests.harness.fragments import MIB, data_of, insert, key_of, read, record_path

LATER = 4_000_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FragmentStore]:
    """A disk, then a tier in memory: the order of the configuration must not matter. (Both are plain directories.)"""
    disk = TierSettings(tmp_path / "ssd", 32 * MIB, name="ssd")
    memory = TierSettings(tmp_path / "ram", 4 * MIB, name="ram", kind=KIND_RAM)
    opened = FragmentStore.open([disk, memory], housekeeping=False)
    yield opened
    opened.close()


def tier_of(store: FragmentStore, key: FragmentKey) -> str | None:
    """The tier that answers for `key`."""
    found = store.lookup(key)
    if found is None:
        return None
    with found:
        return found.tier


def counts(store: FragmentStore, tier: str, export: str = "data") -> dict[str, int]:
    """What `tier` counted for `export`."""
    (status,) = (one for one in store.status() if one.name == tier)
    return {what: count for (name, what), count in status.counts.by_export.items() if name == export}


def test_a_fragment_is_kept_in_memory_and_on_disk_and_memory_answers(store: FragmentStore, tmp_path: Path) -> None:
    key = key_of(1)
    assert insert(store, key)
    assert record_path(tmp_path / "ssd", key).exists()
    assert tier_of(store, key) == "ram"
    record_path(tmp_path / "ram", key).unlink()
    assert tier_of(store, key) == "ssd"
    assert counts(store, "ram") == {"hit": 1, "miss": 1}
    assert counts(store, "ssd") == {"hit": 1}


def test_what_memory_evicts_stays_on_disk_and_comes_back_when_read_twice(store: FragmentStore) -> None:
    keys = [key_of(number) for number in range(48)]
    assert all(insert(store, key) for key in keys)
    evicted = [key for key in keys if tier_of(store, key) == "ssd"]
    assert len(evicted) > 24
    assert counts(store, "ram")["wasted"] > 24, "evicted without having been read"
    key = evicted[0]
    assert not store.promotes(key, "ssd"), "one read is a scan going through"
    assert store.promotes(key, "ssd")
    assert not store.promotes(key, "ram")
    data = data_of(key)
    assert store.promote(key, data, block_checksums(data))
    assert tier_of(store, key) == "ram"
    assert read(store, key) == data


def test_an_export_uses_the_tiers_that_it_names(store: FragmentStore) -> None:
    store.use("fast", ["ram"])
    store.use("slow", ["ssd"])
    assert store.used_by("fast") == ("ram",)
    assert store.used_by("data") == ("ram", "ssd")
    for export, tier in (("fast", "ram"), ("slow", "ssd"), ("data", "ram")):
        key = key_of(1, export=export)
        assert insert(store, key)
        assert tier_of(store, key) == tier
    store.use("slow", [])
    assert store.used_by("slow") == ("ram", "ssd")
    with pytest.raises(UserError, match=r"cannot use tier hdd: there are ssd, ram"):
        store.use("slow", ["hdd"])
    assert "miss" not in counts(store, "ssd", "fast"), "it was never asked"


def test_what_is_not_kept_is_a_bypass_of_the_export(store: FragmentStore) -> None:
    key = key_of(1)
    data = data_of(key)
    assert not store.insert(key, data, block_checksums(data), after_reads=3)
    assert not store.insert(key, data, block_checksums(data), after_reads=3)
    assert store.insert(key, data, block_checksums(data), after_reads=3)
    assert counts(store, "ssd") == {"bypass": 2}


def test_pins_hold_on_disk_and_do_not_fill_memory(store: FragmentStore) -> None:
    store.pin("data", b"scan", LATER, [(2049, 7)])
    pinned = [key_of(number) for number in range(48)]
    assert all(insert(store, key) for key in pinned)
    others = [key_of(number, ino=8) for number in range(200)]
    assert all(insert(store, key) for key in others)
    assert tier_of(store, others[-1]) == "ram", "memory goes on taking what is new"
    assert all(tier_of(store, key) == "ssd" for key in pinned)


def test_where_there_is_only_memory_pins_hold_there(tmp_path: Path) -> None:
    memory = TierSettings(tmp_path / "ram", 4 * MIB, name="ram", kind=KIND_RAM)
    store = FragmentStore.open([memory], housekeeping=False)
    try:
        store.pin("data", b"scan", LATER, [(2049, 7)])
        assert insert(store, key_of(1))
        for number in range(64):
            insert(store, key_of(number, ino=8))
        assert tier_of(store, key_of(1)) == "ram"
    finally:
        store.close()
