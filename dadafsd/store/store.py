"""The fragment store of a head: one or several tiers behind `lookup`, `insert` and `damaged`.

All calls block and are made in threads. None raises for a disk that fails: then `lookup` finds nothing and `insert`
keeps nothing, and the head reads the origin.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xxhash import xxh3_64_intdigest

from dadafs.errors import ExitCode, UserError
from dadafs.quantity import format_size
from dadafsd.store.admission import Admission
from dadafsd.store.counts import TierCounts
from dadafsd.store.files import DirectoryInUse, TierFiles
from dadafsd.store.housekeeper import Housekeeper, with_changes
from dadafsd.store.pins import ClockSteps, Identity, Pin, Pins
from dadafsd.store.record import FragmentKey, Stored, file_mark
from dadafsd.store.settings import TierSettings
from dadafsd.store.tier import NO_SPACE, Buffer, Tier
from dadafsd.store.verify import Verified, verify_tier

log = logging.getLogger(__name__)
_LEAST_FREE = 1024 * 1024
_PINS_FILE = "pins"


@dataclass(frozen=True, slots=True)
class TierStatus:
    """One tier as an admin sees it; sizes in bytes."""

    name: str
    directory: Path
    state: str
    reading: str
    writing: str
    size: int
    used: int
    fragments: int
    free: int  #: of the file system, -1 where it does not say
    floor: int
    scanned: bool  #: whether `used` and `fragments` are complete
    index_bytes: int
    counts: TierCounts


class FragmentStore:
    """Made by `open`; `close` saves what the next start is quicker with."""

    def __init__(self) -> None:
        self._tiers: tuple[Tier, ...] = ()
        self._keepers: dict[str, Housekeeper] = {}
        self._pins = Pins()
        self._steps = ClockSteps()
        self._steps_lock = threading.Lock()
        self._now()
        self._admission = Admission()

    @classmethod
    def open(cls, settings: Sequence[TierSettings], *, housekeeping: bool = True) -> FragmentStore:
        """Open all tiers; raises `UserError` for a directory that cannot be used. Does not wait for any scan.

        Without `housekeeping` no thread is started and the caller calls `housekeep`.
        """
        store = cls()
        try:
            for one in settings:
                store.add_tier(one, housekeeping=housekeeping)
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Stop the threads, save the indexes, unlock the directories."""
        for name in list(self._keepers):
            self.remove_tier(name)

    # --- fragments ---------------------------------------------------------------------------------------------

    def lookup(self, key: FragmentKey) -> Stored | None:
        """The stored fragment, header verified and data not, to be closed by the caller; None where there is none."""
        for tier in self._preferred(key):
            found = tier.lookup(key)
            if found is not None:
                return found
        return None

    def insert(self, key: FragmentKey, data: Buffer, checksums: Sequence[int], *, after_reads: int = 1) -> bool:
        """Keep a fragment with its block checksums; False where no tier kept it (full, down, refused).

        With `after_reads` n it is kept when it is offered for the n-th time.
        """
        tiers = self._preferred(key)
        if not self._admission.admit(key.digest, after_reads):
            return tiers[0].refuse("admission") if tiers else False
        return any(tier.insert(key, data, checksums) for tier in tiers)

    def damaged(self, key: FragmentKey) -> None:
        """A block of this fragment failed its checksum: its record is deleted."""
        for tier in self._tiers:
            if tier.files.has_record(key.digest):
                tier.damaged(key)

    def _preferred(self, key: FragmentKey) -> Sequence[Tier]:
        """All tiers, the one this key belongs to first: a rendezvous hash weighted by size."""
        tiers = self._tiers
        if len(tiers) < 2:
            return tiers
        return sorted(tiers, key=lambda tier: _score(tier, key.digest), reverse=True)

    # --- the admin's side --------------------------------------------------------------------------------------

    @property
    def tiers(self) -> tuple[Tier, ...]:
        return self._tiers

    def add_tier(self, settings: TierSettings, *, housekeeping: bool = True) -> None:
        """Use one more directory; raises `UserError`."""
        settings.check()
        if settings.name in self._keepers:
            raise UserError(f"There are two tiers called {settings.name}: give each its own name.", ExitCode.USAGE)
        tier = Tier(settings, _open_files(settings), lambda: self._pins.marks(self._now()))
        keeper = Housekeeper(tier)
        self._load_pins(tier)
        _check_space(tier)
        self._keepers[settings.name] = keeper
        self._tiers = (*self._tiers, tier)
        if housekeeping:
            keeper.start()
        else:
            keeper.restore()

    def remove_tier(self, name: str) -> None:
        """Stop using a directory; its records stay there for another time. `KeyError` for an unknown name."""
        keeper = self._keepers.pop(name)
        self._tiers = tuple(tier for tier in self._tiers if tier is not keeper.tier)
        keeper.stop()

    def resize(self, name: str, **changes: int | float) -> None:
        """Change `size`, `high`, `low` or `floor` of a tier now; raises `UserError`, `KeyError` for an unknown name."""
        with_changes(self._keepers[name].tier, **changes)

    def housekeep(self) -> None:
        """One round of housekeeping of every tier, in this thread."""
        for keeper in self._keepers.values():
            if not keeper.scanned:
                keeper.scan()
            keeper.round()

    # --- pins --------------------------------------------------------------------------------------------------

    def pin(self, export: str, path: bytes, until: float, files: Iterable[Identity]) -> None:
        """Never evict `files` (device, inode) before `until` (seconds since the epoch), nor what `opened` adds."""
        self._now()  # a step before this is none of the new pin's
        self._pins.add(export, path, until, files)
        self._save_pins()

    def unpin(self, export: str, path: bytes) -> bool:
        """Take the pin of exactly this path away; whether there was one."""
        found = self._pins.remove(export, path)
        if found:
            self._save_pins()
        return found

    def pins(self) -> list[Pin]:
        """All pins that have not expired."""
        return self._pins.current(self._now())

    def opened(self, export: str, path: bytes, identity: Identity) -> None:
        """A file was opened: where its path is pinned, so are its fragments from now on. Cheap without pins."""
        if self._pins.seen(export, path, identity, self._now()):
            self._save_pins()

    def _now(self) -> float:
        """The time that pins expire by; where the clock has stepped, they have moved along when this returns."""
        with self._steps_lock:
            wall = time.time()
            step = self._steps.step(wall, time.clock_gettime(time.CLOCK_BOOTTIME))
            if step:
                self._pins.shift(step)
        if step:
            log.warning("the clock was set by %+.0f s: pins keep what is left of their time", step)
            self._save_pins()
        return wall

    def _load_pins(self, tier: Tier) -> None:
        with contextlib.suppress(OSError):
            self._pins.decode(tier.files.read_file(_PINS_FILE) or b"")

    def _save_pins(self) -> None:
        """A copy in every tier; one that fails is the poorer for it, and the tier's health finds out by itself."""
        data = self._pins.encode()
        for tier in self._tiers:
            with contextlib.suppress(OSError):
                tier.files.write_file(_PINS_FILE, [data])

    # --- files -------------------------------------------------------------------------------------------------

    def cached(self, export: str, identity: Identity) -> dict[str, int]:
        """Bytes on disk of the fragments of file `(device, inode)`, by tier; of all its versions."""
        mark = file_mark(export, identity)
        return {tier.name: tier.held(mark) for tier in self._tiers}

    def evict(self, export: str | None = None, identity: Identity | None = None) -> int:
        """Delete the fragments of a file, of an export (reads all headers), or all; how many there were."""
        if export is None:
            return sum(tier.drop_all() for tier in self._tiers)
        if identity is None:
            return sum(tier.drop_export(export) for tier in self._tiers)
        mark = file_mark(export, identity)
        return sum(tier.drop_file(mark) for tier in self._tiers)

    def verify(self, sample: float = 1.0, seed: int | None = None) -> Iterator[Verified]:
        """Read a part of all records and check every block; damaged ones are deleted."""
        chance = random.Random(seed)
        for tier in self._tiers:
            yield from verify_tier(tier, sample, chance)

    def status(self) -> list[TierStatus]:
        """Every tier, in the order of the configuration."""
        return [_status(keeper) for keeper in self._keepers.values()]


