"""A patch: some consecutive frames of one dataset, the unit of work and of what the results store keeps."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace
from itertools import islice

import numpy as np

from dada.frames import StoredFrame, Stretch, read_batches
from dada.kernels import FrameSums, Status, message
from dada.plan import BINS, MOMENTS, Part, SumsPlan, TableSums
from dada.results.keys import patch_key
from dada.results.records import BadRecord, pack, unpack
from dada.scan import Scan, Segment
from dada.version import FileVersion

#: Frames of a patch. Patches begin at multiples of this in their dataset, whoever computes them, so that
#: their keys agree.
PATCH_FRAMES = 64
#: What FrameSums has one number a frame of.
SCALARS = tuple(f.name for f in fields(FrameSums) if f.name not in ("bins", "bin_counts", "rois", "roi_counts"))


@dataclass(frozen=True)
class Patch:
    """The frames of a stretch; `first` is the number in the scan of the one with which the stretch begins."""

    first: int
    stretch: Stretch

    @property
    def count(self) -> int:
        """How many frames are read."""
        return len(self.stretch.frames)

    @property
    def offsets(self) -> list[int]:
        """The frames that are read, counted from `first`."""
        return [frame - self.stretch.start for frame in self.stretch.frames]

    @property
    def whole(self) -> Patch:
        """The same patch with all of its frames."""
        return Patch(self.first, replace(self.stretch, chosen=None))

    @property
    def stored_bytes(self) -> int:
        """Bytes of the frames as they are stored."""
        return stored_bytes(self.stretch)

    @property
    def label(self) -> str:
        """The file, for people."""
        return self.stretch.path.name


@dataclass(frozen=True)
class Damage:
    """A frame that could not be used, and why. `passing`: it may be readable next time."""

    frame: int  # counted from the patch's first
    reason: str
    passing: bool = False


@dataclass(frozen=True)
class PatchSums:
    """Sums of the frames of a patch, of the parts that were asked for.

    status: (n,) a kernel status, 0 where the frame is sound. scalars: by name as in FrameSums, None unless the moments
    were asked for. tables: bins and ROIs. settled: the file was still in the state it was indexed in when all was read.
    """

    status: np.ndarray
    scalars: dict[str, np.ndarray] | None
    tables: TableSums
    damages: tuple[Damage, ...]
    settled: bool = True

    @property
    def keepable(self) -> bool:
        """Whether it is known to be what computing it again from this version of the file would give."""
        return self.settled and not any(damage.passing for damage in self.damages)


def patches_of(scan: Scan, wanted: np.ndarray, patch_frames: int = PATCH_FRAMES) -> Iterator[Patch]:
    """The patches that hold the wanted frames (bool, one a frame), in order; missing files have none.

    They are read whole, for whoever asks next, unless most of it would be read in vain.
    """
    for segment in scan.segments:
        if segment.table is None or segment.version is None:
            continue
        start = segment.start
        while start < segment.start + segment.count:
            stop = min((start // patch_frames + 1) * patch_frames, segment.start + segment.count)
            first = segment.first + start - segment.start
            chosen = np.flatnonzero(wanted[first : first + stop - start]) + start
            if chosen.size:
                sparse = 2 * chosen.size < stop - start
                stretch = stretch_of(scan, segment, start, stop)
                yield Patch(first, replace(stretch, chosen=tuple(chosen.tolist())) if sparse else stretch)
            start = stop


def stored_bytes(stretch: Stretch) -> int:
    """Bytes of a stretch's frames as they are stored."""
    return int(stretch.sizes.sum())


def stretch_of(scan: Scan, segment: Segment, start: int, stop: int) -> Stretch:
    """Frames [start, stop) of the dataset of a segment that is there."""
    assert segment.table is not None
    assert segment.version is not None
    return Stretch(
        segment.path,
        segment.dataset,
        start,
        stop - start,
        scan.channel,
        segment.table.rows(start, stop),
        segment.version,
    )


