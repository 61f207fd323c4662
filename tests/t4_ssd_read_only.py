"""Fault: the file system of the cache turns read-only (as ext4 does after an error). What is cached is still served."""

from __future__ import annotations

from pathlib import Path

import pytest

from dadafs.errors import ExitCode, UserError
from dadafsd.store import FragmentStore, TierSettings
from tests.checklogs import ExpectedLog
from tests.harness.disks import loop_disk
from tests.harness.fragments import MIB, data_of, insert, key_of, read, record_path
from tests.harness.processes import wait_until


def test_a_read_only_disk_serves_on_and_comes_back_when_it_is_writable(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log.add("tier ssd: cannot (write|delete) in .*: Read-only file system")
    expected_log.add("tier ssd: record .* is dropped: data damaged")
    with loop_disk(tmp_path, "ext4", 32 * MIB) as disk:
        store = FragmentStore.open([TierSettings(disk.path, 16 * MIB)], housekeeping=False)
        try:
            assert all(insert(store, key_of(number)) for number in range(4))
            disk.remount("ro")
            assert not any(insert(store, key_of(number)) for number in range(10, 15))
            status = store.status()[0]
            assert (status.reading, status.writing) == ("normal", "down")
            assert [read(store, key_of(n)) for n in range(4)] == [data_of(key_of(n)) for n in range(4)]
            store.damaged(key_of(0))  # cannot be deleted, and must not be served again
            assert record_path(disk.path, key_of(0)).exists()
            assert read(store, key_of(0)) is None
            disk.remount("rw")
            wait_until(lambda: store.housekeep() or store.status()[0].state == "normal", "the tier is normal again")
            assert insert(store, key_of(10))
            assert insert(store, key_of(0))
            assert read(store, key_of(0)) == data_of(key_of(0))
        finally:
            store.close()


def test_starting_on_a_read_only_disk_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with loop_disk(tmp_path, "ext4", 32 * MIB) as disk:
        disk.remount("ro")
        with pytest.raises(UserError, match="not usable \\(Read-only file system\\): make it writable") as caught:
            FragmentStore.open([TierSettings(disk.path / "cache", 16 * MIB)])
        assert caught.value.exit_code == ExitCode.CACHE
