"""Opening a scan of 62,500 frames: what is read for it the first time, and how little the next time.

How long it takes is in docs/decisions.md; here it is what the time depends on, which is the same on any machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

from dada import chunk_index, scan
from dada.scan import Scan, open_scan

FRAMES, PER_FILE, STORED = 62_500, 1000, 1024
FILES = -(-FRAMES // PER_FILE)


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A master with 63 data files, as a detector writes them; no frame of it could be decoded."""
    directory = tmp_path_factory.mktemp("large")
    with h5py.File(directory / "scan_master.h5", "w", libver=("v108", "v108")) as file:
        for number in range(FILES):
            name = f"scan_data_{number + 1:06d}.h5"
            file[f"/entry/data/data_{number + 1:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
            _write_data(directory / name, min(PER_FILE, FRAMES - number * PER_FILE))
    return directory / "scan_master.h5"


def _write_data(path: Path, count: int) -> None:
    with h5py.File(path, "w", libver=("v108", "v108")) as file:
        data = file.create_dataset(
            "/entry/data/data", (count, 32, 64), "u2", chunks=(1, 32, 64), maxshape=(None, 32, 64),
            **hdf5plugin.Bitshuffle(cname="lz4"),
        )  # fmt: skip
        for frame in range(count):
            data.id.write_direct_chunk((frame, 0, 0), bytes(STORED))


@dataclass
class Reads:
    """What this process read meanwhile: calls and bytes; and the files that were opened through HDF5."""

    calls: int = 0
    size: int = 0
    opened: tuple[str, ...] = ()


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    opened: list[str] = []
    original: Callable[[Path], h5py.File] = chunk_index.open_hdf5

    def noted(path: Path) -> h5py.File:
        opened.append(path.name)
        return original(path)

    reads = Reads()
    with monkeypatch.context() as patch:
        for module in (chunk_index, scan):
            patch.setattr(module, "open_hdf5", noted)
        before = _io()
        yield reads
        after = _io()
    reads.calls, reads.size = after["syscr"] - before["syscr"], after["rchar"] - before["rchar"]
    reads.opened = tuple(opened)


def _io() -> dict[str, int]:
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


def test_a_large_scan_is_indexed_once(master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened() -> tuple[Scan, Reads]:
        with counted(monkeypatch) as reads:
            found = open_scan(master, index_dir=tmp_path / "index")
        assert found.n_frames == FRAMES
        return found, reads

    first, reads = opened()
    assert sorted(reads.opened) == sorted(["scan_master.h5", *(f"scan_data_{n + 1:06d}.h5" for n in range(FILES))])
    assert reads.size < FRAMES * STORED / 8  # tables of chunks, and no chunk
    kept = sum(file.stat().st_size for file in (tmp_path / "index").iterdir())
    assert len(list((tmp_path / "index").iterdir())) == FILES

    again, reads = opened()
    assert reads.opened == ("scan_master.h5",)  # the data files are asked for their state and not opened
    assert reads.size < kept + (1 << 20)
    assert reads.calls < 10 * FILES
    for one, other in zip(first.segments, again.segments, strict=True):
        assert one.table is not None
        assert other.table is not None
        np.testing.assert_array_equal(one.table.offsets, other.table.offsets)

    third = master.parent / "scan_data_000003.h5"
    os.utime(third)
    _, reads = opened()
    assert sorted(reads.opened) == ["scan_data_000003.h5", "scan_master.h5"]
