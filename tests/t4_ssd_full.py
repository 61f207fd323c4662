"""Fault: the disk of the cache is full. Fragments pass through; what is cached stays readable; nothing raises."""

from __future__ import annotations

from pathlib import Path

import pytest

from dadafs.errors import ExitCode, UserError
from dadafsd.store import FragmentStore, TierSettings
from tests.checklogs import ExpectedLog
from tests.harness.disks import LoopDisk, loop_disk
from tests.harness.fragments import MIB, data_of, insert, key_of, read


def fill(disk: LoopDisk) -> Path:
    """Somebody else's file takes all the space."""
    path = disk.path / "somebody-elses"
    try:
        with path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(64 * 1024))
    except OSError:
        return path


def test_a_tier_larger_than_its_disk_evicts_and_goes_on(tmp_path: Path, expected_log: ExpectedLog) -> None:
    expected_log.add("tier ssd: .* is full, fragments pass through")
    with loop_disk(tmp_path, "ext4", 24 * MIB) as disk:
        store = FragmentStore.open([TierSettings(disk.path, 1024 * MIB)], housekeeping=False)
        try:
            kept = []
            for number in range(300):
                kept += [number] if insert(store, key_of(number)) else []
                found = [n for n in kept[-3:] if read(store, key_of(n)) == data_of(key_of(n))]
                assert len(found) >= 1
            counts = store.status()[0].counts
            assert counts.evicted > 100
            assert counts.errors == 0
            assert store.status()[0].state == "normal"
        finally:
            store.close()


def test_a_disk_that_others_fill_makes_no_errors_and_comes_back(tmp_path: Path, expected_log: ExpectedLog) -> None:
    expected_log.add("tier ssd: .* is full, fragments pass through")
    with loop_disk(tmp_path, "ext4", 24 * MIB) as disk:
        store = FragmentStore.open([TierSettings(disk.path, 12 * MIB)], housekeeping=False)
        try:
            assert all(insert(store, key_of(number)) for number in range(20))
            others = fill(disk)
            tried = [insert(store, key_of(number)) for number in range(100, 110)]
            assert all(read(store, key_of(n)) in (None, data_of(key_of(n))) for n in (*range(20), *range(100, 110)))
            assert store.status()[0].state == "normal"
            assert store.status()[0].counts.errors == 0
            others.unlink()
            store.housekeep()
            assert insert(store, key_of(200)), (tried, store.status())
            assert read(store, key_of(200)) == data_of(key_of(200))
        finally:
            store.close()


def test_the_floor_is_left_free(tmp_path: Path) -> None:
    with loop_disk(tmp_path, "ext4", 32 * MIB) as disk:
        settings = TierSettings(disk.path, 1024 * MIB, floor=8 * MIB)
        store = FragmentStore.open([settings], housekeeping=False)
        try:
            assert all(insert(store, key_of(number)) for number in range(200))
            assert store.status()[0].free >= 8 * MIB
            (disk.path / "somebody-elses").write_bytes(bytes(6 * MIB))
            store.housekeep()
            assert store.status()[0].free >= 8 * MIB
            assert store.status()[0].counts.errors == 0
        finally:
            store.close()


def test_starting_on_a_full_disk_is_refused_in_one_sentence_unless_we_can_evict(tmp_path: Path) -> None:
    with loop_disk(tmp_path, "ext4", 24 * MIB) as disk:
        others = fill(disk)
        with pytest.raises(UserError, match="full disk") as caught:
            FragmentStore.open([TierSettings(disk.path, 12 * MIB)])
        assert caught.value.exit_code == ExitCode.CACHE
        others.unlink()
        store = FragmentStore.open([TierSettings(disk.path, 12 * MIB)], housekeeping=False)
        assert insert(store, key_of(0))
        store.close()
        fill(disk)
        again = FragmentStore.open([TierSettings(disk.path, 12 * MIB)], housekeeping=False)
        try:
            assert read(again, key_of(0)) == data_of(key_of(0))
        finally:
            again.close()
