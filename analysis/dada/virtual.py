"""Virtual datasets: which frames of which files one is put together from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from dada.errors import DataError


@dataclass(frozen=True)
class Source:
    """`count` frames (None: all) of `dataset` in the file `path` from frame `start` on; `label`: who wants them."""

    path: Path
    dataset: str
    start: int
    count: int | None
    label: str


def virtual_sources(dataset: h5py.Dataset, path: Path) -> Iterator[Source]:
    """The pieces of a virtual dataset in frame order, when each is a run of whole frames and together they are all.

    Otherwise (interleaved, tiled, with holes) the dataset itself, to be read through HDF5. Raises DataError when a
    file it needs is missing then, because HDF5 would give fill values without a word.
    """
    maps = dataset.virtual_sources()
    pieces = sorted((piece for piece in (_piece(dataset, item, path) for item in maps) if piece), key=lambda p: p[0])
    ends = np.cumsum([0, *(count for _, count, _ in pieces)]).tolist()
    covered = [first for first, _, _ in pieces] == ends[:-1] and ends[-1] == dataset.shape[0]
    if covered and len(pieces) == len(maps):
        yield from (source for _, _, source in pieces)
        return
    for item in maps:
        file = _file(path, item.file_name)
        if not file.exists():
            raise DataError(f"{file}, a source of {dataset.name} in {path}, is missing; put it back beside {path.name}")
    yield Source(path, str(dataset.name), 0, None, str(dataset.name))


def _piece(dataset: h5py.Dataset, item: h5py._hl.vds.VDSmap, path: Path) -> tuple[int, int, Source] | None:
    """(first frame, frames, source) of one mapping; None when it is not a run of whole frames."""
    target = _frames(item.vspace, dataset.shape)
    if target is None:
        return None
    first, count = target
    source_shape = item.src_space.shape
    selected = (0, count) if item.src_space.get_select_type() == h5py.h5s.SEL_ALL else None
    if selected is None and len(source_shape) == dataset.ndim and source_shape[1:] == dataset.shape[1:]:
        selected = _frames(item.src_space, source_shape)
    if selected is None or selected[1] != count:
        return None
    return first, count, Source(_file(path, item.file_name), item.dset_name, selected[0], count, str(dataset.name))


def _frames(space: h5py.h5s.SpaceID, shape: tuple[int, ...]) -> tuple[int, int] | None:
    low, high = space.get_select_bounds()
    whole = all(a == 0 and b == n - 1 for a, b, n in zip(low[1:], high[1:], shape[1:], strict=True))
    points = int(np.prod([b - a + 1 for a, b in zip(low, high, strict=True)]))
    if not whole or space.get_select_npoints() != points:
        return None
    return int(low[0]), int(high[0] - low[0] + 1)


def _file(master: Path, name: str) -> Path:
    return master if name == "." else master.parent / name
