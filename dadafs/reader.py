"""Reads of open files: RAM cache, single flight, prefetch, version changes.

    reader = Reader(session, cache, counters)
    async with trio.open_nursery() as nursery:
        reader.start(nursery)                      # prefetches run in this nursery
        streams = reader.open_streams(file)        # one per kernel file handle
        data = await reader.read(file, streams, offset, length)
        reader.close_streams(file, streams)

What the cache has is answered with views of it, without an await or a copy. What is missing is fetched by the task
of the reader itself; only a second fragment, and prefetches, get tasks of their own.
"""

from __future__ import annotations

import errno
import logging
import math
import os
from collections.abc import Callable
from functools import partial

import trio

from dadafs.buffers import view_of
from dadafs.cached_file import CachedFile, Extent
from dadafs.counters import Counters
from dadafs.fetch import Fetcher, VersionChanged
from dadafs.flight import Flight, in_flight, landed, missing, taken_off
from dadafs.late_reads import AHEAD_PATIENCE, LateReads
from dadafs.pieces import Data, Pieces, joined
from dadafs.policy.prefetch import LONGEST_WINDOW, Advice, Habits, Streams, both_ends, likes_both_ends
from dadafs.ram_cache import PREFETCH_SHARE, RamCache
from dadafs.remote_file import RemoteFile
from dadafs.session import Session
from dadafs.wire.messages import BLOCK_SIZE, INLINE_LIMIT

log = logging.getLogger(__name__)

#: A read begins again in the new version so many times before it waits between attempts.
QUICK_RESTARTS = 8
RESTART_PAUSE = 0.05
#: And gives up after so many: the file never stands still for as long as a read takes.
MOST_RESTARTS = 100
#: A prefetch that nobody read within this time may be evicted like anything else, in seconds.
PREFETCH_PATIENCE = 10.0
#: Handles that have prefetched within this time share the prefetch budget, in seconds.
ACTIVE_SPAN = 2.0


