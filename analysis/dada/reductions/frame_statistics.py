"""Frames that stand for many: sum, average, maximum and variance of each pixel over a scan or a region of it.

Over the n frames in which a pixel is valid, with its counts I:

    sum      = sum of I                                  counts, exact
    average  = sum / n                                   counts per frame
    maximum  = largest I                                 counts
    variance = (sum of I^2 - sum^2 / n) / (n - 1)        counts squared; equals the average where photons are counted

The variance is the unbiased sample variance (LiberTEM's `StdDevUDF` divides by n).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dada.errors import UsageError
from dada.kernels import PixelAccumulator
from dada.reductions.protocol import FloatArray, divide

_NAMES = ("sum", "squares", "squares_high", "maximum", "dropped")
UNITS = {"sum": "counts", "average": "counts", "maximum": "counts", "variance": "counts^2", "n": "frames"}
LONG_NAMES = {
    "sum": "Sum of the frames",
    "average": "Average frame",
    "maximum": "Largest count of each pixel",
    "variance": "Variance of each pixel",
    "n": "Frames in which the pixel is valid",
}


@dataclass(eq=False)
class FrameStatistics:
    """Exact sums over `n_frames` frames; arrays (ny, nx) of unsigned integers, as `PixelAccumulator` says."""

    n_frames: int
    sum: NDArray[Any]
    squares: NDArray[Any]
    squares_high: NDArray[Any]
    maximum: NDArray[Any]
    dropped: NDArray[Any]

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> FrameStatistics:
        """Of no frame."""
        return cls(0, *np.zeros((3, *shape), np.uint64), *np.zeros((2, *shape), np.uint32))

    @classmethod
    def of(cls, sums: PixelAccumulator, n_frames: int) -> FrameStatistics:
        """What was added up of so many sound frames, in arrays as small as they can be: they travel, and are kept."""
        return cls(n_frames, *(_smallest(getattr(sums, name)) for name in _NAMES))

    def merge(self, other: FrameStatistics) -> None:
        """Add everything that `other` has seen."""
        self.n_frames += other.n_frames
        self.sum += other.sum
        self.squares += other.squares
        self.squares_high += other.squares_high
        self.squares_high[self.squares < other.squares] += np.uint64(1)
        np.maximum(self.maximum, other.maximum, out=self.maximum)
        self.dropped += other.dropped

    def compact(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, in the smallest types that hold them."""
        return {name: _smallest(getattr(self, name)) for name in _NAMES}

    @classmethod
    def from_compact(cls, n_frames: int, arrays: Mapping[str, NDArray[Any]]) -> FrameStatistics:
        """The inverse of `compact`. Raises KeyError where an array is missing."""
        return cls(n_frames, *(arrays[name] for name in _NAMES))

    def finish(self, mask: NDArray[np.bool_], binning: int = 1) -> dict[str, FloatArray]:
        """sum, average, maximum, variance and n as the module says, NaN where there is none.

        mask: (ny, nx), True = invalid. binning: f x f pixels are taken together, as if each were the same pixel in
        another frame: sum and n are theirs together, average and variance are per pixel and frame. Blocks at the far
        edges may be cut off.
        """
        if binning < 1:
            raise UsageError(f"binning by {binning} is not possible; choose 1 or more")
        n = np.where(mask, 0, self.n_frames - self.dropped.astype(np.int64))
        squares = self.squares.astype(float) + self.squares_high.astype(float) * 2.0**64
        n, total, squares = (_binned(np.add, values, binning) for values in (n, self.sum, squares))
        maximum = _binned(np.maximum, self.maximum, binning)
        average = divide(total, n)
        return {
            "sum": np.where(n > 0, total.astype(float), np.nan),
            "average": average,
            "maximum": np.where(n > 0, maximum.astype(float), np.nan),
            "variance": divide(np.maximum(squares - total * average, 0), n - 1, n > 1),
            "n": n.astype(float),
        }


def _binned(add: np.ufunc, values: NDArray[Any], factor: int) -> NDArray[Any]:
    """Blocks of factor x factor taken together."""
    for axis in (0, 1) if factor > 1 else ():
        values = add.reduceat(values, np.arange(0, values.shape[axis], factor), axis=axis)
    return values


def _smallest(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.min_scalar_type(int(array.max(initial=0))))
