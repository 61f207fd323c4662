"""The slow side of a tier, in a thread of its own: snapshot, scan, watermarks, the way back from a fault.

The tier serves from its first moment without any of this. Every step can be called by hand, which is what tests do.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import threading
import time

import numpy as np

from dadafsd.store import snapshot
from dadafsd.store.files import FAN_OUT, DirectoryInUse
from dadafsd.store.health import State
from dadafsd.store.index import FragmentIndex, stamp
from dadafsd.store.record import DATA_OFFSET, UNIT, DamagedRecord, decode_header, file_mark, units
from dadafsd.store.tier import NO_DESCRIPTORS, NO_RECORD, Tier

log = logging.getLogger("dadafsd.store")

TICK = 1.0  # seconds between rounds
SNAPSHOT_INTERVAL = 600.0
SNAPSHOT_FILE = "index"
_SCAN_PAUSE = 0.005  # seconds of rest after each directory that the scan read
_SCAN_STRIDE = 64  # records looked at between two rests


class Housekeeper:
    """Looks after one tier; `start` runs it in a thread, `stop` ends that and saves a last snapshot."""

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.scanned = False  #: whether the index knows everything that lies in the directory
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.restored = False  #: whether the snapshot was looked at
        self._ordered = False  # whether the index came with an order of eviction
        self._saved_at = time.monotonic()

    def start(self) -> None:
        """Begin to run in the background."""
        self._thread = threading.Thread(target=self._run, name=f"tier-{self.tier.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, save the index, give up the directory."""
        self._stopping.set()
        self.tier.wake.set()
        if self._thread is not None:
            self._thread.join()
        self.save()
        self.tier.files.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if not self.restored:
                    self.restore()
                if not self.scanned and self.tier.state is not State.DOWN:
                    self.scan()
                self.round()
            except Exception:
                log.exception("tier %s: housekeeping failed, and goes on", self.tier.name)
            self.tier.wake.wait(TICK)
            self.tier.wake.clear()

    def round(self) -> None:
        """Everything that is due now."""
        self.check()
        self.evict()
        if time.monotonic() - self._saved_at >= SNAPSHOT_INTERVAL:
            self.save()

    # --- eviction ----------------------------------------------------------------------------------------------

    def evict(self) -> None:
        """Above the high watermark, or the free-space floor missed: evict to the low one, and to the floor."""
        tier, settings = self.tier, self.tier.settings
        if tier.writing.state is State.DOWN:
            return
        if tier.used > settings.high * settings.size:
            tier.evict(int(tier.used - settings.low * settings.size) // UNIT)
        tier.evict_to_floor()

    # --- the index ---------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Take over the snapshot of the last life, if there is a sound one; the tier may be in use meanwhile."""
        self.restored = True
        try:
            data = self.tier.files.read_file(SNAPSHOT_FILE)
        except OSError:
            return
        queues = snapshot.decode(data) if data else None
        if queues is not None:
            index = FragmentIndex()
            index.restore(*queues)
            self.tier.take_over(index)
            self._ordered = True

    def save(self) -> None:
        """Write the snapshot; a disk that does not take it costs the order of eviction at the next start."""
        self._saved_at = time.monotonic()
        if self.tier.writing.state is State.DOWN or not self.restored:
            return
        try:
            self.tier.files.write_file(SNAPSHOT_FILE, snapshot.encode(*self.tier.queues()))
        except OSError as error:
            log.info("tier %s: no snapshot of the index: %s", self.tier.name, error.strerror or error)

    def scan(self) -> None:
        """Compare the index with the directory: adopt unknown records, forget missing ones, delete damaged ones."""
        known = self.tier.sorted_keys()
        bounds = np.arange(FAN_OUT + 1, dtype=np.float64) / FAN_OUT * 2.0**64
        cuts = np.searchsorted(known, bounds[1:-1].astype(np.uint64))
        for part, expected in enumerate(np.split(known, cuts)):
            if self._stopping.is_set():
                return
            try:
                found = np.fromiter(self.tier.files.records(part), dtype=np.uint64)
            except OSError as error:
                log.info("tier %s: scan stopped: %s", self.tier.name, error.strerror or error)
                return
            self._adopt(np.setdiff1d(found, expected).tolist())
            self._forget(np.setdiff1d(expected, found).tolist())
            if len(found):
                self._stopping.wait(_SCAN_PAUSE)
        if not self._ordered:
            self.tier.order_by_age()
        self.scanned = True
        self.save()

    def _adopt(self, digests: list[int]) -> None:
        for number, digest in enumerate(digests):
            if number % _SCAN_STRIDE == _SCAN_STRIDE - 1 and self._stopping.wait(_SCAN_PAUSE):
                return
            try:
                header, status = self.tier.files.read_header(digest)
                key, _ = decode_header(header)
                if key.digest != digest or status.st_size != DATA_OFFSET + key.length:
                    raise DamagedRecord("data cut short")
            except DamagedRecord as error:
                self.tier.discard(digest, str(error))
            except OSError as error:
                if error.errno in NO_RECORD:
                    self.tier.discard(digest, "not a file")
                elif error.errno in NO_DESCRIPTORS:
                    self._stopping.wait(1.0)
            else:
                mark = file_mark(key.export, key.version.identity)
                self.tier.adopt(digest, mark, units(key.length), stamp(status.st_mtime))

    def _forget(self, digests: list[int]) -> None:
        """Entries without a record - unless it came since the directory was read."""
        for number, digest in enumerate(digests):
            if number % _SCAN_STRIDE == _SCAN_STRIDE - 1 and self._stopping.wait(_SCAN_PAUSE):
                return
            if not self.tier.files.has_record(digest):
                self.tier.forget(digest)

    # --- faults ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """See whether the directory is still there, and try a tier that is not well.

        A tier that cannot be read holds nothing open, so that an admin can unmount and repair its file system.
        """
        tier = self.tier
        if tier.reading.state is not State.DOWN and not tier.files.still_there():
            tier.lost()
        now = time.monotonic()
        for health in (tier.reading, tier.writing):
            if health.probe_due(now):
                tier.probed(health, self._probe(health is tier.writing))
        if tier.reading.state is State.DOWN:
            tier.writing_down_too()
            tier.files.close()

    def _probe(self, writing: bool) -> OSError | None:
        """Try the disk; what went wrong, if anything did."""
        files = self.tier.files
        try:
            if not files.still_there():
                files.reopen()
                self.scanned = False
            files.probe(writing)
        except OSError as error:
            return error
        except DirectoryInUse as error:
            return OSError(errno.EBUSY, f"used by another running dadafsd (process {error})")
        return None


def with_changes(tier: Tier, **changes: int | float) -> None:
    """Change settings of a running tier (`size`, `high`, `low`, `floor`); raises `UserError`."""
    settings = dataclasses.replace(tier.settings, **changes)  # type: ignore[arg-type]
    settings.check()
    tier.settings = settings
    tier.wake.set()
