"""Where each frame's chunk lies in its file: read once per version of a file through HDF5, then kept.

With this table the frames are read with `pread`, outside the HDF5 library and its lock, and decoded by the kernel.
Tables are kept as records (`results/records.py`) in a directory, $DADA_INDEX_DIR or `dada/index` in the user's cache;
a table that is damaged, missing or of another version of the file is simply made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (registers the filters, for frames that go through HDF5)
import numpy as np

from dada.errors import DataChanged, DataError
from dada.results.atomic_file import write_atomically
from dada.results.records import BadRecord, pack, unpack
from dada.version import FileVersion

FILTER_BITSHUFFLE = 32008
FILTER_LZ4 = 32004
FORMAT = 2
INDEX_ATTEMPTS = 10

#: Codecs of a chunk: the first three the kernel decodes from the raw bytes; `hdf5` is anything else, read through HDF5.
BSLZ4, LZ4, RAW, HDF5 = "bslz4", "lz4", "raw", "hdf5"
_BITSHUFFLE_WITH_LZ4 = 2
#: What h5py raises for files that are damaged, or half written by somebody else at this moment.
HDF5_ERRORS = (OSError, RuntimeError)


@dataclass(frozen=True)
class ChunkTable:
    """Where the frames of one dataset are.

    shape: (rows, columns) of a frame; dtype: of a pixel, as numpy writes it, e.g. `<u2`.
    n_frames, channels: length of the image axis and of the channel axis (1 unless the dataset is 4-D).
    codec: of all chunks of the dataset: `bslz4`, `lz4`, `raw`, or `hdf5` (no table: frames are read through HDF5).
    offsets, sizes, filter_masks: (n_frames, channels) int64, int64, uint32; size 0: nothing was written there.
    """

    shape: tuple[int, int]
    dtype: str
    n_frames: int
    channels: int
    codec: str
    offsets: np.ndarray
    sizes: np.ndarray
    filter_masks: np.ndarray

    @property
    def frame_bytes(self) -> int:
        """Bytes of one decoded frame."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def rows(self, start: int, stop: int) -> ChunkTable:
        """The same table with entries for the frames [start, stop) only, which are rows 0 .. stop - start of it."""
        part = slice(start, stop)
        return dataclasses.replace(
            self, offsets=self.offsets[part], sizes=self.sizes[part], filter_masks=self.filter_masks[part]
        )


def default_directory() -> Path:
    """Where tables are kept unless somebody says otherwise."""
    configured = os.environ.get("DADA_INDEX_DIR")
    if configured:
        return Path(configured)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "dada" / "index"


def chunk_table(path: Path, dataset: str, directory: Path | None = None) -> tuple[ChunkTable, FileVersion]:
    """The table of `dataset` in the file at `path`, from the kept ones or made now, and the version it is of.

    Raises DataError when the file is no HDF5 or has no such dataset of frames, FileNotFoundError when it is not there.
    """
    for _attempt in range(INDEX_ATTEMPTS):
        version = FileVersion.of(path)
        kept = (directory or default_directory()) / _name(version, dataset)
        table = _load(kept)
        if table is not None:
            return table, version
        try:
            with open_hdf5(path) as file:
                table = index_dataset(find_frames(file, dataset, path), version.size)
        except FileNotFoundError:
            raise
        except HDF5_ERRORS as error:
            raise not_hdf5(path, error) from error
        now = FileVersion.of(path)
        if now == version:
            _keep(kept, table)
            return table, version
    if version.only_grew(now):  # being written all the time: what was seen is there
        return table, version
    raise DataChanged(f"{path} changes faster than it can be indexed; wait until its writer pauses")


def open_hdf5(path: Path) -> h5py.File:
    """The HDF5 file at `path`, without locking and also while a SWMR writer holds it.

    Raises DataError when it is no HDF5 file, FileNotFoundError when it is not there.
    """
    # Without locking, unless this process has the file open with it; as a reader of a SWMR writer, if there is one.
    first: OSError | RuntimeError | None = None
    for options in ({"locking": False}, {}, {"locking": False, "swmr": True}, {"swmr": True}):
        try:
            return h5py.File(path, "r", **options)
        except FileNotFoundError:
            raise
        except HDF5_ERRORS as error:
            first = first or error
    assert first is not None
    raise not_hdf5(path, first) from first


def not_hdf5(path: Path, error: Exception) -> DataError:
    """What to tell a person about a file that HDF5 does not read."""
    if path.is_dir():
        return DataError(f"{path} is a directory; name a master file, a data file or a pattern of CBF or TIFF files")
    if not os.access(path, os.R_OK):
        return DataError(f"{path} may not be read by this user; ask for access to it")
    try:
        readable = h5py.is_hdf5(path)
    except OSError:
        readable = False
    if readable:
        return DataError(f"{path} is a damaged or unfinished HDF5 file ({error}); wait for the writer or copy it again")
    return DataError(f"{path} is no HDF5 file; give a master file, a data file or FILE::DATASET")


