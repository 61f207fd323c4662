"""The fragment store as the loop sees it: lookups with a deadline, records kept open; `write_behind` writes.

The store can only help: a lookup that fails or takes too long is a miss.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import trio

from dadafs.checksum import damaged_blocks
from dadafs.wire.messages import DEFAULT_FRAGMENT_SIZE, Version
from dadafsd import long_writes
from dadafsd.counters import Counters
from dadafsd.hot_reads import HotReads
from dadafsd.jobs import Job
from dadafsd.origin_pool import OriginPool
from dadafsd.residency import is_resident, read_resident
from dadafsd.store.record import FragmentKey, Stored
from dadafsd.store.settings import KIND_RAM
from dadafsd.store.store import FragmentStore
from dadafsd.store.verify import Verified
from dadafsd.write_behind import WriteBehind

Result = TypeVar("Result")
log = logging.getLogger(__name__)
#: Records kept open after they were used, so that the next read finds them open: so many at least, at most, and in
#: between a part of the descriptors that there are, and of what the tiers hold (eviction passes over open ones).
HOT_RECORDS = 256
MOST_HOT_RECORDS = 4096
HOT_SHARE = 1 / 16
HOT_SHARE_OF_TIERS = 1 / 4
#: A hot record is closed after this many seconds without use.
HOT_SECONDS = 10.0
#: Records opened ahead of somebody who goes through a file.
OPENED_AHEAD = 8
#: A file is read here and there once pieces of so many fragments were; so many files are remembered.
PIECES = 8
PIECED_FILES = 256
#: One look a block is enough: the kernel reads ahead by more.
RESIDENT_STEP = 64 * 1024
#: A record that is kept open is copied into memory when it is used again after so many seconds: one reader who goes
#: through it piece by piece has used it once.
APART = 5.0
#: How long what is to be forgotten waits for a store that still looks through its tiers, in seconds.
SCAN_PATIENCE = 600.0
#: Records waiting to be copied into memory at most.
PROMOTIONS = 32


class Record:
    """A stored fragment with an open descriptor, closed when the last reference goes."""

    __slots__ = ("checksums", "fd", "found_at", "length", "offset", "promotable", "stored", "used")

    def __init__(self, stored: Stored, now: float) -> None:
        self.stored = stored
        self.fd = stored.fd
        self.offset = stored.offset
        self.length = stored.length
        self.checksums = list(stored.checksums)
        self.used = self.found_at = now
        self.promotable = False  # there is memory that it could be copied into

    def __del__(self) -> None:
        self.stored.close()

    def resident(self, offset: int, length: int) -> bool:
        """Whether bytes from `offset` of the data on are in the page cache; never waits."""
        return is_resident(self.fd, self.offset + offset, length, in_memory=self.stored.kind == KIND_RAM)

    def read_resident(self, buffer: bytearray, position: int) -> int:
        """Fill `buffer` from `position` of the file on; `BlockingIOError` where that would take waiting."""
        return read_resident(self.fd, buffer, position, in_memory=self.stored.kind == KIND_RAM)

    def make_resident(self, offset: int, length: int) -> None:
        """Bring these bytes into the page cache (blocking, for a thread). Raises `OSError`, `EOFError`."""
        start = self.offset + offset
        os.posix_fadvise(self.fd, start, length, os.POSIX_FADV_WILLNEED)
        for position in (*range(start, start + length, RESIDENT_STEP), start + length - 1):
            if not os.pread(self.fd, 1, position):
                raise EOFError(f"the record ends before byte {position}")


class StoreAccess:
    """One head's view of its store."""

    def __init__(
        self,
        store: FragmentStore,
        counters: Counters,
        *,
        queue_limit: int,
        in_memory: Callable[[FragmentKey], tuple[bytes, list[int]] | None] = lambda _: None,
        deadline: float = 5.0,
        hot_records: int = HOT_RECORDS,
        hot_reads: HotReads | None = None,
    ) -> None:
        self.store = store
        self._hot_records = hot_records
        self._hot_reads = HotReads() if hot_reads is None else hot_reads
        self.writes = WriteBehind(store, counters, limit=queue_limit, in_memory=in_memory)
        self._counters = counters
        self._pool = OriginPool("the cache directory", slots=4, deadline=deadline)
        self._copiers = OriginPool("the cache directory (copies)", slots=1, deadline=60.0)
        self._admin = OriginPool("the cache directory (admin)", slots=2, deadline=60.0)
        self.pinned = bool(store.pins())
        self._hot: OrderedDict[FragmentKey, Record] = OrderedDict()
        self._pieces: OrderedDict[tuple[str, Version], int] = OrderedDict()  # read here and there, of the latest files
        self._promoted: dict[FragmentKey, Record] = {}  # waiting to be copied into memory
        self._wake = trio.Event()

    def hot(self, key: FragmentKey) -> Record | None:
        """A record that is open already."""
        record = self._hot.get(key)
        if record is not None:
            now = record.used = trio.current_time()
            self._hot.move_to_end(key)
            if record.promotable and now - record.found_at > APART:
                self._promote_later(key, record)
        return record

    def sent_hot(self, key: FragmentKey, record: Record) -> None:
        """A read was answered from `record`, which is kept open: the next one may be answered without us."""
        if self._hot.get(key) is record:
            waits = record.found_at + APART - trio.current_time()
            self._hot_reads.keep_record(key, record, max(0.0, waits) if record.promotable else -1.0)

    def open_ahead(self, key: FragmentKey) -> None:
        """This whole fragment was read; where the one before is open as well, somebody goes through the file.

        Then the records of the next ones are opened in one go, as far as that needs no waiting: one by one, each costs
        several times as much, and who reads it first is not served by the compiled part.
        """
        if _beside(key, -1) in self._hot and _beside(key, 1) not in self._hot:
            self._open_following(key)

    def open_around(self, key: FragmentKey) -> None:
        """A piece of this fragment was read: where pieces of many were, here and there, the next records are opened."""
        place = key.export, key.version
        pieces = self._pieces[place] = self._pieces.pop(place, 0) + 1
        if len(self._pieces) > PIECED_FILES:
            self._pieces.popitem(last=False)
        if pieces >= PIECES:
            self._open_following(key)

    def _open_following(self, key: FragmentKey) -> None:
        for distance in range(1, OPENED_AHEAD + 1):
            following = _beside(key, distance)
            if following in self._hot:
                continue
            record = self.at_hand(following) if following.length else None
            if record is None:
                return
            self.sent_hot(following, record)

    def at_hand(self, key: FragmentKey) -> Record | None:
        """A record that is open already, or is opened without waiting; for the loop."""
        record = self.hot(key)
        if record is None:
            stored = self.store.lookup_at_once(key)
            if stored is not None:
                record = Record(stored, 0.0)
                self._found(key, record, self.store.promotes(key, stored.tier))
        return record

    async def lookup(self, key: FragmentKey, *, prefetch: bool, verify: bool) -> Record | None:
        """The record of `key`, with its data verified where asked for; None where the store cannot help."""
        record = self.hot(key)
        try:
            if record is None:
                if self.store.surely_missing(key):
                    return None
                stored, again = await self._pool.run(self._look, key, prefetch=prefetch)
                if stored is None:
                    return None
                record = stored
                self._found(key, record, again)
            if verify and not await self._pool.run(_intact, record):
                await self.damaged(key)
                return None
        except OSError as error:
            self._counters.events["store_errors"] += 1
            log.debug("the store failed for %s: %s", key, error)
            return None
        return record

    async def make_resident(self, record: Record, offset: int, length: int, *, prefetch: bool) -> bool:
        """Bring a part of a record into the page cache; False where the disk cannot."""
        if record.resident(offset, length):
            return True
        try:
            await self._pool.run(record.make_resident, offset, length, prefetch=prefetch)
        except (OSError, EOFError) as error:
            self._counters.events["store_errors"] += 1
            log.debug("a record could not be read: %s", error)
            return False
        return True

    async def damaged(self, key: FragmentKey) -> None:
        """A checksum of this record failed: forget it everywhere."""
        self._counters.events["store_damaged"] += 1
        self._close(key)
        try:
            await self._pool.run(self.store.damaged, key)
        except OSError as error:
            log.debug("a damaged record could not be removed: %s", error)

    async def forget(self, export: str, identity: tuple[int, int]) -> None:
        """Nothing that is kept of this file may be."""
        for key in [key for key in self._hot if key.export == export and key.version.identity == identity]:
            self._close(key)
        await self.wait_scanned(SCAN_PATIENCE)
        try:
            await self.call(self.store.evict, export, identity)
        except OSError as error:
            log.warning("export %s: what was read during a long write could not be dropped: %s", export, error)

    async def call(self, function: Callable[..., Result], *args: Any, deadline: float = 60.0) -> Result:
        """A call of the admin's into the store."""
        return await self._admin.run(function, *args, deadline=deadline)

    @property
    def scanned(self) -> bool:
        """Whether the tiers have looked through what an earlier life left in them."""
        return self.store.scanned

    async def wait_scanned(self, patience: float) -> bool:
        """Wait for that, `patience` seconds at most; whether it is so."""
        with trio.move_on_after(patience):
            while not self.scanned:  # noqa: ASYNC110  (a thread scans)
                await trio.sleep(0.05)
        return self.scanned

    async def pin(self, export: str, path: bytes, until: float, files: set[tuple[int, int]]) -> None:
        """Pin files; later opens below `path` pin theirs."""
        await self.call(self.store.pin, export, path, until, files)
        self.pinned = True

    async def opened(self, export: str, path: bytes, identity: tuple[int, int]) -> None:
        """A file was opened while something is pinned."""
        try:
            await self._admin.run(self.store.opened, export, path, identity)
        except OSError as error:
            log.debug("a pin could not be extended: %s", error)

    async def verify(self, sample: float, job: Job) -> None:
        """Check records, reporting to `job`."""
        records = self.store.verify(sample)
        while batch := await self.call(_some, records, deadline=600.0):
            for record in batch:
                job.done += 1
                job.bytes += record.size
                if record.fault:
                    job.problem(f"{record.tier}/{record.record}: {record.fault}")

    def forget_hot(self) -> None:
        """Close every record that is kept open without being sent right now."""
        for key in list(self._hot):
            self._close(key)

    async def run(self) -> None:
        """The tasks of this object; never returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pool.enforce_deadlines)
            nursery.start_soon(self.writes.run)
            nursery.start_soon(self._copiers.enforce_deadlines)
            nursery.start_soon(self._admin.enforce_deadlines)
            nursery.start_soon(self._close_idle)
            nursery.start_soon(self._copy_all)

    def _look(self, key: FragmentKey) -> tuple[Record | None, bool]:
        """The record, and whether it should be copied into memory (blocking, for a thread)."""
        stored = self.store.lookup(key)
        if stored is None:
            return None, False
        return Record(stored, 0.0), self.store.promotes(key, stored.tier)

    def _found(self, key: FragmentKey, record: Record, again: bool) -> None:
        """Keep a record open, and have it copied into memory where it was found `again`."""
        self._keep(key, record)
        record.found_at = record.used
        record.promotable = self.store.has_memory_above(key.export, record.stored.tier)
        if again:
            self._promote_later(key, record)

    def _promote_later(self, key: FragmentKey, record: Record) -> None:
        record.promotable = False
        if len(self._promoted) < PROMOTIONS:
            self._promoted[key] = record
            self._wake.set()

    def _keep(self, key: FragmentKey, record: Record) -> None:
        record.used = trio.current_time()
        self._hot[key] = record
        while len(self._hot) > self._hot_records:
            oldest = next(iter(self._hot))
            if not self._used_meanwhile(oldest):
                self._close(oldest)

    def _used_meanwhile(self, key: FragmentKey) -> bool:
        """Whether the compiled part used this record after we did; it then has its place by that."""
        record = self._hot[key]
        used = trio.current_time() - self._hot_reads.idle(key, record)
        if used < record.used + 0.001:  # no later than we did, as well as two clocks can tell
            return False
        record.used = used
        self._hot.move_to_end(key)
        return True

    def _close(self, key: FragmentKey) -> None:
        """Keep this record open no more; whoever is sending it right now still holds it."""
        record = self._hot.pop(key, None)
        if record is not None:
            self._hot_reads.drop(key, record)

    async def _close_idle(self) -> None:
        while True:
            await trio.sleep(HOT_SECONDS / 4)
            limit = trio.current_time() - HOT_SECONDS
            while self._hot:
                key, record = next(iter(self._hot.items()))
                if record.used > limit:
                    break
                if not self._used_meanwhile(key):
                    self._close(key)
                del record

    async def _copy_all(self) -> None:
        while True:
            while not self._promoted:
                self._wake = trio.Event()
                await self._wake.wait()
            await self._promote(*self._promoted.popitem())

    async def _promote(self, key: FragmentKey, record: Record) -> None:
        try:
            if await self._copiers.run(_copy, self.store, key, record):
                self._counters.events["promoted"] += 1
                self._close(key)  # the next reader finds the copy
        except OSError as error:
            self._counters.events["store_errors"] += 1
            log.debug("not copied into memory: %s", error)


def _beside(key: FragmentKey, distance: int) -> FragmentKey:
    return FragmentKey(key.export, key.version, key.fragment + distance, key.fragment_size)


def hot_records(descriptors: int, capacity: int) -> int:
    """How many records to keep open, of `descriptors` for files and with tiers that hold `capacity` bytes."""
    held = capacity * HOT_SHARE_OF_TIERS / DEFAULT_FRAGMENT_SIZE
    return max(HOT_RECORDS, int(min(MOST_HOT_RECORDS, descriptors * HOT_SHARE, held)))


def _some(records: Iterator[Verified]) -> list[Verified]:
    """A few at a time, so that progress shows; blocking, for a thread."""
    return list(itertools.islice(records, 16))


def _copy(store: FragmentStore, key: FragmentKey, record: Record) -> bool:
    """Copy a record into memory; blocking, for a thread. Damage is left to whoever reads it: he says so."""
    data = os.pread(record.fd, record.length, record.offset)
    if len(data) != record.length or damaged_blocks(data, record.checksums):
        return False
    copied = store.promote(key, data, record.checksums)
    if long_writes.overtaken(key.version):
        store.evict(key.export, key.version.identity)
    return copied


def _intact(record: Record) -> bool:
    data = os.pread(record.fd, record.length, record.offset)
    return len(data) == record.length and not damaged_blocks(data, record.checksums)
