"""A node without a kernel mount, in a process of its own: many files open, many readers at once; prints its memory.

    python -m tests.harness.many_readers HOST PORT BUDGET FILES READERS

prints the peak resident size in bytes, what the cache used at most, and how many reads were wrong.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import trio

from dadafs.remote_file import RemoteFile
from dadafs.session import SessionOptions
from tests.harness.scripted_head import ScriptedNode

READS = 40
LONGEST = 2**20


def expected(number: int, offset: int, length: int) -> bytes:
    """Bytes of file `number`: every 4 KiB page holds the number and the page's own number."""
    pages = range(offset // 4096, -(-(offset + length) // 4096))
    return b"".join(page_of(number, page) for page in pages)[offset % 4096 :][:length]


def page_of(number: int, page: int) -> bytes:
    """One page of a file."""
    return (number.to_bytes(4, "little") + page.to_bytes(4, "little")) * 512


def peak_resident() -> int:
    """Peak resident bytes of this process. (ru_maxrss would include the parent that it was forked from.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM in /proc/self/status")


async def run(host: str, port: int, budget: int, files: int, readers: int) -> None:
    """Read all files with many readers, some in order, some at random."""
    node = ScriptedNode(SessionOptions(host, port, "data", node="many"), budget)
    wrong = peak = 0

    async def read(seed: int, file: RemoteFile, number: int) -> None:
        nonlocal wrong, peak
        generator = random.Random(seed)
        streams = node.reader.open_streams(file)
        offset = 0
        for step in range(READS):
            length = generator.randrange(1, LONGEST)
            if seed % 2:
                offset = generator.randrange(file.size)
            data = await node.reader.read(file, streams, offset, length)
            peak = max(peak, node.cache.used)
            if step % 8 == 0 or len(data) < min(length, file.size - offset):
                wrong += bytes(data) != expected(number, offset, min(length, file.size - offset))
            del data  # as a mount does once the kernel has it
            offset = (offset + length) % file.size
        node.reader.close_streams(file, streams)

    async with trio.open_nursery() as nursery:
        await node.start(nursery)
        opened = [(await node.files.open(b"%d.h5" % number))[0] for number in range(files)]
        async with trio.open_nursery() as crowd:
            for seed in range(readers):
                crowd.start_soon(read, seed, opened[seed % files], seed % files)
        await node.session.stop()
        nursery.cancel_scope.cancel()
    print(peak_resident(), peak, wrong)


if __name__ == "__main__":
    host, *numbers = sys.argv[1:]
    trio.run(run, host, *map(int, numbers))
