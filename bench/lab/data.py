"""Test data whose right bytes are known without a second copy: a plain file's content is a function of the
offset.

The 64-bit word number `i` of a file with seed `s` is SplitMix64(s + i) (Steele, Lea and Flood, OOPSLA
2014). It does not compress, like detector data, and any range of it can be checked in place.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
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
#: Each of these has a checksum of its own, which is quicker to compare with than the bytes are made anew.
BLOCK = 64 * 1024


def words(seed: int, first: int, count: int) -> npt.NDArray[np.uint64]:
    """Words `first` .. `first + count - 1` of the content with seed `seed`."""
    return words_at(seed, np.arange(first, first + count, dtype=np.uint64))


def words_at(seed: int, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The words with these numbers of the content with seed `seed`."""
    x = (numbers + (np.uint64(seed) << np.uint64(40))) * _STEP
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
    #: XXH3-64 of what was meant to be written: of each block of a plain file, of each chunk of the scan (`CHUNKS`).
    sums: dict[str, list[int]] = field(default_factory=dict, compare=False)

    CHUNKS = "chunks"

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


def block_sums(data: bytes | memoryview) -> list[int]:
    """XXH3-64 of each block of `data`."""
    view = memoryview(data)
    return [xxhash.xxh3_64_intdigest(view[at : at + BLOCK]) for at in range(0, len(view), BLOCK)]


def write_content(path: Path, seed: int, size: int) -> list[int]:
    """Fill `path` with `size` bytes of the content with `seed`; the checksums of its blocks."""
    sums = []
    with path.open("wb") as out:
        for offset in range(0, size, 16 * MIB):
            piece = content(seed, offset, min(16 * MIB, size - offset))
            sums += block_sums(piece)
            out.write(piece)
    return sums


def _write_scan(tree: Tree) -> None:
    """A master file with external links `data_000001`, ... to data files, as DECTRIS lays it out."""
    sizes, sums = tree.sizes, tree.sums.setdefault(tree.CHUNKS, [])
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
                    chunk = tree.chunk(first + index)
                    sums.append(xxhash.xxh3_64_intdigest(chunk))
                    frames.id.write_direct_chunk((index, 0, 0), chunk)


def make_tree(root: Path, sizes: Sizes) -> Tree:
    """The tree of `sizes` below `root`; made once, found again by its `made.json` when sizes are the same."""
    stamp = root / "made.json"
    if stamp.exists():
        made = json.loads(stamp.read_text())
        if made.get("sizes") == asdict(sizes):
            return Tree(root, sizes, made["sums"])
    tree = Tree(root, sizes)
    root.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    tree.sums[tree.BIG] = write_content(root / tree.BIG, tree.SEED_BIG, sizes.big_bytes)
    for index in range(sizes.readers):
        name = tree.reader(index)
        tree.sums[name] = write_content(root / name, tree.SEED_READER + index, sizes.reader_bytes)
    for directory in range(sizes.directories):
        (root / tree.small(directory, 0)).parent.mkdir(parents=True, exist_ok=True)
        for index in range(sizes.files_per_directory):
            write_content(root / tree.small(directory, index), tree.small_seed(directory, index), sizes.small_bytes)
    _write_scan(tree)
    stamp.write_text(json.dumps({"sizes": asdict(sizes), "sums": tree.sums}))
    return tree


def read_everything(root: Path) -> None:
    """Read every file below `root` once, so that the machine's page cache holds it."""
    buffer = bytearray(4 * MIB)
    for path in sorted(root.rglob("*")):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
