"""One side of a measurement: the processes that run in one namespace, their CPU seconds and their resident
memory.

CPU seconds are user plus system time of every process started here and of all their descendants, those that
ended and were waited for included (`/proc/PID/stat`, proc(5)). Work that the kernel does in interrupts is
nobody's and is in no number.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_TICK = os.sysconf("SC_CLK_TCK")
DEADLINE = 60.0


class NotReady(RuntimeError):
    """A server or a mount did not come up; the message holds the end of its log."""


def wait_for(condition: Callable[[], object], what: str, deadline: float = DEADLINE) -> None:
    """Return once `condition()` is true; `NotReady` after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise NotReady(f"not within {deadline:.0f} s: {what}")
        time.sleep(0.02)


def environment() -> dict[str, str]:
    """What child processes inherit: Python finds the checkout first."""
    paths = [str(REPOSITORY), str(REPOSITORY / "analysis"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONDONTWRITEBYTECODE": "1"}


def process_table() -> dict[int, tuple[int, float]]:
    """For every process: its parent and its CPU seconds (own and of children it has waited for)."""
    table = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            text = Path(entry.path, "stat").read_text()
            fields = text[text.rindex(")") + 2 :].split()
            ticks = sum(int(value) for value in fields[11:15])
            table[int(entry.name)] = (int(fields[1]), ticks / _TICK)
    return table


def machine_cpu_seconds() -> float:
    """CPU seconds of the whole machine so far, with interrupts, which belong to no process (/proc/stat, proc(5))."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / _TICK


def descendants(roots: Sequence[int], table: dict[int, tuple[int, float]]) -> list[int]:
    """`roots` that are alive and everything below them."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in table.items():
        children.setdefault(parent, []).append(pid)
    found, pending = [], [pid for pid in roots if pid in table]
    while pending:
        pid = pending.pop()
        found.append(pid)
        pending += children.get(pid, [])
    return found


def peak_of(pid: int) -> int:
    """The largest resident size that `pid` has had since `reset_peak`, in bytes; 0 when it is gone."""
    with contextlib.suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        if found:
            return int(found.group(1)) * 1024
    return 0


class Side:
    """Processes in one network namespace (None: the machine's own); `close` ends all of them."""

    def __init__(self, namespace: str | None, log_dir: Path) -> None:
        self.namespace = namespace
        self.log_dir = log_dir
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` as it has to be called to run on this side."""
        if self.namespace is None:
            return list(argv)
        return ["nsenter", f"--net=/run/netns/{self.namespace}", "--", *argv]

    def start(
        self, name: str, argv: Sequence[str], ready: str | Callable[[], object], **extra_env: str
    ) -> subprocess.Popen[bytes]:
        """Start `argv`; wait for a line of its output that matches `ready`, or for `ready()` to be true."""
        log = self.log_dir / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                self.command(argv),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**environment(), **extra_env},
            )
        self._running[name] = process

        def is_ready() -> object:
            if process.poll() is not None:
                raise NotReady(f"{name} ended with {process.returncode}: {tail(log)}")
            if callable(ready):
                return ready()
            return re.search(ready, log.read_text(errors="replace"), re.MULTILINE)

        try:
            wait_for(is_ready, f"{name} ready")
        except NotReady as error:
            self.stop(name)
            raise NotReady(f"{error}; its log ends: {tail(log)}") from None
        return process

    def python(self, *arguments: str) -> list[str]:
        """The command that runs this Python with `arguments`."""
        return [sys.executable, *arguments]

    def stop(self, name: str, deadline: float = 20.0) -> None:
        """SIGTERM, wait, SIGKILL where that does not help."""
        process = self._running.pop(name, None)
        if process is None:
            return
        below = descendants([process.pid], process_table())
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(deadline)
        for pid in below:  # children that a killed parent left, and the parent itself where it would not go
            if pid != process.pid or process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.wait()

    def forget_ended(self, name: str, deadline: float = 20.0) -> None:
        """Wait for a process that ends by itself (a client after its unmount); kill it where it does not."""
        process = self._running.get(name)
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(deadline)
        self.stop(name)

    def close(self) -> None:
        """End every process of this side."""
        for name in reversed(list(self._running)):
            self.stop(name)

    def _alive(self) -> tuple[list[int], dict[int, tuple[int, float]]]:
        table = process_table()
        return descendants([process.pid for process in self._running.values()], table), table

    def cpu_seconds(self) -> float:
        """CPU seconds so far of everything that runs on this side; take the difference of two calls."""
        pids, table = self._alive()
        return sum(table[pid][1] for pid in pids)

    def reset_peak(self) -> None:
        """Begin to watch the peak of the resident memory anew."""
        for pid in self._alive()[0]:
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """The sum over the processes of the largest resident memory of each since `reset_peak`."""
        return sum(peak_of(pid) for pid in self._alive()[0])


def tail(log: Path, lines: int = 3) -> str:
    """The last lines of a log file, joined."""
    try:
        return " | ".join(log.read_text(errors="replace").strip().splitlines()[-lines:]) or "(nothing)"
    except OSError:
        return "(no log)"
