"""Fault: the SSD's file system is unmounted below the running store. Nothing is written to what lies beneath."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dadafsd.store import FragmentStore, TierSettings
from tests.checklogs import ExpectedLog
from tests.harness.disks import loop_disk
from tests.harness.fragments import MIB, data_of, insert, key_of, read
from tests.harness.processes import wait_until


def test_an_unmounted_disk_passes_through_and_comes_back(tmp_path: Path, expected_log: ExpectedLog) -> None:
    if os.stat(tmp_path).st_dev != os.stat("/").st_dev:
        pytest.skip("the temporary directory is not on the root file system")
    expected_log.add(r"tier ssd: .* is gone")
    expected_log.add(r"tier ssd: cannot .* in .*: ")
    with loop_disk(tmp_path, "ext4", 32 * MIB) as disk:
        store = FragmentStore.open([TierSettings(disk.path, 16 * MIB)], housekeeping=False)
        try:
            assert insert(store, key_of(0))
            disk.detach()
            store.housekeep()
            assert read(store, key_of(0)) is None
            assert not insert(store, key_of(1))
            for _ in range(3):
                store.housekeep()
            assert os.listdir(disk.path) == []
            disk.mount()
            wait_until(lambda: store.housekeep() or store.status()[0].state == "normal", "the tier is normal again")
            assert read(store, key_of(0)) == data_of(key_of(0))
            assert insert(store, key_of(1))
        finally:
            store.close()
