"""Reads the frames of a scan as stored bytes, many at once, outside the HDF5 library where that is possible.

Neighbouring chunks are read with one `pread` of up to a few MiB: through a network mount, frame by frame is several
times slower than a large sequential read. Frames that the kernel cannot decode from their stored bytes (gzip, zstd,
virtual datasets with holes, CBF, TIFF) are decoded by HDF5 or FabIO and handed on as raw pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dada import image_files
from dada.ahead import Ahead, ahead_of
from dada.chunk_index import BSLZ4, HDF5, LZ4, RAW, ChunkTable, open_hdf5
from dada.errors import DataChanged
from dada.kernels import Codec, RawChunk
from dada.version import FileVersion

#: A read ends when it is this long; chunks further apart than GAP are read apart.
READ_BYTES = 4 << 20
GAP_BYTES = 64 << 10
#: Frames handed to the kernel at once: as many as fit, so that a block's tables serve all of them.
BATCH_BYTES = 4 << 20
BATCH_FRAMES = 32
#: Codecs whose stored bytes the kernel takes as they are.
CODECS = {BSLZ4: Codec.BITSHUFFLE_LZ4, LZ4: Codec.LZ4, RAW: Codec.NONE}
#: A stored frame longer than this times its pixels (plus the same in bytes) is no frame.
LONGEST_EXPANSION = 2


@dataclass(frozen=True)
class Stretch:
    """Frames [start, start + count) of one dataset, in one state (`version`) of its file; `table` has rows
    for them only. chosen: numbers in the dataset of those that are read, None for all.
    """

    path: Path
    dataset: str
    start: int
    count: int
    channel: int
    table: ChunkTable
    version: FileVersion
    chosen: tuple[int, ...] | None = None

    @property
    def frames(self) -> Sequence[int]:
        """Numbers in the dataset of the frames that are read."""
        return range(self.start, self.start + self.count) if self.chosen is None else self.chosen

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each of them as it is stored."""
        rows = np.asarray(self.frames, dtype=np.int64) - self.start
        return np.maximum(self.table.sizes[rows, self.channel], 0)


@dataclass(frozen=True)
class StoredFrame:
    """The bytes of one frame as stored, ready for the kernel; or the reason why there are none.

    `passing` says that the reason may be gone next time (an I/O error), so that nothing should be kept of it.
    """

    chunk: RawChunk
    reason: str = ""
    passing: bool = False

    @classmethod
    def lost(cls, reason: str, passing: bool = False) -> StoredFrame:
        """A frame without bytes."""
        return cls(RawChunk(b"", Codec.NONE), reason, passing)


def read_batches(stretch: Stretch, readers: Executor, ahead: Ahead | None = None) -> Iterator[list[StoredFrame]]:
    """The frames of a stretch in order, in batches, with some batches being read while one is worked on.

    ahead: how many; None as the file system of the stretch wants it.

    Raises DataChanged when the file is not, or does not stay, in the state the stretch says (growth apart: a detector
    appends frames and leaves the older ones where they are); OSError when it cannot be opened.
    """
    read = _Stored(stretch) if stretch.table.codec in CODECS else _Decoded(stretch)
    ahead = ahead or ahead_of(os.fstat(read.fd).st_dev)
    pending: list[Future[list[StoredFrame]]] = []
    try:
        for number, frames in enumerate(_batches(stretch)):
            pending.append(readers.submit(read.frames, frames))
            while len(pending) > ahead.depth:
                if number > ahead.depth:  # the very first one has nothing to hide behind
                    ahead.came(late=not pending[0].done())
                yield pending.pop(0).result()
        while pending:
            yield pending.pop(0).result()
        read.check_version()
    finally:
        for future in pending:
            future.cancel()
        for future in pending:
            if not future.cancelled():
                future.exception()
        read.close()


def _batches(stretch: Stretch) -> Iterator[Sequence[int]]:
    """The frames in groups of at most BATCH_BYTES stored bytes and BATCH_FRAMES frames."""
    frames = stretch.frames
    known = stretch.table.codec in CODECS
    sizes = stretch.sizes if known else np.full(len(frames), stretch.table.frame_bytes)
    first, size = 0, 0
    for number, length in enumerate(sizes.tolist()):
        if number > first and (size + length > BATCH_BYTES or number - first >= BATCH_FRAMES):
            yield frames[first:number]
            first, size = number, 0
        size += length
    yield frames[first:]


