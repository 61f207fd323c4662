"""Sums of each pixel over frames of a scan: the run over its units, and what the store keeps of them.

One record a unit makes a run resumable, one of them all makes a finished one quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dada.engine import Callback, DamagedFrame, Progress, damaged_frames, missing_frames, run_patches
from dada.patches import Damage
from dada.pixel_units import PixelPlan, Unit, UnitSums, units_of
from dada.reductions.frame_statistics import FrameStatistics
from dada.results.keys import pixel_key
from dada.results.records import BadRecord, pack, unpack
from dada.results.store import ResultsStore
from dada.scan import Scan
from dada.workers import Workers


class _Target:
    """Where units are added up: an `engine.Target`."""

    def __init__(self, plan: PixelPlan, first: int) -> None:
        self.plan = plan
        self.first = first  # damages of the whole count from this frame
        self.statistics = FrameStatistics.empty(plan.shape)
        self.damages: list[Damage] = []
        self.keepable = True

    def take(self, unit: Unit, store: ResultsStore | None) -> tuple[Sequence[Damage], tuple[Any, ...]]:
        found = _kept(store, unit_key([unit], self.plan), self.plan.shape)
        if found is None:
            return (), ("pixels",)
        self.accept(unit, found)
        return found.damages, ()

    def accept(self, unit: Unit, computed: UnitSums) -> None:
        self.statistics.merge(computed.statistics)
        self.keepable &= computed.keepable
        shift = unit.first - self.first
        self.damages += [Damage(shift + damage.frame, damage.reason, damage.passing) for damage in computed.damages]

    def records(self, unit: Unit, computed: UnitSums) -> Iterator[tuple[str, bytes]]:
        yield unit_key([unit], self.plan), _to_record(computed)

    def unreadable(self, unit: Unit, parts: tuple[Any, ...], reason: str) -> UnitSums:
        runs = zip(unit.starts, unit.stretches, strict=True)
        frames = (start + i - unit.first for start, stretch in runs for i in range(stretch.count))
        damages = tuple(Damage(frame, reason, True) for frame in frames)
        return UnitSums(FrameStatistics.empty(self.plan.shape), damages)

    @property
    def whole(self) -> UnitSums:
        """The sums over all units."""
        return UnitSums(self.statistics, tuple(self.damages), self.keepable)


def unit_key(units: Sequence[Unit], plan: PixelPlan) -> str:
    """What the sums over these units are kept under."""
    frames = [(s.version.describe(), s.dataset, s.channel, s.start, s.count) for unit in units for s in unit.stretches]
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
    several = len(units) > 1
    whole = _kept(store, unit_key(units, plan), plan.shape) if several else None
    if whole is not None:
        reasons, progress = _all_from_store(units, whole, notify)
        reasons |= missing_frames(scan, wanted)
        return whole.statistics, damaged_frames(scan, reasons, wanted), progress
    target = _Target(plan, units[0].first if units else 0)
    reasons, progress = run_patches(scan, units, wanted, target, store=store, workers=workers, notify=notify)
    if store is not None and several and target.keepable:
        store.put(unit_key(units, plan), _to_record(target.whole))
    return target.statistics, damaged_frames(scan, reasons, wanted), progress


def _all_from_store(units: Sequence[Unit], whole: UnitSums, notify: Callback) -> tuple[dict[int, str], Progress]:
    frames = sum(unit.count for unit in units)
    progress = Progress(frames=frames, from_store=frames, patches=len(units), patches_done=len(units))
    notify(progress)
    return {units[0].first + damage.frame: damage.reason for damage in whole.damages}, progress
