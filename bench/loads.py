"""The loads that every file system gets: each is a function of a mounted tree, checks its bytes, returns
its figures.

Run in a process of its own, so that its CPU and memory are not the file system's: `python -m bench.loads
NAME ROOT SIZES` prints one JSON object. Clocks run around the file-system calls only; bytes are compared
after the clock has stopped.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import xxhash

from bench.lab.data import MIB, Sizes, Tree, checksum, content
from bench.lab.report import percentiles
from bench.lab.side import machine_cpu_seconds

READ_SIZE = MIB
#: How many random reads of a size, per thread; bounded by the file so that no offset comes twice.
RANDOM_COUNT = {4096: 4000, 65536: 2000, MIB: 256}
SMALL_FILES = 4000
LEASED_OPENS = 20_000
LEASED_FILES = 8
#: Seconds after which a load is given up.
TIME_LIMIT = 300.0

Figures = dict[str, float]
Buffer = npt.NDArray[np.uint8]


class WrongBytes(RuntimeError):
    """A file system returned other bytes than were written."""


def touched(size: int) -> Buffer:
    """Memory for `size` bytes whose pages are there already, so that no read pays for them."""
    return np.ones(size, "u1")


def read_whole(path: Path, buffer: Buffer) -> float:
    """Fill `buffer` with the content of `path`; the seconds that the calls took."""
    begin = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    done = 0
    while done < len(buffer):
        got = os.preadv(fd, [buffer[done : done + READ_SIZE]], done)
        if got == 0:
            raise WrongBytes(f"{path} ends at {done}, not at {len(buffer)}")
        done += got
    os.close(fd)
    return time.perf_counter() - begin


def check(path: Path, data: Buffer, seed: int) -> None:
    """Raise `WrongBytes` where `data` is not the content with `seed`."""
    if xxhash.xxh3_64_intdigest(data) != checksum(seed, len(data)):
        raise WrongBytes(f"{path} does not have the bytes that were written")


def sequential(tree: Tree) -> Figures:
    """One file from the beginning to the end, in reads of 1 MiB."""
    path = tree.root / tree.BIG
    data = touched(tree.sizes.big_bytes)
    before = machine_cpu_seconds()
    seconds = read_whole(path, data)
    busy = machine_cpu_seconds() - before
    check(path, data, tree.SEED_BIG)
    costs = {"machine cpu s/GiB": busy / len(data) * 2**30}
    return {"MB/s": len(data) / seconds / 1e6, "seconds": seconds, "bytes": len(data), **costs}


def readers(tree: Tree) -> Figures:
    """Several threads, each its own file, at once."""
    paths = [tree.root / tree.reader(index) for index in range(tree.sizes.readers)]
    buffers = [touched(tree.sizes.reader_bytes) for _ in paths]
    pairs = list(zip(paths, buffers, strict=True))
    seconds = _together([threading.Thread(target=read_whole, args=pair) for pair in pairs])
    for index, (path, buffer) in enumerate(pairs):
        check(path, buffer, tree.SEED_READER + index)
    total = sum(map(len, buffers))
    return {"MB/s": total / seconds / 1e6, "seconds": seconds, "bytes": total}


def _together(threads: list[threading.Thread]) -> float:
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin


def _offsets(file_size: int, size: int, count: int) -> list[int]:
    """`count` different multiples of `size` within the file (fewer where it is small), in random order."""
    slots = file_size // size
    return [slot * size for slot in random.Random(size).sample(range(slots), min(count, slots))]


def random_reads(tree: Tree, size: int, threads: int) -> Figures:
    """Reads of `size` bytes at random places of one file, each place once, by `threads` threads."""
    path = tree.root / tree.BIG
    offsets = _offsets(tree.sizes.big_bytes, size, RANDOM_COUNT[size] * min(threads, 4))
    data = touched(len(offsets) * size)
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    latencies: list[float] = []

    def run(mine: range) -> None:
        for number in mine:
            begin = time.perf_counter()
            os.preadv(fd, [data[number * size : (number + 1) * size]], offsets[number])
            latencies.append(time.perf_counter() - begin)

    shares = [range(first, len(offsets), threads) for first in range(threads)]
    seconds = _together([threading.Thread(target=run, args=(share,)) for share in shares])
    os.close(fd)
    for number, offset in enumerate(offsets):
        if data[number * size : (number + 1) * size].tobytes() != content(tree.SEED_BIG, offset, size):
            raise WrongBytes(f"{size} bytes of {path} at {offset} are not what was written")
    figures = {f"{name} us": value * 1e6 for name, value in percentiles(latencies).items()}
    return {"reads/s": len(offsets) / seconds, "seconds": seconds, "bytes": len(data), **figures}


def metadata(tree: Tree) -> Figures:
    """find(1) over the small files, with the size of each (a stat call a file)."""
    command = ["find", str(tree.root / "small"), "-type", "f", "-printf", "%s\n"]
    begin = time.perf_counter()
    lines = subprocess.run(command, capture_output=True, check=True).stdout.split()
    seconds = time.perf_counter() - begin
    if len(lines) != tree.small_count or {int(line) for line in lines} != {tree.sizes.small_bytes}:
        raise WrongBytes(f"find saw {len(lines)} files, not {tree.small_count}, or wrong sizes")
    return {"seconds": seconds, "files": len(lines), "files/s": len(lines) / seconds}


def small_files(tree: Tree) -> Figures:
    """Open, read and close small files, each once, in directory order."""
    each = tree.sizes.files_per_directory
    wanted = [divmod(number, each) for number in range(min(SMALL_FILES, tree.small_count))]
    seen = []
    begin = time.perf_counter()
    for directory, index in wanted:
        fd = os.open(tree.root / tree.small(directory, index), os.O_RDONLY)
        seen.append(os.read(fd, 2 * tree.sizes.small_bytes))
        os.close(fd)
    seconds = time.perf_counter() - begin
    for (directory, index), data in zip(wanted, seen, strict=True):
        if data != content(tree.small_seed(directory, index), 0, tree.sizes.small_bytes):
            raise WrongBytes(f"{tree.small(directory, index)} has other bytes than were written")
    return {"files/s": len(seen) / seconds, "seconds": seconds, "bytes": sum(map(len, seen))}


def frames(tree: Tree) -> Figures:
    """The pattern of a scan: for each frame open the master, follow its link, read one chunk, close both."""
    sizes = tree.sizes
    seen = []
    begin = time.perf_counter()
    for frame in range(sizes.frames):
        part, index = divmod(frame, sizes.frames_per_file)
        with h5py.File(tree.root / tree.MASTER, "r", locking=False) as master:
            data = master[f"entry/data/data_{part + 1:06d}"]
            seen.append(data.id.read_direct_chunk((index, 0, 0))[1])
    seconds = time.perf_counter() - begin
    return _checked_frames(tree, seen, seconds)


def chunks(tree: Tree) -> Figures:
    """The chunks of a scan in order, each data file opened once: a reader that keeps them open."""
    sizes = tree.sizes
    seen = []
    begin = time.perf_counter()
    for part, first in enumerate(range(0, sizes.frames, sizes.frames_per_file), 1):
        with h5py.File(tree.root / tree.data_file(part), "r", locking=False) as file:
            data = file["entry/data/data"].id
            count = min(sizes.frames_per_file, sizes.frames - first)
            seen += [data.read_direct_chunk((index, 0, 0))[1] for index in range(count)]
    seconds = time.perf_counter() - begin
    return _checked_frames(tree, seen, seconds)


def _checked_frames(tree: Tree, seen: list[bytes], seconds: float) -> Figures:
    for frame, chunk in enumerate(seen):
        if chunk != tree.chunk(frame):
            raise WrongBytes(f"frame {frame} has other bytes than were written")
    return {"frames/s": len(seen) / seconds, "seconds": seconds, "bytes": sum(map(len, seen))}


def opens(tree: Tree) -> Figures:
    """open, fstat, close of a few files used just now, again and again: microseconds for the three."""
    paths = [os.fsencode(tree.root / tree.small(0, index)) for index in range(LEASED_FILES)]
    paths = [path for path in paths if os.path.exists(path)]
    count = LEASED_OPENS if tree.small_count > 1000 else 200
    for path in paths * 20:
        os.close(os.open(path, os.O_RDONLY))
    latencies = []
    for number in range(count):
        path = paths[number % len(paths)]
        begin = time.perf_counter()
        fd = os.open(path, os.O_RDONLY)
        size = os.fstat(fd).st_size
        os.close(fd)
        latencies.append(time.perf_counter() - begin)
        if size != tree.sizes.small_bytes:
            raise WrongBytes(f"{path!r} has {size} bytes")
    figures = {f"{name} us": value * 1e6 for name, value in percentiles(latencies).items()}
    return {"us": sum(latencies) / count * 1e6, "seconds": sum(latencies), **figures}


def mapped(tree: Tree) -> Figures:
    """One file through mmap, one byte of each page in order: what a memory-mapping reader gets."""
    path = tree.root / tree.BIG
    begin = time.perf_counter()
    array = np.memmap(path, "u1", "r")
    total = int(array[::4096].sum(dtype=np.uint64))
    seconds = time.perf_counter() - begin
    right = np.frombuffer(content(tree.SEED_BIG, 0, tree.sizes.big_bytes), "u1")[::4096].sum(dtype=np.uint64)
    if total != int(right):
        raise WrongBytes(f"{path} mapped has other bytes than were written")
    return {"MB/s": len(array) / seconds / 1e6, "seconds": seconds, "bytes": len(array)}


def _random(size: int, threads: int) -> Callable[[Tree], Figures]:
    def load(tree: Tree) -> Figures:
        return random_reads(tree, size, threads)

    return load


LOADS: dict[str, Callable[[Tree], Figures]] = {
    "sequential": sequential,
    "readers": readers,
    "random_4k_1": _random(4096, 1),
    "random_4k_8": _random(4096, 8),
    "random_64k_1": _random(65536, 1),
    "random_64k_8": _random(65536, 8),
    "random_1m_1": _random(MIB, 1),
    "random_1m_8": _random(MIB, 8),
    "metadata": metadata,
    "small_files": small_files,
    "frames": frames,
    "chunks": chunks,
    "opens": opens,
    "mapped": mapped,
}


def run(name: str, tree: Tree) -> Figures:
    """Run load `name` in a process of its own; raises `WrongBytes` with its last words where it fails."""
    command = [sys.executable, "-m", "bench.loads", name, str(tree.root), json.dumps(asdict(tree.sizes))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        raise WrongBytes(f"load {name} did not end within {TIME_LIMIT:.0f} s") from None
    if done.returncode != 0:
        raise WrongBytes(f"load {name}: {done.stderr.strip().splitlines()[-1:]}")
    figures: Figures = json.loads(done.stdout)
    return figures


def main(argv: list[str]) -> int:
    name, root, sizes = argv
    print(json.dumps(LOADS[name](Tree(Path(root), Sizes(**json.loads(sizes))))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
