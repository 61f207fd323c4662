"""A unit: some hundred frames that one worker adds up pixel by pixel into a few frame-sized arrays.

Units begin at multiples of their size in the scan, so that frames appended to a growing scan leave the older units as
they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dada.frames import Stretch, read_batches
from dada.kernels import PixelAccumulator, message
from dada.patches import Damage, stored_bytes, stretch_of
from dada.reductions.frame_statistics import FrameStatistics
from dada.scan import Scan
from dada.version import FileVersion

#: (scans of up to so many frames, frames of a unit): small enough to keep all workers busy, large enough that a unit's
#: arrays are small beside its frames.
_UNIT_FRAMES = ((4096, 64), (65536, 256), (2**62, 1024))


@dataclass(frozen=True, eq=False)
class PixelPlan:
    """How frames are added up. mask: (rows, columns) bool, True = invalid; cut and threshold as `PixelAccumulator`."""

    shape: tuple[int, int]
    dtype: np.dtype
    mask: np.ndarray
    cut: int | None = None
    threshold: int | None = None

    @cached_property
    def digest(self) -> str:
        """Names all of it."""
        text = repr((self.shape, self.dtype.str, self.cut, self.threshold))
        return hashlib.sha256(text.encode() + np.packbits(self.mask).tobytes()).hexdigest()[:32]

    def accumulator(self) -> PixelAccumulator:
        """An empty one."""
        return PixelAccumulator(self.shape, self.dtype, mask=self.mask, cut=self.cut, threshold=self.threshold)


@dataclass(frozen=True)
class Unit:
    """The wanted ones of some frames of the scan: a `stretch` for each run of neighbours, and where it begins."""

    starts: tuple[int, ...]  # number in the scan of each stretch's first frame
    stretches: tuple[Stretch, ...]

    @property
    def first(self) -> int:
        """Number in the scan of the first frame."""
        return self.starts[0]

    @property
    def count(self) -> int:
        """How many frames."""
        return sum(stretch.count for stretch in self.stretches)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the frames as they are stored."""
        return sum(stored_bytes(stretch) for stretch in self.stretches)

    @property
    def label(self) -> str:
        """The files, for people."""
        return " or ".join(dict.fromkeys(stretch.path.name for stretch in self.stretches))


@dataclass(frozen=True)
class UnitSums:
    """The sums over a unit; damages count frames from the unit's first one."""

    statistics: FrameStatistics
    damages: tuple[Damage, ...]
    settled: bool = True

    @property
    def keepable(self) -> bool:
        """Whether it is known to be what computing it again from these versions of the files would give."""
        return self.settled and not any(damage.passing for damage in self.damages)


def units_of(scan: Scan, wanted: np.ndarray, unit_frames: int | None = None) -> Iterator[Unit]:
    """The units that hold the wanted frames (bool, one a frame), in order; missing files have none."""
    size = unit_frames or next(frames for limit, frames in _UNIT_FRAMES if scan.n_frames <= limit)
    for begin in range(0, scan.n_frames, size):
        runs = _runs(np.flatnonzero(wanted[begin : begin + size]) + begin)
        parts = [part for run in runs for part in _parts(scan, run[0], run[-1] + 1)]
        if parts:
            yield Unit(*zip(*parts, strict=True))


def _runs(frames: np.ndarray) -> Iterator[tuple[int, ...]]:
    """Neighbours together."""
    for run in np.split(frames, np.flatnonzero(np.diff(frames) != 1) + 1):
        if run.size:
            yield tuple(run.tolist())


def _parts(scan: Scan, start: int, stop: int) -> Iterator[tuple[int, Stretch]]:
    """Frames [start, stop) of the scan, cut where the files end."""
    while start < stop:
        segment = scan.segment_of(start)
        end = min(stop, segment.stop)
        if segment.table is not None:
            shift = segment.start - segment.first
            yield start, stretch_of(scan, segment, start + shift, end + shift)
        start = end


def compute_unit(unit: Unit, plan: PixelPlan, readers: Executor) -> UnitSums:
    """Read the frames of a unit and add them up. Raises DataChanged, OSError."""
    sums = plan.accumulator()
    damages: list[Damage] = []
    n = 0
    for start, stretch in zip(unit.starts, unit.stretches, strict=True):
        frame = start - unit.first
        for batch in read_batches(stretch, readers):
            status = sums.add([stored.chunk for stored in batch])
            bad = np.flatnonzero(status).tolist()
            damages += [Damage(frame + i, batch[i].reason or message(status[i]), batch[i].passing) for i in bad]
            n += len(batch) - len(bad)
            frame += len(batch)
    settled = all(FileVersion.of(stretch.path) == stretch.version for stretch in unit.stretches)
    return UnitSums(FrameStatistics.of(sums, n), tuple(damages), settled)
