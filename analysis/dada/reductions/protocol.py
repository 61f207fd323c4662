"""What a reduction is: prepare tables, take each frame's sums, merge parts, finish into named maps.

A reduction sees a frame only through the exact integer sums of `dada.kernels` over the tables that it
prepared, so that any number of reductions share one pass over the compressed data, parts may be merged in
any order, and everything that divides, fits or converts happens once, in `finish`. A new one needs a few
lines: see docs/reductions.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dada.errors import UsageError
from dada.geometry import Geometry
from dada.kernels import FrameReducer, FrameSums

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Setup:
    """What is known before the first frame.

    mask: (ny, nx) bool, True = invalid. cut: lowest invalid value or None. threshold: counts below it are taken as 0.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    mask: NDArray[np.bool_]
    geometry: Geometry | None = None
    cut: int | None = None
    threshold: int | None = None

    def need_geometry(self, what: str) -> Geometry:
        """The geometry; UsageError where there is none."""
        if self.geometry is None:
            raise UsageError(f"{what} needs the beam centre, distance and pixel size; give a PONI file or --center")
        return self.geometry


@dataclass(frozen=True, eq=False)
class Tables:
    """What a reduction wants summed in each frame: bins (ny, nx) uint16, rois by name (ny, nx) bool, moments."""

    moments: bool = False
    bins: NDArray[np.uint16] | None = None
    n_bins: int = 0
    rois: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Quantity:
    """A result: values (n_frames, ...), NaN where there is none; `axes` name further dimensions, in order."""

    values: NDArray[Any]
    unit: str
    long_name: str
    axes: Sequence[tuple[str, NDArray[Any], str]] = ()  #: (name, values, unit) per further dimension


class Reduction(ABC):
    """One family of results. Subclasses say `name` and give `prepare` and `finish`."""

    name: ClassVar[str]
    #: Whether an empty-beam correction makes sense of it: see `empty_beam`.
    corrected: ClassVar[bool] = True

    @abstractmethod
    def prepare(self, setup: Setup) -> Tables:
        """Build the tables of a scan; called once, before any frame. May keep what `finish` needs."""

    def frames(self, sums: FrameSums) -> Any:
        """What is kept of some frames; their sums as they are unless a subclass needs less."""
        return sums

    def merge(self, parts: Sequence[Any]) -> Any:
        """Parts of consecutive frames put together."""
        return FrameSums.concatenate(parts)

    @abstractmethod
    def finish(self, part: Any) -> dict[str, Quantity]:
        """Named results from the merged part: the only place where anything is divided."""


class Pass:
    """Several reductions in one pass over the frames.

    ROIs of all are put side by side; at most one reduction may bring bins, another one needs a pass of its
    own. Raises UsageError where two bring bins.
    """

    def __init__(self, reductions: Sequence[Reduction], setup: Setup) -> None:
        self.reductions = list(reductions)
        self.tables = [reduction.prepare(setup) for reduction in reductions]
        binned = [i for i, tables in enumerate(self.tables) if tables.bins is not None]
        if len(binned) > 1:
            names = " and ".join(self.reductions[i].name for i in binned)
            raise UsageError(f"{names} both need bins of their own; compute them one after the other")
        self._binned = binned[0] if binned else None
        rois = [roi for tables in self.tables for roi in tables.rois.values()]
        chosen = self.tables[binned[0]] if binned else Tables()
        self.reducer = FrameReducer(
            setup.shape,
            setup.dtype,
            mask=setup.mask,
            bins=chosen.bins,
            n_bins=chosen.n_bins,
            rois=np.array(rois) if rois else None,
            moments=any(tables.moments for tables in self.tables),
            cut=setup.cut,
            threshold=setup.threshold,
        )

    def frames(self, sums: FrameSums) -> list[Any]:
        """Each reduction's part of the sums that `self.reducer` gave."""
        return [reduction.frames(own) for reduction, own in zip(self.reductions, self._shares(sums), strict=True)]

    def merge(self, parts: Sequence[list[Any]]) -> list[Any]:
        """Parts of consecutive frames put together, reduction by reduction."""
        columns = zip(*parts, strict=True)
        return [reduction.merge(column) for reduction, column in zip(self.reductions, columns, strict=True)]

    def finish(self, merged: list[Any]) -> dict[str, Quantity]:
        """All results, by name."""
        found: dict[str, Quantity] = {}
        for reduction, part in zip(self.reductions, merged, strict=True):
            found |= reduction.finish(part)
        return found

    def _shares(self, sums: FrameSums) -> list[FrameSums]:
        """For each reduction the sums with only its own ROIs and bins."""
        shares, first = [], 0
        for i, tables in enumerate(self.tables):
            last = first + len(tables.rois)
            shares.append(sums.only(rois=slice(first, last), bins=i == self._binned))
            first = last
        return shares


def divide(numerator: NDArray[Any], denominator: NDArray[Any], where: NDArray[np.bool_] | None = None) -> FloatArray:
    """numerator / denominator as float64, NaN where the denominator is 0 or `where` is False."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    use = denominator != 0 if where is None else (denominator != 0) & where
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=use)


def significant(total: NDArray[Any], variance: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether more than three times their error is left of corrected sums; of counts, whether there are any."""
    return np.asarray((total > 0) & ((total is variance) | (total > 3 * np.sqrt(variance))))


def sound(sums: FrameSums, values: NDArray[Any]) -> FloatArray:
    """`values` (n, ...) as float64 with NaN in frames that could not be read."""
    found = np.array(values, dtype=float)
    found[~sums.ok] = np.nan
    return found
