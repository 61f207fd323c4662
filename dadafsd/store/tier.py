"""One directory of fragments: look up, insert, evict, and never an exception for a disk that fails.

Thread-safe: `_lock` guards the index, the counts and what is in use; it is held for microseconds and never across a
system call. Two threads that insert, remove or evict the same record at once may leave the index and the disk of two
minds about it; the disk decides, and the next lookup or eviction of that record puts the index right.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence

from dadafsd.residency import read_resident
from dadafsd.store.counts import TierCounts
from dadafsd.store.files import FAN_OUT, TierFiles
from dadafsd.store.health import Health, State
from dadafsd.store.index import FragmentIndex, Victim, stamp
from dadafsd.store.key_table import Keys
from dadafsd.store.record import (
    DATA_OFFSET,
    HEADER_SIZE,
    UNIT,
    DamagedRecord,
    FragmentKey,
    Stored,
    check_header,
    decode_header,
    encode_header,
    file_mark,
    units,
)
from dadafsd.store.ring import Entries
from dadafsd.store.settings import SYNC_DATA, TierSettings
from dadafsd.store.throttle import ThrottledLog

log = logging.getLogger("dadafsd.store")

Buffer = bytes | bytearray | memoryview
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}
NO_RECORD = {
    errno.ELOOP,
    errno.EISDIR,
    errno.ENXIO,
    errno.ENODEV,
    errno.ESPIPE,
}  # a link, a directory, a pipe or the like
FULL_PAUSE = 1.0  # seconds without inserts after the disk was found full
STALL = 10.0  # seconds after which a call to the disk hangs
BATCH = 32  # records evicted under one hold of the lock
_MOST_CONDEMNED = 65536


class Tier:
    """The tier in `settings.directory`; `pinned()` gives the file marks that must not be evicted."""

    def __init__(
        self, settings: TierSettings, files: TierFiles, pinned: Callable[[], Container[int]] = frozenset
    ) -> None:
        self.settings = settings
        self.files = files
        self.reading = Health()
        self.writing = Health()
        self.counts = TierCounts()
        self.index = FragmentIndex()
        self.wake = threading.Event()  #: set when there is work for the housekeeper
        self._pinned = pinned
        self._lock = threading.Lock()
        self._in_use: dict[int, int] = {}
        self._condemned: set[int] = set()  # damaged, and could not be deleted
        self._passed: deque[str] = deque()  # exports of misses that are still to be counted
        self._incoming = 0  # units of inserts on their way
        self._full_until = 0.0
        self._throttled = ThrottledLog(log)
        self._ongoing: dict[int, float] = {}  # when each thread began its call to the disk
        self._next_look = 0.0

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def state(self) -> State:
        """The worse of reading and writing."""
        return max(self.reading.state, self.writing.state)

    @property
    def used(self) -> int:
        """Bytes on disk that the index knows of, headers included."""
        return self.index.units * UNIT

    def totals(self) -> TierCounts:
        """A copy of the counts, all of one moment."""
        with self._lock:
            self._count_passed()
            return self.counts.copy()

    # --- reading -----------------------------------------------------------------------------------------------

    def lookup(self, key: FragmentKey) -> Stored | None:
        """The record of `key` with a sound header and its full length, or None; whatever else lies there is deleted."""
        digest = key.digest
        if not self._may(self.reading) or digest in self._condemned:
            with self._lock:
                self.counts.bypassed += 1
                self.counts.note(key.export, "bypass")
            return None
        fd = -1
        self._ongoing[threading.get_ident()] = time.monotonic()
        try:
            fd = self.files.open_record(digest)
            checksums = check_header(os.pread(fd, HEADER_SIZE, 0), key)
            if os.fstat(fd).st_size != DATA_OFFSET + key.length:
                raise DamagedRecord("data cut short")
        except (OSError, DamagedRecord) as error:
            if fd >= 0:
                os.close(fd)
            with self._lock:
                self.counts.note(key.export, "miss")
            self._lookup_failed(digest, error)
            return None
        finally:
            del self._ongoing[threading.get_ident()]
        self._went_well(self.reading)
        with self._lock:
            return self._hit(key, fd, checksums)

    def lookup_at_once(self, key: FragmentKey) -> Stored | None:
        """`lookup` for the loop: a record that the kernel has in memory, or None where there is none. Counts hits only.

        Raises `BlockingIOError` where it would have to wait or something is wrong, which `lookup` then deals with.
        """
        if self.reading.state is not State.NORMAL or key.digest in self._condemned:
            raise BlockingIOError
        try:
            fd = self.files.open_record_at_once(key.digest)
        except FileNotFoundError:
            return None
        try:
            header = bytearray(HEADER_SIZE)
            read_resident(fd, header, 0, in_memory=self.files.in_memory)
            checksums = check_header(header, key)
            # The lock is held for longer while the index grows.
            if os.fstat(fd).st_size != DATA_OFFSET + key.length or not self._lock.acquire(blocking=False):
                raise BlockingIOError
        except (OSError, DamagedRecord):
            os.close(fd)
            raise BlockingIOError from None
        try:
            return self._hit(key, fd, checksums)
        finally:
            self._lock.release()

    def knows_missing(self, key: FragmentKey) -> bool:
        """Whether the index, which must know all (`Housekeeper.scanned`), has no such record; for the loop."""
        if self.reading.state is not State.NORMAL or not self._lock.acquire(blocking=False):
            return False
        try:
            return key.digest not in self.index
        finally:
            self._lock.release()

    def passed_by(self, key: FragmentKey) -> None:
        """Count a miss that the loop found; where the lock is taken just now, the next one who has it counts."""
        self._passed.append(key.export)
        if self._lock.acquire(blocking=False):
            try:
                self._count_passed()
            finally:
                self._lock.release()

    def _count_passed(self) -> None:
        while self._passed:
            self.counts.misses += 1
            self.counts.note(self._passed.popleft(), "miss")

    def _hit(self, key: FragmentKey, fd: int, checksums: list[int]) -> Stored:
        """Count what was found; the lock is held."""
        digest = key.digest
        self.counts.hits += 1
        self.counts.hit_bytes += key.length
        self.counts.note(key.export, "hit")
        self._in_use[digest] = self._in_use.get(digest, 0) + 1
        if not self.index.touch(digest):  # not scanned yet
            self.index.adopt(digest, self._mark(key), units(key.length), stamp(time.time()))
        return Stored(fd, DATA_OFFSET, key.length, checksums, self.name, self.settings.kind, digest, self._release)

    def _release(self, digest: int) -> None:
        with self._lock:
            left = self._in_use.get(digest, 1) - 1
            if left:
                self._in_use[digest] = left
            else:
                self._in_use.pop(digest, None)

    def _lookup_failed(self, digest: int, error: OSError | DamagedRecord) -> None:
        if isinstance(error, DamagedRecord):
            self.discard(digest, str(error))
        elif error.errno in (errno.ENOENT, errno.ENOTDIR):
            with self._lock:
                self.counts.misses += 1
                self.index.remove(digest)
        elif error.errno in NO_RECORD:
            self.discard(digest, "not a file")
        else:
            self._io_error(self.reading, "read", error)

    def damaged(self, key: FragmentKey) -> None:
        """A reader found a wrong checksum in the data of `key`: delete the record."""
        self.discard(key.digest, "data damaged")

    def discard(self, digest: int, why: str) -> None:
        """Delete a record that is not what it should be, and say so."""
        with self._lock:
            self.counts.damaged += 1
        name = f"{digest:016x}"
        self._throttled.warning(
            "damaged", f"tier {self.name}: record {name} in {self.files.directory} is dropped: {why}"
        )
        self.remove(digest)

    def remove(self, digest: int) -> bool:
        """Delete a record; whether it was there. One that cannot be deleted is never served again."""
        try:
            found = self.files.remove_record(digest)
        except OSError as error:
            if len(self._condemned) < _MOST_CONDEMNED:
                self._condemned.add(digest)
            else:
                self.reading.take_down(time.monotonic())
            if error.errno not in NO_RECORD:
                self._io_error(self.writing, "delete", error)
            return False
        with self._lock:
            self.index.remove(digest)
        return found

    # --- writing -----------------------------------------------------------------------------------------------

    def insert(self, key: FragmentKey, data: Buffer, checksums: Sequence[int]) -> bool:
        """Keep a fragment; False where it was not kept, with the reason counted in `counts.refused`."""
        if memoryview(data).nbytes != key.length:
            return self.refuse("malformed", key.export)
        if not self._may(self.writing):
            return self.refuse("down", key.export)
        if self._full_until and time.monotonic() < self._full_until:
            return self.refuse("disk full", key.export)
        try:
            header = encode_header(key, checksums)
        except ValueError:
            return self.refuse("malformed", key.export)
        self._ongoing[threading.get_ident()] = time.monotonic()
        try:
            return self._write(key, header, data)
        finally:
            del self._ongoing[threading.get_ident()]

    def _write(self, key: FragmentKey, header: bytes, data: Buffer) -> bool:
        need = units(key.length)
        reason = self._make_room(need)
        if reason:
            return self.refuse(reason, key.export)
        try:
            self.files.write_record(key.digest, (header, data), self.settings.sync == SYNC_DATA)
        except OSError as error:
            return self._insert_failed(error, key.export)
        finally:
            with self._lock:
                self._incoming -= need
        self._inserted(key)
        return True

    def _inserted(self, key: FragmentKey) -> None:
        self._went_well(self.writing)
        with self._lock:
            self.counts.inserted += 1
            self.counts.inserted_bytes += key.length
            self._condemned.discard(key.digest)
            self.index.insert(key.digest, self._mark(key), units(key.length), stamp(time.time()))
            above = self.used > self.settings.high * self.settings.size
        if above:
            self.wake.set()

    @staticmethod
    def _mark(key: FragmentKey) -> int:
        return file_mark(key.export, key.version.identity)

    def refuse(self, reason: str, export: str) -> bool:
        """Count a fragment that was not kept; False, for the caller to hand on."""
        with self._lock:
            return self.counts.refuse(reason, export)

    def _insert_failed(self, error: OSError, export: str) -> bool:
        if error.errno in NO_SPACE:
            self._full_until = time.monotonic() + FULL_PAUSE
            self.wake.set()
            self._throttled.warning(
                "full", f"tier {self.name}: {self.files.directory} is full, fragments pass through uncached"
            )
            return self.refuse("disk full", export)
        self._io_error(self.writing, "write", error)
        return self.refuse("error", export)

    # --- making room -------------------------------------------------------------------------------------------

    def _make_room(self, need: int) -> str:
        """Reserve `need` units (then `_incoming` holds them), evicting where it must; else the reason why not."""
        limit = self.settings.size // UNIT
        for _ in range(4):
            spare = self._spare()
            with self._lock:
                excess = self.index.units + self._incoming + need - limit
                lacking = need + self._incoming - spare
                if excess <= 0 and lacking <= 0:
                    self._incoming += need
                    return ""
            if not self.evict(max(excess, min(lacking, 8 * need))):
                break
        return "pinned" if excess > 0 else "floor"

    def _spare(self) -> int:
        """Units that the file system has free above the floor."""
        try:
            return (self.files.free() - self.settings.floor) // UNIT
        except OSError:
            return self.settings.size // UNIT  # writing will tell

    def evict_to_floor(self) -> None:
        """Evict what the file system's free space falls short of the floor, and a little more where it is full."""
        lacking = -self._spare()
        if self._full_until:
            lacking = max(lacking, int((self.settings.high - self.settings.low) * self.settings.size) // UNIT)
            self._full_until = 0.0
        if lacking > 0:
            self.evict(lacking)

    def evict(self, wanted: int) -> int:
        """Evict at least `wanted` units where possible; the units evicted.

        What is being read goes only where nothing else is left, and its readers keep what they have open.
        """
        done = 0
        pinned = self._pinned()
        while done < wanted:
            with self._lock:
                victims = self._victims(wanted - done, pinned, self._in_use) or self._victims(wanted - done, pinned, ())
            if not victims:
                break
            done += sum(victim.units for victim in victims)
            for victim in victims:
                self._delete(victim)
        return done

    def _victims(self, wanted: int, pinned: Container[int], in_use: Container[int]) -> list[Victim]:
        victims: list[Victim] = []
        while wanted > 0 and len(victims) < BATCH:
            victim = self.index.evict(lambda key, file: key in in_use or file in pinned)
            if victim is None:
                break
            victims.append(victim)
            wanted -= victim.units
            self.counts.evicted += 1
            self.counts.evicted_bytes += victim.units * UNIT
            self.counts.evicted_unread += not victim.read
            self.counts.evicted_in_use += victim.key in self._in_use
        return victims

    def _delete(self, victim: Victim) -> None:
        if not victim.read:
            self._count_wasted(victim.key)
        try:
            self.files.remove_record(victim.key)
        except OSError as error:
            self._io_error(self.writing, "delete", error)

    def _count_wasted(self, digest: int) -> None:
        """Whose fragment goes unread is known to its header only: the index has no room for it."""
        with contextlib.suppress(OSError, DamagedRecord):
            export = decode_header(self.files.read_header(digest)[0])[0].export
            with self._lock:
                self.counts.note(export, "wasted")

    # --- a file, or everything ---------------------------------------------------------------------------------

    def held(self, mark: int) -> int:
        """Bytes on disk of the fragments of a file mark that the index knows of."""
        with self._lock:
            return self.index.of_file(mark)[1] * UNIT

    def drop_file(self, mark: int) -> int:
        """Delete all fragments of a file mark that the index knows of; how many there were."""
        with self._lock:
            digests, _ = self.index.of_file(mark)
        return self._drop(digests)

    def drop_all(self) -> int:
        """Delete every record, known or not; how many there were."""
        return sum(self._drop(self.files.records(part)) for part in range(FAN_OUT))

    def drop_export(self, export: str) -> int:
        """Delete every record of an export, which takes reading all headers; how many there were."""
        return sum(self._drop(self._of_export(export, part)) for part in range(FAN_OUT))

    def _of_export(self, export: str, part: int) -> list[int]:
        return [key.digest for key in self.keys(part) if key.export == export]

    def keys(self, part: int) -> Iterator[FragmentKey]:
        """The keys of all records with a sound header in one of the FAN_OUT directories."""
        for digest in self.files.records(part):
            with contextlib.suppress(OSError, DamagedRecord):
                yield decode_header(self.files.read_header(digest)[0])[0]

    def _drop(self, digests: Iterable[int]) -> int:
        dropped = sum(self.remove(digest) for digest in digests)
        with self._lock:
            self.counts.removed += dropped
        return dropped

    # --- the index, for the housekeeper -------------------------------------------------------------------------

    def take_over(self, index: FragmentIndex) -> None:
        """Use the index of an earlier life; what came since the tier was opened is added to it."""
        with self._lock:
            for entries in self.index.state():
                for key, file, info in zip(*(values.tolist() for values in entries), strict=True):
                    index.insert_as(key, file, info)
            self.index = index

    def adopt(self, digest: int, mark: int, size: int, when: int) -> None:
        """A record of `size` units was found on disk."""
        with self._lock:
            self.index.adopt(digest, mark, size, when)

    def forget(self, digest: int) -> None:
        """A record was found missing."""
        with self._lock:
            self.index.remove(digest)

    def sorted_keys(self) -> Keys:
        """Digests of all records that the index knows of, ascending."""
        with self._lock:
            return self.index.sorted_keys()

    def queues(self) -> tuple[Entries, Entries]:
        """Copies of the queues, for a snapshot."""
        with self._lock:
            return self.index.state()

    def order_by_age(self) -> None:
        """Put what was adopted in the order in which it was written."""
        with self._lock:
            self.index.order_by_age(stamp(time.time()))

    # --- faults ------------------------------------------------------------------------------------------------

    def _may(self, health: Health) -> bool:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + STALL / 10
            self._look_for_stalls(now)
        return health.state is State.NORMAL or health.allowed(now)

    def _look_for_stalls(self, now: float) -> None:
        """A disk that hangs is down: the threads that wait for it wait, no others join them."""
        if not any(now - began > STALL for began in list(self._ongoing.values())):
            return
        self._throttled.warning(
            "stall",
            f"tier {self.name}: {self.files.directory} has not answered for {STALL:g} s,"
            " fragments pass through uncached",
        )
        with self._lock:
            self.reading.take_down(now)
            self.writing.take_down(now)

    def _went_well(self, health: Health) -> None:
        if health.state is not State.NORMAL:
            before = health.state
            with self._lock:
                health.succeeded()
            if health.state is not before:
                self._report(health)

    def _io_error(self, health: Health, doing: str, error: OSError) -> None:
        """Count an error of the disk and judge the tier by it; a lack of descriptors is not the disk's fault."""
        if error.errno == errno.ESHUTDOWN:  # our own: the tier was closed just now
            return
        self._throttled.warning(
            f"{doing} {error.errno}",
            f"tier {self.name}: cannot {doing} in {self.files.directory}: {error.strerror or error}",
        )
        if error.errno in NO_DESCRIPTORS:
            return
        now = time.monotonic()
        with self._lock:
            self.counts.errors += 1
            before = health.state
            health.failed(now)
            if error.errno == errno.EROFS:
                health.take_down(now)
        if health.state is not before:
            self._report(health)

    def lost(self) -> None:
        """The directory is gone (deleted by hand, unmounted): pass through until it is back."""
        now = time.monotonic()
        self._throttled.warning(
            "lost", f"tier {self.name}: {self.files.directory} is gone, fragments pass through uncached"
        )
        with self._lock:
            self.reading.take_down(now)
            self.writing.take_down(now)

    def writing_down_too(self) -> None:
        """Nothing is written to a disk that cannot be read."""
        if self.writing.state is not State.DOWN:
            with self._lock:
                self.writing.take_down(time.monotonic())

    def probed(self, health: Health, error: OSError | None) -> None:
        """The housekeeper tried the disk."""
        before = health.state
        with self._lock:
            if error is None:
                health.succeeded()
            else:
                health.failed(time.monotonic())
        if health.state is not before:
            self._report(health)

    def _report(self, health: Health) -> None:
        what = "reading" if health is self.reading else "writing"
        log.info("tier %s: %s is %s", self.name, what, health.state.name.lower())
