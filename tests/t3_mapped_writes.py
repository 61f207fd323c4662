"""What is seen of a writer that stores through a memory map of the origin: such stores raise no event at all.

The file's times change with the first store to a range since it was last written out; that is all there is to see. As
docs/semantics.md says: in files that nodes hold open within `freshness`, in all others when the writer is done; and
what it stored between first store and writing out may need a sign from the writer.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Mounted
from tests.harness.processes import wait_until

PAGE = mmap.PAGESIZE
SIZE = 64 * PAGE


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """A writer's map of a file; the file itself is closed, as the map does not need it."""
    with path.open("r+b") as file:
        pages = mmap.mmap(file.fileno(), 0)
    with pages:
        yield pages


@pytest.fixture
def noting(tmp_path: Path) -> None:
    """Skip on a file system that does not note stores through maps (tmpfs notes the first one only)."""
    probe = tmp_path / "probe"
    probe.write_bytes(bytes(PAGE))
    with mapped(probe) as pages:
        for _ in range(2):
            os.utime(probe, (1, 1))
            pages[0] = 1
            pages.flush()
            if probe.stat().st_mtime == 1:
                pytest.skip("this file system does not note the times of stores through maps")


def written(mounted: Mounted) -> tuple[Path, Path]:
    """A file of the tree that the node knows: in the tree, and in the mount."""
    file, mirrored = mounted.tree / "file", mounted.mnt / "file"
    file.write_bytes(b"a" * SIZE)
    wait_until(lambda: mirrored.exists() and mirrored.read_bytes() == b"a" * SIZE, "the file is known")
    return file, mirrored


@pytest.mark.usefixtures("noting")
def test_a_file_that_is_open_shows_stores_while_the_writer_goes_on(mounted: Mounted) -> None:
    file, mirrored = written(mounted)
    with (
        mirrored.open("rb", buffering=0) as reader,
        mmap.mmap(reader.fileno(), 0, prot=mmap.PROT_READ) as view,
        mapped(file) as pages,
    ):
        for page, word in ((3, b"first"), (40, b"other"), (3, b"again")):
            offset = page * PAGE
            pages[offset : offset + 5] = word
            wait_until(lambda at=offset, now=word: os.pread(reader.fileno(), 5, at) == now, "by the open reader")
            wait_until(lambda at=offset, now=word: view[at : at + 5] == now, "through the reader's own map")
            assert mirrored.read_bytes()[offset : offset + 5] == word
            pages.flush()  # msync: the next store changes the times again, be it to the same page


@pytest.mark.usefixtures("noting")
def test_a_file_that_nobody_has_open_shows_stores_when_the_writer_is_done(mounted: Mounted) -> None:
    file, mirrored = written(mounted)
    with mapped(file) as pages:
        pages[5 * PAGE : 5 * PAGE + 5] = b"hello"
    changed = b"a" * (5 * PAGE) + b"hello" + b"a" * (SIZE - 5 * PAGE - 5)
    wait_until(lambda: mirrored.read_bytes() == changed, "when the writer has let go of it")
    assert mirrored.stat().st_mtime_ns == file.stat().st_mtime_ns


@pytest.mark.usefixtures("noting")
def test_a_writer_that_sets_the_times_when_it_is_done_hides_nothing(mounted: Mounted) -> None:
    """Stores to a range that is dirty already change no times: only the writer can say that there were some."""
    file, mirrored = written(mounted)
    with mirrored.open("rb", buffering=0) as reader, mapped(file) as pages:
        pages[:5] = b"first"
        wait_until(lambda: os.pread(reader.fileno(), 5, 0) == b"first", "the first store")
        pages[:5] = b"again"
        pages.flush()
        os.utime(file)
        wait_until(lambda: os.pread(reader.fileno(), 5, 0) == b"again", "all that was stored until then")
