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
from dadafsd.store.health import State
from dadafsd.store.housekeeper import Housekeeper, with_changes
from dadafsd.store.pins import ClockSteps, Identity, Pin, Pins
from dadafsd.store.record import FragmentKey, Stored, file_mark
from dadafsd.store.settings import KIND_RAM, TierSettings
from dadafsd.store.tier import NO_SPACE, Buffer, Tier
from dadafsd.store.verify import Verified, sound_copy, verify_tier

log = logging.getLogger(__name__)
_LEAST_FREE = 1024 * 1024
_PINS_FILE = "pins"

#: Tiers that are asked one level after the other.
Levels = tuple[tuple[Tier, ...], ...]


@dataclass(frozen=True, slots=True)
class TierStatus:
    """One tier as an admin sees it; sizes in bytes."""

    name: str
    kind: str
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
        self._promotion = Admission()
        self._uses: dict[str, tuple[str, ...]] = {}  # export: names of its tiers, where it does not use all
        self._levels: dict[str, Levels] = {}  # the tiers of each export met so far

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
        for level in self._levels_of(key.export):
            for tier in _ranked(level, key):
                found = tier.lookup(key)
                if found is not None:
                    return found
        return None

    def lookup_at_once(self, key: FragmentKey) -> Stored | None:
        """`lookup` for the loop, from what the kernel has in memory; None where that takes waiting."""
        passed: list[Tier] = []
        try:
            for level in self._levels_of(key.export):
                for tier in _ranked(level, key):
                    found = tier.lookup_at_once(key)
                    if found is not None:
                        for one in passed:
                            one.passed_by(key)
                        return found
                    passed.append(tier)
        except OSError:  # BlockingIOError, or the tier was closed just now
            pass
        return None

    def surely_missing(self, key: FragmentKey) -> bool:
        """Whether no tier has this fragment, as their indexes say; for the loop, and counted as a miss.

        A record that is just being written may be missed: it is then read from the origin once more.
        """
        tiers = [tier for level in self._levels_of(key.export) for tier in level]
        if not self.scanned or not all(tier.knows_missing(key) for tier in tiers):
            return False
        for tier in tiers:
            tier.passed_by(key)
        return True

    def insert(self, key: FragmentKey, data: Buffer, checksums: Sequence[int], *, after_reads: int = 1) -> bool:
        """Keep a fragment with its block checksums; False where no tier kept it (full, down, refused).

        With `after_reads` n it is kept when it is offered for the n-th time. It goes to one tier of memory and to one
        on disk, where the export uses both: what is in memory only is lost with the machine.
        """
        levels = self._levels_of(key.export)
        if not self._admission.admit(key.digest, after_reads):
            return levels[-1][0].refuse("admission", key.export) if levels else False
        kept = [any(tier.insert(key, data, checksums) for tier in _ranked(level, key)) for level in levels]
        return any(kept)

    def promotes(self, key: FragmentKey, tier: str) -> bool:
        """Whether a fragment just found in `tier` should go to memory as well: when that happens for the second time.

        Scans go through once, so they do not push out what is read again and again.
        """
        return self.has_memory_above(key.export, tier) and self._promotion.admit(key.digest, 2)

    def has_memory_above(self, export: str, tier: str) -> bool:
        """Whether an export uses a tier in memory, and `tier` is none of those."""
        levels = self._levels_of(export)
        return len(levels) > 1 and all(one.name != tier for one in levels[0])

    def promote(self, key: FragmentKey, data: Buffer, checksums: Sequence[int]) -> bool:
        """Keep a fragment in memory too; whether it was kept."""
        levels = self._levels_of(key.export)
        return len(levels) > 1 and any(tier.insert(key, data, checksums) for tier in _ranked(levels[0], key))

    def damaged(self, key: FragmentKey) -> None:
        """A block of this fragment failed its checksum: its record is deleted."""
        for tier in self._tiers:
            if tier.files.has_record(key.digest):
                tier.damaged(key)

    # --- which tiers an export uses ------------------------------------------------------------------------------

    def use(self, export: str, names: Sequence[str]) -> None:
        """Keep fragments of `export` in these tiers only, from now on; none named means all. Raises `UserError`."""
        known = [tier.name for tier in self._tiers]
        for name in names:
            if name not in known:
                raise UserError(
                    f"Export {export} cannot use tier {name}: there are {', '.join(known) or 'no tiers'}.",
                    ExitCode.USAGE,
                )
        self._uses[export] = tuple(names)
        self._levels = {}

    def used_by(self, export: str) -> tuple[str, ...]:
        """The names of the tiers that `export` uses, in the order in which they are asked."""
        return tuple(tier.name for level in self._levels_of(export) for tier in level)

    def _levels_of(self, export: str) -> Levels:
        """The export's tiers: those in memory, then those on disk; levels without tiers are left out."""
        known = self._levels  # replaced as a whole when something changes, so nothing outdated gets into the new one
        levels = known.get(export)
        if levels is None:
            names = self._uses.get(export)
            mine = [tier for tier in self._tiers if not names or tier.name in names]
            ram, disk = (tuple(t for t in mine if (t.settings.kind == KIND_RAM) is ram) for ram in (True, False))
            levels = known[export] = tuple(filter(None, (ram, disk)))
        return levels

    # --- the admin's side --------------------------------------------------------------------------------------

    @property
    def tiers(self) -> tuple[Tier, ...]:
        return self._tiers

    def add_tier(self, settings: TierSettings, *, housekeeping: bool = True) -> None:
        """Use one more directory; raises `UserError`."""
        settings.check()
        if settings.name in self._keepers:
            raise UserError(f"There are two tiers called {settings.name}: give each its own name.", ExitCode.USAGE)
        tier = Tier(settings, _open_files(settings), lambda: self._pinned_in(settings.kind))
        keeper = Housekeeper(tier)
        self._load_pins(tier)
        _check_space(tier)
        self._keepers[settings.name] = keeper
        self._tiers = (*self._tiers, tier)
        self._levels = {}
        if housekeeping:
            keeper.start()
        else:
            keeper.restore()

    def remove_tier(self, name: str) -> None:
        """Stop using a directory; its records stay there for another time. `KeyError` for an unknown name."""
        keeper = self._keepers.pop(name)
        self._tiers = tuple(tier for tier in self._tiers if tier is not keeper.tier)
        self._levels = {}
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

    def _pinned_in(self, kind: str) -> frozenset[int]:
        """What a tier must not evict. Beside disks, memory is too small to be filled by what somebody pinned."""
        if kind == KIND_RAM and any(tier.settings.kind != KIND_RAM for tier in self._tiers):
            return frozenset()
        return self._pins.marks(self._now())

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

    def present(self, keys: Iterable[FragmentKey]) -> list[FragmentKey]:
        """Those of `keys` that some tier has a record of, sound or not."""
        return [key for key in keys if any(tier.files.has_record(key.digest) for tier in self._tiers)]

    def copies(self, key: FragmentKey) -> dict[str, bytes]:
        """The sound data that each tier has for `key`, by tier; nothing is counted."""
        found = {tier.name: sound_copy(tier, key) for tier in self._tiers}
        return {name: data for name, data in found.items() if data is not None}

    @property
    def scanned(self) -> bool:
        """Whether all tiers know what they hold, so that `cached` and `evict` are complete; those that are down count
        for nothing."""
        keepers = list(self._keepers.values())
        return all(keeper.scanned or keeper.tier.state is State.DOWN for keeper in keepers)

    @property
    def takes_writes(self) -> bool:
        """Whether there is a tier that does not refuse everything because its disk fails or hangs."""
        return any(tier.writing.state is not State.DOWN for tier in self._tiers)

    def status(self) -> list[TierStatus]:
        """Every tier, in the order of the configuration."""
        return [_status(keeper) for keeper in self._keepers.values()]


def _ranked(level: Sequence[Tier], key: FragmentKey) -> Sequence[Tier]:
    """Tiers of one kind, the one this key belongs to first: a rendezvous hash weighted by size."""
    if len(level) < 2:
        return level
    return sorted(level, key=lambda tier: _score(tier, key.digest), reverse=True)


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
        kind=settings.kind,
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
