"""Prefetch decisions for one kernel handle: streams, windows, strides (sans-IO).

A handle is read by several streams at once: an HDF5 reader goes through its header and B-trees here and
through the chunks there, and threads of one program share a handle. Each stream remembers where it will
probably go on; a read near that place proves it, and proof doubles its window (how much is asked for ahead).
A read that continues no stream begins one without a window, so random access prefetches nothing. Reads of
similar size at a repeated distance are a stride: the next places are prefetched, not what lies between.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

MAX_STREAMS = 4
#: The longest window of one stream, in bytes, before the global budget is divided by the number of streams.
LONGEST_WINDOW = 16 * 1024 * 1024
#: So many fragments of a long window are asked for together, which costs both sides less than one after the other,
#: while all but one of so many parts of the window are still ahead.
MOST_TOGETHER = 4
LEADS = 4
#: A stride is believed when the same distance was seen this many times in a row.
STRIDE_PROOFS = 2
#: Distances and sizes are the same when they differ by less than this share (compressed chunks vary in size).
TOLERANCE = 0.25
#: How many future reads a learned stride prefetches at most.
LONGEST_STRIDE_WINDOW = 8
#: Shorter reads are metadata (B-tree nodes, headers): they have no stride of their own and do not disturb
#: others.
SHORTEST_STRIDDEN = 16 * 1024
#: Around a short read that continues nothing, what lies before the next multiple of this comes along: nodes of a B-tree
#: lie side by side. A handle that is known to be read here and there gets single blocks (`dadafs/hot_reads.py`).
NEIGHBOURHOOD = 64 * 1024


#: A stream went far that went through so many bytes; so many directories in whose files that happened are remembered.
FAR = 8 * 1024 * 1024
MOST_HABITS = 256


@dataclass(slots=True)
class Advice:
    """What to do about one read; positions in bytes.

    Of the fragments that the read touches, fetch what is missing up to `reach` (at least what is read).
    `ranges`: half-open byte ranges to prefetch, nearest first, already clipped to the file.
    """

    reach: int
    ranges: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Stream:
    """One reader's way through the file; positions in bytes."""

    start: int
    position: int  # where it will probably go on
    ahead: int = 0  # whole fragments up to here were asked for
    window: int = 0  # bytes to ask for beyond `position`
    last_used: int = 0
    proven: int = 0  # reads that continued it

    @property
    def run(self) -> int:
        """Bytes it has gone through."""
        return self.position - self.start


