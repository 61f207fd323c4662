"""S4, S12: whoever follows a file that is written, cut or rewritten meanwhile never sees a zero that nobody wrote."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.conftest import Mounted
from tests.harness.processes import wait_until

#: A reader process: reads `path` over and over in one of several ways, until `path + ".stop"` exists; prints how
#: often it read, how far, and where it found a zero or a hole.
READER = textwrap.dedent(
    """
    import mmap, os, sys
    path, way = sys.argv[1:]
    longest = rounds = 0
    fd = os.open(path, os.O_RDONLY)
    offset = 0
    last = False
    while not last:
        last = os.path.exists(path + ".stop")  # one whole round after the end
        rounds += 1
        if way == "reopen":
            os.close(fd)
            fd = os.open(path, os.O_RDONLY)
            offset = 0
        elif way == "again":
            offset = 0
        elif way == "stat first":
            size = os.fstat(fd).st_size
            offset = max(0, size - 5000)
        while True:
            data = os.pread(fd, 100000, offset)
            if b"\\0" in data:
                sys.exit(f"{way}: a zero at {offset + data.index(0)} of {len(data)} bytes read at {offset}")
            offset += len(data)
            if not data:
                break
        longest = max(longest, offset)
    print(rounds, longest)
    """
)
WAYS = ("follow", "again", "reopen", "stat first")


def _start_readers(path: Path) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen([sys.executable, "-c", READER, str(path), way], stdout=subprocess.PIPE, text=True)
        for way in WAYS
    ]


def _finish(readers: list[subprocess.Popen[str]], path: Path) -> list[int]:
    """Stop the readers; how far each got. Fails for one that saw a zero."""
    path.with_name(path.name + ".stop").write_bytes(b"")
    outputs = [reader.communicate(timeout=60)[0] for reader in readers]
    assert [reader.returncode for reader in readers] == [0] * len(readers)
    counts = [tuple(map(int, output.split())) for output in outputs]
    assert all(rounds > 0 for rounds, _ in counts)
    return [far for _, far in counts]


def test_growing_in_odd_steps(mounted: Mounted) -> None:
    path = mounted.tree / "growing"
    path.write_bytes(b"a" * 10)
    wait_until(lambda: (mounted.mnt / "growing").exists(), "the file is seen")
    readers = _start_readers(mounted.mnt / "growing")
    rng = np.random.default_rng(1)
    with path.open("ab", buffering=0) as writer:
        for _ in range(400):
            writer.write(b"b" * int(rng.integers(1, 9000)))
        size = writer.tell()
    wait_until(lambda: (mounted.mnt / "growing").stat().st_size == size, "the last size is seen")
    wait_until(lambda: len((mounted.mnt / "growing").read_bytes()) == size, "all of it is read")
    longest = _finish(readers, mounted.tree / "growing")
    assert min(longest) > 10


def test_cut_and_written_again(mounted: Mounted) -> None:
    path = mounted.tree / "cut"
    path.write_bytes(b"a" * 300_000)
    wait_until(lambda: (mounted.mnt / "cut").exists(), "the file is seen")
    readers = _start_readers(mounted.mnt / "cut")
    rng = np.random.default_rng(2)
    with path.open("r+b", buffering=0) as writer:
        for _ in range(60):
            size = min(int(rng.integers(0, 200_000)), os.fstat(writer.fileno()).st_size)
            os.ftruncate(writer.fileno(), size)
            wait_until(lambda size=size: (mounted.mnt / "cut").stat().st_size == size, "the cut is seen")
            writer.seek(0, os.SEEK_END)
            writer.write(b"c" * int(rng.integers(1, 200_000)))
            size = writer.tell()
            wait_until(lambda size=size: (mounted.mnt / "cut").stat().st_size == size, "the growth is seen")
    _finish(readers, mounted.tree / "cut")


def test_a_swmr_file_is_followed_frame_by_frame(mounted: Mounted) -> None:
    path = mounted.tree / "swmr.h5"
    with h5py.File(path, "w", libver="latest") as writer:
        frames = writer.create_dataset("frames", (0, 64, 64), maxshape=(None, 64, 64), chunks=(1, 64, 64), dtype="u4")
        writer.swmr_mode = True
        frames.resize(1, axis=0)
        frames[0] = 1
        frames.flush()
        wait_until(lambda: _frames_seen(mounted.mnt / "swmr.h5") == 1, "the first frame is seen")
        os.environ["HDF5_USE_FILE_LOCKING"] = "FALSE"
        with h5py.File(mounted.mnt / "swmr.h5", "r", libver="latest", swmr=True, locking=False) as reader:
            seen = reader["frames"]
            for number in range(1, 12):
                frames.resize(number + 1, axis=0)
                frames[number] = number + 1
                frames.flush()
                wait_until(lambda number=number: _refreshed(seen) > number, f"frame {number} is seen")
                assert (seen[number] == number + 1).all()


def _refreshed(dataset: h5py.Dataset) -> int:
    dataset.refresh()
    return int(dataset.shape[0])


def _frames_seen(path: Path) -> int:
    try:
        with h5py.File(path, "r", libver="latest", swmr=True, locking=False) as reader:
            return int(reader["frames"].shape[0])
    except OSError:
        return 0


def test_a_plainly_growing_file_is_reopened_frame_by_frame(mounted: Mounted) -> None:
    """Non-SWMR: the writer closes after each frame; a reader that opens sees whole frames only."""
    path = mounted.tree / "plain.h5"
    for number in range(8):
        with h5py.File(path, "a") as writer:
            if number == 0:
                writer.create_dataset("frames", (0, 100), maxshape=(None, 100), chunks=(1, 100), dtype="u4")
            writer["frames"].resize(number + 1, axis=0)
            writer["frames"][number] = number + 1
        wait_until(lambda number=number: _plain_frames(mounted.mnt / "plain.h5") == number + 1, "the new frame is seen")


def _plain_frames(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with h5py.File(path, "r") as reader:
            frames = reader["frames"][()]
    except (OSError, KeyError):
        return 0  # caught between two states; HDF5 says so, and the next attempt will do
    for number, frame in enumerate(frames):
        if not (frame == number + 1).all():
            pytest.fail(f"frame {number} reads {frame[:3]}")
    return len(frames)
