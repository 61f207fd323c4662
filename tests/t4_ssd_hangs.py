"""Fault: the SSD does not answer. Whoever waits for it waits; nobody else joins; it comes back by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dadafsd.store import FragmentStore, TierSettings, tier
from dadafsd.store.files import TierFiles
from tests.checklogs import ExpectedLog
from tests.harness.fragments import MIB, data_of, insert, key_of, read
from tests.harness.processes import wait_until


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FragmentStore]:
    opened = FragmentStore.open([TierSettings(tmp_path / "cache", 16 * MIB)], housekeeping=False)
    yield opened
    opened.close()


def test_a_hanging_disk_is_taken_out_and_comes_back(
    store: FragmentStore, monkeypatch: pytest.MonkeyPatch, expected_log: ExpectedLog
) -> None:
    expected_log.add("tier ssd: .* has not answered for")
    monkeypatch.setattr(tier, "STALL", 0.2)
    assert insert(store, key_of(0))
    hanging, answers = threading.Event(), threading.Event()
    open_record = TierFiles.open_record

    def hang(files: TierFiles, digest: int) -> int:
        hanging.set()
        answers.wait()
        return open_record(files, digest)

    found: list[bytes | None] = []
    with monkeypatch.context() as patched:
        patched.setattr(TierFiles, "open_record", hang)
        victim = threading.Thread(target=lambda: found.append(read(store, key_of(0))))
        victim.start()
        hanging.wait()
    wait_until(lambda: insert(store, key_of(1)) is False, "inserts pass through")
    assert store.status()[0].state == "down"
    assert read(store, key_of(0)) is None
    answers.set()
    victim.join()
    assert found == [data_of(key_of(0))]
    wait_until(lambda: store.housekeep() or store.status()[0].state == "normal", "the tier is normal again")
    assert read(store, key_of(0)) == data_of(key_of(0))