class Streams:
    """The streams of one kernel handle.

    `cap` limits every window, in bytes; the owner sets it to its share of the budget. `habit` is the window that a
    stream begins with once it is proven, where others like it went far. `home` is the owner's own: what the handle
    reads.
    """

    def __init__(self, fragment_size: int, *, cap: int = LONGEST_WINDOW) -> None:
        self.fragment_size = fragment_size
        self.cap = cap
        self.streams: list[Stream] = []
        self.strides = Strides()
        self.home: object = None
        self.habit = 0
        self._tick = 0

    def note(self, offset: int, length: int, size: int) -> Advice:
        """A read of `length` bytes at `offset` of a file of `size` bytes happens: what to fetch and to
        prefetch.
        """
        self._tick += 1
        end = min(offset + length, size)
        stream = self._continued(offset)
        if stream is not None:
            return self._go_on(stream, end, size)
        ranges = self._strides_on(offset, end, size)
        self._begin(offset, end)
        if offset == 0 and size <= self.fragment_size:
            return Advice(reach=size, ranges=ranges)
        reach = -(-end // NEIGHBOURHOOD) * NEIGHBOURHOOD if end - offset < SHORTEST_STRIDDEN else end
        return Advice(reach=min(reach, size), ranges=ranges)

    def goes_on(self, offset: int) -> bool:
        """Whether a read at `offset` would continue a stream."""
        return self._continued(offset) is not None

    def _strides_on(self, offset: int, end: int, size: int) -> list[tuple[int, int]]:
        """What a learned stride wants; a chunk that the kernel reads in pieces is as long as its stream ran."""
        if end - offset < SHORTEST_STRIDDEN:
            return []
        chunks = [stream for stream in self.streams if stream.run >= SHORTEST_STRIDDEN]
        last = max(chunks, key=lambda stream: stream.last_used, default=None)
        return self.strides.note(offset, max(end - offset, last.run if last else 0), size)

    def pressure(self) -> None:
        """A prefetch was refused for want of room: every window is halved."""
        for stream in self.streams:
            stream.window //= 2

    def _continued(self, offset: int) -> Stream | None:
        """The stream that goes on at `offset`: the kernel's readahead arrives out of order and may skip
        ahead.
        """
        best: Stream | None = None
        for stream in self.streams:
            behind = self.fragment_size if stream.proven else 0
            reach = max(stream.window, self.fragment_size // 4)
            near = stream.position - behind <= offset <= stream.position + reach
            if near and (best is None or abs(stream.position - offset) < abs(best.position - offset)):
                best = stream
        return best

    def _begin(self, offset: int, end: int) -> None:
        if len(self.streams) >= MAX_STREAMS:
            self.streams.remove(min(self.streams, key=lambda stream: stream.last_used))
        self.streams.append(Stream(start=offset, position=end, last_used=self._tick))

    def _go_on(self, stream: Stream, end: int, size: int) -> Advice:
        """Fetch ever longer runs until half a fragment was read in order, then whole fragments and a window."""
        stream.last_used = self._tick
        stream.proven += 1
        unit = self.fragment_size
        if end > stream.position:
            crossed = end // unit > stream.position // unit
            stream.position = end
            if stream.run >= unit // 2 and (crossed or not stream.window):
                stream.window = min(max(stream.window * 2, unit, self.habit), self.cap)
        if not stream.window:
            return Advice(reach=min(stream.position + stream.run, size))
        fragment_end = min(-(-end // unit) * unit, size)
        return Advice(reach=fragment_end, ranges=self._advance(stream, size))

    def _advance(self, stream: Stream, size: int) -> list[tuple[int, int]]:
        """The fragments between what was asked for and the end of the window, one range each."""
        unit = self.fragment_size
        next_fragment = -(-stream.position // unit) * unit
        last = min(stream.position + stream.window, size)
        together = min(stream.window // (LEADS * unit), MOST_TOGETHER) * unit
        if last < size and last - max(next_fragment, stream.ahead) < together:
            return []  # what was asked for lasts for some time: later, several at once
        first = max(next_fragment, stream.ahead)
        last = min(last, first + MOST_TOGETHER * unit)
        ranges = [(start, min(start + unit, size)) for start in range(first, last, unit)]
        if ranges:
            stream.ahead = ranges[-1][0] + unit
        return ranges


class Habits:
    """How far streams went in the files of each directory: a scan is in many files, and they are read alike.

    A directory is known by what is before the last `/` of a file's path; those used longest ago are forgotten.
    """

    def __init__(self) -> None:
        self._windows: OrderedDict[bytes, int] = OrderedDict()

    def note(self, path: bytes, streams: Streams) -> None:
        """The file at `path` was read in `streams`, and is closed now."""
        longest = max(streams.streams, key=lambda stream: stream.run, default=None)
        if longest is None or longest.run < FAR:
            return
        directory = path.rpartition(b"/")[0]
        self._windows[directory] = longest.window // 2
        self._windows.move_to_end(directory)
        if len(self._windows) > MOST_HABITS:
            self._windows.popitem(last=False)

    def of(self, path: bytes) -> int:
        """The window of a stream that is proven in the file at `path`, in bytes; 0 where nothing is known."""
        return self._windows.get(path.rpartition(b"/")[0], 0)


class Strides:
    """Learns a constant distance between reads of similar size that continue no stream."""

    def __init__(self) -> None:
        self._offset: int | None = None
        self._length = 0
        self._distance = 0
        self._proofs = 0
        self._ahead = 0

    def note(self, offset: int, length: int, size: int) -> list[tuple[int, int]]:
        """A read begins at a new place; the byte ranges to prefetch, empty while no stride is proven."""
        previous, self._offset = self._offset, offset
        last_length, self._length = self._length, length
        distance = 0 if previous is None else offset - previous
        expected, self._distance = self._distance, distance
        if distance <= 0 or not similar(length, last_length) or not similar(distance, expected):
            self._proofs = self._ahead = 0
            return []
        self._proofs += 1
        return self._next(offset, length, size) if self._proofs >= STRIDE_PROOFS else []

    def _next(self, offset: int, length: int, size: int) -> list[tuple[int, int]]:
        count = min(1 << (self._proofs - STRIDE_PROOFS), LONGEST_STRIDE_WINDOW)
        starts = [offset + self._distance * (i + 1) for i in range(count)]
        fresh = [start for start in starts if start > self._ahead + self._distance // 2 and start < size]
        if fresh:
            self._ahead = fresh[-1]
        return [(start, min(start + length, size)) for start in fresh]


def similar(a: int, b: int) -> bool:
    """Whether two lengths or distances are the same but for `TOLERANCE`."""
    return abs(a - b) <= TOLERANCE * max(a, b)


def likes_both_ends(name: bytes) -> bool:
    """Whether a file of this name is HDF5, whose superblock is at the front and whose trees are often at the
    end.
    """
    return name.lower().endswith((b".h5", b".hdf5", b".nxs", b".cxi", b".nx5", b".hdf"))


def both_ends(size: int, fragment_size: int) -> list[tuple[int, int]]:
    """The first and the last fragment of a file, as byte ranges; in front what is read first, so that nobody waits for
    the rest.
    """
    last = max(0, size - 1) // fragment_size * fragment_size
    front = min(NEIGHBOURHOOD, size)
    back = max(last, (size - 1) // NEIGHBOURHOOD * NEIGHBOURHOOD)
    first_end = min(fragment_size, size)
    if not last:
        return [(0, front), (front, first_end)] if front < first_end else [(0, front)]
    ranges = [(0, front), (back, size), (front, first_end), (last, back)]
    return [(start, end) for start, end in ranges if start < end]


HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
