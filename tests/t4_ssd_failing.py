"""Fault: the SSD fails with input/output errors, really (the kernel shuts its file system down) and by turns."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dadafsd.store import FragmentStore, TierSettings
from dadafsd.store.files import TierFiles
from dadafsd.store.health import SUCCESSES_TO_NORMAL
from tests.checklogs import ExpectedLog
from tests.harness.disks import loop_disk
from tests.harness.fragments import MIB, data_of, insert, key_of, read
from tests.harness.processes import wait_until


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_dead_disk_passes_through_without_an_exception(tmp_path: Path, expected_log: ExpectedLog, kind: str) -> None:
    expected_log.add(r"tier ssd: cannot (read|write|delete) in .*: Input/output error")
    expected_log.add(r"tier ssd: .* is gone")
    with loop_disk(tmp_path, kind, 320 * MIB) as disk:
        store = FragmentStore.open([TierSettings(disk.path, 16 * MIB)], housekeeping=False)
        try:
            assert all(insert(store, key_of(number)) for number in range(8))
            disk.shut_down()
            for number in range(30):
                assert read(store, key_of(number)) is None
                assert not insert(store, key_of(number))
            status = store.status()[0]
            assert status.reading != "normal"
            assert status.writing != "normal"
            assert status.counts.errors < 20, "a dead disk is not asked for every fragment"
            wait_until(lambda: store.housekeep() or store.status()[0].reading == "down", "the tier is down")
            disk.unmount()  # nothing keeps an admin from it
            disk.mount()
            wait_until(lambda: store.housekeep() or store.status()[0].state == "normal", "the tier is normal again")
            assert insert(store, key_of(50))
            assert read(store, key_of(50)) == data_of(key_of(50))
        finally:
            store.close()


@pytest.fixture
def store(tmp_path: Path, expected_log: ExpectedLog) -> Iterator[FragmentStore]:
    expected_log.add(r"tier ssd: cannot (read|write|delete) in .*: Input/output error")
    opened = FragmentStore.open([TierSettings(tmp_path / "cache", 16 * MIB)], housekeeping=False)
    yield opened
    opened.close()


def failing(times: int, original: Callable[..., object], code: int = errno.EIO) -> Callable[..., object]:
    """`original`, but it fails the first `times` times."""
    left = times

    def call(*args: object) -> object:
        nonlocal left
        left -= 1
        if left >= 0:
            raise OSError(code, os.strerror(code))
        return original(*args)

    return call


def test_one_error_is_a_miss_and_nothing_more(store: FragmentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert insert(store, key_of(0))
    monkeypatch.setattr(TierFiles, "open_record", failing(1, TierFiles.open_record))
    assert read(store, key_of(0)) is None
    assert read(store, key_of(0)) == data_of(key_of(0))
    status = store.status()[0]
    assert (status.state, status.counts.errors) == ("normal", 1)


def test_many_errors_take_the_tier_out_and_it_comes_back_by_itself(
    store: FragmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert insert(store, key_of(0))
    monkeypatch.setattr(TierFiles, "open_record", failing(3, TierFiles.open_record))
    for _ in range(3):
        assert read(store, key_of(0)) is None
    assert store.status()[0].reading == "unstable"
    assert store.status()[0].writing == "normal"
    for _ in range(SUCCESSES_TO_NORMAL):
        store.housekeep()
    assert store.status()[0].state == "normal"
    assert read(store, key_of(0)) == data_of(key_of(0))


def test_a_write_that_fails_leaves_nothing_behind(
    store: FragmentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "writev", failing(1, os.writev))
    assert not insert(store, key_of(0))
    assert list((tmp_path / "cache" / "new").iterdir()) == []
    assert store.status()[0].counts.refused == {"error": 1}
    assert read(store, key_of(0)) is None
    assert insert(store, key_of(0))


def test_a_process_short_of_descriptors_does_not_blame_the_disk(
    store: FragmentStore, monkeypatch: pytest.MonkeyPatch, expected_log: ExpectedLog
) -> None:
    expected_log.add("tier ssd: cannot read in .*: Too many open files")
    assert insert(store, key_of(0))
    monkeypatch.setattr(TierFiles, "open_record", failing(20, TierFiles.open_record, errno.EMFILE))
    for _ in range(20):
        assert read(store, key_of(0)) is None
    assert store.status()[0].state == "normal"
    assert read(store, key_of(0)) == data_of(key_of(0))


def test_with_two_tiers_the_sound_one_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_log: ExpectedLog
) -> None:
    expected_log.add(r"tier bad: cannot write in .*: Input/output error")
    tiers = [TierSettings(tmp_path / name, 32 * MIB, name=name) for name in ("good", "bad")]
    write = TierFiles.write_record

    def write_record(files: TierFiles, *args: object) -> None:
        if files.directory.name == "bad":
            raise OSError(errno.EIO, "Input/output error")
        write(files, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(TierFiles, "write_record", write_record)
    store = FragmentStore.open(tiers, housekeeping=False)
    try:
        keys = [key_of(number) for number in range(40)]
        assert all(insert(store, key) for key in keys)
        assert all(read(store, key) == data_of(key) for key in keys)
        assert [status.state for status in store.status()] == ["normal", "unstable"]
    finally:
        store.close()
