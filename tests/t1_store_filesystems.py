"""The store on the file systems that an SSD may have: ext4, XFS, btrfs (real ones, on loop devices)."""

from __future__ import annotations

from pathlib import Path

import pytest

from dadafsd.store import FragmentStore, TierSettings
from tests.harness.disks import loop_disk
from tests.harness.fragments import MIB, data_of, insert, key_of, read

SIZES = {"ext4": 64 * MIB, "xfs": 320 * MIB, "btrfs": 128 * MIB}


@pytest.mark.parametrize("kind", SIZES)
def test_insert_evict_and_restart(tmp_path: Path, kind: str) -> None:
    with loop_disk(tmp_path, kind, SIZES[kind]) as disk:
        settings = TierSettings(disk.path / "cache", 16 * MIB, sync="data")
        store = FragmentStore.open([settings], housekeeping=False)
        try:
            assert all(insert(store, key_of(number)) for number in range(100))
            store.housekeep()
            assert store.status()[0].used <= 16 * MIB
            held = [number for number in range(100) if read(store, key_of(number)) == data_of(key_of(number))]
            assert len(held) > 40
        finally:
            store.close()
        disk.unmount()
        disk.mount()
        again = FragmentStore.open([settings], housekeeping=False)
        try:
            assert all(read(again, key_of(number)) == data_of(key_of(number)) for number in held)
            again.housekeep()
            assert again.status()[0].fragments == len(held)
            assert not [result for result in again.verify() if result.fault]
        finally:
            again.close()
