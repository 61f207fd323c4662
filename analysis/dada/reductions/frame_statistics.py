"""Frames that stand for many: sum, average, maximum and variance of each pixel over a scan or a region of it.

Over the n frames in which a pixel is valid, with its counts I:

    sum      = sum of I                                  counts, exact
    average  = sum / n                                   counts per frame
    maximum  = largest I                                 counts
    variance = (sum of I^2 - sum^2 / n) / (n - 1)        counts squared; equals the average where photons are counted

The variance is the unbiased sample variance (LiberTEM's `StdDevUDF` divides by n).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dada.kernels.reducer import effective_cut, stored_dtype
from dada.reductions.protocol import FloatArray, Setup

_EXACT_SQUARES = 2**20
"""Values below this have squares whose sum over 2^24 frames fits into 64 bits; larger ones are squared as float64."""


@dataclass(eq=False)
class FrameStatistics:
    """Adds up decoded frames. All arrays are (ny, nx); `squares` is float64 once a value needed it."""

    setup: Setup

    def __post_init__(self) -> None:
        shape = self.setup.shape
        self.n = np.zeros(shape, np.int64)
        self.sum = np.zeros(shape, np.int64)
        self.squares: NDArray[np.int64] | FloatArray = np.zeros(shape, np.int64)
        self.maximum = np.full(shape, -1, np.int64)

    def add(self, frame: NDArray[np.integer]) -> None:
        """Add one frame (ny, nx), as `decode_frame` gives it."""
        dtype = stored_dtype(frame.dtype)
        counts = frame.view(dtype)
        valid = ~self.setup.mask & (counts < effective_cut(dtype, self.setup.cut))
        values = np.where(valid, counts, 0).astype(np.int64)
        if values.max(initial=0) >= _EXACT_SQUARES:
            self.squares = self.squares + np.square(values, dtype=float)
        else:
            self.squares = self.squares + values * values
        self.n += valid
        self.sum += values
        np.maximum(self.maximum, np.where(valid, values, -1), out=self.maximum)

    def merge(self, other: FrameStatistics) -> None:
        """Add everything that `other` has seen."""
        self.n += other.n
        self.sum += other.sum
        self.squares = self.squares + other.squares
        np.maximum(self.maximum, other.maximum, out=self.maximum)

    def finish(self) -> dict[str, FloatArray]:
        """sum, average, maximum, variance (counts, variance in counts squared) and n; NaN where there is none."""
        seen = np.where(self.n > 0, self.n, np.nan)
        more = np.where(self.n > 1, self.n - 1, np.nan)
        average = self.sum / seen
        return {
            "sum": np.where(self.n > 0, self.sum, np.nan),
            "average": average,
            "maximum": np.where(self.n > 0, self.maximum, np.nan),
            "variance": (self.squares - self.sum * average) / more,
            "n": self.n.astype(float),
        }
