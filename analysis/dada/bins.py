"""Integer maps from pixels to bins: equal steps of q, radius or azimuth, every pixel whole in one bin.

Edges and membership are those of `numpy.histogram` with a range (a bin contains its lower edge, the last
one its upper edge too), which is what pyFAI's ("no", "histogram", "numpy") method uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dada.errors import UsageError
from dada.geometry import Geometry

NO_BIN = 65535
MOST_BINS = 65535
_MAPS_KEPT = 2
_EPS32 = 1.0 + float(np.finfo(np.float32).eps)


@dataclass(frozen=True, eq=False)
class BinMap:
    """bins: (ny, nx) uint16, `NO_BIN` where a pixel has none. edges: (n_bins + 1,) in `unit`."""

    bins: NDArray[np.uint16]
    edges: NDArray[np.float64]
    unit: str

    @property
    def n_bins(self) -> int:
        return len(self.edges) - 1

    @property
    def centres(self) -> NDArray[np.float64]:
        """(n_bins,) middle of each bin in `unit`."""
        return np.asarray((self.edges[1:] + self.edges[:-1]) / 2.0)


def equal_bins(
    values: NDArray[np.floating], n_bins: int, limits: tuple[float, float] | None = None, unit: str = ""
) -> BinMap:
    """`n_bins` bins of equal width between `limits`, or (without limits) over all values as pyFAI does.

    Raises UsageError where there are no bins, too many, or the limits are not two rising numbers.
    """
    if not 1 <= n_bins <= MOST_BINS:
        raise UsageError(f"{n_bins} bins are not possible; choose 1 to {MOST_BINS}")
    low, high = (float(values.min()), float(values.max()) * _EPS32) if limits is None else limits
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise UsageError(f"bins from {low:g} to {high:g} are not possible; the second number must be larger")
    edges = np.linspace(low, high, n_bins + 1)
    index = np.searchsorted(edges, values, side="right") - 1
    index[values == high] = n_bins - 1
    inside = (values >= low) & (values <= high)
    bins = np.where(inside, index, NO_BIN).astype(np.uint16)
    bins.setflags(write=False)  # maps of a geometry are shared by the reductions that want the same one
    return BinMap(bins, edges, unit)


@lru_cache(maxsize=_MAPS_KEPT)
def q_bins(geometry: Geometry, n_bins: int, limits: tuple[float, float] | None = None) -> BinMap:
    """Bins of equal q in 1/nm."""
    return equal_bins(geometry.q(), n_bins, limits, "1/nm")


@lru_cache(maxsize=_MAPS_KEPT)
def radius_bins(geometry: Geometry, n_bins: int, limits: tuple[float, float] | None = None) -> BinMap:
    """Bins of equal distance from the direct beam, in pixels."""
    return equal_bins(geometry.radius_px(), n_bins, limits, "px")


@lru_cache(maxsize=_MAPS_KEPT)
def azimuth_bins(geometry: Geometry, n_bins: int) -> BinMap:
    """`n_bins` bins of phi in degrees, 0 to 360, counter-clockwise from +x."""
    degrees = np.degrees(geometry.azimuth()) % 360.0
    return equal_bins(np.where(degrees >= 360.0, 0.0, degrees), n_bins, (0.0, 360.0), "deg")


def cross(outer: BinMap | list[NDArray[np.bool_]], inner: BinMap) -> NDArray[np.uint16]:
    """(ny, nx) bin number outer * n_inner + inner: every inner bin once for each outer bin.

    `outer` may be a list of ROIs that do not overlap. Raises UsageError where they do or where bins become
    too many.
    """
    if isinstance(outer, list):
        if outer and np.sum(outer, axis=0).max() > 1:
            raise UsageError("the rings overlap; azimuthal profiles need rings that do not")
        number = np.full(inner.bins.shape, NO_BIN, np.int64)
        for i, roi in enumerate(outer):
            number[roi] = i
        n_outer = len(outer)
    else:
        number, n_outer = outer.bins.astype(np.int64), outer.n_bins
    if n_outer * inner.n_bins > MOST_BINS:
        raise UsageError(f"{n_outer} x {inner.n_bins} bins are too many; together at most {MOST_BINS}")
    both = (number != NO_BIN) & (inner.bins != NO_BIN)
    return np.where(both, number * inner.n_bins + inner.bins, NO_BIN).astype(np.uint16)
