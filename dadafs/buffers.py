"""Memory for blocks that is truly given back: pieces of one arena, reused while they are hot.

A buffer is handed to the kernel as a view of it, so its memory may be used again only when no view is left.
CPython counts that for us: every view holds one reference to its buffer. A buffer that comes back while
somebody still looks at it waits in *limbo*, counted, until nobody does.

The arena is one mapping, twice as large as the budget of the memory that is in use, so that fragmentation hardly ever
matters; what was never used, or was given back, takes no memory. It asks for no huge pages (docs/decisions-node.md).
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from dadafs.policy.runs import FreeRuns

#: Smaller buffers come from malloc, which does not fragment badly below this; larger ones from the arena.
MAPPED_FROM = 32 * 1024
#: Buffers of the arena are multiples of this.
UNIT = 16 * 1024
#: So many units are given back together.
AT_ONCE = 64
#: The arena's size, in budgets.
ROOM = 2
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_RESERVED = _PRIVATE | 0x4000  # MAP_NORESERVE
_POPULATED = _PRIVATE | getattr(mmap, "MAP_POPULATE", 0)
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, since Linux 5.14

Buffer = mmap.mmap | ctypes.Array[ctypes.c_ubyte] | bytearray | bytes


class Holder(Protocol):
    """Whatever owns a buffer."""

    buffer: Buffer | None


def capacity(size: int) -> int:
    """Bytes of memory that a buffer for `size` bytes takes."""
    if size < MAPPED_FROM:
        return max(size, 1)
    return -(-size // UNIT) * UNIT


def view_of(buffer: Buffer) -> memoryview:
    """All bytes of a buffer. It is not used for anything else as long as this, or a part of it, lives."""
    return memoryview(buffer).cast("B")


def _references_of_one_local_variable() -> int:
    """What getrefcount says of an object that one local variable holds; it differs between versions of
    CPython.
    """
    buffer = bytearray(1)
    return sys.getrefcount(buffer)


_UNUSED = _references_of_one_local_variable()


class _Arena:
    """Memory of which runs of units are taken; it is *backed* where the system has given pages for it."""

    def __init__(self, size: int) -> None:
        count = -(-size // UNIT)
        self.free = FreeRuns(count)
        self.backed = bytearray(count)
        self._memory = mmap.mmap(-1, max(count, 1) * UNIT, flags=_RESERVED)
        self._base = ctypes.addressof(ctypes.c_ubyte.from_buffer(self._memory))

    def backed_units(self, start: int, units: int) -> int:
        """How many of these units have pages."""
        return self.backed.count(1, start, start + units)

    def back(self, start: int, units: int) -> None:
        """Have pages for all of these units."""
        with suppress(OSError):  # an older kernel: they come when they are touched
            self._memory.madvise(_POPULATE_WRITE, start * UNIT, units * UNIT)
        self.backed[start : start + units] = b"\1" * units

    def back_elsewhere(self, start: int, units: int) -> bool:
        """`back`, in another thread than the one that keeps the books; whether they have pages now.

        The interpreter goes on meanwhile, which it does not during a call of `mmap`'s.
        """
        libc = ctypes.CDLL(None)
        address = ctypes.c_void_p(self._base + start * UNIT)
        return not libc.madvise(address, ctypes.c_size_t(units * UNIT), _POPULATE_WRITE)

    def first_unbacked(self, most: int) -> tuple[int, int] | None:
        """(start, length) of some free units without pages, at most so many; None where all free ones have pages."""
        for start, length in self.free:
            first = self.backed.find(0, start, start + length)
            if first >= 0:
                backed = self.backed.find(1, first, min(start + length, first + most))
                end = min(start + length, first + most) if backed < 0 else backed
                return first, end - first
        return None

    def give_up(self, start: int, units: int) -> None:
        """Return the pages of these units to the system."""
        self._memory.madvise(mmap.MADV_DONTNEED, start * UNIT, units * UNIT)
        self.backed[start : start + units] = bytes(units)

    def buffer(self, start: int, units: int) -> Buffer:
        """A buffer over these units."""
        return (ctypes.c_ubyte * (units * UNIT)).from_buffer(self._memory, start * UNIT)

    def start_of(self, buffer: ctypes.Array[ctypes.c_ubyte]) -> int:
        """The first unit under `buffer`."""
        return (ctypes.addressof(buffer) - self._base) // UNIT


class BufferPool:
    """Hands out buffers, up to some `budget` of bytes at a time; keeps what is given back for reuse.

    `free_bytes` are ready for reuse, `limbo_bytes` were given back but are still looked at; the owner of the
    budget counts both.
    """

    def __init__(self, budget: int) -> None:
        self._arena = _Arena(ROOM * budget)
        self._limbo: list[Buffer] = []
        self._preparing = (0, 0)  # start and length, in units
        self.free_bytes = 0
        self.limbo_bytes = 0

    def reusable(self, size: int) -> int:
        """How many bytes of `take(size)` would be memory that is free, and not new."""
        if size < MAPPED_FROM or not self.free_bytes:
            return 0
        units = -(-size // UNIT)
        start = self._arena.free.next(units)
        return 0 if start is None else self._arena.backed_units(start, units) * UNIT

    def take(self, size: int) -> Buffer:
        """A buffer of at least `size` bytes with arbitrary content."""
        if size < MAPPED_FROM:
            return bytearray(max(size, 1))
        arena = self._arena
        units = -(-size // UNIT)
        start = arena.free.take(units)
        if start is None:
            return mmap.mmap(-1, units * UNIT, flags=_POPULATED)
        backed = arena.backed_units(start, units)
        self.free_bytes -= backed * UNIT
        if backed < units:
            arena.back(start, units)
        return arena.buffer(start, units)

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

    def sweep(self) -> bool:
        """Take back what nobody looks at any more; whether there was anything to look at."""
        if not self._limbo:
            return False
        limbo, self._limbo = self._limbo, []
        while limbo:
            buffer = limbo.pop()
            if sys.getrefcount(buffer) > _UNUSED:
                self._limbo.append(buffer)
            else:
                self.limbo_bytes -= len(buffer)
                self._recycle(buffer)
        return True

    def trim(self, most: int | None = None, *, keep: int = 0) -> None:
        """Return free memory to the system, except what `take(keep)` would use; about `most` bytes where given."""
        arena = self._arena
        left = self.free_bytes if most is None else min(most, self.free_bytes)
        if left <= 0:
            return
        units = -(-keep // UNIT) if keep >= MAPPED_FROM else 0
        kept = arena.free.next(units) if units else None
        for start, length in arena.free:
            if start == kept:
                start, length = start + units, length - units
            end = start + length
            while left > 0 and (start := arena.backed.find(1, start, end)) >= 0:
                count = min(end - start, AT_ONCE)
                backed = arena.backed_units(start, count)
                arena.give_up(start, count)
                self.free_bytes -= backed * UNIT
                left -= backed * UNIT
                start += count

    def prepare(self, size: int) -> Callable[[], bool] | None:
        """Begin to give pages to some free memory, at most `size` bytes, that has none; None where all has.

        What is returned does it, in any thread, and says whether that worked; `prepared` follows. Until then it is in
        limbo.
        """
        found = self._arena.first_unbacked(max(1, size // UNIT))
        if found is None:
            return None
        self._arena.free.take_at(*found)
        self._preparing = found
        self.limbo_bytes += found[1] * UNIT
        return functools.partial(self._arena.back_elsewhere, *found)

    def prepared(self, worked: bool) -> None:
        """What `prepare` began is over."""
        start, units = self._preparing
        self.limbo_bytes -= units * UNIT
        self._arena.free.give(start, units)
        if worked:
            self._arena.backed[start : start + units] = b"\1" * units
            self.free_bytes += units * UNIT
        else:
            self._arena.give_up(start, units)  # some of it may have come

    def _recycle(self, buffer: Buffer) -> None:
        if isinstance(buffer, ctypes.Array):
            units = len(buffer) // UNIT
            self._arena.free.give(self._arena.start_of(buffer), units)
            self.free_bytes += units * UNIT
