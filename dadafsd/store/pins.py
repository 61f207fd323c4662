"""Pins: files that eviction leaves alone until a given time (sans-IO; times are seconds since the epoch).

A pin names a path prefix of an export and the files (device, inode) that it covers. The store knows files only by
device and inode, so the head tells it which files lie below a pinned path: when pinning, and with each open.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import msgspec
from xxhash import xxh3_64_digest

from dadafsd.store.record import file_mark

Identity = tuple[int, int]
_MAGIC = b"DADAPIN1"


class Pin(msgspec.Struct):
    """`path` (b"" is the whole export) and everything below it, until `until`."""

    export: str
    path: bytes
    until: float
    files: set[Identity] = msgspec.field(default_factory=set)

    def covers(self, export: str, path: bytes) -> bool:
        """Whether `path` is the pinned path or lies below it."""
        return export == self.export and (not self.path or path == self.path or path.startswith(self.path + b"/"))


class ClockSteps:
    """Finds steps of the wall clock by comparing it with one that only runs."""

    #: Less than this, in seconds, is a clock being set right, not a step.
    LEAST = 60.0

    def __init__(self) -> None:
        self._offset: float | None = None

    def step(self, wall: float, running: float) -> float:
        """By how many seconds the wall clock stepped since the last call (negative: back), 0.0 for no step."""
        offset = wall - running
        change = 0.0 if self._offset is None else offset - self._offset
        self._offset = offset
        return change if abs(change) > self.LEAST else 0.0


class _Saved(msgspec.Struct):
    serial: int
    pins: list[Pin]


class Pins:
    """All pins. Thread-safe. `serial` grows with every change, so that the newest of several copies can be told."""

    def __init__(self) -> None:
        self.serial = 0
        self._pins: dict[tuple[str, bytes], Pin] = {}
        self._marks: frozenset[int] = frozenset()
        self._stale_at = 0.0
        self._lock = threading.Lock()

    def add(self, export: str, path: bytes, until: float, files: Iterable[Identity]) -> None:
        """Pin; a pin of the same path is prolonged or shortened, and keeps its files."""
        with self._lock:
            pin = self._pins.setdefault((export, path), Pin(export, path, until))
            pin.until = until
            pin.files.update(files)
            self._changed()

    def remove(self, export: str, path: bytes) -> bool:
        """Unpin; whether it was pinned."""
        with self._lock:
            found = self._pins.pop((export, path), None) is not None
            if found:
                self._changed()
            return found

    def shift(self, seconds: float) -> None:
        """The clock stepped by so much: what was pinned for an hour stays so for what is left of it."""
        with self._lock:
            for pin in self._pins.values():
                pin.until += seconds
            if self._pins:
                self._changed()

    def seen(self, export: str, path: bytes, file: Identity, now: float) -> bool:
        """A file was opened under `path`: pins that cover it hold it from now on. Whether that changed anything."""
        if not self._pins:
            return False
        with self._lock:
            covering = [
                pin
                for pin in self._pins.values()
                if pin.until > now and file not in pin.files and pin.covers(export, path)
            ]
            for pin in covering:
                pin.files.add(file)
            if covering:
                self._changed()
            return bool(covering)

    def current(self, now: float) -> list[Pin]:
        """The pins that have not expired; those that have are forgotten."""
        with self._lock:
            expired = [place for place, pin in self._pins.items() if pin.until <= now]
            for place in expired:
                del self._pins[place]
            if expired:
                self._changed()
            return list(self._pins.values())

    def marks(self, now: float) -> frozenset[int]:
        """The index's marks of all files pinned at `now`."""
        if not self._pins and not self._marks:
            return self._marks
        with self._lock:
            if now >= self._stale_at:
                live = [pin for pin in self._pins.values() if pin.until > now]
                self._marks = frozenset(file_mark(pin.export, file) for pin in live for file in pin.files)
                self._stale_at = min((pin.until for pin in live), default=float("inf"))
            return self._marks

    def _changed(self) -> None:
        self.serial += 1
        self._stale_at = 0.0

    def encode(self) -> bytes:
        """All pins, with a checksum."""
        with self._lock:
            body = msgspec.msgpack.encode(_Saved(self.serial, list(self._pins.values())))
        return _MAGIC + xxh3_64_digest(body) + body

    def decode(self, data: bytes) -> bool:
        """Take over what `encode` gave, if it is newer than what is here; anything damaged is ignored."""
        head, body = data[:16], data[16:]
        if head != _MAGIC + xxh3_64_digest(body):
            return False
        try:
            saved = msgspec.msgpack.decode(body, type=_Saved)
        except msgspec.MsgspecError:
            return False
        with self._lock:
            if saved.serial <= self.serial:
                return False
            self._pins = {(pin.export, pin.path): pin for pin in saved.pins}
            self.serial, self._stale_at = saved.serial, 0.0
        return True