def _score(tier: Tier, digest: int) -> float:
    draw = xxh3_64_intdigest(struct.pack("<Q", digest), seed=xxh3_64_intdigest(tier.name.encode()))
    return -tier.settings.size / math.log((draw + 1) / (2**64 + 1))


def _open_files(settings: TierSettings) -> TierFiles:
    directory = settings.directory
    try:
        return TierFiles(directory)
    except DirectoryInUse as error:
        raise UserError(
            f"The cache directory {directory} is used by another running dadafsd (process {error}):"
            " stop it, or choose another directory.",
            ExitCode.CACHE,
        ) from None
    except OSError as error:
        if error.errno in NO_SPACE:
            raise _full(directory) from error
        raise UserError(
            f"The cache directory {directory} is not usable ({error.strerror or error}):"
            " make it writable for dadafsd, or choose another directory.",
            ExitCode.CACHE,
        ) from error


def _check_space(tier: Tier) -> None:
    """Refuse to start on a full disk where evicting could not help."""
    floor = max(tier.settings.floor, _LEAST_FREE)
    if tier.files.free() >= floor or tier.files.has_any_record():
        return
    tier.files.close()
    raise _full(tier.files.directory, f" (less than {format_size(floor)} are free)")


def _full(directory: Path, detail: str = "") -> UserError:
    return UserError(
        f"The cache directory {directory} is on a full disk{detail}, and nothing of the cache is there to evict:"
        " free some space, or choose another directory.",
        ExitCode.CACHE,
    )


def _status(keeper: Housekeeper) -> TierStatus:
    tier = keeper.tier
    try:
        free = tier.files.free()
    except OSError:
        free = -1
    settings = tier.settings
    return TierStatus(
        name=tier.name,
        directory=settings.directory,
        state=tier.state.name.lower(),
        reading=tier.reading.state.name.lower(),
        writing=tier.writing.state.name.lower(),
        size=settings.size,
        used=tier.used,
        fragments=len(tier.index),
        free=free,
        floor=settings.floor,
        scanned=keeper.scanned,
        index_bytes=tier.index.nbytes,
        counts=tier.totals(),
    )
