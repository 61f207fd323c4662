"""What is summed in each frame of a scan: mask, bin tables and ROIs of several reductions, and the digests
that name them.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from dada.kernels import FrameReducer, FrameSums
from dada.reductions.protocol import Setup, Tables

#: The families of sums. Each part is kept under its own key, so that asking for one more computes only that one.
MOMENTS, BINS, ROI = "moments", "bins", "roi"


@dataclass(frozen=True)
class Part:
    """One family of sums: the scalars with the moments, a table of bins, or one ROI.

    digest: names its table ("" for the moments). index: of the table in SumsPlan.bins or SumsPlan.rois. width: sums a
    frame (1 for an ROI).
    """

    family: str
    digest: str = ""
    index: int = field(default=0, compare=False)
    width: int = field(default=1, compare=False)


@dataclass(frozen=True, eq=False)
class SumsPlan:
    """The tables of a scan; arrays have the shape (rows, columns) of a frame.

    mask: True = invalid. cut: counts from here on are invalid, None for what the type implies. threshold: counts below
    it are taken as 0. bins: (uint16 number of each pixel's bin, number of bins); rois: bool.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    mask: np.ndarray
    cut: int | None = None
    bins: tuple[tuple[np.ndarray, int], ...] = ()
    rois: tuple[np.ndarray, ...] = ()
    threshold: int | None = None

    @classmethod
    def of(cls, setup: Setup, tables: Sequence[Tables]) -> SumsPlan:
        """The plan that computes all these tables in one pass over the data."""
        bins = tuple((table.bins, table.n_bins) for table in tables if table.bins is not None)
        rois = tuple(roi for table in tables for roi in table.rois.values())
        return cls(setup.shape, setup.dtype, setup.mask, setup.cut, bins, rois, setup.threshold)

    @cached_property
    def bin_parts(self) -> tuple[Part, ...]:
        """A part for each table of bins."""
        return tuple(Part(BINS, _digest(bins, n), i, n) for i, (bins, n) in enumerate(self.bins))

    @cached_property
    def roi_parts(self) -> tuple[Part, ...]:
        """A part for each ROI."""
        return tuple(Part(ROI, _digest(np.packbits(roi)), i) for i, roi in enumerate(self.rois))

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """All parts, equal ones once."""
        return tuple(dict.fromkeys((Part(MOMENTS), *self.bin_parts, *self.roi_parts)))

    @cached_property
    def digest(self) -> str:
        """Names everything that all parts share: shape, type, mask, cut and threshold."""
        more = () if not self.threshold else (self.threshold,)
        return _digest(np.packbits(self.mask), self.shape, self.dtype.str, self.cut, *more)

    def reducers(self, parts: Sequence[Part]) -> list[tuple[tuple[Part, ...], FrameReducer]]:
        """Reducers that compute these parts and no others, and which part each computes; made once per process.

        One reducer takes the moments, all ROIs and one table of bins; further tables of bins need further ones.
        """
        groups = _groups(parts)
        return [(group, self._reducer(group)) for group in groups]

    def _reducer(self, group: tuple[Part, ...]) -> FrameReducer:
        key = (self.digest, group)
        with _reducers_lock:
            if key not in _reducers:
                while len(_reducers) >= _REDUCERS_KEPT:
                    _reducers.pop(next(iter(_reducers)))
                _reducers[key] = self._make_reducer(group)
            return _reducers[key]

    def _make_reducer(self, group: tuple[Part, ...]) -> FrameReducer:
        rois = [self.rois[part.index] for part in group if part.family == ROI]
        bins = [self.bins[part.index] for part in group if part.family == BINS]
        return FrameReducer(
            self.shape,
            self.dtype,
            mask=self.mask,
            bins=bins[0][0] if bins else None,
            n_bins=bins[0][1] if bins else 0,
            rois=np.array(rois) if rois else None,
            moments=any(part.family == MOMENTS for part in group),
            cut=self.cut,
            threshold=self.threshold,
        )


def share(plan: SumsPlan, all_tables: Sequence[Tables], index: int, sums: FrameSums, tables: TableSums) -> FrameSums:
    """The sums that reduction `index` sees: the scalars, and only its own ROIs and bins."""
    before_rois = sum(len(table.rois) for table in all_tables[:index])
    before_bins = sum(table.bins is not None for table in all_tables[:index])
    own = all_tables[index]
    parts = plan.roi_parts[before_rois : before_rois + len(own.rois)]
    changed: dict[str, Any] = {}
    if parts:
        changed["rois"] = np.column_stack([tables[part][0][:, 0] for part in parts])
        changed["roi_counts"] = np.column_stack([tables[part][1][:, 0] for part in parts])
    if own.bins is not None:
        changed["bins"], changed["bin_counts"] = tables[plan.bin_parts[before_bins]]
    return replace(sums, **changed)


#: (sum, number of valid pixels) of a part, both (n, width) int64.
TableSums = dict[Part, tuple[np.ndarray, np.ndarray]]


def _groups(parts: Sequence[Part]) -> list[tuple[Part, ...]]:
    bins = [part for part in parts if part.family == BINS]
    rest = [part for part in parts if part.family != BINS]
    first = (*rest, *bins[:1])
    return [group for group in (first, *((part,) for part in bins[1:])) if group]


_REDUCERS_KEPT = 8
_reducers: dict[Any, FrameReducer] = {}
_reducers_lock = threading.Lock()


def _digest(array: np.ndarray, *more: Any) -> str:
    digest = hashlib.sha256(repr(more).encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]
