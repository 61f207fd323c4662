"""Fault: the wall clock of head and node steps by hours, forward or back, and files have times of any century.

Nothing that is promised depends on it: freshness, leases and deadlines run on monotonic clocks, versions are compared
and never ordered, and pins keep what is left of their time.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dadafs.ctl import client
from dadafsd.policy.settle import NANOSECONDS, ForeignClock, LocalClock
from dadafsd.store.pins import ClockSteps
from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.processes import HeadProcess, MountProcess, wait_until
from tests.harness.readers import Reader, sha256
from tests.harness.stepped_clock import SteppedClock

HOURS = 3600
SIZE = 200_000


@dataclass
class Place:
    """A tree, and a head and a mount of it that have a clock of their own."""

    tree: Path
    mnt: Path
    head: HeadProcess
    mount: MountProcess
    clock: SteppedClock

    def stats(self) -> dict[str, Any]:
        """What the mount reports."""
        report: dict[str, Any] = json.loads((self.mnt / ".dadafs" / "stats.json").read_text())
        return report


@pytest.fixture
def place(tmp_path: Path, expected_log: ExpectedLog) -> Iterator[Place]:
    need_fuse()
    tree = tmp_path / "tree"
    tree.mkdir()
    clock = SteppedClock(tmp_path)
    head = HeadProcess(tmp_path / "head", {"data": tree}, env=clock.env)
    mount = MountProcess(tmp_path / "mnt", head.address, "data", tmp_path / "mount.log", env=clock.env)
    here = Place(tree, mount.mountpoint, head, mount, clock)
    yield here
    mount.unmount()
    here.head.stop()
    mount.check_log(expected_log)
    here.head.check_log(expected_log)


steps = pytest.mark.parametrize("hours", [5, -5, 24 * 365 * 30, -24 * 365 * 30])


@steps
def test_changes_are_seen_and_no_lease_is_lost(place: Place, hours: int) -> None:
    file = place.tree / "file"
    file.write_bytes(b"a" * SIZE)
    assert (place.mnt / "file").read_bytes() == b"a" * SIZE
    assert not (place.mnt / "later").exists()
    before = place.stats()
    with (place.mnt / "file").open("rb", buffering=0) as already_open:
        place.clock.set(hours * HOURS)
        with file.open("r+b") as writer:
            writer.write(b"b" * SIZE)
        wait_until(lambda: os.pread(already_open.fileno(), SIZE, 0) == b"b" * SIZE, "the rewrite by an open reader")
        assert (place.mnt / "file").read_bytes() == b"b" * SIZE
        (place.tree / "later").write_bytes(b"new")
        wait_until(lambda: (place.mnt / "later").exists(), "the new file")
        place.clock.set(0)
        with file.open("ab") as writer:
            writer.write(b"c")
        wait_until(lambda: os.fstat(already_open.fileno()).st_size == SIZE + 1, "the growth, on the way back")
    after = place.stats()
    assert after["session"] == before["session"], "the same session: no lease was lost"
    assert after["counters"]["eio_sites"] == {}


@steps
def test_retry_does_not_run_out(place: Place, expected_log: ExpectedLog, tmp_path: Path, hours: int) -> None:
    """A reader that waits for the head goes on waiting, and goes on."""
    expected_log.add(r"lost|closed|reset|reconnect|EOF|refused|unreachable|the clock was set")
    big = place.tree / "big"
    big.write_bytes(os.urandom(24 << 20))
    reader = Reader(place.mnt / "big")
    place.head.kill()
    place.clock.set(hours * HOURS)
    place.head = HeadProcess(tmp_path / "head", {"data": place.tree}, port=place.head.port, env=place.clock.env)
    place.clock.set(-hours * HOURS)
    assert reader.digest() == sha256(big)


@pytest.mark.parametrize("seconds", [-(2**31), -1, 0, 2**31 + 5, 4_000_000_000])
def test_times_of_another_century(place: Place, seconds: int) -> None:
    """A file from the future or the distant past is served, and its rewrites are seen though its times are put back."""
    file = place.tree / "file"
    file.write_bytes(b"a" * SIZE)
    os.utime(file, (seconds, seconds))
    mirrored = place.mnt / "file"
    for clock, content in ((0, b"b"), (5 * HOURS, b"c"), (-5 * HOURS, b"d")):
        place.clock.set(clock)
        with mirrored.open("rb", buffering=0) as already_open:
            with file.open("r+b") as writer:
                writer.write(content * SIZE)
            os.utime(file, (seconds, seconds))
            wait_until(lambda: already_open_has(already_open, content), "the rewrite by an open reader")  # noqa: B023
        assert mirrored.read_bytes() == content * SIZE
        wait_until(lambda: mirrored.stat().st_mtime == seconds, "the time that was set")
        assert os.getxattr(mirrored, "user.dadafs.growing") in (b"yes", b"no")


def already_open_has(file: io.FileIO, content: bytes) -> bool:
    return os.pread(file.fileno(), SIZE, 0) == content * SIZE


@pytest.mark.parametrize("hours", [5, -5])
def test_pins_keep_what_is_left_of_their_time(place: Place, expected_log: ExpectedLog, hours: int) -> None:
    expected_log.add("the clock was set by")
    (place.tree / "file").write_bytes(b"a" * SIZE)
    with closing(client.Head(str(place.head.admin_socket))) as head:
        head.ask("pin", path="file", seconds=HOURS, warm=False)
        place.clock.set(hours * HOURS)
        for _ in range(2):
            (pin,) = head.ask("pins")["pins"]
            left = pin["until"] - (time.time() + hours * HOURS)
            assert 0 < left <= HOURS


def test_steps_of_the_clock_are_told_from_its_being_set_right() -> None:
    steps = ClockSteps()
    assert steps.step(1000.0, 5.0) == 0.0
    assert steps.step(1010.0, 15.0) == 0.0
    assert steps.step(1070.0, 25.0) == 0.0  # 50 s in 10 s: not worth moving anything
    assert steps.step(1070.0 + 18_000, 25.0) == 18_000.0
    assert steps.step(1080.0, 35.0) == -18_000.0
    assert steps.step(1090.0, 45.0) == 0.0


def test_a_step_is_not_taken_for_a_skew_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise what a server wrote a moment ago looks hours old, and is kept before it is proven."""
    foreign, local = ForeignClock(), LocalClock()
    written = time.time_ns()
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 5 * HOURS * NANOSECONDS)
    assert not foreign.settled(written, written, foreign.now_ns())
    assert local.now_ns() - written >= 5 * HOURS * NANOSECONDS
    monkeypatch.setattr(time, "time_ns", lambda: real() - 5 * HOURS * NANOSECONDS)
    assert foreign.now_ns() >= written
    assert not local.settled(written, written, local.now_ns())
