"""Sums of each pixel over frames of a scan: the run over its units, and what the store keeps of them.

A record of what is finished makes a run resumable, one of it all makes a finished one quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dada.engine import Callback, DamagedFrame, Progress, damaged_frames, run_patches
from dada.patches import Damage
from dada.pixel_units import PixelPlan, Unit, UnitSums, units_of
from dada.reductions.frame_statistics import FrameStatistics
from dada.results.keys import chained_keys, pixel_key
from dada.results.records import BadRecord, pack, unpack
from dada.results.store import ResultsStore
from dada.scan import Scan
from dada.workers import Workers

#: So many units are kept one by one before one record replaces them.
KEPT_UNITS = 16


class _Target:
    """Where units are added up, in their order: an `engine.Target`.

    A unit's sums are some frames large, so those of a long scan would fill the store. Hence the sums of all units up to
    a multiple of KEPT_UNITS are kept as one record, which replaces those of the units in it.
    """

    def __init__(self, plan: PixelPlan, units: Sequence[Unit], store: ResultsStore | None) -> None:
        self.plan = plan
        self.statistics = FrameStatistics.empty(plan.shape)
        self.damages: list[Damage] = []
        self._units = units
        self._numbers = {unit.first: number for number, unit in enumerate(units)}
        self._store = store
        self._waiting: dict[int, UnitSums] = {}  # computed before one in front of them
        self._keepable = True
        self._keys = [unit_key(unit, plan) for unit in units] if store is not None else []
        self._keys_up_to = chained_keys(self._keys, plan.digest)
        self._done = self._from = self._found_up_to()  # added up; and what of that was kept as one record

    def _found_up_to(self) -> int:
        """Take over the longest row of units from the first one on that is kept as one record: how many they are."""
        count = len(self._units)
        for number in sorted({count, *range(KEPT_UNITS, count, KEPT_UNITS)}, reverse=True):
            found = _kept(self._store, self._keys_up_to[number - 1], self.plan.shape) if self._keys else None
            if found is not None:
                self.statistics.merge(found.statistics)
                self.damages += found.damages
                return number
        return 0

    def take(self, unit: Unit, store: ResultsStore | None) -> tuple[Sequence[Damage], tuple[Any, ...]]:
        number = self._numbers[unit.first]
        if number < self._from:
            return self.damages if number == 0 else (), ()
        found = _kept(store, self._keys[number], self.plan.shape) if store is not None else None
        if found is None:
            return (), ("pixels",)
        self.accept(unit, found)
        return found.damages, ()

    def accept(self, unit: Unit, computed: UnitSums) -> None:
        self._waiting[self._numbers[unit.first]] = computed
        while self._done in self._waiting:
            self._add(self._units[self._done], self._waiting.pop(self._done))
            self._done += 1
            if self._done % KEPT_UNITS == 0 or self._done == len(self._units):
                self._keep()

    def _add(self, unit: Unit, computed: UnitSums) -> None:
        self.statistics.merge(computed.statistics)
        self._keepable &= computed.keepable
        shift = unit.first - self._units[0].first
        self.damages += [Damage(shift + damage.frame, damage.reason, damage.passing) for damage in computed.damages]

    def _keep(self) -> None:
        """Keep the sums so far as one record, and let go of those that only lead up to it."""
        if self._store is None or not self._keepable or len(self._units) < 2:
            return
        record = _to_record(UnitSums(self.statistics, tuple(self.damages)))
        if self._store.put(self._keys_up_to[self._done - 1], record) and self._done % KEPT_UNITS == 0:
            before = max(0, self._done - KEPT_UNITS)
            self._store.discard([*self._keys[before : self._done], *self._keys_up_to[before - 1 : before]])
            self._from = self._done

    def records(self, unit: Unit, computed: UnitSums) -> Iterator[tuple[str, bytes]]:
        number = self._numbers[unit.first]
        if number >= self._from:
            yield self._keys[number], _to_record(computed)

    def unreadable(self, unit: Unit, parts: tuple[Any, ...], reason: str) -> UnitSums:
        runs = zip(unit.starts, unit.stretches, strict=True)
        frames = (start + i - unit.first for start, stretch in runs for i in range(stretch.count))
        damages = tuple(Damage(frame, reason, True) for frame in frames)
        return UnitSums(FrameStatistics.empty(self.plan.shape), damages)


def unit_key(unit: Unit, plan: PixelPlan) -> str:
    """What the sums over a unit are kept under."""
    frames = [(s.version.describe(), s.dataset, s.channel, s.start, s.count) for s in unit.stretches]
    return pixel_key(frames, plan.digest)


def _to_record(sums: UnitSums) -> bytes:
    meta = {"damages": [[d.frame, d.reason] for d in sums.damages], "frames": sums.statistics.n_frames}
    return pack(meta, sums.statistics.compact())


def _kept(store: ResultsStore | None, key: str, shape: tuple[int, int]) -> UnitSums | None:
    """What the store has under a key; None where it has nothing or something that does not fit."""
    record = None if store is None else store.get(key)
    if record is None:
        return None
    try:
        meta, arrays = unpack(record)
        if any(array.shape != shape for array in arrays.values()):
            return None
        damages = tuple(Damage(int(frame), str(reason)) for frame, reason in meta["damages"])
        return UnitSums(FrameStatistics.from_compact(int(meta["frames"]), arrays), damages)
    except (BadRecord, KeyError, TypeError, ValueError):
        return None


def run(
    scan: Scan,
    plan: PixelPlan,
    wanted: np.ndarray,
    *,
    store: ResultsStore | None,
    workers: Callable[[], Workers],
    notify: Callback = lambda progress: None,
    unit_frames: int | None = None,
) -> tuple[FrameStatistics, tuple[DamagedFrame, ...], Progress]:
    """Sums of each pixel over the wanted frames (bool, one a frame of the scan), the frames that could not be used, and
    the account of the run. Raises what `engine.run_patches` raises.
    """
    units = list(units_of(scan, wanted, unit_frames))
    target = _Target(plan, units, store)
    reasons, progress = run_patches(scan, units, wanted, target, store=store, workers=workers, notify=notify)
    return target.statistics, damaged_frames(scan, reasons, wanted), progress
