"""A scan on disk: which frame lies in which dataset of which file, and what the file says about the detector.

A scan is named by a master file, a data file, `FILE::DATASET`, or a directory or pattern of CBF or TIFF files.
Understood are the masters of DECTRIS (external links /entry/data/data_000001, ...; since 2024 one virtual dataset of
image, channel, y, x), virtual datasets, and any HDF5 dataset of frames.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from dada import image_files
from dada.chunk_index import HDF5_ERRORS, ChunkTable, chunk_table, find_frames, not_hdf5, open_hdf5
from dada.detector import Detector, read_detector
from dada.errors import DataError
from dada.version import FileVersion
from dada.virtual import Source, virtual_sources

_LINK = re.compile(r"data_\d{6}$")
_DATA_FILE = re.compile(r"_data_\d{6}(?=\.(h5|nxs|hdf5|hdf)$)")
_SINGLE = ("/entry/data/data", "/entry/instrument/detector/data", "/entry/data/raw")


@dataclass(frozen=True)
class Segment:
    """Consecutive frames of a scan that lie one after another in one dataset.

    first: number of the first one in the scan; count: how many; start: number of the first one in the dataset.
    table: where they are, None when the file is missing, and then `reason` says so.
    """

    path: Path
    dataset: str
    first: int
    count: int
    start: int
    table: ChunkTable | None
    version: FileVersion | None
    reason: str = ""

    @property
    def stop(self) -> int:
        """Number in the scan of the frame after the last one."""
        return self.first + self.count


@dataclass(frozen=True)
class Scan:
    """A scan: `n_frames` frames of `shape` (rows, columns) and `dtype`, in segments in the order they were taken."""

    path: Path
    name: str
    segments: tuple[Segment, ...]
    shape: tuple[int, int]
    dtype: np.dtype
    detector: Detector
    channel: int = 0

    @property
    def n_frames(self) -> int:
        """Frames of the scan, those of missing files included."""
        return self.segments[-1].stop

    def segment_of(self, frame: int) -> Segment:
        """The segment that holds this frame, counted from 0. Raises IndexError."""
        if not 0 <= frame < self.n_frames:
            raise IndexError(f"the scan has frames 0..{self.n_frames - 1}, not {frame}")
        return self.segments[bisect.bisect_right([segment.first for segment in self.segments], frame) - 1]

    def where(self, frame: int) -> tuple[Path, str, int]:
        """File, dataset and number within the dataset of a frame."""
        segment = self.segment_of(frame)
        return segment.path, segment.dataset, segment.start + frame - segment.first


def open_scan(scan: str | Path, *, channel: int = 0, missing_ok: bool = False, index_dir: Path | None = None) -> Scan:
    """Open a scan: find its files and index their frames.

    scan: master file, data file, FILE::DATASET, or a directory or pattern of CBF or TIFF files.
    channel: which one of a dataset of (image, channel, y, x). missing_ok: data files that are not there become
    segments without frames instead of an error. Raises DataError with a sentence for a person.
    """
    name, _, dataset = str(scan).partition("::")
    path = Path(name)
    if image_files.is_image_scan(name):
        return _image_scan(name, path)
    try:
        with open_hdf5(path) as file:
            sources = list(_sources(file, path, dataset))
            segments = _segments(sources, index_dir, missing_ok)
            shape, dtype = _common_layout(segments, channel)
            detector = _detector(file, path, shape, channel)
    except FileNotFoundError:
        raise DataError(f"{path} is not there; give a master file, a data file or FILE::DATASET") from None
    except HDF5_ERRORS as error:
        raise not_hdf5(path, error) from error
    return Scan(path, str(scan), tuple(segments), shape, dtype, detector, channel)


def _sources(file: h5py.File, path: Path, dataset: str) -> Iterator[Source]:
    """The datasets that make up the scan, in order."""
    if not dataset:
        links = _data_links(file, path)
        if links:
            yield from links
            return
        dataset = _only_dataset(file, path)
    found = find_frames(file, dataset, path)
    if found.is_virtual:
        yield from virtual_sources(found, path)
    else:
        yield Source(path, found.name, 0, None, label=found.name)


def _data_links(file: h5py.File, path: Path) -> list[Source]:
    group = file.get("/entry/data")
    if not isinstance(group, h5py.Group):
        return []
    sources = []
    for name in sorted(name for name in group if _LINK.match(name)):
        link = group.get(name, getlink=True)
        label = f"/entry/data/{name}"
        if isinstance(link, h5py.ExternalLink):
            sources.append(Source(_linked_file(path, link.filename), link.path, 0, None, label))
        else:
            sources.append(Source(path, label, 0, None, label))
    return sources


def _linked_file(master: Path, name: str) -> Path:
    """Where HDF5 would find an external link's file: as written, else beside the master."""
    target = master.parent / name  # an absolute name stays what it is
    beside = master.parent / Path(name).name
    return target if target.exists() or not beside.exists() else beside


