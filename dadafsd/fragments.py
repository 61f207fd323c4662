"""Fragments of open files, from memory, store or origin, each fetched once however many want it.

A fragment belongs to one version of one file. Around each read of the origin the file is looked at before
and after; only where both looks give the version asked for are the bytes used, so that no fragment mixes
two versions. What memory or the store holds for that version is right without asking the origin at all.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import msgspec
import trio

from dadafs.wire.messages import BLOCK_SIZE, Attr, Version
from dadafsd.counters import MEMORY, Counters
from dadafsd.hot_reads import HotReads
from dadafsd.open_files import OpenFile, OpenFiles
from dadafsd.origin_pool import OriginPool, Ticket
from dadafsd.origin_read import Clock, Piece, read_piece
from dadafsd.policy.admission import Admission, Take
from dadafsd.policy.keeping import NEVER, Keeping
from dadafsd.policy.recent import Recent
from dadafsd.sites import Failure, Site
from dadafsd.store.record import FragmentKey
from dadafsd.store_access import Record, StoreAccess
from dadafsd.write_behind import Place, Waiting


class Found(msgspec.Struct, frozen=True):
    """Where some blocks, from `first` on, of a fragment are: in `piece` (memory) or `record` (the store)."""

    tier: str
    settled: bool
    checksums: list[int]
    first: int
    piece: Piece | None = None
    record: Record | None = None


class Wanted(msgspec.Struct, frozen=True):
    """`count` blocks from `first` on of a fragment of `length` bytes that begins at `offset` of its file."""

    key: FragmentKey
    offset: int
    length: int
    first: int
    count: int
    prefetch: bool
    verify: bool

    @property
    def span(self) -> tuple[int, int]:
        """Where the blocks lie in the fragment: offset and length in bytes."""
        start = self.first * BLOCK_SIZE
        return start, min(self.count * BLOCK_SIZE, self.length - start)


class _Flight:
    """A fetch under way; whoever else wants the same waits for it."""

    __slots__ = ("done", "error", "place", "prefetch", "result", "shared", "ticket")

    def __init__(self, prefetch: bool) -> None:
        self.prefetch = prefetch  # nobody has waited for it so far
        self.shared = False  # more than one wanted it
        self.done = trio.Event()
        self.ticket = Ticket()
        self.place: Place | None = None  # in the queue of writes, while it waits for one
        self.result: Found | Attr | None = None
        self.error: OSError | None = None


class Fragments:
    """The fragments of one export. `memory` is shared by all exports of the head."""

    def __init__(
        self,
        files: OpenFiles,
        pool: OriginPool,
        memory: Recent[Piece],
        store: StoreAccess | None,
        clock: Clock,
        counters: Counters,
        *,
        export: str,
        fragment_size: int,
        unsettled_seconds: float,
        spawn: Callable[..., object],
        hot_reads: HotReads | None = None,
    ) -> None:
        self.export = export
        self.fragment_size = fragment_size
        self.admission = Admission()
        self.keeping = Keeping()
        self.memory = memory
        self.hot_reads = HotReads() if hot_reads is None else hot_reads
        self._files = files
        self._pool = pool
        self._store = store
        self._clock = clock
        self._counters = counters
        self._unsettled_seconds = unsettled_seconds
        self._spawn = spawn
        self._flights: dict[object, _Flight] = {}

    def wanted(self, version: Version, index: int, first: int, count: int, *, prefetch: bool, verify: bool) -> Wanted:
        """The request in bytes. Raises `Failure(EINVAL)` where it lies outside the fragment or the file."""
        offset = index * self.fragment_size
        length = min(self.fragment_size, version.size - offset)
        if index < 0 or first < 0 or count <= 0 or length <= 0 or first * BLOCK_SIZE >= length:
            raise Failure(errno.EINVAL, Site.REQUEST_INVALID, "blocks outside the file")
        blocks = -(-length // BLOCK_SIZE)
        key = FragmentKey(self.export, version, index, self.fragment_size)
        try:
            _ = key.packed  # also what names the record, so the work is not lost
        except ValueError:
            raise Failure(errno.EINVAL, Site.REQUEST_INVALID, "no version that a file can have") from None
        return Wanted(key, offset, length, first, min(count, blocks - first), prefetch, verify)

    def at_hand(self, want: Wanted) -> Found | None:
        """What can be answered without waiting: memory, or a record that the kernel has in memory."""
        found = self._at_hand(want, self._store.at_hand if self._store is not None else None)
        if found is not None and found.settled:
            if found.piece is not None:
                self.hot_reads.keep_piece(want.key, found.piece, found.tier)
            elif found.record is not None and self._store is not None:
                self._store.sent_hot(want.key, found.record)
                if want.count * BLOCK_SIZE >= want.length:
                    self._store.open_ahead(want.key)
                else:
                    self._store.open_around(want.key)
        return found

    def _hot(self, want: Wanted) -> Found | None:
        """The same without looking for a record that is not open yet."""
        return self._at_hand(want, self._store.hot if self._store is not None else None)

    def _at_hand(self, want: Wanted, find: Callable[[FragmentKey], Record | None] | None) -> Found | None:
        if want.verify:
            return None
        piece = self.memory.get(want.key, trio.current_time())
        if piece is not None:
            return Found(MEMORY, piece.settled, piece.checksums, 0, piece=piece)
        record = find(want.key) if find is not None else None
        if record is None or not record.resident(*want.span):
            return None
        return _in_store(record)

    async def find(self, file: OpenFile, want: Wanted) -> Found | Attr:
        """The blocks wanted, or the file's attributes where it is in another state than the one asked for.

        Raises `Failure` and other `OSError`.
        """
        file.note_read(want.key.version)
        found = self._hot(want)
        if found is not None:
            return found
        blocks = -(-want.length // BLOCK_SIZE)
        if want.key in self._flights or self.admission.takes_whole(want.count, blocks, prefetch=want.prefetch):
            return await self._whole(file, want)
        record = await self._in_store(want)
        if record is not None:
            return record
        found = self._hot(want)  # another reader's fetch may have ended while we looked
        if found is not None:
            return found
        take = self.admission.decide(want.key, want.count, blocks, prefetch=want.prefetch)
        part = await self._shared(
            (want.key, want.first, want.count), want, lambda flight: self._part(file, want, flight)
        )
        if take is Take.PART_THEN_FILL and isinstance(part, Found):
            self._spawn(self._fill, file, want)
        return part

    async def _in_store(self, want: Wanted) -> Found | None:
        if self._store is None:
            return None
        record = await self._store.lookup(want.key, prefetch=want.prefetch, verify=want.verify)
        if record is None:
            return None
        if not await self._store.make_resident(record, *want.span, prefetch=want.prefetch):
            await self._store.damaged(want.key)
            return None
        return _in_store(record)

    async def _whole(self, file: OpenFile, want: Wanted) -> Found | Attr:
        """The fragment that the blocks are in; a request that wants it verified does not join one that does not."""
        key: object = (want.key, "verified") if want.verify else want.key
        while True:
            found = await self._shared(key, want, lambda flight: self._fetch(file, want, flight))
            if isinstance(found, Attr) or found.record is None or self._store is None:
                return found
            # Whoever led made its own blocks resident, which need not be ours.
            if await self._store.make_resident(found.record, *want.span, prefetch=want.prefetch):
                return found
            await self._store.damaged(want.key)

    async def _fill(self, file: OpenFile, want: Wanted) -> None:
        try:
            await self._whole(file, Wanted(want.key, want.offset, want.length, 0, 1, True, False))
        except OSError:
            self._counters.events["fills_failed"] += 1

    async def _shared(self, key: object, want: Wanted, fetch: Callable[[_Flight], object]) -> Found | Attr:
        """`fetch`, once for everybody who wants `key` at the moment; a leader that is cancelled hands on."""
        while True:
            flight = self._flights.get(key)
            if flight is None:
                return await self._lead(key, fetch, want.prefetch)
            self._counters.events["joined_fetches"] += 1
            flight.shared = True
            late = flight.prefetch and not want.prefetch
            if not want.prefetch:
                flight.prefetch = False
                self._pool.promote(flight.ticket)
                if flight.place is not None:
                    flight.place.hurry()
            await flight.done.wait()
            if flight.error is not None:
                raise flight.error
            if flight.result is not None:
                if late and isinstance(flight.result, Found):
                    self._counters.late[self.export, flight.result.tier] += 1
                return flight.result

    async def _lead(self, key: object, fetch: Callable[[_Flight], object], prefetch: bool) -> Found | Attr:
        flight = self._flights[key] = _Flight(prefetch)
        try:
            flight.result = await fetch(flight)  # type: ignore[misc]
        except OSError as error:
            flight.error = error
            raise
        finally:
            del self._flights[key]
            flight.done.set()
        assert flight.result is not None
        return flight.result

    async def _fetch(self, file: OpenFile, want: Wanted, flight: _Flight) -> Found | Attr:
        """The whole fragment, from the store or from the origin; one caller at a time."""
        record = await self._in_store(want)
        if record is not None:
            return record
        after = self.keeping.after_reads(file.path)
        if self._store is not None and after != NEVER:
            with self._store.writes.place(want.length) as flight.place:
                await flight.place.wait(prefetch=flight.prefetch)
                piece = await self._read(file, want, want.offset, want.length, flight)
                if not isinstance(piece, Attr) and self._remember(want.key, piece):
                    waiting = Waiting(want.key, piece.data, piece.checksums, after)
                    if not flight.place.offer(waiting, shared=flight.shared):
                        self._counters.bypassed[self.export] += 1
        else:
            piece = await self._read(file, want, want.offset, want.length, flight)
            if not isinstance(piece, Attr) and self._remember(want.key, piece) and self._store is not None:
                self._bypassed("not_admitted")
        return piece if isinstance(piece, Attr) else Found("origin", piece.settled, piece.checksums, 0, piece=piece)

    async def _part(self, file: OpenFile, want: Wanted, flight: _Flight) -> Found | Attr:
        start, length = want.span
        piece = await self._read(file, want, want.offset + start, length, flight)
        if isinstance(piece, Attr):
            return piece
        self._bypassed("bypassed")
        return Found("origin", piece.settled, piece.checksums, want.first, piece=piece)

    async def _read(self, file: OpenFile, want: Wanted, offset: int, length: int, flight: _Flight) -> Piece | Attr:
        held = await self._files.descriptor(file, prefetch=flight.prefetch)
        result = await self._pool.run(
            read_piece,
            held,
            want.key.version,
            offset,
            length,
            self._clock,
            prefetch=flight.prefetch,
            ticket=flight.ticket,
        )
        if isinstance(result, Attr):
            file.attr = result
        else:
            self._counters.origin[self.export, "reads"] += 1
            self._counters.origin[self.export, "bytes"] += length
        return result

    def opened(self, path: bytes, identity: tuple[int, int]) -> None:
        """A file was opened: where its path is pinned, its fragments are from now on."""
        if self._store is not None and self._store.pinned:
            self._spawn(self._store.opened, self.export, path, identity)

    def forget(self, identity: tuple[int, int]) -> None:
        """Nothing that was read of this file so far may be kept."""
        self.memory.discard_where(lambda key: key.export == self.export and key.version.identity == identity)
        if self._store is not None:
            self._spawn(self._store.forget, self.export, identity)

    def keep_small(self, key: FragmentKey, piece: Piece) -> None:
        """A small file was read whole when it was opened: the next reader finds it in memory."""
        self._counters.origin[self.export, "reads"] += 1
        self._counters.origin[self.export, "bytes"] += len(piece.data)
        expires = float("inf") if piece.settled else trio.current_time() + self._unsettled_seconds
        self.memory.put(key, piece, len(piece.data), expires)

    def keep_now(self, key: FragmentKey, piece: Piece, path: bytes) -> None:
        """Put a fragment into the store that was kept back because it had been read too rarely."""
        if self._store is not None and piece.settled and self.keeping.after_reads(path) > 1:
            self._store.writes.offer(Waiting(key, piece.data, piece.checksums))

    def _remember(self, key: FragmentKey, piece: Piece) -> bool:
        """Keep a fragment in memory, as long as it may be; whether it may be kept for good."""
        if piece.settled:
            self.memory.put(key, piece, len(piece.data))
            return True
        self._bypassed("unsettled")
        expires = trio.current_time() + self._unsettled_seconds
        self.memory.put(key, piece, len(piece.data), expires)
        return False

    def _bypassed(self, event: str) -> None:
        """A read was answered from the origin and what it read is not kept."""
        self._counters.events[event] += 1
        self._counters.bypassed[self.export] += 1


def _in_store(record: Record) -> Found:
    return Found(record.stored.tier, True, record.checksums, 0, record=record)