def find_frames(file: h5py.File, dataset: str, path: Path) -> h5py.Dataset:
    """The dataset of that name, checked to hold frames. Raises DataError."""
    try:
        found = file[dataset]
    except KeyError:
        raise DataError(f"{path} has no dataset {dataset}; `h5ls -r {path}` lists what it has") from None
    if not isinstance(found, h5py.Dataset) or found.ndim not in (2, 3, 4) or found.dtype.kind not in "iu":
        shape = getattr(found, "shape", "a group")
        raise DataError(f"{dataset} in {path} holds no frames: it is {shape}, not (frames, rows, columns) of integers")
    return found


def index_dataset(dataset: h5py.Dataset, file_size: int) -> ChunkTable:
    """The table of an open dataset of 2 (one frame), 3 or 4 (image, channel, y, x) dimensions."""
    # whether the library counts addresses from the file's begin or from the end of a user block depends on its version
    codec = HDF5 if dataset.file.userblock_size else _codec(dataset)
    n_frames = 1 if dataset.ndim == 2 else dataset.shape[0]
    channels = dataset.shape[1] if dataset.ndim == 4 else 1
    offsets = np.zeros((n_frames, channels), dtype=np.int64)
    sizes = np.zeros((n_frames, channels), dtype=np.int64)
    masks = np.zeros((n_frames, channels), dtype=np.uint32)
    if codec != HDF5:
        if dataset.chunks is None:
            _fill_contiguous(dataset, offsets, sizes)
        else:
            _fill_chunked(dataset, offsets, sizes, masks)
        sizes[(offsets < 0) | (offsets + sizes > file_size)] = -1  # beyond the end of the file: a truncated copy
    shape = (int(dataset.shape[-2]), int(dataset.shape[-1]))
    return ChunkTable(shape, dataset.dtype.str, n_frames, channels, codec, offsets, sizes, masks)


def _codec(dataset: h5py.Dataset) -> str:
    kind = dataset.dtype
    if dataset.is_virtual or dataset.external or kind.byteorder == ">" or kind.itemsize > 4:
        return HDF5
    if dataset.chunks is None:
        return RAW if dataset.id.get_offset() is not None else HDF5
    if math.prod(dataset.chunks[:-2]) != 1 or dataset.chunks[-2:] != dataset.shape[-2:]:
        return HDF5  # not one frame a chunk
    filters = dataset.id.get_create_plist()
    if filters.get_nfilters() == 0:
        return RAW
    if filters.get_nfilters() > 1:
        return HDF5
    number, _flags, options, _name = filters.get_filter(0)
    if number == FILTER_LZ4:
        return LZ4
    if number == FILTER_BITSHUFFLE and len(options) >= 5 and options[4] == _BITSHUFFLE_WITH_LZ4:
        return BSLZ4
    return HDF5


def _fill_contiguous(dataset: h5py.Dataset, offsets: np.ndarray, sizes: np.ndarray) -> None:
    frame_bytes = dataset.dtype.itemsize * dataset.shape[-1] * dataset.shape[-2]
    offsets.ravel()[:] = dataset.id.get_offset() + np.arange(offsets.size) * frame_bytes
    sizes[:] = frame_bytes


def _fill_chunked(dataset: h5py.Dataset, offsets: np.ndarray, sizes: np.ndarray, masks: np.ndarray) -> None:
    n_frames, channels = offsets.shape
    leading = dataset.ndim - 2

    def note(info: h5py.h5d.StoreInfo) -> None:
        where = info.chunk_offset[:leading]
        frame, channel = (*where, 0, 0)[:2]
        if frame < n_frames and channel < channels and info.byte_offset is not None:
            offsets[frame, channel] = info.byte_offset
            sizes[frame, channel] = info.size
            masks[frame, channel] = info.filter_mask

    dataset.id.chunk_iter(note)


def _name(version: FileVersion, dataset: str) -> str:
    text = f"{FORMAT} {version.describe()} {dataset}"
    return hashlib.sha256(text.encode()).hexdigest()[:40] + ".index"


def _load(path: Path) -> ChunkTable | None:
    try:
        meta, arrays = unpack(path.read_bytes())
        return ChunkTable(
            tuple(meta["shape"]),
            meta["dtype"],
            meta["n_frames"],
            meta["channels"],
            meta["codec"],
            arrays["offsets"],
            arrays["sizes"],
            arrays["filter_masks"],
        )
    except (OSError, BadRecord, KeyError):
        return None


def _keep(path: Path, table: ChunkTable) -> None:
    meta = {
        "shape": list(table.shape),
        "dtype": table.dtype,
        "n_frames": table.n_frames,
        "channels": table.channels,
        "codec": table.codec,
    }
    arrays = {"offsets": table.offsets, "sizes": table.sizes, "filter_masks": table.filter_masks}
    with contextlib.suppress(OSError):  # a table that cannot be kept is made again next time
        write_atomically(path, pack(meta, arrays))
