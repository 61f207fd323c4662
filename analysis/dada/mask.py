"""Which pixels count: the detector's pixel mask, the user's mask and values that no detector counts, one rule.

A pixel is invalid where the detector's pixel mask is not 0, where the user's mask is not 0, or where its
value in the frame at hand is >= the cut (see `dada.kernels`). Masks in this package are bool with True =
invalid, as in pyFAI.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from dada.errors import DataError
from dada.kernels.reducer import effective_cut, stored_dtype

BoolArray = NDArray[np.bool_]

REASONS = {
    0: "gap",
    1: "dead",
    2: "under-responding",
    3: "over-responding",
    4: "noisy",
    6: "part of a cluster of bad pixels",
    8: "user-defined",
    31: "virtual pixel",
}
"""Bits of an NXmx pixel mask (NXdetector, pixel_mask)."""


def combine(shape: tuple[int, int], *masks: NDArray[np.generic] | None) -> BoolArray:
    """True where any of the masks is not 0; None masks nothing. Raises DataError where shapes differ."""
    invalid = np.zeros(shape, bool)
    for mask in masks:
        if mask is None:
            continue
        if mask.shape != shape:
            raise DataError(f"a mask of {mask.shape} does not fit frames of {shape}; give one of the same shape")
        invalid |= mask != 0
    return invalid


def cut_of(dtype: DTypeLike, saturation: int | None) -> int:
    """The lowest invalid value: one above the detector's saturation value, at most 2^N - 2."""
    return effective_cut(stored_dtype(dtype), None if saturation is None else saturation + 1)


def reasons(pixel_mask: NDArray[np.unsignedinteger]) -> dict[str, int]:
    """How many pixels a detector's mask rules out for each reason; a pixel may have several."""
    flagged = pixel_mask[pixel_mask != 0]  # few of millions
    found = {REASONS.get(bit, f"bit {bit}"): int(np.count_nonzero(flagged >> bit & 1)) for bit in range(32)}
    return {reason: count for reason, count in found.items() if count}


def read_mask(name: str | Path, shape: tuple[int, int]) -> BoolArray:
    """A user's mask, non-zero = invalid: .npy, an image that fabio reads (EDF, TIFF), or file.h5::/path/to/mask.

    Raises DataError where it cannot be read or does not have the frames' shape.
    """
    path, _, dataset = str(name).partition("::")
    try:
        mask = _read(Path(path), dataset)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{name}: cannot be read as a mask ({error})") from error
    if mask.ndim == 3 and len(mask) == 1:
        mask = mask[0]
    if mask.shape != shape:
        raise DataError(f"{name}: the mask is {mask.shape}, the frames are {shape}; give a mask of the same shape")
    return np.asarray(mask != 0)


def _read(path: Path, dataset: str) -> NDArray[np.generic]:
    if path.suffix == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    if dataset or h5py.is_hdf5(path):
        with h5py.File(path) as file:
            return np.asarray(file[dataset or _first_mask(file)][()])
    import fabio  # an optional dependency: only masks kept as images need it

    return np.asarray(fabio.open(str(path)).data)


def _first_mask(file: h5py.File) -> str:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    if len(names) != 1:
        raise KeyError(f"it holds {len(names)} data sets: name one as FILE::/path")
    return names[0]


def annulus(radius: NDArray[np.floating], low: float, high: float) -> BoolArray:
    """Pixels with low < radius <= high (half-open, as the Göttingen toolbox's radial_mask)."""
    return (radius > low) & (radius <= high)


def annuli(radius: NDArray[np.floating], limits: Sequence[tuple[float, float]]) -> BoolArray:
    """(n, ny, nx): one ROI for each (low, high)."""
    return np.stack([annulus(radius, low, high) for low, high in limits])
