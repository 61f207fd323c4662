"""Memory for blocks that is truly given back: anonymous mappings, reused while they are hot.

A buffer is handed to the kernel as a view of it, so its memory may be used again only when no view is left.
CPython counts that for us: every view holds one reference to its buffer. A buffer that comes back while
somebody still looks at it waits in *limbo*, counted, until nobody does.

Reuse is worth it: filling 1 MiB of memory that is mapped already takes 17 us, of fresh memory 180 to 370 us.
"""

from __future__ import annotations

import mmap
import sys
from typing import Protocol

#: Smaller buffers come from malloc, which does not fragment badly below this; larger ones are mappings.
MAPPED_FROM = 32 * 1024
_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)

Buffer = mmap.mmap | bytearray | bytes


class Holder(Protocol):
    """Whatever owns a buffer."""

    buffer: Buffer | None


def capacity(size: int) -> int:
    """Bytes of memory that a buffer for `size` bytes takes."""
    if size < MAPPED_FROM:
        return max(size, 1)
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _references_of_one_local_variable() -> int:
    """What getrefcount says of an object that one local variable holds; it differs between versions of
    CPython.
    """
    buffer = bytearray(1)
    return sys.getrefcount(buffer)


_UNUSED = _references_of_one_local_variable()


class BufferPool:
    """Hands out buffers; keeps free ones of the common sizes for reuse.

    `free_bytes` are ready for reuse, `limbo_bytes` were given back but are still looked at; the owner of the
    budget counts both.
    """

    def __init__(self, reused_sizes: tuple[int, ...]) -> None:
        self._free: dict[int, list[Buffer]] = {size: [] for size in reused_sizes}
        self._limbo: list[Buffer] = []
        self.free_bytes = 0
        self.limbo_bytes = 0

    def has_free(self, size: int) -> bool:
        """Whether `take(size)` needs no new memory."""
        return bool(self._free.get(size))

    def take(self, size: int) -> Buffer:
        """A buffer of at least `size` bytes with arbitrary content."""
        free = self._free.get(size)
        if free:
            self.free_bytes -= size
            return free.pop()
        if size < MAPPED_FROM:
            return bytearray(max(size, 1))
        return mmap.mmap(-1, capacity(size), flags=_FLAGS)

    def give(self, holder: Holder) -> None:
        """`holder` gives up its buffer; the holder must be the only one that holds the buffer itself (not a
        view).
        """
        buffer = holder.buffer
        holder.buffer = None
        if buffer is None:
            return
        if sys.getrefcount(buffer) > _UNUSED:
            self._limbo.append(buffer)
            self.limbo_bytes += len(buffer)
        else:
            self._recycle(buffer)

    def sweep(self) -> None:
        """Take back what nobody looks at any more."""
        limbo, self._limbo = self._limbo, []
        while limbo:
            buffer = limbo.pop()
            if sys.getrefcount(buffer) > _UNUSED:
                self._limbo.append(buffer)
            else:
                self.limbo_bytes -= len(buffer)
                self._recycle(buffer)

    def trim(self, keep: int = 0) -> None:
        """Return free memory to the system, except buffers of the size `keep`."""
        for size, free in self._free.items():
            if size != keep:
                self.free_bytes -= size * len(free)
                free.clear()

    def _recycle(self, buffer: Buffer) -> None:
        free = self._free.get(len(buffer))
        if free is not None and not isinstance(buffer, bytes):
            free.append(buffer)
            self.free_bytes += len(buffer)
