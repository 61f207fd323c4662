"""The loads that every file system gets: each is a function of a mounted tree, checks its bytes, returns
its figures.

Run in a process of its own, so that its CPU and memory are not the file system's: `python -m bench.loads NAME ROOT`
reads the sizes, the checksums and the bound of the load from standard input and prints one JSON object. Clocks run
around the file-system calls only; bytes are compared after the clock has stopped.

A load of many items (random reads, small files, frames, calls) ends by itself once its bound of seconds is used up, and
says how many it did: its rate and its percentiles are those of what it did. The others have a length that is given.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
import numpy.typing as npt
import xxhash

from bench.lab.data import BLOCK, MIB, Sizes, Tree, block_sums, content, words_at
from bench.lab.report import percentiles
from bench.lab.side import machine_cpu_seconds

READ_SIZE = MIB
#: How many random reads of a size, twice as many by several threads; fewer where the file has no more places.
RANDOM_COUNT = {4096: 4000, 65536: 2000, MIB: 256}
SMALL_FILES = 4000
STATS = 4000
LEASED_OPENS = 5000
LEASED_FILES = 8
#: Seconds after which a load is given up.
TIME_LIMIT = 300.0

Figures = dict[str, float]
Buffer = npt.NDArray[np.uint8]
Item = TypeVar("Item")


class WrongBytes(RuntimeError):
    """A file system returned other bytes than were written."""


class CutOff(RuntimeError):
    """A load did not end in its time."""


@dataclass(frozen=True)
class Bound:
    """When a load of many items ends early: after so many seconds, or items."""

    seconds: float = math.inf
    items: int | None = None

    def limited(self, items: Sequence[Item]) -> Iterator[Item]:
        """The first of `items`, until the bound is reached; at least one."""
        end = time.perf_counter() + self.seconds
        for item in items[: self.items]:
            yield item
            if time.perf_counter() >= end:
                return


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


def check(path: Path, data: Buffer, sums: Sequence[int]) -> None:
    """Raise `WrongBytes` where the blocks of `data` do not have the checksums `sums`."""
    if block_sums(data.data) != list(sums):
        raise WrongBytes(f"{path} does not have the bytes that were written")


def done_of(latencies: Sequence[float], planned: int) -> Figures:
    """Percentiles of one item each, and how many of the planned items were done."""
    figures = {f"{name} us": value * 1e6 for name, value in percentiles(latencies).items()}
    return {"items": len(latencies), "planned": planned, **figures}


def sequential(tree: Tree, bound: Bound) -> Figures:
    """One file from the beginning to the end, in reads of 1 MiB."""
    path = tree.root / tree.BIG
    data = touched(tree.sizes.big_bytes)
    before = machine_cpu_seconds()
    seconds = read_whole(path, data)
    busy = machine_cpu_seconds() - before
    check(path, data, tree.sums[tree.BIG])
    costs = {"machine cpu s/GiB": busy / len(data) * 2**30}
    return {"MB/s": len(data) / seconds / 1e6, "seconds": seconds, "bytes": len(data), **costs}


def readers(tree: Tree, bound: Bound) -> Figures:
    """Several threads, each its own file, at once."""
    names = [tree.reader(index) for index in range(tree.sizes.readers)]
    buffers = [touched(tree.sizes.reader_bytes) for _ in names]
    pairs = [(tree.root / name, buffer) for name, buffer in zip(names, buffers, strict=True)]
    seconds = _together([threading.Thread(target=read_whole, args=pair) for pair in pairs])
    for name, (path, buffer) in zip(names, pairs, strict=True):
        check(path, buffer, tree.sums[name])
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


def _right_at(tree: Tree, offset: int, data: Buffer) -> bool:
    """Whether `data` is what the big file has at `offset`: by checksums of whole blocks, else by the bytes."""
    if len(data) % BLOCK:
        return data.tobytes() == content(tree.SEED_BIG, offset, len(data))
    first = offset // BLOCK
    return block_sums(data.data) == tree.sums[tree.BIG][first : first + len(data) // BLOCK]


def random_reads(tree: Tree, bound: Bound, size: int, threads: int) -> Figures:
    """Reads of `size` bytes at random places of one file, each place once, by `threads` threads."""
    path = tree.root / tree.BIG
    offsets = _offsets(tree.sizes.big_bytes, size, RANDOM_COUNT[size] * min(threads, 2))
    data = touched(len(offsets) * size)
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    latencies: list[float] = []
    done: list[int] = []

    def run(mine: range) -> None:
        for number in bound.limited(mine):
            begin = time.perf_counter()
            os.preadv(fd, [data[number * size : (number + 1) * size]], offsets[number])
            latencies.append(time.perf_counter() - begin)
            done.append(number)

    shares = [range(first, len(offsets), threads) for first in range(threads)]
    seconds = _together([threading.Thread(target=run, args=(share,)) for share in shares])
    os.close(fd)
    for number in done:
        if not _right_at(tree, offsets[number], data[number * size : (number + 1) * size]):
            raise WrongBytes(f"{size} bytes of {path} at {offsets[number]} are not what was written")
    figures = done_of(latencies, len(offsets))
    return {"reads/s": len(done) / seconds, "seconds": seconds, "bytes": len(done) * size, **figures}


def metadata(tree: Tree, bound: Bound) -> Figures:
    """find(1) over the small files, with the size of each (a stat call a file)."""
    command = ["find", str(tree.root / "small"), "-type", "f", "-printf", "%s\n"]
    begin = time.perf_counter()
    lines = subprocess.run(command, capture_output=True, check=True).stdout.split()
    seconds = time.perf_counter() - begin
    if len(lines) != tree.small_count or {int(line) for line in lines} != {tree.sizes.small_bytes}:
        raise WrongBytes(f"find saw {len(lines)} files, not {tree.small_count}, or wrong sizes")
    return {"seconds": seconds, "files": len(lines), "files/s": len(lines) / seconds}


def stats(tree: Tree, bound: Bound) -> Figures:
    """lstat of small files in random order, directories mixed: what a storm of single calls gets."""
    each = tree.sizes.files_per_directory
    chosen = random.Random(1).sample(range(tree.small_count), min(STATS, tree.small_count))
    paths = [tree.root / tree.small(*divmod(number, each)) for number in chosen]
    latencies: list[float] = []
    for path in bound.limited(paths):
        begin = time.perf_counter()
        size = os.lstat(path).st_size
        latencies.append(time.perf_counter() - begin)
        if size != tree.sizes.small_bytes:
            raise WrongBytes(f"{path} has {size} bytes")
    seconds = sum(latencies)
    return {"calls/s": len(latencies) / seconds, "seconds": seconds, **done_of(latencies, len(paths))}


def small_files(tree: Tree, bound: Bound) -> Figures:
    """Open, read and close small files, each once, in directory order."""
    each = tree.sizes.files_per_directory
    wanted = [divmod(number, each) for number in range(min(SMALL_FILES, tree.small_count))]
    paths = [tree.root / tree.small(directory, index) for directory, index in wanted]
    seen, latencies = [], []
    begin = time.perf_counter()
    for path in bound.limited(paths):
        start = time.perf_counter()
        fd = os.open(path, os.O_RDONLY)
        seen.append(os.read(fd, 2 * tree.sizes.small_bytes))
        os.close(fd)
        latencies.append(time.perf_counter() - start)
    seconds = time.perf_counter() - begin
    for (directory, index), data in zip(wanted, seen, strict=False):
        if data != content(tree.small_seed(directory, index), 0, tree.sizes.small_bytes):
            raise WrongBytes(f"{tree.small(directory, index)} has other bytes than were written")
    figures = done_of(latencies, len(paths))
    return {"files/s": len(seen) / seconds, "seconds": seconds, "bytes": sum(map(len, seen)), **figures}


def frames(tree: Tree, bound: Bound) -> Figures:
    """The pattern of a scan: for each frame open the master, follow its link, read one chunk, close both."""
    sizes = tree.sizes

    def read(frame: int) -> bytes:
        part, index = divmod(frame, sizes.frames_per_file)
        with h5py.File(tree.root / tree.MASTER, "r", locking=False) as master:
            data = master[f"entry/data/data_{part + 1:06d}"]
            return bytes(data.id.read_direct_chunk((index, 0, 0))[1])

    return _frame_by_frame(tree, bound, read)


def chunks(tree: Tree, bound: Bound) -> Figures:
    """The chunks of a scan in order, each data file opened once: a reader that keeps them open."""
    each = tree.sizes.frames_per_file
    files: dict[int, h5py.File] = {}

    def read(frame: int) -> bytes:
        part, index = divmod(frame, each)
        if part not in files:
            while files:
                files.popitem()[1].close()
            files[part] = h5py.File(tree.root / tree.data_file(part + 1), "r", locking=False)
        return bytes(files[part]["entry/data/data"].id.read_direct_chunk((index, 0, 0))[1])

    figures = _frame_by_frame(tree, bound, read)
    for file in files.values():
        file.close()
    return figures


def _frame_by_frame(tree: Tree, bound: Bound, read: Callable[[int], bytes]) -> Figures:
    seen, latencies = [], []
    begin = time.perf_counter()
    for frame in bound.limited(range(tree.sizes.frames)):
        start = time.perf_counter()
        seen.append(read(frame))
        latencies.append(time.perf_counter() - start)
    seconds = time.perf_counter() - begin
    for frame, chunk in enumerate(seen):
        if xxhash.xxh3_64_intdigest(chunk) != tree.sums[tree.CHUNKS][frame]:
            raise WrongBytes(f"frame {frame} has other bytes than were written")
    figures = done_of(latencies, tree.sizes.frames)
    return {"frames/s": len(seen) / seconds, "seconds": seconds, "bytes": sum(map(len, seen)), **figures}


def opens(tree: Tree, bound: Bound) -> Figures:
    """open, fstat, close of a few files used just now, again and again: microseconds for the three."""
    paths = [os.fsencode(tree.root / tree.small(0, index)) for index in range(LEASED_FILES)]
    paths = [path for path in paths if os.path.exists(path)]
    count = LEASED_OPENS if tree.small_count > 1000 else 200
    for path in bound.limited(paths * 20):
        os.close(os.open(path, os.O_RDONLY))
    latencies = []
    for number in bound.limited(range(count)):
        path = paths[number % len(paths)]
        begin = time.perf_counter()
        fd = os.open(path, os.O_RDONLY)
        size = os.fstat(fd).st_size
        os.close(fd)
        latencies.append(time.perf_counter() - begin)
        if size != tree.sizes.small_bytes:
            raise WrongBytes(f"{path!r} has {size} bytes")
    seconds = sum(latencies)
    return {"us": seconds / len(latencies) * 1e6, "seconds": seconds, **done_of(latencies, count)}


def mapped(tree: Tree, bound: Bound) -> Figures:
    """One file through mmap, one byte of each page in order: what a memory-mapping reader gets."""
    path, size = tree.root / tree.BIG, tree.sizes.big_bytes
    begin = time.perf_counter()
    array = np.memmap(path, "u1", "r")
    seen = array[::4096].copy()
    seconds = time.perf_counter() - begin
    right = words_at(tree.SEED_BIG, np.arange(0, size // 8, 512, dtype=np.uint64)).view("u1")[::8]
    if not np.array_equal(seen, right):
        raise WrongBytes(f"{path} mapped has other bytes than were written")
    return {"MB/s": size / seconds / 1e6, "seconds": seconds, "bytes": size}


def _random(size: int, threads: int) -> Callable[[Tree, Bound], Figures]:
    def load(tree: Tree, bound: Bound) -> Figures:
        return random_reads(tree, bound, size, threads)

    return load


LOADS: dict[str, Callable[[Tree, Bound], Figures]] = {
    "sequential": sequential,
    "readers": readers,
    "random_4k_1": _random(4096, 1),
    "random_4k_8": _random(4096, 8),
    "random_64k_1": _random(65536, 1),
    "random_64k_8": _random(65536, 8),
    "random_1m_1": _random(MIB, 1),
    "random_1m_8": _random(MIB, 8),
    "metadata": metadata,
    "stats": stats,
    "small_files": small_files,
    "frames": frames,
    "chunks": chunks,
    "opens": opens,
    "mapped": mapped,
}


def run(name: str, tree: Tree, bound: Bound = Bound(), cut_off: float = TIME_LIMIT) -> Figures:
    """Run load `name` in a process of its own.

    Raises `CutOff` where it does not end within `cut_off` seconds, `WrongBytes` with its last words where it fails.
    """
    given = {"sizes": asdict(tree.sizes), "sums": tree.sums, "seconds": bound.seconds, "items": bound.items}
    with subprocess.Popen(
        [sys.executable, "-m", "bench.loads", name, str(tree.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, words = process.communicate(json.dumps(given), timeout=cut_off)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and what it has started: find(1) would go on
            raise CutOff(f"cut off after {cut_off:.0f} s") from None
    if process.returncode != 0:
        raise WrongBytes(f"load {name}: {words.strip().splitlines()[-1:]}")
    figures: Figures = json.loads(said)
    return figures


def main(argv: list[str]) -> int:
    name, root = argv
    given = json.load(sys.stdin)
    tree = Tree(Path(root), Sizes(**given["sizes"]), given["sums"])
    print(json.dumps(LOADS[name](tree, Bound(given["seconds"], given["items"]))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
