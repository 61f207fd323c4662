"""The store in a directory: limits, eviction, damage, many processes, kill -9."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dada.errors import UsageError, UserError
from dada.results import embedded
from dada.results.embedded import EmbeddedStore
from dada.results.records import pack
from dada.results.store import open_store
from tests.harness.processes import wait_until


def record(seed: int, n: int = 1000) -> bytes:
    return pack({}, {"x": np.random.default_rng(seed).integers(0, 2**62, n)})


def name(seed: int) -> str:
    return f"{seed:040x}"


def files(store: EmbeddedStore) -> list[Path]:
    return sorted(Path(store.name).rglob("*.rec"))


def test_a_damaged_record_is_a_miss_and_is_removed(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    store.put(name(1), record(1))
    (file,) = files(store)
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    assert store.get(name(1)) is None
    assert store.counters.damaged == 1
    assert files(store) == []


def test_a_torn_record_is_a_miss(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    store.put(name(1), record(1))
    (file,) = files(store)
    os.truncate(file, 50)
    assert store.get(name(1)) is None


def test_the_limit_holds_and_what_was_used_last_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_LOOK_EVERY", 1)
    size = len(record(0))
    store = EmbeddedStore(tmp_path, limit=10 * size + size // 2)
    for seed in range(10):
        store.put(name(seed), record(seed))
        os.utime(store._path(name(seed)), (seed, seed))
    assert store.get(name(0)) is not None  # using it makes it young
    store.put(name(10), record(10))
    assert store.size()[1] <= 10 * size + size // 2
    assert store.get(name(0)) is not None
    assert store.get(name(1)) is None
    assert store.get(name(10)) is not None


def test_large_records_do_not_overrun_the_limit(tmp_path: Path) -> None:
    """Fewer of them fill it than are kept between two looks by number."""
    size = len(record(0, 3000))
    store = EmbeddedStore(tmp_path, limit=10 * size)
    for seed in range(40):
        store.put(name(seed), record(seed, 3000))
        assert store.size()[1] <= 11 * size


def test_prune_by_age_and_by_size(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    for seed in range(6):
        store.put(name(seed), record(seed))
    old = time.time() - 1000
    for seed in range(2):
        os.utime(store._path(name(seed)), (old, old))
    assert store.prune(older_than_s=500) == (2, 2 * len(record(0)))
    assert store.prune(older_than_s=500) == (0, 0)
    removed, _ = store.prune(down_to_bytes=2 * len(record(0)))
    assert removed == 2
    assert store.size()[0] == 2


def test_old_runs_and_half_written_files_are_removed(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    store.remember_run("abc", {"date": "x"})
    half = tmp_path / "v1" / "ab" / "x.part"
    half.parent.mkdir()
    half.write_bytes(b"half")
    young = half.with_name("y.part")
    young.write_bytes(b"half")
    old = time.time() - 10_000
    for path in (half, tmp_path / "v1" / "runs" / "abc.json"):
        os.utime(path, (old, old))
    store.prune(older_than_s=5000)
    assert not half.exists()
    assert young.exists()
    assert store.runs() == {}


def _write_for_ever(directory: str) -> None:
    store = EmbeddedStore(Path(directory))
    seed = 0
    while True:
        store.put(name(seed % 50), record(seed % 50))
        seed += 1


def test_kill_9_while_writing_leaves_whole_records(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_for_ever, args=(str(tmp_path),)) for _ in range(2)]
    for writer in writers:
        writer.start()
    wait_until(lambda: len(files(store)) >= 30, "30 records")
    for writer in writers:
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
    found = [seed for seed in range(50) if store.get(name(seed)) is not None]
    assert len(found) >= 30
    assert all(store.get(name(seed)) == record(seed) for seed in found)
    assert store.counters.damaged == 0


def test_many_processes_write_and_prune_at_once(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.t1_results_embedded import name, record\n"
        "from dada.results.embedded import EmbeddedStore\n"
        "store = EmbeddedStore(Path(sys.argv[1]))\n"
        "for seed in range(120):\n"
        "    store.put(name(seed), record(seed, 100)); found = store.get(name(seed // 2))\n"
        "    assert found in (None, record(seed // 2, 100)), seed\n"
        "    if seed % 10 == 0: store.prune(down_to_bytes=20 * 1000)\n"
        "assert store.counters.failures == 0, store.counters\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]


def test_a_directory_that_is_full_keeps_nothing_and_raises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EmbeddedStore(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embedded, "write_atomically", full)
    assert not store.put(name(1), record(1))
    store.remember_run("abc", {})
    assert store.counters.refused == 1
    assert "No space left" in store.counters.last_failure
    assert store.get(name(1)) is None


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be made"):
        open_store(tmp_path / "file" / "store")


def test_names_of_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DADA_STORE", str(tmp_path / "there"))
    assert open_store().name == str(tmp_path / "there")
    monkeypatch.setenv("DADA_STORE_LIMIT", "2MiB")
    assert EmbeddedStore(tmp_path)._limit == 2 << 20
    for bad in ("http://host/x", "aerospike://host", "aerospike://host/ns", "aerospike://host:x/ns/set"):
        with pytest.raises(UsageError):
            open_store(bad)
