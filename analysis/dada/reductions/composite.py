"""Frames made small, and many of them in one picture.

Binning by a factor f sums the counts of f x f pixels and counts the valid ones; the small frame is their mean,

    thumbnail = sum of I / number of valid pixels       counts per pixel

so that gaps stay gaps (NaN) and half-masked blocks are not dark. A composite is a 2D array of small frames as one
image, each at the place of its scan point (`calculate_composite` of Göttingen's nanodiffraction toolbox).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dada.bins import MOST_BINS, NO_BIN
from dada.errors import UsageError
from dada.kernels import FrameSums
from dada.reductions.protocol import FloatArray, Quantity, Reduction, Setup, Tables, divide, sound


def small_shape(shape: tuple[int, int], factor: int) -> tuple[int, int]:
    """(ny, nx) of a frame binned by `factor`; blocks at the far edges may be cut off."""
    return -(-shape[0] // factor), -(-shape[1] // factor)


def binning(shape: tuple[int, int], factor: int) -> NDArray[np.uint16]:
    """(ny, nx) number of the block of each pixel. Raises UsageError where there are too many blocks."""
    if factor < 1:
        raise UsageError(f"binning by {factor} is not possible; choose 1 or more")
    rows, columns = small_shape(shape, factor)
    if rows * columns > MOST_BINS:
        least = next(f for f in range(factor, max(shape) + 1) if np.prod(small_shape(shape, f)) <= MOST_BINS)
        raise UsageError(f"binning by {factor} leaves {rows} x {columns} pixels, too many; bin by {least} or more")
    y, x = np.indices(shape, sparse=True)
    return (y // factor * columns + x // factor).astype(np.uint16)


#: A composite is made about so many pixels wide and high where nobody chooses the binning.
_COMPOSITE_PIXELS = 2400


def usual_binning(shape: tuple[int, int], points: tuple[int, int]) -> int:
    """The binning that makes a composite of (ny, nx) points with frames of `shape` a picture for a screen."""
    factor = max(-(-length * n // _COMPOSITE_PIXELS) for length, n in zip(shape, points, strict=True))
    least = max(1, int(np.sqrt(shape[0] * shape[1] / MOST_BINS)))
    while np.prod(small_shape(shape, least)) > MOST_BINS:
        least += 1
    return max(factor, least)


class Thumbnails(Reduction):
    """Each frame binned by `factor`: mean counts per valid pixel, (n, small ny, small nx), made in the same pass.

    region: (y, x, height, width) in pixels, None for the whole frame.
    """

    name = "thumbnails"

    def __init__(self, factor: int = 10, region: tuple[int, int, int, int] | None = None) -> None:
        self.factor = factor
        self.region = region

    def prepare(self, setup: Setup) -> Tables:
        y, x, height, width = self.region or (0, 0, *setup.shape)
        if y < 0 or x < 0 or height < 1 or width < 1 or y + height > setup.shape[0] or x + width > setup.shape[1]:
            raise UsageError(f"the region {(y, x, height, width)} does not lie in frames of {setup.shape}")
        bins = np.full(setup.shape, NO_BIN, np.uint16)
        bins[y : y + height, x : x + width] = binning((height, width), self.factor)
        self.shape = small_shape((height, width), self.factor)
        return Tables(bins=bins, n_bins=self.shape[0] * self.shape[1])

    def finish(self, part: FrameSums) -> dict[str, Quantity]:
        y, x = (self.region or (0, 0))[:2]
        middle = (self.factor - 1) / 2
        axes = [
            (name, start + self.factor * np.arange(n) + middle, "px")
            for name, start, n in (("y", y, self.shape[0]), ("x", x, self.shape[1]))
        ]
        values = sound(part, divide(part.bins, part.bin_counts)).reshape(-1, *self.shape)
        return {"thumbnail": Quantity(values, "counts/pixel", f"Frame binned by {self.factor}", axes)}


def composite(thumbnails: FloatArray, border: int = 0) -> FloatArray:
    """One image (ny * (h + border), nx * (w + border)) of small frames (ny, nx, h, w), NaN in the borders."""
    ny, nx, h, w = thumbnails.shape
    image = np.full((ny, h + border, nx, w + border), np.nan)
    image[:, :h, :, :w] = thumbnails.transpose(0, 2, 1, 3)
    return image.reshape(ny * (h + border), nx * (w + border))
