"""Calls the compiled kernels: tables are packed once per scan, then frames are reduced in batches."""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from typing import NamedTuple

import _dada_kernels
import numpy as np
from numpy.typing import DTypeLike, NDArray

from dada.kernels.sums import FrameSums, Status

NO_BIN = 65535
"""In a bin map: this pixel belongs to no bin."""

MAX_PIXELS = 2**30

_MESSAGES = {
    Status.OK: "the frame is sound",
    Status.EMPTY: "the frame was never written",
    Status.TRUNCATED: "the stored frame ends too early",
    Status.SIZE: "the stored frame has another size than the data set says",
    Status.BLOCK_SIZE: "the stored frame has an impossible block size",
    Status.BLOCK: "a compressed block is damaged",
    Status.CODEC: "the frame is compressed in a way that the kernels do not decode",
    Status.OVERFLOW: "a sum of the frame needs more than 64 bits",
    Status.MEMORY: "there was no memory to decode the frame",
}


def message(status: int) -> str:
    """What a frame's status means, as half a sentence for people."""
    return _MESSAGES[Status(status)]


class BadChunk(ValueError):
    """A stored frame that cannot be decoded; `status` says why."""

    def __init__(self, status: int) -> None:
        super().__init__(message(status))
        self.status = Status(status)


class Codec(enum.IntEnum):
    """How the bytes of a stored frame are packed."""

    NONE = 0  #: little-endian pixels, row by row: unfiltered chunks and frames decoded elsewhere
    LZ4 = 1  #: HDF5 filter 32004, with its header; any block size, one block for the whole frame included
    BITSHUFFLE_LZ4 = 2  #: HDF5 filter 32008 with LZ4, with its header; any block size
    OTHER = 3  #: anything else: gives a frame with Status.CODEC


class RawChunk(NamedTuple):
    """One frame as it is stored: what `h5py`'s read_direct_chunk or a `pread` at the chunk's offset gives.

    `data` is any C-contiguous buffer (bytes, bytearray, memoryview, array) with the filter's own header and
    nothing before it. Empty data means that the frame was never written. Bytes behind the last block are
    ignored.
    """

    data: bytes | bytearray | memoryview | NDArray[np.generic]
    codec: Codec


class FrameReducer:
    """Reduces frames of one shape and type with one mask, one bin map and one set of ROIs. Safe in many
    threads.

    Parameters:
        shape: (ny, nx) of a frame, at most 2^30 pixels.
        dtype: of a pixel as stored: 8, 16 or 32 bit integer, little endian. Signed ones are read as unsigned.
        mask: (ny, nx) bool, True = invalid (detector's pixel mask and user's mask together); None masks
            nothing.
        bins: (ny, nx) uint16 number of each pixel's bin, `NO_BIN` (or anything >= n_bins) where it has none.
        n_bins: number of bins, at most 65535; 0 without `bins`.
        rois: (n_roi, ny, nx) bool; ROIs may overlap.
        moments: whether sum_y .. sum_xy are wanted.
        cut: values >= cut are invalid; None or anything higher than 2^N - 2 means 2^N - 2.
        threshold: valid values below it count as 0; None takes all as they are.
        kernel: instruction set (portable, avx2, avx512); None takes DADA_KERNEL or the best of this machine.

    Raises ValueError where shapes do not fit together, the type is not supported or the kernel cannot run
    here.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: DTypeLike,
        *,
        mask: NDArray[np.bool_] | None = None,
        bins: NDArray[np.uint16] | None = None,
        n_bins: int = 0,
        rois: NDArray[np.bool_] | None = None,
        moments: bool = True,
        cut: int | None = None,
        threshold: int | None = None,
        kernel: str | None = None,
    ) -> None:
        self.shape = (int(shape[0]), int(shape[1]))
        if not 1 <= self.shape[0] * self.shape[1] <= MAX_PIXELS:
            raise ValueError(f"a frame has 1 to 2^30 pixels, not {self.shape[0]} x {self.shape[1]}")
        self.dtype = stored_dtype(dtype)
        self.n_bins = n_bins if bins is not None else 0
        self.n_rois = 0 if rois is None else len(rois)
        self.cut = effective_cut(self.dtype, cut)
        mask = np.zeros(self.shape, bool) if mask is None else _shaped(mask, self.shape, bool, "mask")
        self._plan = _dada_kernels.Plan(
            *self.shape,
            self.dtype.itemsize,
            _pack(~mask),
            None if bins is None else _shaped(bins, self.shape, np.uint16, "bins"),
            self.n_bins,
            None if rois is None else _pack_rois(rois, self.shape),
            self.n_rois,
            self.cut,
            checked_threshold(threshold, self.cut),
            moments,
            kernel or os.environ.get("DADA_KERNEL") or None,
        )
        self.kernel: str = self._plan.kernel

    def reduce(self, chunks: Sequence[RawChunk]) -> FrameSums:
        """Sums of each chunk's frame. Releases the GIL; 4 to 32 frames at a time use the caches best."""
        n = len(chunks)
        scalars = np.empty((n, 10), np.int64)
        status = np.empty(n, np.int32)
        bins, bin_counts = np.empty((2, n, self.n_bins), np.int64)
        rois, roi_counts = np.empty((2, n, self.n_rois), np.int64)
        packed = [(_flat(chunk.data), int(chunk.codec)) for chunk in chunks]
        self._plan.reduce(packed, status, scalars, bins, bin_counts, rois, roi_counts)
        return FrameSums(status, *np.ascontiguousarray(scalars.T), bins, bin_counts, rois, roi_counts)


