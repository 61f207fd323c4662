"""The NumPy definition of every sum that the kernels give, written for reading, not for speed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dada.kernels.reducer import effective_cut, stored_dtype
from dada.kernels.sums import FrameSums, Status


def reduce(
    frames: NDArray[np.integer],
    *,
    mask: NDArray[np.bool_] | None = None,
    bins: NDArray[np.uint16] | None = None,
    n_bins: int = 0,
    rois: NDArray[np.bool_] | None = None,
    moments: bool = True,
    cut: int | None = None,
    threshold: int | None = None,
) -> FrameSums:
    """Sums of decoded frames (n, ny, nx); the parameters are those of `FrameReducer`."""
    dtype = stored_dtype(frames.dtype)
    frames = np.ascontiguousarray(frames).view(dtype)
    masked = np.zeros(frames.shape[1:], bool) if mask is None else mask
    n_bins = n_bins if bins is not None else 0
    sums = FrameSums.zeros(len(frames), n_bins, 0 if rois is None else len(rois))
    for i, frame in enumerate(frames):
        valid = ~masked & (frame < effective_cut(dtype, cut))
        counts = np.where(valid & (frame >= (threshold or 0)), frame, 0)
        sums.n_valid[i] = valid.sum()
        sums.n_masked[i] = masked.sum()
        sums.n_value_invalid[i] = (~masked & ~valid).sum()
        sums.maximum[i] = counts.max() if valid.any() else -1
        if not _add_moments(counts, moments, sums, i):
            _clear(sums, i, Status.OVERFLOW)
            continue
        if bins is not None:
            sums.bins[i], sums.bin_counts[i] = bin_sums(counts, valid, bins, n_bins)
        if rois is not None:
            sums.rois[i] = [counts[roi].sum(dtype=np.int64) for roi in rois]
            sums.roi_counts[i] = [(valid & roi).sum() for roi in rois]
    return sums


def _add_moments(counts: NDArray[np.unsignedinteger], moments: bool, sums: FrameSums, i: int) -> bool:
    """Fill in total .. sum_xy of frame i from sums over rows; False where one of them does not fit into 64
    bits.

    Python's integers have no limit; per row, sums of 32-bit values times x (below 2^16) fit into 64 bits,
    times x^2 only once the values are cut into halves.
    """
    x = np.arange(counts.shape[1], dtype=np.uint64)
    low, high = counts & np.uint32(0xFFFF), counts.astype(np.uint32) >> np.uint32(16)
    rows = [int(s) for s in counts.sum(axis=1, dtype=np.uint64)]
    rows_x = [int(s) for s in (counts * x).sum(axis=1)]
    rows_xx = [int(a) + (int(b) << 16) for a, b in zip((low * x * x).sum(1), (high * x * x).sum(1), strict=True)]
    found = [
        sum(rows),
        sum(s * y for y, s in enumerate(rows)),
        sum(rows_x),
        sum(s * y * y for y, s in enumerate(rows)),
        sum(rows_xx),
        sum(s * y for y, s in enumerate(rows_x)),
    ][: 6 if moments else 1]
    if max(found) >= 2**63:
        return False
    for array, value in zip(
        (sums.total, sums.sum_y, sums.sum_x, sums.sum_yy, sums.sum_xx, sums.sum_xy), found, strict=False
    ):
        array[i] = value
    return True


def bin_sums(
    counts: NDArray[np.unsignedinteger], valid: NDArray[np.bool_], bins: NDArray[np.uint16], n_bins: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sum of counts and number of valid pixels of each bin, both (n_bins,)."""
    use = valid & (bins < n_bins)
    which = bins[use]
    total = np.zeros(n_bins, np.int64)
    np.add.at(total, which, counts[use].astype(np.int64))
    return total, np.bincount(which, minlength=n_bins)[:n_bins]


def _clear(sums: FrameSums, i: int, status: Status) -> None:
    for name, array in vars(sums).items():
        array[i] = {"status": status, "maximum": -1}.get(name, 0)


def pixel_sums(
    frames: NDArray[np.integer],
    *,
    mask: NDArray[np.bool_] | None = None,
    cut: int | None = None,
    threshold: int | None = None,
) -> dict[str, NDArray[np.generic]]:
    """Sums of decoded frames (n, ny, nx) pixel by pixel, each (ny, nx): what `PixelAccumulator` adds up.

    `squares` has Python's integers as elements: they have no limit.
    """
    dtype = stored_dtype(frames.dtype)
    frames = np.ascontiguousarray(frames).view(dtype)
    masked = np.zeros(frames.shape[1:], bool) if mask is None else mask
    valid = ~masked & (frames < effective_cut(dtype, cut))
    counts = np.where(valid & (frames >= (threshold or 0)), frames, 0)
    return {
        "sum": counts.sum(axis=0, dtype=np.uint64),
        "squares": (counts.astype(object) ** 2).sum(axis=0),
        "maximum": counts.max(axis=0),
        "dropped": (~masked & ~valid).sum(axis=0),
    }
