"""Directories on file systems of a certain kind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dadafsd import confine, filesystem


def answers_from_memory(folder: str | Path) -> bool:
    """Whether a head looks at what is cached of this directory in its loop."""
    fd = os.open(folder, os.O_PATH)
    try:
        return filesystem.answers_from_memory(fd)
    finally:
        os.close(fd)


def _reads_from_memory(folder: str | Path) -> bool:
    """Whether files there can be read without waiting as well: a tmpfs of an older kernel cannot say."""
    if not answers_from_memory(folder):
        return False
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")
        file.flush()
        try:
            return os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT) == 1
        except OSError:
            return False


@contextmanager
def from_memory(folder: Path) -> Iterator[Path]:
    """`folder` where it is on a file system that answers from memory, else a directory on a tmpfs; or skips."""
    if not confine.have_open_at_once:
        pytest.skip("openat2 with RESOLVE_CACHED needs Linux 5.12, and a sandbox that lets it through")
    if _reads_from_memory(folder):
        yield folder
    elif _reads_from_memory("/dev/shm"):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
            yield Path(place)
    else:
        pytest.skip("neither the temporary directory nor /dev/shm is on a file system that answers from memory")
