"""The node's byte budget: blocks of files, buffers in flight, prefetch windows and metadata together.

`begin` takes room for an extent before its request is sent, `finish` makes it readable, `abandon` gives the
room back. Nothing here awaits except `room`, so every method is atomic for trio's tasks. The sum of
everything (`used`) stays within `budget`; the one exception is a reader that finds nothing in flight and
still no room, which is let through (counted as bypass by the reader) rather than never served.
"""

from __future__ import annotations

from collections import OrderedDict

import trio

from dadafs.buffers import BufferPool, capacity
from dadafs.cached_file import CachedFile, Extent, Key, State
from dadafs.counters import Counters
from dadafs.policy.s3fifo import S3Fifo
from dadafs.wire.messages import BLOCK_SIZE, DEFAULT_FRAGMENT_SIZE, Version

#: Charged for each extent beside its data: the Python objects that describe it.
EXTENT_OVERHEAD = 1024
#: Share of the budget that unread prefetches may hold, in flight and arrived.
PREFETCH_SHARE = 0.375
#: Share of the budget that metadata may push data out of.
METADATA_SHARE = 0.5
#: Memory is prepared until this share of the budget is in use in some way.
PREPARED_SHARE = 0.875
#: So many bytes at a time, of a small budget in so many pieces; and no more than so many are ready at a time.
PREPARED_AT_ONCE = 2 * 1024 * 1024
PREPARED_PIECES = 32
PREPARED = 128 * 1024 * 1024
#: Whether more is wanted is looked at after so many seconds.
PREPARED_PAUSE = 0.1


def extent_cost(length: int) -> int:
    """Bytes charged for an extent of `length` bytes."""
    return capacity(length) + EXTENT_OVERHEAD


