"""What the RAM cache holds of one file: extents of its current version, and stale ones worth revalidating."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dadafs.buffers import Buffer, view_of
from dadafs.wire.messages import BLOCK_SIZE, Version

if TYPE_CHECKING:
    from dadafs.data_channel import HotFile
    from dadafs.flight import Flight
    from dadafs.policy.prefetch import Streams

#: (file number, epoch, fragment, first block): names an extent in the eviction queues.
Key = tuple[int, int, int, int]
#: Half-open range of blocks within one fragment.
Run = tuple[int, int]


class State(enum.Enum):
    """The life of an extent."""

    FILLING = 1  # its room is taken, its request is on the way
    CURRENT = 2  # readable
    STALE = 3  # of an earlier version: a block is good where its checksum still is
    GONE = 4  # evicted, dropped or abandoned; its buffer is no longer its own


class Extent:
    """Consecutive blocks of one fragment in one buffer; verified, of one version.

    Blocks are `first` .. `first + count - 1` of `fragment`; `length` bytes of the buffer are data (the last
    block of a file may be short). `prefetched`: no application asked for it; `unread`: and none has read it
    since.
    """

    __slots__ = (
        "arrived",
        "buffer",
        "checksums",
        "cost",
        "count",
        "cursor",
        "expires",
        "file",
        "first",
        "fragment",
        "key",
        "length",
        "prefetched",
        "state",
        "unread",
    )

    def __init__(self, file: CachedFile, fragment: int, first: int, count: int, length: int, prefetched: bool) -> None:
        self.file = file
        self.fragment = fragment
        self.first = first
        self.count = count
        self.length = length
        self.prefetched = prefetched
        self.unread = True
        self.state = State.FILLING
        self.buffer: Buffer | None = None
        self.checksums: list[int] = []
        self.cost = 0
        self.expires: float | None = None
        self.arrived = 0.0  # when a prefetch came in
        self.cursor = -1  # where the last read of it ended: going on from there is no second use
        self.key: Key = (file.number, file.epoch, fragment, first)

    @property
    def end(self) -> int:
        """One past its last block."""
        return self.first + self.count

    def view(self) -> memoryview:
        """The data, `length` bytes. Keep it no longer than needed: the buffer is not reused while it lives."""
        if self.buffer is None:
            raise ValueError("the extent was evicted")
        return view_of(self.buffer)[: self.length]


class CachedFile:
    """The extents held of one file, by fragment. `epoch` grows with every change of the version."""

    __slots__ = (
        "ends_epoch",
        "epoch",
        "flights",
        "fragment_size",
        "fragments",
        "hot",
        "number",
        "resting",
        "stale",
        "users",
        "version",
    )

    def __init__(self, number: int, version: Version, fragment_size: int) -> None:
        self.number = number
        self.version = version
        self.epoch = 0
        self.fragment_size = fragment_size
        self.users = 0
        self.fragments: dict[int, list[Extent]] = {}
        self.stale: dict[int, list[Extent]] = {}
        self.flights: dict[int, list[Flight]] = {}
        self.resting: Streams | None = None  # of the handle closed last
        self.hot: HotFile | None = None  # who else reads it, and wants to know which blocks are held
        self.ends_epoch = -1  # in which both ends of an HDF5 file were asked for

    @property
    def idle(self) -> bool:
        """Whether nothing is held and nobody uses it."""
        return not (self.users or self.fragments or self.stale or self.flights)

    def fragment_length(self, fragment: int) -> int:
        """Bytes of `fragment` that lie within the file."""
        return max(0, min(self.fragment_size, self.version.size - fragment * self.fragment_size))

    def run_length(self, fragment: int, first: int, end: int) -> int:
        """Bytes of the blocks `first` .. `end - 1` of `fragment` that lie within the file."""
        return max(0, min(end * BLOCK_SIZE, self.fragment_length(fragment)) - first * BLOCK_SIZE)

    def covering(self, fragment: int, first: int, end: int) -> Extent | None:
        """The one current extent that has all of the blocks `first` .. `end - 1`."""
        for extent in self.fragments.get(fragment, ()):
            if extent.first <= first and end <= extent.first + extent.count:
                return extent
        return None

    def missing(self, fragment: int, first: int, end: int) -> list[Run]:
        """The runs of blocks within `first` .. `end - 1` that no current extent has."""
        held = [(extent.first, extent.end) for extent in self.fragments.get(fragment, ())]
        return uncovered(first, end, held)

    def extents(self) -> Iterator[Extent]:
        """All of them, current and stale."""
        for table in (self.fragments, self.stale):
            for row in table.values():
                yield from row

    @property
    def readable(self) -> int:
        """Bytes that can be read without asking anybody: those of the current version."""
        return sum(extent.length for row in self.fragments.values() for extent in row)

    def add(self, extent: Extent) -> None:
        """Hold `extent` as current (or stale, as it says)."""
        table = self.stale if extent.state is State.STALE else self.fragments
        table.setdefault(extent.fragment, []).append(extent)
        if self.hot is not None and table is self.fragments:
            self.hot.hold(extent.fragment, extent.first, extent.count, True)

    def discard(self, extent: Extent) -> None:
        """Hold `extent` no more."""
        table = self.stale if extent.state is State.STALE else self.fragments
        row = table.get(extent.fragment)
        if row is not None and extent in row:
            row.remove(extent)
            if not row:
                del table[extent.fragment]
            if self.hot is not None and table is self.fragments:
                self.hot.hold(extent.fragment, extent.first, extent.count, False)


def uncovered(first: int, end: int, held: list[Run]) -> list[Run]:
    """The parts of `first` .. `end - 1` that none of the half-open runs `held` covers, in order."""
    gaps: list[Run] = []
    position = first
    for start, stop in sorted(held):
        if start >= end:
            break
        if start > position:
            gaps.append((position, start))
        position = max(position, stop)
    if position < end:
        gaps.append((position, end))
    return gaps
