"""Looking up a fragment in the loop: the same records, from memory, never where it might have to wait."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dadafsd import filesystem
from dadafsd.store import FragmentStore, TierSettings
from tests.checklogs import ExpectedLog
from tests.harness.fragments import MIB, data_of, insert, key_of, record_path
from tests.harness.places import from_memory


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with from_memory(tmp_path) as place:
        yield place


@contextlib.contextmanager
def opened(*settings: TierSettings) -> Iterator[FragmentStore]:
    with contextlib.closing(FragmentStore.open(settings, housekeeping=False)) as store:
        yield store


def read_at_once(store: FragmentStore, number: int) -> bytes | None:
    found = store.lookup_at_once(key_of(number))
    if found is None:
        return None
    with found:
        return found.read()


def test_what_was_inserted_is_found_and_counted(folder: Path) -> None:
    with opened(TierSettings(folder / "cache", 16 * MIB)) as store:
        assert read_at_once(store, 0) is None
        assert insert(store, key_of(0))
        assert read_at_once(store, 0) == data_of(key_of(0))
        counts = store.status()[0].counts
        assert (counts.hits, counts.misses) == (1, 0), "a miss is counted by the lookup that follows"


def test_a_record_that_is_being_sent_is_in_use(folder: Path) -> None:
    with opened(TierSettings(folder / "cache", 16 * MIB)) as store:
        assert insert(store, key_of(0))
        found = store.lookup_at_once(key_of(0))
        assert found is not None
        assert key_of(0).digest in store.tiers[0]._in_use
        found.close()
        assert key_of(0).digest not in store.tiers[0]._in_use


def test_what_is_wrong_with_a_record_is_left_to_the_lookup_that_waits(folder: Path, expected_log: ExpectedLog) -> None:
    expected_log.add("is dropped")
    with opened(TierSettings(folder / "cache", 16 * MIB)) as store:
        for number, damage in enumerate((b"", b"short", b"x" * 8192)):
            assert insert(store, key_of(number))
            record_path(folder / "cache", key_of(number)).write_bytes(damage)
            assert read_at_once(store, number) is None
            assert record_path(folder / "cache", key_of(number)).exists()
            assert store.lookup(key_of(number)) is None
            assert not record_path(folder / "cache", key_of(number)).exists()


def test_nobody_waits_for_a_lock(folder: Path) -> None:
    with opened(TierSettings(folder / "cache", 16 * MIB)) as store:
        assert insert(store, key_of(0))
        with store.tiers[0]._lock:
            assert read_at_once(store, 0) is None
        assert read_at_once(store, 0) is not None


def test_the_tier_that_has_it_may_be_the_second(folder: Path) -> None:
    settings = [TierSettings(folder / name, 16 * MIB, name=name) for name in ("one", "other")]
    with opened(*settings) as store:
        keys = [number for number in range(64) if insert(store, key_of(number))]
        for number in keys:  # each is moved to the tier that it does not belong to
            there, here = (record_path(folder / name, key_of(number)) for name in ("one", "other"))
            if there.exists():
                there, here = here, there
            there.parent.mkdir(parents=True, exist_ok=True)
            here.rename(there)
            assert store.lookup(key_of(number)) is not None
        before = sum(tier.counts.misses for tier in store.status())
        assert all(read_at_once(store, number) == data_of(key_of(number)) for number in keys)
        missed = sum(tier.counts.misses for tier in store.status()) - before
        assert missed == len(keys)


def test_what_the_index_does_not_know_needs_no_look(folder: Path) -> None:
    settings = [TierSettings(folder / name, 16 * MIB, name=name) for name in ("one", "other")]
    with opened(*settings) as store:
        assert not store.surely_missing(key_of(0)), "nobody has looked through the directories yet"
        store.housekeep()
        assert store.surely_missing(key_of(0))
        with store.tiers[0]._lock:
            assert not store.surely_missing(key_of(0))
        assert insert(store, key_of(0))
        assert not store.surely_missing(key_of(0))
        store.tiers[1].reading.take_down(0.0)
        assert not store.surely_missing(key_of(1))
        assert [tier.counts.misses for tier in store.status()] == [1, 1]


def test_a_miss_is_counted_even_while_the_lock_is_taken(folder: Path) -> None:
    with opened(TierSettings(folder / "cache", 16 * MIB)) as store:
        with store.tiers[0]._lock:
            store.tiers[0].passed_by(key_of(0))
            assert store.tiers[0].counts.misses == 0
        assert store.status()[0].counts.misses == 1


def test_other_file_systems_are_never_asked_in_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "kind", lambda place: 0x65735546)
    with opened(TierSettings(tmp_path / "cache", 16 * MIB)) as store:
        assert insert(store, key_of(0))
        monkeypatch.setattr("dadafsd.store.files.open_at_once", None)
        assert read_at_once(store, 0) is None


def test_a_tier_that_is_closed_has_nothing(folder: Path) -> None:
    with opened(TierSettings(folder / "cache", 16 * MIB)) as store:
        assert insert(store, key_of(0))
        store.tiers[0].files.close()
        assert read_at_once(store, 0) is None
