"""Files to read from a scripted head, and how the tests of the reader run."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from dadafs.remote_file import RemoteFile
from dadafs.wire.messages import BLOCK_SIZE
from tests.harness.scripted_head import REAL_DEADLINE, ScriptedNode

MIB = 2**20
BIG = random.Random(1).randbytes(5 * MIB + 12345)
OTHER = random.Random(2).randbytes(5 * MIB + 12345)
FILES = {b"big": BIG, b"small": b"hello", b"empty": b"", b"scan.h5": BIG, b"dir/log": BIG[: 3 * BLOCK_SIZE + 100]}


def run(test: Callable[..., Awaitable[Any]], *, clock: trio.abc.Clock | None = None) -> None:
    """Run `test`; a hang is a failure."""

    async def bounded() -> None:
        with trio.fail_after(REAL_DEADLINE if clock is None else 1e6):
            await test()

    trio.run(bounded, clock=clock)


async def whole(node: ScriptedNode, file: RemoteFile, step: int = 100_000) -> bytes:
    """The file, read in order."""
    parts = []
    offset = 0
    while part := await node.read(file, offset, step):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def leftover(node: ScriptedNode) -> int:
    """Bytes reserved although nothing is in flight."""
    return node.cache.in_flight