def _only_dataset(file: h5py.File, path: Path) -> str:
    for name in _SINGLE:
        if isinstance(file.get(name), h5py.Dataset):
            return name
    candidates: list[h5py.Dataset] = []

    def note(_name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim in (3, 4) and item.dtype.kind in "iu":
            candidates.append(item)

    file.visititems(note)
    if not candidates:
        raise DataError(
            f"{path} holds no frames: neither /entry/data/data_000001, /entry/data/data nor any other stack"
        )
    return str(max(candidates, key=lambda item: item.size).name)


def _segments(sources: list[Source], index_dir: Path | None, missing_ok: bool) -> list[Segment]:
    segments: list[Segment] = []
    first, usual = 0, 0
    for source in sources:
        try:
            segment = _segment(source, first, index_dir)
            usual = max(usual, segment.count)
        except FileNotFoundError:
            segment = _missing(source, first, usual or _usual_length(sources, index_dir), missing_ok)
        segments.append(segment)
        first = segment.stop
    if first == 0 and any(segment.table for segment in segments):
        raise DataError(f"{sources[0].path} holds no frames yet in {sources[0].dataset}")
    return _without_what_is_to_come(segments)


def _segment(source: Source, first: int, index_dir: Path | None) -> Segment:
    table, version = chunk_table(source.path, source.dataset, index_dir)
    count = table.n_frames - source.start if source.count is None else source.count
    if source.start + count > table.n_frames:
        raise DataError(
            f"{source.label} wants frames {source.start}..{source.start + count - 1} of {source.path}, "
            f"which has {table.n_frames}; the data file is shorter than its master says"
        )
    return Segment(source.path, source.dataset, first, count, source.start, table, version)


def _missing(source: Source, first: int, usual: int, missing_ok: bool) -> Segment:
    count = source.count if source.count is not None else usual
    if missing_ok:
        reason = f"data file {source.path.name} is missing"
        return Segment(source.path, source.dataset, first, count, source.start, None, None, reason)
    frames = f"frames {first}..{first + count - 1}" if count else f"the frames from {first} on"
    raise DataError(
        f"data file {source.path}, linked as {source.label}, is missing and with it {frames}; put it beside its "
        "master file, or use --aborted to map what is there"
    )


def _without_what_is_to_come(segments: list[Segment]) -> list[Segment]:
    """Files that are missing at the end are not there yet (or never will be): no frames, rather than missing ones."""
    there = [number for number, segment in enumerate(segments) if segment.table]
    return segments[: there[-1] + 1] if there else segments


def _usual_length(sources: list[Source], index_dir: Path | None) -> int:
    """Frames of the first data file that is there; 0 when none is."""
    for source in sources:
        try:
            return _segment(source, 0, index_dir).count
        except FileNotFoundError:
            continue
    return 0


def _common_layout(segments: list[Segment], channel: int) -> tuple[tuple[int, int], np.dtype]:
    tables = [(segment, segment.table) for segment in segments if segment.table is not None]
    if not tables:
        raise DataError(f"not one data file of this scan is there; the first would be {segments[0].path}")
    first = tables[0][1]
    for segment, table in tables:
        if (table.shape, table.dtype) != (first.shape, first.dtype):
            raise DataError(
                f"{segment.path} holds frames of {table.shape} {table.dtype}, the files before it {first.shape} "
                f"{first.dtype}: they are not of one scan"
            )
        if channel >= table.channels:
            raise DataError(f"{segment.path} has {table.channels} channels, there is no --channel {channel}")
    return first.shape, np.dtype(first.dtype)


def _detector(file: h5py.File, path: Path, shape: tuple[int, int], channel: int) -> Detector:
    """From the file itself, or from the master file beside a data file."""
    master = path.with_name(_DATA_FILE.sub("_master", path.name))
    if master != path and master.exists():
        with open_hdf5(master) as beside:
            return read_detector(beside, master, shape, channel)
    return read_detector(file, path, shape, channel)


def _image_scan(name: str, path: Path) -> Scan:
    files = image_files.list_files(name)
    table = image_files.table_of(files[0])
    segments = tuple(Segment(file, "", number, 1, 0, table, FileVersion.of(file)) for number, file in enumerate(files))
    return Scan(path, name, segments, table.shape, np.dtype(table.dtype), image_files.detector_of(files[0]))