def compute(patch: Patch, plan: SumsPlan, parts: tuple[Part, ...], readers: Executor) -> PatchSums:
    """Read the frames of a patch and sum them up. Raises DataChanged, OSError."""
    reducers = plan.reducers(parts)
    found: list[list[FrameSums]] = [[] for _ in reducers]
    damages: list[Damage] = []
    offsets = iter(patch.offsets)
    for batch in read_batches(patch.stretch, readers):
        chunks = [frame.chunk for frame in batch]
        for sums, (_, reducer) in zip(found, reducers, strict=True):
            sums.append(reducer.reduce(chunks))
        damages += _damages(batch, found[0][-1], list(islice(offsets, len(batch))))
    merged = [FrameSums.concatenate(sums) for sums in found]
    settled = FileVersion.of(patch.stretch.path) == patch.stretch.version
    return _collect([(group, sums) for (group, _), sums in zip(reducers, merged, strict=True)], damages, settled)


def _collect(computed: list[tuple[tuple[Part, ...], FrameSums]], damages: list[Damage], settled: bool) -> PatchSums:
    scalars, tables = None, {}
    for group, sums in computed:
        rois = iter(range(sums.rois.shape[1]))
        for part in group:
            if part.family == MOMENTS:
                scalars = {name: getattr(sums, name) for name in SCALARS}
            elif part.family == BINS:
                tables[part] = sums.bins, sums.bin_counts
            else:
                column = next(rois)
                tables[part] = sums.rois[:, column : column + 1], sums.roi_counts[:, column : column + 1]
    return PatchSums(computed[0][1].status, scalars, tables, tuple(damages), settled)


def unreadable(patch: Patch, parts: tuple[Part, ...], reason: str) -> PatchSums:
    """The sums of a patch whose file cannot be opened at present."""
    n = patch.count
    empty = FrameSums.zeros(n)
    status = np.full(n, Status.EMPTY, dtype=np.int32)
    scalars = {name: getattr(empty, name) for name in SCALARS} | {"status": status}
    tables = {part: (np.zeros((n, part.width), np.int64),) * 2 for part in parts if part.family != MOMENTS}
    return PatchSums(status, scalars, tables, tuple(Damage(frame, reason, True) for frame in patch.offsets))


def _damages(batch: list[StoredFrame], sums: FrameSums, offsets: list[int]) -> Iterator[Damage]:
    for number in np.flatnonzero(~sums.ok).tolist():
        frame, status = batch[number], int(sums.status[number])
        passing = frame.passing or status == Status.MEMORY
        yield Damage(offsets[number], frame.reason or message(status), passing)


def key_of(patch: Patch, plan: SumsPlan, part: Part) -> str:
    """What this part of the patch's sums is kept under."""
    stretch = patch.stretch
    return patch_key(
        stretch.version,
        stretch.dataset,
        stretch.channel,
        stretch.start,
        stretch.count if stretch.chosen is None else stretch.chosen,
        plan.digest,
        part.family,
        part.digest,
    )


def to_records(patch: Patch, plan: SumsPlan, computed: PatchSums) -> Iterator[tuple[str, bytes]]:
    """(key, record) of each part that was computed."""
    meta = {"damages": [[damage.frame, damage.reason] for damage in computed.damages], "count": patch.count}
    if computed.scalars is not None:
        yield key_of(patch, plan, Part(MOMENTS)), pack(meta, computed.scalars)
    for part, (total, count) in computed.tables.items():
        arrays = {"status": computed.status, "sum": total, "count": count}
        yield key_of(patch, plan, part), pack(meta, arrays)


def from_record(patch: Patch, part: Part, record: bytes) -> PatchSums | None:
    """One part of a patch's sums as it was kept; None when the record does not fit."""
    try:
        meta, arrays = unpack(record)
        n = patch.count
        if meta["count"] != n or any(len(array) != n for array in arrays.values()):
            return None
        damages = tuple(Damage(int(frame), str(reason)) for frame, reason in meta["damages"])
        if part.family == MOMENTS:
            return PatchSums(arrays["status"], {name: arrays[name] for name in SCALARS}, {}, damages)
        table = arrays["sum"].reshape(n, part.width), arrays["count"].reshape(n, part.width)
        return PatchSums(arrays["status"], None, {part: table}, damages)
    except (BadRecord, KeyError, TypeError, ValueError):
        return None
