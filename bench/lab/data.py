"""Test data whose right bytes are known without a second copy: a plain file's content is a function of the
offset.

The 64-bit word number `i` of a file with seed `s` is SplitMix64(s + i) (Steele, Lea and Flood, OOPSLA
2014). It does not compress, like detector data, and any range of it can be checked in place.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import xxhash

MIB = 2**20
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
#: Shape of the frames in the HDF5 files; their chunks are opaque bytes, so only the name of the size matters.
FRAME_SHAPE = (514, 1030)


def words(seed: int, first: int, count: int) -> npt.NDArray[np.uint64]:
    """Words `first` .. `first + count - 1` of the content with seed `seed`."""
    x = (np.arange(first, first + count, dtype=np.uint64) + (np.uint64(seed) << np.uint64(40))) * _STEP
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))


def content(seed: int, offset: int, length: int) -> bytes:
    """The right bytes of `length` bytes at `offset`."""
    first = offset // 8
    last = -(-(offset + length) // 8)
    whole = words(seed, first, last - first).tobytes()
    return whole[offset - first * 8 : offset - first * 8 + length]


@dataclass(frozen=True)
class Sizes:
    """How much data; `QUICK` is for checking that everything runs, `FULL` for measuring."""

    big_bytes: int
    reader_bytes: int
    directories: int
    files_per_directory: int
    frames: int
    frames_per_file: int
    chunk_bytes: int

    readers: int = 4
    small_bytes: int = 4096


FULL = Sizes(1024 * MIB, 256 * MIB, 200, 100, 1000, 100, MIB // 2)
MEDIUM = Sizes(512 * MIB, 128 * MIB, 200, 100, 500, 100, MIB // 2)
SMALL = Sizes(256 * MIB, 64 * MIB, 200, 100, 400, 100, MIB // 2)
QUICK = Sizes(4 * MIB, MIB, 4, 5, 6, 3, 64 * 1024)


@dataclass(frozen=True)
class Tree:
    """Test data below `root`; its paths are relative, so that they hold below a mount of it as well."""

    root: Path
    sizes: Sizes

    BIG = "big.bin"
    SEED_BIG = 1
    SEED_READER = 10

    def reader(self, index: int) -> str:
        """The file of sequential reader `index`."""
        return f"reader_{index}.bin"

    def small(self, directory: int, index: int) -> str:
        """Small file `index` of directory `directory`."""
        return f"small/d{directory:03d}/f{index:03d}.dat"

    def small_seed(self, directory: int, index: int) -> int:
        return 1000 + directory * self.sizes.files_per_directory + index

    @property
    def small_count(self) -> int:
        return self.sizes.directories * self.sizes.files_per_directory

    MASTER = "scan/scan_master.h5"

    def data_file(self, part: int) -> str:
        """Data file `part` (1, 2, ...) of the scan."""
        return f"scan/scan_data_{part:06d}.h5"

    def chunk(self, frame: int) -> bytes:
        """The stored bytes of frame `frame`."""
        return content(1_000_000 + frame, 0, self.sizes.chunk_bytes)


def write_content(path: Path, seed: int, size: int) -> None:
    """Fill `path` with `size` bytes of the content with `seed`."""
    with path.open("wb") as out:
        for offset in range(0, size, 16 * MIB):
            out.write(content(seed, offset, min(16 * MIB, size - offset)))


def _write_scan(tree: Tree) -> None:
    """A master file with external links `data_000001`, ... to data files, as DECTRIS lays it out."""
    sizes = tree.sizes
    master_path = tree.root / tree.MASTER
    master_path.parent.mkdir(exist_ok=True)
    with h5py.File(master_path, "w", libver="latest") as master:
        group = master.create_group("entry/data")
        for part, first in enumerate(range(0, sizes.frames, sizes.frames_per_file), 1):
            name = Path(tree.data_file(part)).name
            group[f"data_{part:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
            count = min(sizes.frames_per_file, sizes.frames - first)
            with h5py.File(master_path.parent / name, "w", libver="latest") as data:
                frames = data.create_dataset(
                    "entry/data/data",
                    (count, *FRAME_SHAPE),
                    "u4",
                    chunks=(1, *FRAME_SHAPE),
                    compression="lzf",
                )
                for index in range(count):
                    frames.id.write_direct_chunk((index, 0, 0), tree.chunk(first + index))


def make_tree(root: Path, sizes: Sizes) -> Tree:
    """The tree of `sizes` below `root`; made once, found again by its `made.json` when sizes are the same."""
    tree = Tree(root, sizes)
    stamp = root / "made.json"
    if stamp.exists() and json.loads(stamp.read_text()) == asdict(sizes):
        return tree
    root.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    write_content(root / tree.BIG, tree.SEED_BIG, sizes.big_bytes)
    for index in range(sizes.readers):
        write_content(root / tree.reader(index), tree.SEED_READER + index, sizes.reader_bytes)
    for directory in range(sizes.directories):
        (root / tree.small(directory, 0)).parent.mkdir(parents=True, exist_ok=True)
        for index in range(sizes.files_per_directory):
            write_content(root / tree.small(directory, index), tree.small_seed(directory, index), sizes.small_bytes)
    _write_scan(tree)
    stamp.write_text(json.dumps(asdict(sizes)))
    return tree


def checksum(seed: int, size: int) -> int:
    """XXH3-64 of the first `size` bytes of the content with seed `seed`."""
    digest = xxhash.xxh3_64()
    for offset in range(0, size, 16 * MIB):
        digest.update(content(seed, offset, min(16 * MIB, size - offset)))
    return digest.intdigest()


def read_everything(root: Path) -> None:
    """Read every file below `root` once, so that the machine's page cache holds it."""
    buffer = bytearray(4 * MIB)
    for path in sorted(root.rglob("*")):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
