"""The fragment store on real files: look up, insert, evict, restart, count."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dadafs.checksum import block_checksums
from dadafs.errors import ExitCode, UserError
from dadafsd.store import FragmentStore, TierSettings
from tests.checklogs import ExpectedLog
from tests.harness.fragments import FRAGMENT, MIB, data_of, insert, key_of, read, record_path


@pytest.fixture
def settings(tmp_path: Path) -> TierSettings:
    return TierSettings(tmp_path / "cache", 16 * MIB)


@pytest.fixture
def store(settings: TierSettings) -> Iterator[FragmentStore]:
    opened = FragmentStore.open([settings], housekeeping=False)
    yield opened
    opened.close()


def test_what_was_inserted_is_found(store: FragmentStore) -> None:
    assert read(store, key_of(0)) is None
    assert insert(store, key_of(0))
    assert read(store, key_of(0)) == data_of(key_of(0))
    counts = store.status()[0].counts
    assert (counts.hits, counts.misses, counts.inserted) == (1, 1, 1)


@pytest.mark.parametrize("size", [1, 65535, 65536, 65537, FRAGMENT - 1, FRAGMENT])
def test_the_last_fragment_is_as_long_as_the_file(store: FragmentStore, size: int) -> None:
    key = key_of(0, size=size)
    assert insert(store, key)
    assert read(store, key) == data_of(key)


def test_each_part_of_the_key_tells_fragments_apart(store: FragmentStore) -> None:
    assert insert(store, key_of(1, size=9 * FRAGMENT))
    others = [
        key_of(2, size=9 * FRAGMENT),
        key_of(1, size=8 * FRAGMENT),
        key_of(1, size=9 * FRAGMENT, ino=8),
        key_of(1, size=9 * FRAGMENT, mtime=2),
        key_of(1, size=9 * FRAGMENT, export="other"),
    ]
    assert [read(store, other) for other in others] == [None] * len(others)


def test_a_restart_finds_everything(store: FragmentStore, settings: TierSettings) -> None:
    keys = [key_of(number) for number in range(8)]
    assert all(insert(store, key) for key in keys)
    store.close()
    again = FragmentStore.open([settings], housekeeping=False)
    try:
        assert again.status()[0].fragments == 8
        assert [read(again, key) for key in keys] == [data_of(key) for key in keys]
    finally:
        again.close()


def test_a_restart_without_a_snapshot_serves_at_once_and_scans_later(
    store: FragmentStore, settings: TierSettings
) -> None:
    keys = [key_of(number) for number in range(8)]
    assert all(insert(store, key) for key in keys)
    used = store.status()[0].used
    store.close()
    (settings.directory / "index").unlink()
    again = FragmentStore.open([settings], housekeeping=False)
    try:
        assert again.status()[0].fragments == 0
        assert read(again, keys[0]) == data_of(keys[0])
        again.housekeep()
        status = again.status()[0]
        assert (status.fragments, status.used, status.scanned) == (8, used, True)
        assert again.cached("data", (2049, 7)) == {"ssd": used}
    finally:
        again.close()


def test_the_size_is_never_exceeded_and_the_watermarks_hold(store: FragmentStore, settings: TierSettings) -> None:
    for number in range(200):
        assert insert(store, key_of(number))
        assert store.status()[0].used <= settings.size
    store.housekeep()
    status = store.status()[0]
    assert status.used <= settings.high * settings.size
    on_disk = sum(path.stat().st_size for path in settings.directory.glob("fragments/*/*"))
    assert on_disk == status.used
    assert status.counts.evicted == 200 - status.fragments
    assert status.counts.evicted_unread == status.counts.evicted


def test_eviction_goes_down_to_the_low_watermark(store: FragmentStore, settings: TierSettings) -> None:
    while store.status()[0].used <= settings.high * settings.size:
        assert insert(store, key_of(store.status()[0].fragments))
    store.housekeep()
    assert (settings.low - 0.02) * settings.size < store.status()[0].used <= settings.low * settings.size


def test_a_scan_does_not_push_out_what_is_read_again_and_again(store: FragmentStore) -> None:
    hot = [key_of(number, ino=1) for number in range(10)]
    for key in hot:
        insert(store, key)
    for _ in range(3):
        assert all(read(store, key) for key in hot)
    for number in range(500):
        insert(store, key_of(number, ino=2))
    assert all(read(store, key) for key in hot)


def test_what_is_being_read_is_not_evicted(store: FragmentStore, settings: TierSettings) -> None:
    key = key_of(0, ino=1)
    insert(store, key)
    stored = store.lookup(key)
    assert stored is not None
    for number in range(200):
        insert(store, key_of(number))
    assert stored.read() == data_of(key)
    assert record_path(settings.directory, key).exists()
    stored.close()
    for number in range(400, 800):
        insert(store, key_of(number))
    assert read(store, key) is None


def test_a_file_an_export_and_everything_can_be_evicted(store: FragmentStore) -> None:
    for ino, export in ((1, "a"), (2, "a"), (3, "b")):
        for number in range(4):
            insert(store, key_of(number, ino=ino, export=export))
    assert store.evict("a", (2049, 1)) == 4
    assert store.cached("a", (2049, 1)) == {"ssd": 0}
    assert store.cached("a", (2049, 2))["ssd"] > 0
    assert store.evict("a") == 4
    assert read(store, key_of(0, ino=3, export="b")) is not None
    assert store.evict() == 4
    assert store.status()[0].fragments == 0


def test_verify_names_and_drops_what_is_damaged(
    store: FragmentStore, settings: TierSettings, expected_log: ExpectedLog
) -> None:
    for number in range(6):
        insert(store, key_of(number))
    assert [result.fault for result in store.verify()] == [""] * 6
    victim = sorted(settings.directory.glob("fragments/*/*"))[2]
    with victim.open("r+b") as file:
        file.seek(4096 + 70000)
        file.write(b"damage")
    expected_log.add("is dropped: 1 damaged blocks")
    faults = [(result.record, result.fault) for result in store.verify() if result.fault]
    assert faults == [(victim.name, "1 damaged blocks")]
    assert not victim.exists()
    assert len(list(store.verify(0.5, seed=3))) < 5


def test_two_heads_cannot_share_a_directory(store: FragmentStore, settings: TierSettings) -> None:
    with pytest.raises(UserError, match=f"used by another running dadafsd \\(process {os.getpid()}\\)") as caught:
        FragmentStore.open([settings])
    assert caught.value.exit_code == ExitCode.CACHE


def test_a_directory_that_cannot_be_made_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not usable") as caught:
        FragmentStore.open([TierSettings(tmp_path / "file" / "cache", 16 * MIB)])
    assert caught.value.exit_code == ExitCode.CACHE


def test_a_disk_below_the_floor_with_nothing_to_evict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="full disk") as caught:
        FragmentStore.open([TierSettings(tmp_path / "cache", 16 * MIB, floor=2**60)])
    assert caught.value.exit_code == ExitCode.CACHE


def test_data_that_do_not_fit_their_key_are_refused(store: FragmentStore) -> None:
    key = key_of(0)
    assert not store.insert(key, b"short", [1])
    assert not store.insert(key, data_of(key), [1])
    assert store.status()[0].counts.refused == {"malformed": 2}
    assert read(store, key) is None


def test_several_tiers_share_by_size_and_one_can_be_removed(tmp_path: Path) -> None:
    big, small = (
        TierSettings(tmp_path / "big", 48 * MIB, name="big"),
        TierSettings(tmp_path / "small", 16 * MIB, name="small"),
    )
    store = FragmentStore.open([big, small], housekeeping=False)
    try:
        keys = [key_of(number) for number in range(100)]
        assert all(insert(store, key) for key in keys)
        share = {status.name: status.fragments for status in store.status()}
        assert 50 < share["big"] < 95
        assert share["big"] + share["small"] == 100
        assert all(read(store, key) for key in keys)
        store.remove_tier("small")
        assert sum(read(store, key) is not None for key in keys) == share["big"]
        store.add_tier(small, housekeeping=False)
        assert all(read(store, key) for key in keys)
    finally:
        store.close()


def test_a_tier_can_shrink_while_it_is_used(store: FragmentStore) -> None:
    for number in range(50):
        insert(store, key_of(number))
    store.resize("ssd", size=4 * MIB)
    store.housekeep()
    assert store.status()[0].used <= 4 * MIB
    with pytest.raises(UserError):
        store.resize("ssd", low=2.0)


def test_synced_records_are_the_same(tmp_path: Path) -> None:
    store = FragmentStore.open([TierSettings(tmp_path / "cache", 16 * MIB, sync="data")], housekeeping=False)
    try:
        assert insert(store, key_of(0))
        assert read(store, key_of(0)) == data_of(key_of(0))
    finally:
        store.close()


def test_what_everybody_reads_still_makes_room_and_its_readers_go_on(tmp_path: Path) -> None:
    store = FragmentStore.open([TierSettings(tmp_path / "cache", 4 * MIB)], housekeeping=False)
    try:
        held = []
        for number in range(40):
            assert insert(store, key_of(number))
            stored = store.lookup(key_of(number))
            assert stored is not None
            held.append((key_of(number), stored))
        for key, stored in held:
            assert stored.read() == data_of(key)
            stored.close()
        assert store.status()[0].used <= 4 * MIB
        assert store.status()[0].counts.evicted_in_use > 20
    finally:
        store.close()


def test_admission_keeps_what_is_offered_often_enough(store: FragmentStore) -> None:
    key = key_of(0)
    data = data_of(key)
    checksums = block_checksums(data)
    assert [store.insert(key, data, checksums, after_reads=3) for _ in range(3)] == [False, False, True]
    assert store.status()[0].counts.refused == {"admission": 2}
    assert read(store, key) == data
