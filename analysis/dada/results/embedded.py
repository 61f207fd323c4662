"""The results store in a directory: one file a record, safe for many processes and for `kill -9`.

    DIRECTORY/v1/ab/abcdef....rec     records; a file's time of modification is when it was last used
    DIRECTORY/v1/runs/ID.json         the runs

A record appears whole (written aside, then renamed) and carries its own checksum, so a reader sees all of it or a miss,
whoever was killed when. Nothing is locked: two writers of one key write the same bytes. A directory was chosen over
SQLite and LMDB because it also works on a shared network file system, where their locking does not.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dada.errors import UserError
from dada.results.atomic_file import TEMPORARY_SUFFIX, write_atomically
from dada.results.keys import checked_key
from dada.results.records import BadRecord, check
from dada.results.store import StoreCounters

DEFAULT_LIMIT = 8 << 30
#: A removal goes on to this part of the limit, so that not every record that is kept has to remove one.
_LOW_WATER = 0.9
_LOOK_EVERY = 1 << 6  # records kept between two looks at the whole directory
_LOOK_AFTER = 1 / 32  # or that part of the limit: sums of each pixel are some 20 MiB a record
_TOUCH_AFTER_S = 3600.0
_ABANDONED_AFTER_S = 3600.0
_SUFFIX = ".rec"


class EmbeddedStore:
    """Records in a directory, at most `limit` bytes of them (checked from time to time, by each writer for all)."""

    def __init__(self, directory: Path, limit: int | None = None) -> None:
        """Raises UserError when the directory cannot be made or written."""
        self.name = str(directory)
        self.counters = StoreCounters()
        self._root = directory / "v1"
        self._runs = self._root / "runs"
        self._limit = limit if limit is not None else _configured_limit()
        self._lock = threading.Lock()
        self._puts = 0
        self._since = 0  # bytes kept since the last look
        try:
            self._runs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the results store {directory} cannot be made: {error.strerror}; use --store") from None
        if not os.access(self._runs, os.W_OK):
            raise UserError(f"the results store {directory} is not writable; use --store DIRECTORY or --no-store")

    def get(self, key: str) -> bytes | None:
        path = self._path(key)
        try:
            record = path.read_bytes()
            check(record)
        except FileNotFoundError:
            self._count(misses=1)
            return None
        except OSError as error:
            self._count(misses=1, failures=1, reason=str(error))
            return None
        except BadRecord:
            self._count(misses=1, damaged=1)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        self._count(hits=1)
        _touch(path)
        return record

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        found = ((key, self.get(key)) for key in keys)
        return {key: record for key, record in found if record is not None}

    def put(self, key: str, record: bytes) -> bool:
        with self._lock:
            self._puts += 1
            self._since += len(record)
            look = self._puts % _LOOK_EVERY == 1 % _LOOK_EVERY  # the first, and then from time to time
            look |= self._since > self._limit * _LOOK_AFTER
            if look:
                self._since = 0
        if look:
            self._make_room(len(record))
        try:
            write_atomically(self._path(key), record)
        except OSError as error:
            self._count(refused=1, failures=1, reason=str(error))
            return False
        self._count(kept=1)
        return True

    def discard(self, keys: Iterable[str]) -> None:
        for key in keys:
            with contextlib.suppress(OSError):
                self._path(key).unlink()

    def remember_run(self, run_id: str, description: Mapping[str, Any]) -> None:
        try:
            write_atomically(self._runs / f"{checked_key(run_id)}.json", json.dumps(dict(description)).encode())
        except OSError as error:
            self._count(failures=1, reason=str(error))

    def runs(self) -> dict[str, dict[str, Any]]:
        found = {}
        for path in self._runs.glob("*.json"):
            with contextlib.suppress(OSError, ValueError):
                found[path.stem] = json.loads(path.read_bytes())
        return found

    def prune(self, *, older_than_s: float | None = None, down_to_bytes: int | None = None) -> tuple[int, int]:
        now = time.time()
        records = sorted(self._records())
        self._remove_abandoned(now)
        total = sum(size for _, size, _ in records)
        removed, freed = 0, 0
        for used, size, path in records:
            old = older_than_s is not None and now - used > older_than_s
            excess = down_to_bytes is not None and total - freed > down_to_bytes
            if not old and not excess:
                break
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            removed, freed = removed + 1, freed + size
        if older_than_s is not None:
            self._forget_runs(now - older_than_s)
        return removed, freed

    def size(self) -> tuple[int, int]:
        sizes = [size for _, size, _ in self._records()]
        return len(sizes), sum(sizes)

    def close(self) -> None:
        """Nothing is held open."""

    def _path(self, key: str) -> Path:
        safe = checked_key(key)
        return self._root / safe[:2] / f"{safe}{_SUFFIX}"

    def _records(self) -> Iterator[tuple[float, int, Path]]:
        for path in self._root.glob(f"[0-9a-f][0-9a-f]/*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                yield status.st_mtime, status.st_size, path

    def _make_room(self, length: int) -> None:
        try:
            if self.size()[1] + length > self._limit:
                self.prune(down_to_bytes=int(self._limit * _LOW_WATER))
        except OSError as error:
            self._count(failures=1, reason=str(error))

    def _remove_abandoned(self, now: float) -> None:
        """Half-written files of writers that were killed."""
        for path in self._root.glob(f"*/*{TEMPORARY_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                if now - path.stat().st_mtime > _ABANDONED_AFTER_S:
                    path.unlink()

    def _forget_runs(self, before: float) -> None:
        for path in self._runs.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()

    def _count(self, reason: str = "", **changes: int) -> None:
        with self._lock:
            for name, change in changes.items():
                setattr(self.counters, name, getattr(self.counters, name) + change)
            if reason:
                self.counters.last_failure = reason


def _touch(path: Path) -> None:
    """Note that a record was used, at most once an hour: order matters for eviction, not the second."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > _TOUCH_AFTER_S:
            os.utime(path)


def _configured_limit() -> int:
    """$DADA_STORE_LIMIT in bytes, with KiB, MiB, GiB, TiB understood."""
    from dada.quantity import parse_bytes

    text = os.environ.get("DADA_STORE_LIMIT")
    return parse_bytes(text) if text else DEFAULT_LIMIT