class Reader:
    """Answers reads with bytes of exactly one version of the file."""

    def __init__(self, session: Session, cache: RamCache, counters: Counters) -> None:
        self._session = session
        self._cache = cache
        self._counters = counters
        self._fetcher = Fetcher(session, cache, counters)
        self._late = LateReads(self._fetcher)
        self._nursery: trio.Nursery | None = None
        self._active: dict[Streams, float] = {}  # streams with a window, and when they last prefetched
        self._habits = Habits()
        self._pruned_at = 0.0
        self._turn = trio.Lock()  # of the reader that is next to get room
        #: Calls something a moment later, once a reply is on its way, and says so; or does nothing, and says that.
        self.afterwards: Callable[[Callable[[], None]], bool] = lambda _work: False
        session.on_connection(self._connected)

    def start(self, nursery: trio.Nursery) -> None:
        """Prefetches run as tasks of `nursery` from now on; without it there is no prefetch."""
        self._nursery = nursery
        nursery.start_soon(self._late.run)

    def _connected(self, connected: bool) -> None:
        """A head may come back with another fragment size: nothing that is held fits any more."""
        size = self._session.welcome.fragment_size
        if connected and size != self._cache.fragment_size:
            log.info("the head's fragments are %d bytes now", size)
            self._cache.resize_fragments(size)

    # --- streams
    # ---------------------------------------------------------------------------------------------------

    def open_streams(self, file: RemoteFile) -> Streams:
        """The prefetch state of one kernel handle; an HDF5 file's first and last fragment are asked for at
        once.

        A program that opens, reads and closes for every frame goes on with the streams of its last handle.
        """
        cached = file.cached
        streams, cached.resting = cached.resting, None
        if streams is None or streams.fragment_size != self._cache.fragment_size:
            streams = Streams(self._cache.fragment_size)
            streams.home = cached
            streams.habit = self._habits.of(file.path)
        if cached.ends_epoch != cached.epoch and likes_both_ends(file.path):
            self._both_ends(file, streams)
        return streams

    def close_streams(self, file: RemoteFile, streams: Streams) -> None:
        """The kernel handle is gone; the next one on this file may go on where it was."""
        self._active.pop(streams, None)
        self._habits.note(file.path, streams)
        home = streams.home
        if isinstance(home, CachedFile) and home.users:
            home.resting = streams

    def _both_ends(self, file: RemoteFile, streams: Streams) -> None:
        """Once in each version: the superblock is at the front of an HDF5 file, the trees are often at its
        end.
        """
        file.cached.ends_epoch = file.epoch
        self._prefetch_soon(file, streams, both_ends(file.size, self._cache.fragment_size))

    def _share(self, now: float) -> int:
        """The longest window that one of the active handles may have, in bytes."""
        if now - self._pruned_at > ACTIVE_SPAN / 2:
            self._pruned_at = now
            self._active = {streams: at for streams, at in self._active.items() if now - at < ACTIVE_SPAN}
            self._cache.stop_expecting(now - PREFETCH_PATIENCE)
        share = int(self._cache.budget * PREFETCH_SHARE) // max(1, len(self._active))
        return min(LONGEST_WINDOW, share)

    # --- reading
    # ---------------------------------------------------------------------------------------------------

    async def read(self, file: RemoteFile, streams: Streams, offset: int, length: int) -> bytes | memoryview:
        """Exactly `min(length, file.size - offset)` bytes (empty at and beyond the end), verified, of one
        version.

        The view stays valid as long as it is referenced. Raises `OSError`: EIO (deadline, damaged data, a
        file that never stands still), ESTALE (the file is gone), or what the head answered.
        """
        data = self.read_at_once(file, streams, offset, length)
        if data is not None:
            return joined(data)
        now = trio.current_time()
        deadline = math.nan
        if not file.live(now):
            deadline = self._session.deadline()
            await file.refresh(deadline)
            data = self.read_at_once(file, streams, offset, length)
            if data is not None:
                return joined(data)
        streams.cap = self._share(now)
        advice = streams.note(offset, length, file.size)
        deadline = self._session.deadline() if math.isnan(deadline) else deadline
        if file.size <= INLINE_LIMIT and not file.has_handle:
            await file.handle(deadline)  # a small file comes whole with its open
        return await self._through_changes(file, streams, offset, length, advice, deadline)

    def read_at_once(self, file: RemoteFile, streams: Streams, offset: int, length: int) -> Data | None:
        """`read`, where the answer is in memory and may be believed; otherwise None, and nothing was noted.

        In pieces where it lies in more than one extent.
        """
        now = trio.current_time()
        if not file.live(now):
            return None
        end = min(offset + length, file.size)
        if offset >= end or offset < 0:
            return b""
        data = self._from_cache(file.cached, offset, end, now)
        if data is None:
            return None
        streams.cap = self._share(now)
        advice = streams.note(offset, length, file.size)
        self._counters.hit += 1
        self._counters.hit_bytes += end - offset
        if advice.ranges:
            self._prefetch_soon(file, streams, advice.ranges)
        return data

    def read_later(
        self, file: RemoteFile, streams: Streams, offset: int, length: int, done: Callable[[memoryview | None], None]
    ) -> bool:
        """Begin a read here or there that needs one request, without a task; False where it is not of that kind.

        `done` is called once, later, with the bytes, all `length`, or with None: then `read` has to do it, from the
        beginning. Reads that continue a stream are left to `read`: most find their bytes prefetched.
        """
        now = trio.current_time()
        end = offset + length
        if not file.live(now) or not 0 < offset < end <= file.size or streams.goes_on(offset):
            return False
        flight = None if self._late.full else self._lone_flight(file, _Wanted(offset, end, end))
        if flight is None:
            return False
        if not self._late.begin(file, flight, lambda kept: self._landed_late(flight, offset, end, kept, done), now):
            flight.error = _Abandoned()
            self._cache.abandon(flight.extent)
            landed(file.cached, flight)
            return False
        streams.cap = self._share(now)
        advice = streams.note(offset, length, file.size)
        if advice.ranges:
            self._prefetch_soon(file, streams, advice.ranges)
        return True

    def _landed_late(
        self, flight: Flight, offset: int, end: int, kept: bool | None, done: Callable[[memoryview | None], None]
    ) -> None:
        """A flight without a task is over; `kept` None: it did not arrive."""
        extent = flight.extent
        if kept is None:
            flight.error = _Abandoned()
            self._cache.abandon(extent)
            landed(extent.file, flight)
            done(None)
            return
        flight.kept = kept
        landed(extent.file, flight)
        self._count(_Wanted(offset, end, end), not kept)
        assert flight.view is not None
        start = extent.fragment * self._cache.fragment_size
        self._cache.used_by_reader(extent, offset - start, end - start)
        start += extent.first * BLOCK_SIZE
        done(flight.view[offset - start : end - start])

    async def _through_changes(
        self, file: RemoteFile, streams: Streams, offset: int, length: int, advice: Advice, deadline: float
    ) -> bytes | memoryview:
        """Read what the cache does not have; begin again in the new version when the file changes meanwhile."""
        for restart in range(MOST_RESTARTS):
            end = min(offset + length, file.size)
            if offset >= end:
                return b""
            reach = min(max(advice.reach, end), file.size)
            want = _Wanted(offset, end, reach)
            try:
                flight = self._lone_flight(file, want)
                if flight is not None:
                    return await self._land(file, streams, want, flight, advice, deadline)
                return await self._gather(file, streams, want, advice, deadline)
            except VersionChanged:
                self._counters.read_restarts += 1
            if trio.current_time() >= deadline:
                break
            if restart >= QUICK_RESTARTS:
                await trio.sleep(RESTART_PAUSE)
        path = os.fsdecode(file.path)
        raise OSError(errno.EIO, "the file never stands still for as long as a read takes", path)

    def _from_cache(self, cached: CachedFile, offset: int, end: int, now: float) -> memoryview | Pieces | None:
        """The bytes, where the cache has all of them; in pieces where no one extent has."""
        unit = self._cache.fragment_size
        parts: list[memoryview] = []
        while offset < end:
            fragment = offset // unit
            base = fragment * unit
            first = (offset - base) // BLOCK_SIZE
            extent = self._cache.lookup(cached, fragment, first, first + 1, now)
            if extent is None:
                return None
            stop = min(end, base + extent.first * BLOCK_SIZE + extent.length)
            if stop <= offset:
                return None
            parts.append(self._part(extent, offset - base, stop - base))
            offset = stop
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _part(self, extent: Extent, start: int, end: int) -> memoryview:
        """Bytes `start` .. `end - 1` of the extent's fragment, which lie within the extent."""
        origin = extent.first * BLOCK_SIZE
        self._cache.used_by_reader(extent, start, end)
        assert extent.buffer is not None
        return view_of(extent.buffer)[start - origin : end - origin]

    # --- fetching
    # --------------------------------------------------------------------------------------------------

    def _lone_flight(self, file: RemoteFile, want: _Wanted) -> Flight | None:
        """The usual miss: one run of blocks of a fragment of which nothing near is held or in flight."""
        cached = file.cached
        unit = self._cache.fragment_size
        fragment = want.offset // unit
        base = fragment * unit
        if want.end > base + unit or fragment in cached.flights or self._turn.locked():
            return None
        first = (want.offset - base) // BLOCK_SIZE
        end = -(-min(unit, want.reach - base) // BLOCK_SIZE)
        for extent in cached.fragments.get(fragment, ()):
            if extent.first < end and first < extent.end:
                return None
        room = self._cache.begin(cached, fragment, first, end - first)
        return None if room is None else self._take_off(cached, room, prefetch=False)

    async def _land(
        self, file: RemoteFile, streams: Streams, want: _Wanted, flight: Flight, advice: Advice, deadline: float
    ) -> memoryview:
        """Fly a lone flight and take the wanted bytes off it."""
        extent = flight.extent
        if advice.ranges:
            self._prefetch(file, streams, advice.ranges)
        await self._fly(file, flight, deadline)
        if flight.error is not None:
            raise flight.error
        if extent.key[1] != file.epoch or flight.view is None:
            raise VersionChanged
        self._count(want, not flight.kept)
        origin = extent.fragment * self._cache.fragment_size
        self._cache.used_by_reader(extent, want.offset - origin, want.end - origin)
        origin += extent.first * BLOCK_SIZE
        return flight.view[want.offset - origin : want.end - origin]

    async def _gather(
        self, file: RemoteFile, streams: Streams, want: _Wanted, advice: Advice, deadline: float
    ) -> bytes | memoryview:
        """Fetch what is missing and join it; all of one epoch, or VersionChanged."""
        epoch = file.epoch
        parts = _Parts(want, self._cache.fragment_size)
        bypassed = False
        while True:
            if file.epoch != epoch:
                raise VersionChanged
            own, joined = await self._departures(file, parts, deadline)
            ranges, advice = advice.ranges, Advice(advice.reach)
            if ranges:
                self._prefetch(file, streams, ranges)
            await self._fly_all(file, own, joined, deadline)
            for flight in (*own, *joined):
                if flight.view is not None and flight.extent.key[1] == epoch:
                    parts.add(flight.extent, flight.view, self._cache)
                bypassed = bypassed or (flight in own and flight.done and not flight.kept)
            if file.epoch != epoch:
                raise VersionChanged
            if parts.complete:
                self._count(want, bypassed)
                return parts.join()

    def _count(self, want: _Wanted, bypassed: bool) -> None:
        length = want.end - want.offset
        if bypassed:
            self._counters.bypass += 1
            self._counters.bypass_bytes += length
        else:
            self._counters.miss += 1
            self._counters.miss_bytes += length

    async def _departures(self, file: RemoteFile, parts: _Parts, deadline: float) -> tuple[list[Flight], list[Flight]]:
        """Flights of our own and flights joined; waits, in the order of arrival, where there is no room for any."""
        if not self._turn.locked():
            own, joined = self._plan(file, parts)
            if own or joined or parts.complete:
                return own, joined
        with trio.move_on_at(deadline):
            async with self._turn:
                while True:
                    own, joined = self._plan(file, parts)
                    if own or joined or parts.complete:
                        return own, joined
                    await self._cache.room()
        raise OSError(errno.EIO, "no room in the RAM cache", os.fsdecode(file.path))

    def _plan(self, file: RemoteFile, parts: _Parts) -> tuple[list[Flight], list[Flight]]:
        """Take what is held, join what is in flight, start flights for the rest as far as there is room."""
        own: list[Flight] = []
        joined: list[Flight] = []
        now = trio.current_time()
        cached = file.cached
        for fragment, first, end, reach in parts.needed():
            self._cache.expire(cached, fragment, now)
            for extent in cached.fragments.get(fragment, ()):
                if extent.first < end and first < extent.end:
                    parts.add(extent, extent.view(), self._cache)
            for flight in in_flight(cached, fragment, first, end):
                joined.append(flight)
                self._join(flight)
            for run in missing(cached, fragment, first, reach):
                if run[0] >= end:
                    break  # nobody needs it now
                extent_ = self._cache.begin(cached, fragment, run[0], run[1] - run[0])
                if extent_ is None:
                    return own, joined
                own.append(self._take_off(cached, extent_, prefetch=False))
        return own, joined

    def _take_off(self, cached: CachedFile, extent: Extent, *, prefetch: bool) -> Flight:
        flight = Flight(extent, prefetch=prefetch)
        taken_off(cached, flight)
        return flight

    def _join(self, flight: Flight) -> None:
        """A reader waits for what another one, or a prefetch, has asked for."""
        if flight.prefetch and flight.extent.unread:
            self._counters.late += 1
            self._cache.used_by_reader(flight.extent, -1, -1)

    async def _fly_all(self, file: RemoteFile, own: list[Flight], joined: list[Flight], deadline: float) -> None:
        """Return when all have landed. Errors of our own flights are raised, those of others make us try
        again.
        """
        if len(own) == 1 or (own and self._nursery is None):
            for flight in own:
                await self._fly(file, flight, deadline)
        elif own:
            assert self._nursery is not None
            for flight in own[1:]:
                self._nursery.start_soon(self._fly, file, flight, deadline)
            await self._fly(file, own[0], deadline)
        for flight in (*own, *joined):
            await flight.wait()
        for flight in own:
            if flight.error is not None:
                raise flight.error

    async def _fly(self, file: RemoteFile, flight: Flight, deadline: float) -> None:
        """Fill the flight's extent. Never raises an Exception: `flight.error` has it."""
        extent = flight.extent
        flight.error = _Abandoned()
        view = extent.view()  # stays good even where the extent cannot be kept
        try:
            flight.kept = await self._fetcher.fill(file, extent, deadline)
            flight.view = view
            flight.error = None
        except (VersionChanged, OSError) as error:
            flight.error = error
        except Exception as error:
            log.exception("cannot read %s", os.fsdecode(file.path))
            flight.error = OSError(errno.EIO, f"internal error: {error!r}", os.fsdecode(file.path))
        finally:
            del view
            if flight.error is not None:
                self._cache.abandon(extent)
            landed(extent.file, flight)

    # --- prefetch
    # --------------------------------------------------------------------------------------------------

    def _prefetch_soon(self, file: RemoteFile, streams: Streams, ranges: list[tuple[int, int]]) -> None:
        """`_prefetch`, for which the program that reads need not wait."""
        work = partial(self._prefetch, file, streams, ranges)
        if not self.afterwards(work):
            work()

    def _prefetch(self, file: RemoteFile, streams: Streams, ranges: list[tuple[int, int]]) -> None:
        """Start fetching what is missing of these byte ranges, as far as the budget allows."""
        if self._nursery is None or not self._session.connected:
            return
        now = self._active[streams] = trio.current_time()
        if len(ranges) == 1:
            self._prefetch_all(file, streams, ranges, now)
            return
        with self._session.blocks.together():
            self._prefetch_all(file, streams, ranges, now)

    def _prefetch_all(self, file: RemoteFile, streams: Streams, ranges: list[tuple[int, int]], now: float) -> None:
        deadline = self._session.deadline()
        unit = self._cache.fragment_size
        cached = file.cached
        for start, stop in ranges:
            for fragment in range(start // unit, -(-stop // unit)):
                base = fragment * unit
                first = max(0, start - base) // BLOCK_SIZE
                end = -(-min(stop - base, cached.fragment_length(fragment)) // BLOCK_SIZE)
                for run in missing(cached, fragment, first, end):
                    extent = self._cache.begin(cached, fragment, run[0], run[1] - run[0], prefetch=True)
                    if extent is None:
                        self._counters.prefetch_refused += 1
                        streams.pressure()
                        return
                    flight = self._take_off(cached, extent, prefetch=True)
                    self._counters.prefetched += 1
                    self._fly_ahead(file, flight, now, deadline)

    def _fly_ahead(self, file: RemoteFile, flight: Flight, now: float, deadline: float) -> None:
        """Begin a prefetch: without a task, where nothing is in the way and nothing goes wrong.

        A reader may come to wait for it, so that both ways together have the time of one.
        """
        patience = min(AHEAD_PATIENCE, (deadline - now) / 2)

        def over(kept: bool | None) -> None:
            if kept is None:
                by_task()
            else:
                flight.kept = kept
                landed(flight.extent.file, flight)

        def by_task() -> None:
            assert self._nursery is not None
            self._nursery.start_soon(self._fly, file, flight, deadline)

        if self._late.full or not self._late.begin(file, flight, over, now, patience):
            by_task()


class _Abandoned(Exception):
    """The task that filled an extent was cancelled; whoever waits for it has to fetch it itself."""


class _Wanted:
    """Bytes `offset` .. `end - 1` are needed; blocks up to `reach` are fetched while we are at it."""

    __slots__ = ("end", "offset", "reach")

    def __init__(self, offset: int, end: int, reach: int) -> None:
        self.offset = offset
        self.end = end
        self.reach = reach


class _Parts:
    """Pieces of the wanted bytes as they come in; views, so nothing is copied before the join."""

    def __init__(self, want: _Wanted, unit: int) -> None:
        self._want = want
        self._unit = unit
        self._pieces: dict[int, tuple[int, memoryview]] = {}  # start in the file -> (end in the file, data)
        self._gaps: list[tuple[int, int]] = [(want.offset, want.end)]

    @property
    def complete(self) -> bool:
        """Whether every wanted byte is there."""
        return not self._gaps

    def needed(self) -> list[tuple[int, int, int, int]]:
        """(fragment, first block, end block, end block to fetch up to) of what is not there yet."""
        result = []
        unit = self._unit
        for start, stop in self._gaps:
            for fragment in range(start // unit, -(-stop // unit)):
                base = fragment * unit
                first = max(0, start - base) // BLOCK_SIZE
                end = -(-min(unit, stop - base) // BLOCK_SIZE)
                reach = -(-min(unit, max(self._want.reach, stop) - base) // BLOCK_SIZE)
                result.append((fragment, first, end, max(end, reach)))
        return result

    def add(self, extent: Extent, view: memoryview, cache: RamCache) -> None:
        """`extent`, whose data is `view`, may have some of the missing bytes."""
        origin = extent.fragment * self._unit + extent.first * BLOCK_SIZE
        limit = origin + len(view)
        gaps: list[tuple[int, int]] = []
        for start, stop in self._gaps:
            low, high = max(start, origin), min(stop, limit)
            if low >= high:
                gaps.append((start, stop))
                continue
            self._pieces[low] = (high, view[low - origin : high - origin])
            base = extent.fragment * self._unit
            cache.used_by_reader(extent, low - base, high - base)
            if start < low:
                gaps.append((start, low))
            if high < stop:
                gaps.append((high, stop))
        self._gaps = gaps

    def join(self) -> bytes | memoryview:
        """The wanted bytes: a view where one piece has them all, else one copy."""
        if len(self._pieces) == 1:
            return next(iter(self._pieces.values()))[1]
        return b"".join([self._pieces[start][1] for start in sorted(self._pieces)])
