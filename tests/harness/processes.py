"""Real heads and real mounts for tests: started, awaited, checked for unexpected log lines, and cleaned up."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.checklogs import ExpectedLog

DEADLINE = 60.0
_BAD_LINE = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b|Traceback")


def wait_until(condition: Callable[[], object], what: str, deadline: float = DEADLINE) -> None:
    """Return when `condition()` is true; fail with `what` after `deadline` seconds. The only way tests wait."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what}")
        time.sleep(0.01)


class LoggedProcess:
    """A child process whose output goes to a file that is checked when it ends."""

    def __init__(self, argv: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.argv = argv
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def text(self) -> str:
        """Everything it has printed so far."""
        return self.log.read_text(errors="replace")

    def wait_for_line(self, pattern: str, deadline: float = DEADLINE) -> re.Match[str]:
        """The first match of `pattern` in its output; fails when it exits or takes too long first."""
        end = time.monotonic() + deadline
        while True:
            found = re.search(pattern, self.text(), re.MULTILINE)
            if found:
                return found
            if self.process.poll() is not None:
                raise AssertionError(f"{self.argv[0]} ended with {self.process.returncode}:\n{self.text()}")
            if time.monotonic() > end:
                raise AssertionError(f"no line {pattern!r} within {deadline} s:\n{self.text()}")
            time.sleep(0.01)

    def kill(self) -> None:
        """kill -9, and wait."""
        self.process.kill()
        self.process.wait(DEADLINE)

    def stop(self) -> int:
        """SIGTERM, wait, and kill when that does not help within the deadline; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGABRT)
                self.kill()
                raise AssertionError(f"did not stop on SIGTERM:\n{self.text()}") from None
        return self.process.returncode

    def check_log(self, expected: ExpectedLog) -> None:
        """Fail for WARNING, ERROR or traceback lines that the test did not announce."""
        bad = [line for line in self.text().splitlines() if _BAD_LINE.search(line) and not expected.covers(line)]
        if bad:
            raise AssertionError(f"unexpected in {self.log.name}:\n" + "\n".join(bad))


class HeadProcess(LoggedProcess):
    """A real `dadafsd` on loopback; `address` is HOST:PORT once it is ready."""

    def __init__(
        self,
        directory: Path,
        exports: dict[str, Path],
        *,
        port: int = 0,
        options: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.cache_dir = directory / "cache"
        self.admin_socket = directory / "admin.sock"
        argv = [sys.executable, "-m", "dadafsd", "--listen", f"127.0.0.1:{port}"]
        for name, path in exports.items():
            argv += ["--export", f"{name}={path}"]
        if "--cache-dir" not in options:
            argv += ["--cache-dir", str(self.cache_dir), "--cache-size", "256MiB"]
        argv += ["--admin-socket", str(self.admin_socket), *options]
        super().__init__(argv, directory / "dadafsd.log", env)
        ready = self.wait_for_line(r"^ready on (\S+):(\d+)$")
        self.host, self.port = ready.group(1), int(ready.group(2))
        self.address = f"{self.host}:{self.port}"


class MountProcess(LoggedProcess):
    """A real `dadafs mount --foreground`; usable as soon as it is constructed."""

    def __init__(
        self,
        mountpoint: Path,
        address: str,
        export: str,
        log: Path,
        *,
        options: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        mountpoint.mkdir(parents=True, exist_ok=True)
        self.mountpoint = mountpoint
        argv = [
            sys.executable,
            "-m",
            "dadafs",
            "mount",
            f"{address}:/{export}",
            str(mountpoint),
            "--foreground",
        ]
        super().__init__([*argv, *options], log, env)
        self.wait_for_line(r"^mounted on ")

    def unmount(self) -> None:
        """Unmount (lazily when something still holds it) and wait for the process."""
        subprocess.run(["fusermount3", "-u", "-z", str(self.mountpoint)], check=False, capture_output=True)
        self.stop()


@contextlib.contextmanager
def mounted_tree(
    directory: Path,
    tree: Path,
    expected: ExpectedLog,
    *,
    head_options: tuple[str, ...] = (),
    mount_options: tuple[str, ...] = (),
) -> Iterator[tuple[HeadProcess, MountProcess]]:
    """A head over `tree` (export `data`) and a mount of it; both logs are checked at the end."""
    head = HeadProcess(directory / "head", {"data": tree}, options=head_options)
    try:
        mount = MountProcess(directory / "mnt", head.address, "data", directory / "mount.log", options=mount_options)
        try:
            yield head, mount
        finally:
            mount.unmount()
    finally:
        head.stop()
    mount.check_log(expected)
    head.check_log(expected)