class RamCache:
    """One byte budget for everything the node remembers."""

    def __init__(
        self, budget: int, *, fragment_size: int = DEFAULT_FRAGMENT_SIZE, counters: Counters | None = None
    ) -> None:
        self.budget = budget
        self.fragment_size = fragment_size
        self.counters = counters if counters is not None else Counters()
        self.in_flight = 0
        self.metadata = 0
        self._aside = 0
        self._asides: dict[str, int] = {}
        self._prefetch_bytes = 0
        self._pool = BufferPool(budget)
        self._queue: S3Fifo[Key] = S3Fifo(self._pinned)
        self._extents: dict[Key, Extent] = {}
        self._unread: OrderedDict[Key, Extent] = OrderedDict()  # prefetched, pinned until read
        self._files: dict[tuple[int, int], CachedFile] = {}
        self._file_numbers = 0
        self._waiting = trio.lowlevel.ParkingLot()

    # --- the budget
    # ------------------------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """Bytes in use, of any kind."""
        pool = self._pool
        return self._queue.weight + self.in_flight + self.metadata + self._aside + pool.free_bytes + pool.limbo_bytes

    def statistics(self) -> dict[str, int]:
        """The budget; what of it is used, for data, metadata and what is on its way; and what is memory at hand."""
        ready = self._pool.free_bytes
        return {"budget_bytes": self.budget, "used_bytes": self.used - ready, "ready_bytes": ready}

    @property
    def held(self) -> int:
        """Bytes of the extents held (data and their overhead)."""
        return self._queue.weight

    @property
    def prefetch_room(self) -> int:
        """Bytes that prefetches may still take."""
        return int(self.budget * PREFETCH_SHARE) - self._prefetch_bytes

    def resize(self, budget: int) -> None:
        """The budget is so many bytes from now on; what is beyond it is given back."""
        self.budget = budget
        self._make_room(0, 0)
        if self._waiting:
            self._waiting.unpark_all()

    @property
    def aside(self) -> int:
        """Bytes of the budget that are used by somebody else."""
        return self._aside

    def set_aside(self, user: str, size: int) -> None:
        """So many bytes of the budget are used by somebody else."""
        self._aside += size - self._asides.get(user, 0)
        self._asides[user] = size
        self._make_room(0, 0)

    def charge_metadata(self, delta: int) -> None:
        """The tree remembers `delta` bytes more (or fewer); data gives way to it."""
        self.metadata = max(0, self.metadata + delta)
        if delta <= 0:
            if self._waiting:
                self._waiting.unpark_all()
        elif self.used > self.budget:
            self._make_room(0, 0)

    @property
    def metadata_room(self) -> int:
        """Bytes the metadata may still grow by before the tree must forget something; negative beyond that.

        Buffers in flight, or being looked at, give way to nothing; all other data does.
        """
        share = int(self.budget * METADATA_SHARE)
        immovable = self.in_flight + self._aside + self._pool.limbo_bytes
        return min(share, self.budget - immovable) - self.metadata

    async def prepare(self) -> None:
        """Background task: have memory at hand before it is needed, up to a share of the budget, and end.

        Its pages come from the system, which takes longer for them than to receive what they are for
        (docs/decisions-node.md). So they are asked for while there is time: after mounting, and ahead of readers.
        """
        piece = min(PREPARED_AT_ONCE, self.budget // PREPARED_PIECES)
        while self.used + piece <= int(self.budget * PREPARED_SHARE):
            if self._pool.free_bytes >= PREPARED:
                await trio.sleep(PREPARED_PAUSE)
                continue
            work = self._pool.prepare(piece)
            if work is None:
                return
            worked = False
            try:
                with trio.CancelScope(shield=True):
                    worked = await trio.to_thread.run_sync(work)
            finally:
                self._pool.prepared(worked)
            if not worked:
                return  # an older kernel: pages come when they are touched

    async def room(self) -> None:
        """Wait until something was given back."""
        await self._waiting.park()

    # --- files
    # -----------------------------------------------------------------------------------------------------

    def file(self, version: Version) -> CachedFile:
        """What is held of the file with this identity, brought to `version`. Counts as a use: see `leave`."""
        file = self._files.get(version.identity)
        if file is None:
            self._file_numbers += 1
            file = CachedFile(self._file_numbers, version, self.fragment_size)
            self._files[version.identity] = file
        elif file.version != version:
            self.advance(file, version)
        file.users += 1
        return file

    def find(self, identity: tuple[int, int]) -> CachedFile | None:
        """What is held of the file with this (device, inode), if anything is; not counted as a use."""
        return self._files.get(identity)

    def files(self) -> list[CachedFile]:
        """All files of which something is held, or that somebody uses."""
        return list(self._files.values())

    def leave(self, file: CachedFile) -> None:
        """One use of `file` ends; what is held of it stays until it is evicted."""
        file.users -= 1
        self._forget_if_idle(file)

    def advance(self, file: CachedFile, version: Version, *, append: bool = False) -> None:
        """`file` is in another state now: its extents become stale, good for their checksums.

        With `append`, growth keeps what lies wholly below the old size as it is.
        """
        keep_below = file.version.size if append and version.size >= file.version.size else 0
        file.version = version
        file.epoch += 1
        for row in list(file.fragments.values()):
            for extent in list(row):
                if not self._keep_prefix(extent, keep_below):
                    self.make_stale(extent)

    def make_stale(self, extent: Extent) -> None:
        """`extent` may not be read any more, but a block whose checksum is unchanged may."""
        self._unpin(extent)
        extent.file.discard(extent)
        extent.state = State.STALE
        extent.file.add(extent)

    def _keep_prefix(self, extent: Extent, size: int) -> bool:
        """Cut `extent` down to its blocks that lie wholly below `size`; False when none does."""
        start = extent.fragment * self.fragment_size + extent.first * BLOCK_SIZE
        count = min(extent.count, (size - start) // BLOCK_SIZE)
        if count <= 0:
            return False
        if count < extent.count:
            extent.count = count
            extent.length = count * BLOCK_SIZE
            del extent.checksums[count:]
        return True

    def _forget_if_idle(self, file: CachedFile) -> None:
        if file.idle:
            self._files.pop(file.version.identity, None)

    # --- extents
    # ---------------------------------------------------------------------------------------------------

    def begin(
        self, file: CachedFile, fragment: int, first: int, count: int, *, prefetch: bool = False
    ) -> Extent | None:
        """Room for these blocks, in flight from now on; None where there is none at present.

        A demand read that finds nothing in flight gets its room even beyond the budget.
        """
        length = file.run_length(fragment, first, first + count)
        cost = extent_cost(length)
        if prefetch and cost > self.prefetch_room:
            return None
        fits = self._make_room(cost, length, spare_unread=prefetch)
        if not fits and (prefetch or self.in_flight):
            return None
        extent = Extent(file, fragment, first, count, length, prefetch)
        extent.cost = cost
        extent.buffer = self._pool.take(length)
        self.in_flight += cost
        if prefetch:
            self._prefetch_bytes += cost
        return extent

    def finish(self, extent: Extent, checksums: list[int], expires: float | None = None) -> bool:
        """`extent` is filled and verified: readable until `expires` (None: until its file changes).

        False where it could not be kept; a view of it taken before stays good all the same.
        """
        self.in_flight -= extent.cost
        extent.checksums = checksums
        extent.expires = expires
        self._drop_covered(extent)
        extent.state = State.CURRENT
        extent.file.add(extent)
        self._extents[extent.key] = extent
        self._queue.insert(extent.key, extent.cost)
        if extent.prefetched and extent.unread:
            extent.arrived = trio.current_time()
            self._unread[extent.key] = extent
        if self.used > self.budget:
            self._make_room(0, 0)
        if self._waiting:
            self._waiting.unpark_all()
        return extent.state is State.CURRENT

    def hold_small(self, file: CachedFile, content: bytes, checksums: list[int], expires: float | None) -> None:
        """Hold the whole of a small file, as it came in the reply to an open."""
        if not content or file.covering(0, 0, len(checksums)) is not None:
            return
        cost = len(content) + EXTENT_OVERHEAD
        if not self._make_room(cost, 0):
            return
        extent = Extent(file, 0, 0, len(checksums), len(content), False)
        extent.buffer = content
        extent.cost = cost
        self.in_flight += cost
        self.finish(extent, checksums, expires)

    def abandon(self, extent: Extent) -> None:
        """`extent` will not be filled: its room is given back."""
        self.in_flight -= extent.cost
        if extent.prefetched and extent.unread:
            self._prefetch_bytes -= extent.cost
        extent.state = State.GONE
        self._pool.give(extent)
        self._waiting.unpark_all()

    def lookup(self, file: CachedFile, fragment: int, first: int, end: int, now: float) -> Extent | None:
        """The current extent with all of these blocks; what has expired by `now` becomes stale instead."""
        extent = file.covering(fragment, first, end)
        if extent is not None and extent.expires is not None and extent.expires <= now:
            self.make_stale(extent)
            return None
        return extent

    def expire(self, file: CachedFile, fragment: int, now: float) -> None:
        """Make stale what has expired of `fragment`."""
        for extent in list(file.fragments.get(fragment, ())):
            if extent.expires is not None and extent.expires <= now:
                self.make_stale(extent)

    def used_by_reader(self, extent: Extent, start: int, end: int) -> None:
        """A reader used bytes `start` .. `end - 1` of `extent`; reading straight on is one use, not many."""
        if extent.unread:
            extent.unread = False
            if extent.prefetched:
                self.counters.prefetch_used += 1
                if extent.state is State.FILLING:
                    self._prefetch_bytes -= extent.cost  # `finish` will not pin it
                else:
                    self._unpin(extent)
        elif extent.cursor != start:
            self._queue.hit(extent.key)
        extent.cursor = end

    def stop_expecting(self, arrived_before: float) -> None:
        """Prefetches that arrived before this and were not read since may be evicted like anything else."""
        while self._unread:
            extent = next(iter(self._unread.values()))
            if extent.arrived >= arrived_before:
                return
            self._unpin(extent)

    def resize_fragments(self, size: int) -> None:
        """Fragments are `size` bytes from now on: nothing that is held, or on its way, fits any more."""
        for file in list(self._files.values()):
            self.drop_file(file)
            file.epoch += 1
            file.fragment_size = size
        self.fragment_size = size
        self._pool.trim()

    def drop(self, extent: Extent) -> None:
        """Hold `extent` no more, for a reason of its own (damaged, or replaced)."""
        if self._extents.get(extent.key) is extent:
            self._queue.remove(extent.key)
            self._remove(extent)

    def drop_file(self, file: CachedFile) -> None:
        """Hold nothing of `file` any more."""
        for extent in list(file.extents()):
            self.drop(extent)

    # --- inside
    # ----------------------------------------------------------------------------------------------------

    def _pinned(self, key: Key) -> bool:
        return key in self._unread

    def _make_room(self, cost: int, size: int, *, spare_unread: bool = False) -> bool:
        """Make `cost` bytes fit, with a buffer of `size` bytes among them; False where that is impossible
        now.
        """
        excess = self._excess(cost, size)
        if excess > 0 and self._pool.sweep():
            excess = self._excess(cost, size)
        while excess > 0:
            if self._pool.free_bytes:
                self._pool.trim(excess, keep=size)
                excess = self._excess(cost, size)
                if excess <= 0:
                    break
            if not self._evict_one(spare_unread):
                return False
            excess = self._excess(cost, size)
        return True

    def _excess(self, cost: int, size: int) -> int:
        """How many bytes beyond the budget `cost` more would be, with a buffer of `size` bytes among them."""
        return self.used + cost - self._pool.reusable(size) - self.budget

    def _evict_one(self, spare_unread: bool) -> bool:
        key = self._queue.evict()
        if key is None and self._unread and not spare_unread:
            _, oldest = self._unread.popitem(last=False)
            self._prefetch_bytes -= oldest.cost
            key = self._queue.evict()
        if key is None:
            return False
        extent = self._extents[key]
        self.counters.evicted += 1
        if extent.prefetched and extent.unread:
            self.counters.wasted += 1
        self._remove(extent)
        return True

    def _remove(self, extent: Extent) -> None:
        del self._extents[extent.key]
        self._unpin(extent)
        extent.file.discard(extent)
        extent.state = State.GONE
        self._pool.give(extent)
        self._forget_if_idle(extent.file)

    def _unpin(self, extent: Extent) -> None:
        """`extent` counts as an expected prefetch no longer."""
        if self._unread.get(extent.key) is extent:
            del self._unread[extent.key]
            self._prefetch_bytes -= extent.cost

    def _drop_covered(self, extent: Extent) -> None:
        """Drop what `extent` replaces: what it covers would be held twice, or is stale."""
        for table in (extent.file.fragments, extent.file.stale):
            row = table.get(extent.fragment)
            for other in list(row) if row else ():
                if (extent.first <= other.first and other.end <= extent.end) or other.key == extent.key:
                    self.drop(other)
