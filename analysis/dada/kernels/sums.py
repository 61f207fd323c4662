"""The sums of a sequence of frames: what the kernels return and how it is put together."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


class Status(enum.IntEnum):
    """What became of a frame."""

    OK = 0
    EMPTY = 1
    TRUNCATED = 2
    SIZE = 3
    BLOCK_SIZE = 4
    BLOCK = 5
    CODEC = 6
    OVERFLOW = 7
    MEMORY = 8


@dataclass(frozen=True)
class FrameSums:
    """Exact sums over the valid pixels of each frame; I is the number of counts, y the row, x the column,
    from 0.

    All arrays have the frames as their first axis and are int64 except `status` (int32). Frames with a status
    other than 0 have 0 everywhere (and -1 as maximum). The moments are 0 where the reducer was built without
    them.
    """

    status: NDArray[np.int32]  #: (n,) a `Status`; 0 where the frame is sound
    n_valid: IntArray  #: (n,) valid pixels
    total: IntArray  #: (n,) sum of I
    sum_y: IntArray  #: (n,) sum of I y
    sum_x: IntArray  #: (n,) sum of I x
    sum_yy: IntArray  #: (n,) sum of I y^2
    sum_xx: IntArray  #: (n,) sum of I x^2
    sum_xy: IntArray  #: (n,) sum of I x y
    n_masked: IntArray  #: (n,) pixels invalid because the mask says so, whatever their value
    n_value_invalid: IntArray  #: (n,) unmasked pixels invalid because of their value (saturated, dead)
    maximum: IntArray  #: (n,) largest valid value, -1 where no pixel is valid
    bins: IntArray  #: (n, n_bins) sum of I per bin
    bin_counts: IntArray  #: (n, n_bins) valid pixels per bin
    rois: IntArray  #: (n, n_rois) sum of I per ROI
    roi_counts: IntArray  #: (n, n_rois) valid pixels per ROI

    def __len__(self) -> int:
        return len(self.status)

    def __getitem__(self, index: slice | NDArray[np.generic]) -> FrameSums:
        """The frames that `index` (a slice, a boolean or an index array) chooses."""
        return FrameSums(*(getattr(self, field.name)[index] for field in fields(self)))

    def only(self, rois: slice = slice(None), bins: bool = True) -> FrameSums:
        """The same frames with some of the ROIs, and with their bins or without any."""
        kept = slice(None) if bins else slice(0)
        return replace(
            self,
            rois=self.rois[:, rois],
            roi_counts=self.roi_counts[:, rois],
            bins=self.bins[:, kept],
            bin_counts=self.bin_counts[:, kept],
        )

    @property
    def ok(self) -> NDArray[np.bool_]:
        """(n,) whether the frame could be read."""
        return self.status == Status.OK

    @property
    def variance(self) -> FrameSums:
        """Sums of the variance of I from counting statistics: those of I itself, as photons are counted."""
        return self

    def merge(self, other: FrameSums) -> FrameSums:
        """These frames followed by those of `other`."""
        return FrameSums.concatenate([self, other])

    @staticmethod
    def concatenate(parts: Sequence[FrameSums]) -> FrameSums:
        """The frames of all parts, in order. Raises ValueError without parts or where their shapes differ."""
        if not parts:
            raise ValueError("no frames to put together")
        return FrameSums(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(FrameSums)))

    def summed(self) -> FrameSums:
        """All sound frames added up into one (a region, a scan), their counts of pixels too."""
        good = self[self.ok]
        added = {f.name: getattr(good, f.name).sum(axis=0, keepdims=True) for f in fields(self)}
        added["status"] = np.zeros(1, np.int32)
        added["maximum"] = good.maximum.max(axis=0, initial=-1, keepdims=True)
        return FrameSums(**added)

    @staticmethod
    def zeros(n: int, n_bins: int = 0, n_rois: int = 0) -> FrameSums:
        """Sums of `n` frames in which nothing was found; -1 as maximum."""
        tables = {"bins": n_bins, "bin_counts": n_bins, "rois": n_rois, "roi_counts": n_rois}
        arrays = {
            field.name: np.zeros((n, tables[field.name]) if field.name in tables else n, np.int64)
            for field in fields(FrameSums)
        }
        arrays["maximum"] -= 1
        return FrameSums(**{**arrays, "status": np.zeros(n, np.int32)})
