"""What is in the page cache is seen without waiting: on a disk by RWF_NOWAIT, on a tmpfs by cachestat."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from dadafsd import residency
from dadafsd.counters import Counters
from dadafsd.residency import is_resident, read_resident
from dadafsd.store import FragmentStore, TierSettings
from dadafsd.store.settings import KIND_RAM
from dadafsd.store_access import StoreAccess
from tests.harness.fragments import MIB, data_of, insert, key_of
from tests.harness.places import answers_from_memory

PAGE = mmap.PAGESIZE
DATA = os.urandom(3 * PAGE)
needs_cachestat = pytest.mark.skipif(not residency.have_cachestat, reason="cachestat needs Linux 6.5")


@pytest.fixture
def in_memory() -> Iterator[int]:
    """A file that has no disk."""
    fd = os.memfd_create("test")
    os.write(fd, DATA)
    yield fd
    os.close(fd)


@needs_cachestat
def test_a_file_without_a_disk(in_memory: int) -> None:
    assert is_resident(in_memory, 5, 2 * PAGE, in_memory=True)
    buffer = bytearray(PAGE)
    assert read_resident(in_memory, buffer, 5, in_memory=True) == PAGE
    assert buffer == DATA[5 : PAGE + 5]


@needs_cachestat
def test_a_page_that_is_not_there_is_seen_wherever_it_is(in_memory: int) -> None:
    os.ftruncate(in_memory, 4 * PAGE)
    os.pwrite(in_memory, b"x", 5 * PAGE)
    assert residency._every_page_cached(in_memory, 0, 3 * PAGE)
    assert residency._every_page_cached(in_memory, 5 * PAGE, 1)
    assert not residency._every_page_cached(in_memory, 0, 6 * PAGE)
    assert not residency._every_page_cached(in_memory, 4 * PAGE - 1, 2)


def test_who_cannot_tell_says_no(in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> int:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "preadv", unknown)
    assert not is_resident(in_memory, 0, PAGE)
    with pytest.raises(BlockingIOError):
        read_resident(in_memory, bytearray(PAGE), 0)
    monkeypatch.setattr(residency, "_SYS_CACHESTAT", 100_000)  # as on a kernel without it
    assert not is_resident(in_memory, 0, PAGE, in_memory=True)


def test_what_is_not_in_memory_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cold(*_: object) -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with (tmp_path / "file").open("wb+") as file:
        file.write(DATA)
        file.flush()
        monkeypatch.setattr(os, "preadv", cold)
        assert not is_resident(file.fileno(), 0, PAGE, in_memory=True)
        with pytest.raises(BlockingIOError):
            read_resident(file.fileno(), bytearray(PAGE), 0, in_memory=True)


@needs_cachestat
def test_records_of_a_tier_in_memory_need_no_thread() -> None:
    if not answers_from_memory("/dev/shm"):
        pytest.skip("/dev/shm is no tmpfs")

    async def main(folder: Path) -> None:
        settings = TierSettings(folder / "ram", 16 * MIB, name="ram", kind=KIND_RAM)
        with contextlib.closing(FragmentStore.open([settings], housekeeping=False)) as store:
            assert insert(store, key_of(0))
            access = StoreAccess(store, Counters(), queue_limit=0)
            record = access.at_hand(key_of(0))
            assert record is not None
            assert record.resident(0, record.length)
            assert os.pread(record.fd, record.length, record.offset) == data_of(key_of(0))
            access.forget_hot()
            del record

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        trio.run(main, Path(folder))
