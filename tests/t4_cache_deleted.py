"""Fault: somebody deletes parts of the cache directory by hand while the store runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dadafsd.store import FragmentStore, TierSettings
from tests.checklogs import ExpectedLog
from tests.harness.fragments import MIB, data_of, insert, key_of, read, record_path
from tests.harness.processes import wait_until

KEYS = [key_of(number) for number in range(12)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def store(directory: Path) -> Iterator[FragmentStore]:
    opened = FragmentStore.open([TierSettings(directory, 16 * MIB)], housekeeping=False)
    assert all(insert(opened, key) for key in KEYS)
    yield opened
    opened.close()


def works(store: FragmentStore) -> bool:
    """Whether all fragments can be kept and read again."""
    return all(insert(store, key) for key in KEYS) and all(read(store, key) == data_of(key) for key in KEYS)


def test_one_record_deleted_is_a_miss_and_its_space_is_free_again(store: FragmentStore, directory: Path) -> None:
    used = store.status()[0].used
    record_path(directory, KEYS[0]).unlink()
    assert read(store, KEYS[0]) is None
    assert store.status()[0].used < used
    assert works(store)


def test_a_record_deleted_while_it_is_read_is_read_to_its_end(store: FragmentStore, directory: Path) -> None:
    stored = store.lookup(KEYS[0])
    assert stored is not None
    record_path(directory, KEYS[0]).unlink()
    with stored:
        assert stored.read() == data_of(KEYS[0])


@pytest.mark.parametrize("part", ["fragments", "new", "index", "pins", "lock"])
def test_any_part_of_the_directory_may_be_deleted(store: FragmentStore, directory: Path, part: str) -> None:
    path = directory / part
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if part == "fragments":
        assert [read(store, key) for key in KEYS] == [None] * len(KEYS)
        assert store.status()[0].used == 0
    assert works(store)
    store.housekeep()
    assert store.status()[0].fragments == len(KEYS)


def test_a_scan_forgets_what_was_deleted(store: FragmentStore, directory: Path) -> None:
    store.close()
    for key in KEYS[:5]:
        record_path(directory, key).unlink()
    again = FragmentStore.open([TierSettings(directory, 16 * MIB)], housekeeping=False)
    try:
        assert again.status()[0].fragments == len(KEYS)
        again.housekeep()
        assert again.status()[0].fragments == len(KEYS) - 5
    finally:
        again.close()


def test_the_whole_directory_deleted_passes_through_until_it_is_made_again(
    store: FragmentStore, directory: Path, expected_log: ExpectedLog
) -> None:
    expected_log.add(r"tier ssd: .* is gone")
    expected_log.add(r"tier ssd: cannot write in .*: No such file or directory")
    shutil.rmtree(directory)
    assert [read(store, key) for key in KEYS] == [None] * len(KEYS)
    assert not any(insert(store, key) for key in KEYS)
    wait_until(lambda: store.housekeep() or store.status()[0].state == "normal", "the tier is normal again")
    assert works(store)
    with pytest.raises(Exception, match="used by another running dadafsd"):
        FragmentStore.open([TierSettings(directory, 16 * MIB)])
