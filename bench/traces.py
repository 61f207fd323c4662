"""Traces of what readers do: real HDF5 reads of real files, recorded once and laid end to end.

One data file and one master file are written as DECTRIS' file writer lays them out (the chunks are holes, so that
100 GiB take no space), and h5py reads them through a file object that notes offset and length of every read. What is
recorded for one file holds for every file of the same layout, so that a trace of a scan of any size is put together
from the records: per frame what opening the master, following the link, opening the data file and reading one chunk
touch. Keys are (file, fragment), weights are bytes.
"""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from bench.policies import Access

MIB = 2**20
FRAGMENT = MIB
#: 512 KiB a chunk: a compressed 4-megapixel frame of a scan with few photons.
FRAME_SHAPE = (512, 512)
FRAMES_PER_FILE = 100
SMALL_FILE = 4096
#: What a directory listing and an attribute weigh in a cache of metadata and data together.
LISTING = 16 * 1024


class RecordingFile(io.FileIO):
    """A file that notes what is read of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "r")
        self.reads: list[tuple[int, int]] = []

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        at = self.tell()
        got = super().readinto(buffer) or 0
        self.reads.append((at, got))
        return got


def fragments_of(reads: Sequence[tuple[int, int]]) -> list[int]:
    """The fragments that reads touch, in order; repetitions next to each other count once."""
    touched: list[int] = []
    for offset, length in reads:
        for fragment in range(offset // FRAGMENT, (offset + max(length, 1) - 1) // FRAGMENT + 1):
            if not touched or touched[-1] != fragment:
                touched.append(fragment)
    return touched


@dataclass(frozen=True)
class Layout:
    """Which fragments of master and data file one frame needs, and how long both files are."""

    master: list[int]
    data: list[list[int]]
    master_size: int
    data_size: int

    def weight(self, size: int, fragment: int) -> int:
        """Bytes of a fragment of a file of `size` bytes."""
        return min(FRAGMENT, size - fragment * FRAGMENT)


def _write_data(path: Path) -> None:
    """A data file whose chunks are allocated and never written."""
    with h5py.File(path, "w", libver="latest") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((1, *FRAME_SHAPE))
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((FRAMES_PER_FILE, *FRAME_SHAPE))
        group = file.create_group("entry/data")
        h5py.h5d.create(group.id, b"data", h5py.h5t.NATIVE_UINT16, space, plist)


def _write_master(path: Path, files: int) -> None:
    """A master file with links, and with the pixel mask and flat field that make it big."""
    with h5py.File(path, "w", libver="latest") as file:
        detector = file.create_group("entry/instrument/detector/detectorSpecific")
        detector.create_dataset("pixel_mask", data=np.zeros((2167, 2070), "u4"))
        detector.create_dataset("flatfield", data=np.ones((2167, 2070), "f4"))
        group = file.create_group("entry/data")
        for part in range(1, files + 1):
            group[f"data_{part:06d}"] = h5py.ExternalLink(f"scan_data_{part:06d}.h5", "/entry/data/data")


def record_layout() -> Layout:
    """What really is read for each frame of a data file."""
    with tempfile.TemporaryDirectory(prefix="dadabench-") as folder:
        master, data = Path(folder, "scan_master.h5"), Path(folder, "scan_data_000001.h5")
        _write_master(master, 100)
        _write_data(data)
        with RecordingFile(master) as raw:
            with h5py.File(raw, "r") as file:
                file["entry/data"].get("data_000001", getlink=True)
            of_master = fragments_of(raw.reads)
        of_data = []
        for frame in range(FRAMES_PER_FILE):
            with RecordingFile(data) as raw:
                with h5py.File(raw, "r") as file:
                    file["entry/data/data"][frame]
                of_data.append(fragments_of(raw.reads))
        return Layout(of_master, of_data, master.stat().st_size, data.stat().st_size)


def scan(layout: Layout, name: str, frames: Sequence[int]) -> Iterator[Access]:
    """Frames of the scan `name`, each with both opens."""
    for frame in frames:
        part, index = divmod(frame, FRAMES_PER_FILE)
        for fragment in layout.master:
            yield (name, "master", fragment), layout.weight(layout.master_size, fragment)
        for fragment in layout.data[index]:
            yield (name, part, fragment), layout.weight(layout.data_size, fragment)


def storm(name: str, directories: int, files: int) -> Iterator[Access]:
    """A walk over small files: each directory listed, each file read once."""
    for directory in range(directories):
        yield (name, directory), LISTING
        for file in range(files):
            yield (name, directory, file), SMALL_FILE


def interleaved(streams: Sequence[Iterator[Access]], chance: random.Random) -> Iterator[Access]:
    """Several readers at once, each going on in its own order."""
    running = list(streams)
    while running:
        stream = chance.choice(running)
        access = next(stream, None)
        if access is None:
            running.remove(stream)
        else:
            yield access


def full_scan(layout: Layout, frames: int) -> list[Access]:
    """One scan from its first frame to its last."""
    return list(scan(layout, "scan", range(frames)))


def repeated_scan(layout: Layout, frames: int, times: int = 4) -> list[Access]:
    """The same scan again and again: another parameter each time."""
    return [access for _ in range(times) for access in scan(layout, "scan", range(frames))]


def four_users(layout: Layout, frames: int) -> list[Access]:
    """One maps a scan, one repeats a region of another, one looks at single frames, one walks over small files."""
    chance = random.Random(4)
    region = [frame for _ in range(8) for frame in range(frames // 10)]
    popular = [min(frames - 1, int(frames * chance.paretovariate(1.2) / 100)) for _ in range(frames // 2)]
    streams = [
        scan(layout, "first", range(frames)),
        scan(layout, "second", region),
        scan(layout, "third", popular),
        storm("small", 20, frames // 20),
    ]
    return list(interleaved(streams, chance))


def metadata_storm(layout: Layout, frames: int) -> list[Access]:
    """Somebody works on a tenth of a scan while find and grep go over 20,000 small files."""
    region = [frame for _ in range(10) for frame in range(frames // 10)]
    return list(interleaved([scan(layout, "work", region), storm("small", 200, 100)], random.Random(5)))


TRACES = {
    "full scan": full_scan,
    "repeated scan": repeated_scan,
    "four users": four_users,
    "metadata storm": metadata_storm,
}
