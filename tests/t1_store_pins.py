"""Pins: what is pinned is not evicted, until the pin expires; pins outlive a restart and a damaged file of pins."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dadafsd.store import FragmentStore, TierSettings
from dadafsd.store.pins import Pins
from tests.harness.fragments import MIB, insert, key_of, read

NOON = 1_800_000_000.0
FILE = (2049, 1)
LATER = 4_000_000_000.0


@pytest.fixture
def settings(tmp_path: Path) -> TierSettings:
    return TierSettings(tmp_path / "cache", 8 * MIB)


@pytest.fixture
def store(settings: TierSettings) -> Iterator[FragmentStore]:
    opened = FragmentStore.open([settings], housekeeping=False)
    yield opened
    opened.close()


def flood(store: FragmentStore) -> list[bool]:
    """Insert four times the tier's size of other data."""
    return [insert(store, key_of(number, ino=2)) for number in range(128)]


def test_a_pinned_file_survives_a_flood_and_an_unpinned_one_does_not(store: FragmentStore) -> None:
    keys = [key_of(number, ino=1) for number in range(8)]
    for key in keys:
        insert(store, key)
    store.pin("data", b"scans/1.h5", LATER, [FILE])
    assert all(flood(store))
    assert all(read(store, key) for key in keys)
    assert store.unpin("data", b"scans/1.h5")
    assert not store.unpin("data", b"scans/1.h5")
    store.resize("ssd", size=4 * MIB)
    store.housekeep()
    flood(store)
    store.resize("ssd", size=8 * MIB)
    flood(store)
    assert store.pins() == []


def test_where_all_is_pinned_new_fragments_pass_through(store: FragmentStore) -> None:
    for number in range(60):
        insert(store, key_of(number, ino=1))
    store.pin("data", b"", LATER, [FILE])
    flood(store)
    assert store.status()[0].counts.refused["pinned"] > 50
    assert store.status()[0].used <= 8 * MIB


def test_files_opened_below_a_pinned_directory_are_pinned_too(store: FragmentStore) -> None:
    store.pin("data", b"scans", LATER, [])
    store.opened("data", b"scans/new.h5", FILE)
    store.opened("data", b"scansion", (2049, 2))
    store.opened("other", b"scans/new.h5", (2049, 3))
    assert [pin.files for pin in store.pins()] == [{FILE}]
    key = key_of(0, ino=1)
    insert(store, key)
    flood(store)
    assert read(store, key) is not None


def test_pins_outlive_a_restart(store: FragmentStore, settings: TierSettings) -> None:
    store.pin("data", b"scans", LATER, [FILE])
    insert(store, key_of(0, ino=1))
    store.close()
    again = FragmentStore.open([settings], housekeeping=False)
    try:
        assert [(pin.path, pin.files) for pin in again.pins()] == [(b"scans", {FILE})]
        flood(again)
        assert read(again, key_of(0, ino=1)) is not None
    finally:
        again.close()


def test_a_damaged_file_of_pins_costs_the_pins_only(store: FragmentStore, settings: TierSettings) -> None:
    store.pin("data", b"scans", LATER, [FILE])
    store.close()
    path = settings.directory / "pins"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    again = FragmentStore.open([settings], housekeeping=False)
    try:
        assert again.pins() == []
    finally:
        again.close()


def test_the_newest_of_several_copies_wins(tmp_path: Path) -> None:
    tiers = [TierSettings(tmp_path / name, 8 * MIB, name=name) for name in ("a", "b")]
    store = FragmentStore.open(tiers, housekeeping=False)
    store.pin("data", b"old", LATER, [])
    store.remove_tier("b")
    store.unpin("data", b"old")
    store.pin("data", b"new", LATER, [])
    store.close()
    again = FragmentStore.open(tiers, housekeeping=False)
    try:
        assert [pin.path for pin in again.pins()] == [b"new"]
    finally:
        again.close()


def test_a_pin_ends_when_its_time_has_come() -> None:
    pins = Pins()
    pins.add("data", b"a", NOON + 10, [FILE])
    pins.add("data", b"b", NOON + 20, [(2049, 2)])
    assert len(pins.marks(NOON)) == 2
    assert len(pins.marks(NOON + 10)) == 1
    assert len(pins.marks(NOON + 20)) == 0
    assert [pin.path for pin in pins.current(NOON + 15)] == [b"b"]
    pins.add("data", b"b", NOON + 60, [])
    assert [pin.files for pin in pins.current(NOON + 30)] == [{(2049, 2)}]


def test_a_pin_that_has_expired_does_not_hold_anything(store: FragmentStore) -> None:
    insert(store, key_of(0, ino=1))
    store.pin("data", b"", time.time() - 1, [FILE])
    flood(store)
    assert read(store, key_of(0, ino=1)) is None