class PixelAccumulator:
    """Adds frames up pixel by pixel, for sum, average, maximum and variance frames. Not for several threads at once.

    Parameters as `FrameReducer`. The arrays are (ny, nx), exact, and 0 where the mask says so: `sum` uint64 of I,
    `squares` and `squares_high` uint64 (the sum of I^2 is squares + 2^64 squares_high), `maximum` uint32, `dropped`
    uint32 frames in which the pixel's value was >= cut.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: DTypeLike,
        *,
        mask: NDArray[np.bool_] | None = None,
        cut: int | None = None,
        threshold: int | None = None,
        kernel: str | None = None,
    ) -> None:
        plan = FrameReducer(shape, dtype, mask=mask, moments=False, cut=cut, threshold=threshold, kernel=kernel)
        self.kernel = plan.kernel
        self._plan = plan._plan
        self.sum, self.squares, self.squares_high = np.zeros((3, *plan.shape), np.uint64)
        self.maximum, self.dropped = np.zeros((2, *plan.shape), np.uint32)

    def add(self, chunks: Sequence[RawChunk]) -> NDArray[np.int32]:
        """Add each chunk's frame; (n,) a `Status` each: a frame that cannot be decoded is left out whole.

        Releases the GIL; 4 to 32 frames at a time use the caches best.
        """
        status = np.empty(len(chunks), np.int32)
        packed = [(_flat(chunk.data), int(chunk.codec)) for chunk in chunks]
        self._plan.accumulate(packed, status, self.sum, self.squares, self.squares_high, self.maximum, self.dropped)
        return status


def decode_frame(chunk: RawChunk, shape: tuple[int, int], dtype: DTypeLike) -> NDArray[np.unsignedinteger]:
    """The pixels of one stored frame, (ny, nx), as unsigned integers of the stored width.

    Raises BadChunk where the chunk cannot be decoded, ValueError for a type that is not supported.
    """
    unsigned = stored_dtype(dtype)
    frame = np.empty(shape, unsigned)
    status = _dada_kernels.decode(_flat(chunk.data), int(chunk.codec), unsigned.itemsize, frame)
    if status:
        raise BadChunk(status)
    return frame


def stored_dtype(dtype: DTypeLike) -> np.dtype[np.unsignedinteger]:
    """The unsigned type as which pixels of `dtype` are read. Raises ValueError for types not supported."""
    given = np.dtype(dtype)
    if given.kind not in "iu" or given.itemsize > 4 or (given.itemsize > 1 and given.newbyteorder("<") != given):
        raise ValueError(f"pixels must be little-endian integers of 8, 16 or 32 bits, not {given.str}")
    return np.dtype(f"<u{given.itemsize}")


def effective_cut(dtype: np.dtype[np.unsignedinteger], cut: int | None) -> int:
    """The lowest invalid value: 2^N - 2, or the scan's own saturation value where that is lower."""
    highest = 2 ** (8 * dtype.itemsize) - 2
    if cut is not None and cut < 0:
        raise ValueError(f"a cut of {cut} would make every pixel invalid")
    return highest if cut is None else min(int(cut), highest)


def checked_threshold(threshold: int | None, cut: int) -> int:
    """The threshold as a number, 0 for none. Raises ValueError where no valid value could reach it."""
    if threshold is not None and not 0 <= threshold < max(cut, 1):
        raise ValueError(f"a threshold of {threshold} is not possible: valid counts lie from 0 to {cut - 1}")
    return threshold or 0


def _flat(data: bytes | bytearray | memoryview | NDArray[np.generic]) -> object:
    return np.ascontiguousarray(data) if isinstance(data, np.ndarray) else data


def _shaped(array: NDArray[np.generic], shape: tuple[int, int], dtype: DTypeLike, name: str) -> NDArray[np.generic]:
    array = np.asarray(array)
    if array.shape != shape:
        raise ValueError(f"{name} has the shape {array.shape}, the frames have {shape}")
    return np.ascontiguousarray(array, dtype=dtype)


def _pack(bits: NDArray[np.generic]) -> NDArray[np.uint8]:
    """One bit per pixel, in the order of a bit plane of bitshuffle."""
    return np.packbits(bits.ravel(), bitorder="little")


def _pack_rois(rois: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.uint8]:
    packed = [_pack(_shaped(roi, shape, bool, f"ROI {i}")) for i, roi in enumerate(rois)]
    return np.array(packed, np.uint8).reshape(len(rois), -1)
