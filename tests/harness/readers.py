"""Readers of a mounted file that run beside a fault: each in a process of its own, so that a hang is seen as one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import textwrap
from pathlib import Path

_PROGRAM = textwrap.dedent(
    """
    import hashlib, os, sys
    path, size = sys.argv[1], int(sys.argv[2])
    digest = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY)
    offset = 0
    print("reading", flush=True)
    while piece := os.pread(fd, size, offset):
        digest.update(piece)
        offset += len(piece)
    print(digest.hexdigest(), flush=True)
    """
)


class Reader:
    """A process that reads a file from start to end with `pread` of `size` bytes."""

    def __init__(self, path: Path, size: int = 128 * 1024) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(path), str(size)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # `communicate` reads past a buffer: a digest that came with the first line would be lost
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def digest(self, deadline: float = 120) -> str:
        """The SHA-256 of what it read; an AssertionError with its traceback where it failed."""
        out, err = self.process.communicate(timeout=deadline)
        if self.process.returncode:
            raise AssertionError(err.decode())
        return out.decode().strip()

    def failure(self, deadline: float = 120) -> str:
        """The last line of its traceback; an AssertionError where it did not fail."""
        _, err = self.process.communicate(timeout=deadline)
        if not self.process.returncode:
            raise AssertionError("the reader did not fail")
        return err.decode().strip().splitlines()[-1]


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