class _Reader:
    """An open file and the version it had; `frames` may be called from several threads."""

    def __init__(self, stretch: Stretch) -> None:
        self.stretch = stretch
        self.fd = os.open(stretch.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.check_version()
        except BaseException:
            self.close()
            raise

    def check_version(self) -> None:
        now = FileVersion.of(self.fd)
        if now != self.stretch.version and not self.stretch.version.only_grew(now):
            raise DataChanged(f"{self.stretch.path} changed while it was read; run again to see its new state")

    def close(self) -> None:
        os.close(self.fd)


class _Stored(_Reader):
    """Frames as their stored bytes."""

    def frames(self, frames: Sequence[int]) -> list[StoredFrame]:
        table, channel = self.stretch.table, self.stretch.channel
        rows = np.asarray(frames, dtype=np.int64) - self.stretch.start
        offsets = table.offsets[rows, channel].tolist()
        sizes = table.sizes[rows, channel].tolist()
        unfiltered = (table.filter_masks[rows, channel] != 0).tolist()
        longest = LONGEST_EXPANSION * table.frame_bytes + (1 << 16)
        problems = [_problem(size, longest) for size in sizes]
        wanted = [(offset, size) for offset, size, problem in zip(offsets, sizes, problems, strict=True) if not problem]
        data = iter(self._read(wanted))
        found = []
        for raw, problem in zip(unfiltered, problems, strict=True):
            codec = Codec.NONE if raw else CODECS[table.codec]
            found.append(StoredFrame.lost(problem) if problem else _stored(next(data), codec))
        return found

    def _read(self, wanted: Sequence[tuple[int, int]]) -> Iterator[memoryview | OSError]:
        """The bytes at each (offset, size), or the error, with one read for neighbours."""
        for run in _runs(wanted):
            start = run[0][0]
            try:
                block = _pread(self.fd, start, run[-1][0] + run[-1][1] - start)
            except OSError as error:
                yield from [error] * len(run)
                continue
            for offset, size in run:
                yield block[offset - start : offset - start + size]


def _problem(size: int, longest: int) -> str:
    if size == 0:
        return "no data was written for this frame"
    if size < 0:
        return "the file ends before this frame does"
    return f"a stored length of {size} bytes, which no frame has" if size > longest else ""


def _stored(data: memoryview | OSError, codec: Codec) -> StoredFrame:
    if isinstance(data, OSError):
        return StoredFrame.lost(f"reading failed: {data.strerror or data}", passing=True)
    return StoredFrame(RawChunk(data, codec))


def _runs(wanted: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Neighbours in the file, and in the list, together."""
    run: list[tuple[int, int]] = []
    for offset, size in wanted:
        if run:
            end = run[-1][0] + run[-1][1]
            if not end <= offset <= end + GAP_BYTES or offset + size - run[0][0] > READ_BYTES:
                yield run
                run = []
        run.append((offset, size))
    if run:
        yield run


def _pread(fd: int, offset: int, length: int) -> memoryview:
    """`length` bytes at `offset`; fewer only at the end of the file. Raises OSError."""
    buffer = memoryview(bytearray(length))
    done = 0
    while done < length:
        count = os.preadv(fd, [buffer[done:]], offset + done)
        if count == 0:
            break
        done += count
    return buffer[:done].toreadonly()


class _Decoded(_Reader):
    """Frames decoded by HDF5 or FabIO, as raw pixels. HDF5 allows one thread at a time; it sees to that itself."""

    def frames(self, frames: Sequence[int]) -> list[StoredFrame]:
        if self.stretch.table.codec == HDF5:
            with open_hdf5(self.stretch.path) as file:
                dataset = file[self.stretch.dataset]
                return [_decoded(lambda f=frame: _select(dataset, f, self.stretch.channel)) for frame in frames]
        return [_decoded(lambda: image_files.read_image(self.stretch.path)) for _ in frames]


def _select(dataset: object, frame: int, channel: int) -> np.ndarray:
    ndim = dataset.ndim  # type: ignore[attr-defined]
    where = {2: (), 3: (frame,), 4: (frame, channel)}[ndim]
    return np.asarray(dataset[where])  # type: ignore[index]


def _decoded(read: object) -> StoredFrame:
    try:
        pixels = to_kernel_dtype(read())  # type: ignore[operator]
    except OSError as error:
        passing = error.errno is not None or "errno" in str(error)  # else the stored bytes are bad and stay so
        return StoredFrame.lost(f"decoding failed: {str(error).splitlines()[0]}", passing)
    return StoredFrame(RawChunk(pixels.tobytes(), Codec.NONE))


def kernel_dtype(dtype: np.dtype) -> np.dtype:
    """The little-endian type in which the kernel sees pixels of `dtype`: 64-bit ones become 32-bit."""
    return np.dtype(f"<{dtype.kind}{dtype.itemsize}" if dtype.itemsize <= 4 else "<u4")


def to_kernel_dtype(frame: np.ndarray) -> np.ndarray:
    """A frame in `kernel_dtype`; 64-bit pixels below 0 or above its range become its largest value, which
    is invalid.
    """
    target = kernel_dtype(frame.dtype)
    if frame.dtype.itemsize <= 4:
        return np.ascontiguousarray(frame, dtype=target)
    largest = np.iinfo(target).max
    return np.where((frame < 0) | (frame > largest), largest, frame).astype(target)
