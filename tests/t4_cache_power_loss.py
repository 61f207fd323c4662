"""Fault: the power fails while the cache is filled. What was torn is a miss; with `sync = data` nothing is torn.

The kernel drops a file system's dirty data and its unwritten log (FS_IOC_SHUTDOWN), which is what a power cut leaves.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dadafs.checksum import damaged_blocks
from dadafsd.store import FragmentStore, TierSettings
from tests.checklogs import ExpectedLog
from tests.harness.disks import LoopDisk, loop_disk
from tests.harness.fragments import MIB, data_of, insert, key_of

KEYS = [key_of(number) for number in range(40)]
SIZES = {"ext4": 64 * MIB, "xfs": 320 * MIB}


def commit_names(disk: LoopDisk) -> None:
    """Make the file system write its log - the names - while the data of others are still in memory."""
    path = disk.path / "somebody-elses"
    with path.open("wb") as file:
        file.write(b"x")
        os.fsync(file.fileno())


def lose_power(disk: LoopDisk, store: FragmentStore) -> None:
    """Power off and on again."""
    disk.shut_down()
    store.close()
    disk.unmount()
    disk.mount()


def sound(store: FragmentStore) -> int:
    """How many of KEYS are served; each of them must be right, or known as damaged by its checksums."""
    count = 0
    for key in KEYS:
        stored = store.lookup(key)
        if stored is None:
            continue
        with stored:
            data = stored.read()
            if damaged_blocks(data, stored.checksums):
                store.damaged(key)
                continue
            assert data == data_of(key)
            count += 1
    return count


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("sync", ["none", "data"])
def test_a_power_cut_costs_misses_and_never_a_wrong_byte(
    tmp_path: Path, expected_log: ExpectedLog, kind: str, sync: str
) -> None:
    expected_log.add(r"tier ssd: record .* is dropped: ")
    with loop_disk(tmp_path, kind, SIZES[kind]) as disk:
        settings = TierSettings(disk.path / "cache", 32 * MIB, sync=sync)
        for _ in range(3):
            store = FragmentStore.open([settings], housekeeping=False)
            for key in KEYS[:30]:
                assert insert(store, key)
            commit_names(disk)
            for key in KEYS[30:]:
                assert insert(store, key)
            lose_power(disk, store)
            again = FragmentStore.open([settings], housekeeping=False)
            try:
                again.housekeep()
                found = sound(again)
                assert found >= 30 or sync == "none"
                assert all(insert(again, key) for key in KEYS)
                assert sound(again) == len(KEYS)
            finally:
                again.close()
