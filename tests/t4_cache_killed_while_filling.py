"""Fault: kill -9 of the process that fills the cache, again and again at random moments. No wrong byte ever.

DADA_KILL_ROUNDS is the number of rounds (30 unless set).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dadafsd.store import FragmentStore, TierSettings
from tests.harness.fragments import MIB, data_of, key_of, read

ROUNDS = int(os.environ.get("DADA_KILL_ROUNDS", "30"))
KEYS = [key_of(number, size=number * 256 * 1024 + 70_000) for number in range(60)]

# Forks a child per line of input (directory, seconds) that opens the store and inserts and evicts without end; kills
# it so many seconds after it began. To wait is not to synchronise here: the random moment is the point.
KILLER = """
import os, select, signal, sys, time
from pathlib import Path
from dadafs.checksum import block_checksums
from dadafsd.store import FragmentStore, TierSettings
from tests.harness.fragments import data_of
from tests.t4_cache_killed_while_filling import KEYS
fragments = [(key, data_of(key), block_checksums(data_of(key))) for key in KEYS]
for line in sys.stdin:
    directory, seconds = line.split()
    opened, says_opened = os.pipe()
    child = os.fork()
    if child == 0:
        store = FragmentStore.open([TierSettings(Path(directory), 4 * 2**20)])
        os.write(says_opened, b"x")
        while True:
            for fragment in fragments:
                store.insert(*fragment)
    os.close(says_opened)
    os.read(opened, 1)
    time.sleep(float(seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(opened)
    print("killed", flush=True)
"""


@pytest.fixture
def killer() -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", KILLER]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def fill_and_kill(killer: subprocess.Popen[str], directory: Path, seconds: float) -> None:
    """One child filled the store in `directory` for so many seconds and was killed."""
    assert killer.stdin is not None
    assert killer.stdout is not None
    killer.stdin.write(f"{directory} {seconds}\n")
    killer.stdin.flush()
    assert killer.stdout.readline() == "killed\n"


def test_no_wrong_byte_however_often_it_is_killed(tmp_path: Path, killer: subprocess.Popen[str]) -> None:
    directory = tmp_path / "cache"
    chance = random.Random(ROUNDS)
    found = 0
    for _ in range(ROUNDS):
        fill_and_kill(killer, directory, chance.uniform(0.0, 0.15))
        store = FragmentStore.open([TierSettings(directory, 4 * MIB)], housekeeping=False)
        try:
            assert list((directory / "new").iterdir()) == []
            for key in KEYS:
                data = read(store, key)
                assert data in (None, data_of(key))
                found += data is not None
            store.housekeep()
            status = store.status()[0]
            assert status.counts.damaged == 0
            on_disk = sum(path.stat().st_size for path in (directory / "fragments").glob("*/*"))
            assert status.used >= on_disk
            assert status.used <= 4 * MIB
        finally:
            store.close()
    assert found > 0
