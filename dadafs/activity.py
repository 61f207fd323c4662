"""Which process reads how much, and what it had to wait for, so that "why was this slow?" has an answer on the node.

A process is known by who opened a file: the kernel does not say for whom it reads ahead.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

#: Processes and threads that are remembered; those that opened nothing for longest are forgotten.
PROCESSES = 256
THREADS = 2048
#: Reads that had to wait, the latest.
READS = 2048
#: Processes that the head is told of, and how the names of these begin there.
REPORTED = 8
PROCESS = "process "
TIERS = "tiers of "
#: Rates that the head is told are those of about so many seconds.
INTERVAL = 2.0
#: What the mount's own helper is called.
HELPER = "(reading ahead)"


class Process:
    """What one process has read through this mount. `waits` of its `reads` had to wait, for `seconds` together.

    `tiers`: how many of these each tier of the head had answered.
    """

    __slots__ = ("bytes", "command", "pid", "reads", "seconds", "then", "tiers", "uid", "waits")

    def __init__(self, pid: int, uid: int, command: str) -> None:
        self.pid = pid
        self.uid = uid
        self.command = command
        self.reads = self.bytes = self.waits = 0
        self.seconds = 0.0
        self.tiers: dict[str, int] = {}
        self.then: tuple[int, float, dict[str, int]] = (0, 0.0, {})  # bytes, seconds, tiers when the head was told last

    def waited(self, seconds: float, tiers: Mapping[str, int]) -> None:
        """Reads that had to wait, for `seconds` together, and how many of them each tier answered."""
        self.seconds += seconds
        for tier, count in tiers.items():
            if count:
                self.waits += count
                self.tiers[tier] = self.tiers.get(tier, 0) + count

    def as_dict(self) -> dict[str, Any]:
        """For statistics."""
        return {
            "pid": self.pid,
            "uid": self.uid,
            "command": self.command,
            "reads": self.reads,
            "bytes": self.bytes,
            "waits": self.waits,
            "seconds": round(self.seconds, 6),
            "tiers": dict(self.tiers),
        }


class Waited(NamedTuple):
    """One read that had to wait: when it began (seconds since the epoch), of what, how long, who, and what answered."""

    at: float
    path: bytes
    offset: int
    size: int
    seconds: float
    tier: str
    process: Process


class Activity:
    """All processes of one mount."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._processes: OrderedDict[int, Process] = OrderedDict()
        self._threads: OrderedDict[int, Process] = OrderedDict()
        self._reads: deque[Waited] = deque(maxlen=READS)
        self._reported_at = time.monotonic()
        self._report: dict[str, int | float | str] = {}

    def process(self, thread: int) -> Process:
        """The process that a thread belongs to; its opening of a file is just being answered, so it is still there."""
        found = self._threads.get(thread)
        if found is None:
            pid, uid, command = self._look_up(thread)
            found = self._processes.get(pid)
            if found is None or (found.uid, found.command) != (uid, command):
                found = self._processes[pid] = Process(pid, uid, command)
            self._threads[thread] = found
            _bound(self._threads, THREADS)
            _bound(self._processes, PROCESSES)
        return found

    def _look_up(self, thread: int) -> tuple[int, int, str]:
        try:
            text = (self._proc / str(thread) / "status").read_text(errors="backslashreplace")
            fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            helper = int(fields["PPid"]) == os.getpid()  # touches pages for readers (dadafs/kernel_readahead.py)
            return int(fields["Tgid"]), int(fields["Uid"].split()[0]), HELPER if helper else fields["Name"].strip()
        except (OSError, ValueError, KeyError, IndexError):
            return thread, -1, "?"

    def waited(self, process: Process, path: bytes, offset: int, size: int, seconds: float, tier: str) -> None:
        """A read could be answered after `seconds`; the head had last answered for this file from `tier`."""
        process.waited(seconds, {tier: 1})
        self.remember(process, path, offset, size, seconds, seconds, tier)

    def remember(
        self, process: Process, path: bytes, offset: int, size: int, seconds: float, ago: float, tier: str
    ) -> None:
        """A read that began so many seconds `ago`, counted already, is one of the latest."""
        self._reads.append(Waited(time.time() - ago, path, offset, size, seconds, tier, process))

    def processes(self) -> list[dict[str, Any]]:
        """All that are remembered, those that read most first."""
        return [one.as_dict() for one in sorted(self._processes.values(), key=lambda one: -one.bytes)]

    def reads(self, path: bytes | None, uid: int | None, limit: int) -> list[dict[str, Any]]:
        """The latest reads that had to wait, newest first: at or below `path`, by processes of `uid`, where given."""
        below = path + b"/" if path else None
        chosen = (
            read
            for read in reversed(self._reads)
            if (uid is None or read.process.uid == uid)
            and (below is None or read.path == path or read.path.startswith(below))
        )
        return [_as_dict(read) for read, _ in zip(chosen, range(limit), strict=False)]

    def report(self) -> dict[str, int | float | str]:
        """For the head: `process NAME[PID]` with bytes per second and the share of time spent waiting, and `tiers of
        NAME[PID]` with how many of its waiting reads each tier answered since the last report.
        """
        now = time.monotonic()
        elapsed = now - self._reported_at
        if elapsed < INTERVAL:
            return self._report
        self._reported_at = now
        rates = []
        for one in self._processes.values():
            size, seconds = one.bytes - one.then[0], one.seconds - one.then[1]
            tiers = {name: count - one.then[2].get(name, 0) for name, count in one.tiers.items()}
            one.then = one.bytes, one.seconds, dict(one.tiers)
            if size:
                rates.append((size / elapsed, seconds / elapsed, tiers, f"{one.command}[{one.pid}]"))
        rates.sort(key=lambda rate: -rate[0])
        self._report = {}
        for rate, wait, tiers, who in rates[:REPORTED]:
            self._report[PROCESS + who] = f"{rate:.0f} {wait:.4f}"
            answered = " ".join(f"{name}={count}" for name, count in tiers.items() if count)
            if answered:
                self._report[TIERS + who] = answered
        return self._report


def _bound(table: OrderedDict[int, Process], most: int) -> None:
    while len(table) > most:
        table.popitem(last=False)


def _as_dict(read: Waited) -> dict[str, Any]:
    return {
        "at": read.at,
        "path": read.path.decode(errors="surrogateescape"),
        "offset": read.offset,
        "size": read.size,
        "seconds": read.seconds,
        "tier": read.tier,
        "pid": read.process.pid,
        "command": read.process.command,
    }
