"""Chunk tables and the frames read with them: byte for byte what HDF5 itself reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

from dada import chunk_index, frames
from dada.chunk_index import chunk_table
from dada.errors import DataChanged, DataError
from dada.frames import StoredFrame, Stretch, read_batches
from dada.kernels import Codec, decode_frame
from dada.scan import open_scan
from dada.version import FileVersion
from tests.harness import scans

DATA = scans.frames(23)
GZIP = {"chunks": (1, *scans.SHAPE), "compression": "gzip"}


@pytest.fixture
def readers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def stretch_of(path: Path, start: int = 0, count: int | None = None, channel: int = 0) -> Stretch:
    segment = open_scan(path, channel=channel).segments[0]
    assert segment.table is not None
    assert segment.version is not None
    count = segment.count if count is None else count
    table = segment.table.rows(start, start + count)
    return Stretch(segment.path, segment.dataset, start, count, channel, table, segment.version)


def read(stretch: Stretch, readers: ThreadPoolExecutor) -> list[StoredFrame]:
    return [frame for batch in read_batches(stretch, readers) for frame in batch]


def pixels(stored: list[StoredFrame], dtype: str = "uint16") -> np.ndarray:
    return np.array([decode_frame(frame.chunk, scans.SHAPE, dtype) for frame in stored])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (1, *scans.SHAPE), **hdf5plugin.LZ4()},
        {"chunks": (1, *scans.SHAPE)},
        {"chunks": None, "compression": None},
        GZIP,
        {"chunks": (4, *scans.SHAPE), **hdf5plugin.Bitshuffle(cname="zstd")},
        {"chunks": (1, 20, 20), **hdf5plugin.Bitshuffle(cname="lz4")},
        {"chunks": (1, *scans.SHAPE), "shuffle": True, "compression": "lzf"},
    ],
)
def test_frames_are_what_hdf5_reads(tmp_path: Path, readers: ThreadPoolExecutor, options: dict[str, object]) -> None:
    path = scans.stack(tmp_path / "scan.h5", DATA, **options)
    np.testing.assert_array_equal(pixels(read(stretch_of(path), readers)), DATA)
    np.testing.assert_array_equal(pixels(read(stretch_of(path, 7, 9), readers)), DATA[7:16])


def test_stored_bytes_are_those_of_the_chunk(tmp_path: Path, readers: ThreadPoolExecutor) -> None:
    path = scans.stack(tmp_path / "scan.h5", DATA)
    stored = read(stretch_of(path), readers)
    with h5py.File(path) as file:
        direct = [file["/entry/data/data"].id.read_direct_chunk((i, 0, 0))[1] for i in range(23)]
    assert [bytes(frame.chunk.data) for frame in stored] == direct
    assert all(frame.chunk.codec == Codec.BITSHUFFLE_LZ4 for frame in stored)


def test_channels_of_a_four_dimensional_dataset(tmp_path: Path, readers: ThreadPoolExecutor) -> None:
    data = np.stack([DATA, DATA[::-1]], axis=1)
    for options in ({}, {"chunks": (1, 1, *scans.SHAPE), "compression": "gzip"}):
        path = scans.stack(tmp_path / "four.h5", data, **options)
        for channel in (0, 1):
            found = pixels(read(stretch_of(path, channel=channel), readers))
            np.testing.assert_array_equal(found, data[:, channel])


def test_a_file_with_a_user_block(tmp_path: Path, readers: ThreadPoolExecutor) -> None:
    path = tmp_path / "block.h5"
    for options in ({"chunks": (1, *scans.SHAPE), **hdf5plugin.Bitshuffle(cname="lz4")}, {}):
        with h5py.File(path, "w", userblock_size=1024) as file:
            file.create_dataset("/entry/data/data", data=DATA, **options)
        np.testing.assert_array_equal(pixels(read(stretch_of(path), readers)), DATA)


@pytest.mark.parametrize(("dtype", "kernel"), [(">u2", "<u2"), ("<i4", "<i4"), ("<u8", "<u4"), ("<i8", "<u4")])
def test_other_pixel_types(tmp_path: Path, readers: ThreadPoolExecutor, dtype: str, kernel: str) -> None:
    data = scans.frames(4).astype(dtype)
    if dtype in ("<i4", "<i8"):
        data[:, 0, 0] = -1
    if dtype[-1] == "8":
        data[:, 0, 1] = 2**40
    path = scans.stack(tmp_path / "scan.h5", data)
    assert frames.kernel_dtype(np.dtype(dtype)) == np.dtype(kernel)
    found = pixels(read(stretch_of(path), readers), kernel)
    expected = data.astype(np.uint64)
    expected = np.minimum(np.where(data < 0, 2**32 - 1, expected), 2**32 - 1).astype(found.dtype)
    np.testing.assert_array_equal(found, expected)


def test_a_chunk_that_was_stored_without_its_filter(tmp_path: Path, readers: ThreadPoolExecutor) -> None:
    path = scans.stack(tmp_path / "scan.h5", DATA)
    with h5py.File(path, "a") as file:
        file["/entry/data/data"].id.write_direct_chunk((3, 0, 0), DATA[5].tobytes(), filter_mask=1)
    stored = read(stretch_of(path), readers)
    assert stored[3].chunk.codec == Codec.NONE
    np.testing.assert_array_equal(pixels(stored)[3], DATA[5])


def test_frames_that_were_never_written(tmp_path: Path, readers: ThreadPoolExecutor) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "/entry/data/data",
            (5, *scans.SHAPE),
            "uint16",
            chunks=(1, *scans.SHAPE),
            **hdf5plugin.Bitshuffle(cname="lz4"),
        )
        file["/entry/data/data"][1] = DATA[1]
    stored = read(stretch_of(path), readers)
    never = "no data was written for this frame"
    assert [frame.reason for frame in stored] == [never, "", never, never, never]


def test_neighbours_are_read_together(
    tmp_path: Path, readers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scans.stack(tmp_path / "scan.h5", DATA)
    reads: list[int] = []
    preadv = os.preadv

    def counted(fd: int, buffers: list[memoryview], offset: int) -> int:
        reads.append(sum(len(buffer) for buffer in buffers))
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    stored = read(stretch_of(path), readers)
    assert len(reads) == 1  # 23 small frames are less than a batch
    assert reads[0] < sum(len(frame.chunk.data) for frame in stored) + len(stored) * frames.GAP_BYTES
    reads.clear()
    monkeypatch.setattr(frames, "READ_BYTES", 4000)
    assert [bytes(frame.chunk.data) for frame in read(stretch_of(path), readers)] == [
        bytes(frame.chunk.data) for frame in stored
    ]
    assert len(reads) > 5


def test_small_batches_keep_the_order(
    tmp_path: Path, readers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "BATCH_FRAMES", 3)
    path = scans.stack(tmp_path / "scan.h5", DATA)
    batches = list(read_batches(stretch_of(path), readers))
    assert [len(batch) for batch in batches] == [3] * 7 + [2]
    np.testing.assert_array_equal(pixels([frame for batch in batches for frame in batch]), DATA)


@pytest.mark.parametrize("options", [{}, GZIP])
def test_a_file_that_changed_since_it_was_indexed(
    tmp_path: Path, readers: ThreadPoolExecutor, options: dict[str, object]
) -> None:
    path = scans.stack(tmp_path / "scan.h5", DATA, **options)
    stretch = stretch_of(path)
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataChanged, match=r"scan\.h5 changed while it was read"):
        read(stretch, readers)
    stretch = stretch_of(path)
    scans.stack(tmp_path / "other.h5", DATA, **options).rename(path)
    with pytest.raises(DataChanged):
        read(stretch, readers)


def test_a_file_that_only_grew_is_still_read(tmp_path: Path, readers: ThreadPoolExecutor) -> None:
    path = scans.stack(tmp_path / "scan.h5", DATA)
    stretch = stretch_of(path)
    with path.open("ab") as file:
        file.write(b"more")
    np.testing.assert_array_equal(pixels(read(stretch, readers)), DATA)


def test_a_file_that_changes_between_two_batches(
    tmp_path: Path, readers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "BATCH_FRAMES", 3)
    path = scans.stack(tmp_path / "scan.h5", DATA)
    batches = read_batches(stretch_of(path), readers)
    next(batches)
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataChanged):
        list(batches)


def test_a_truncated_copy(tmp_path: Path, readers: ThreadPoolExecutor) -> None:
    path = scans.stack(tmp_path / "scan.h5", DATA)
    stretch = stretch_of(path)
    first = bytes(read(stretch, readers)[0].chunk.data)
    last = int(np.argmax(stretch.table.offsets))
    os.truncate(path, int(stretch.table.offsets[last, 0]) + 10)
    stored = read(replace(stretch, version=FileVersion.of(path)), readers)  # as if it had been indexed like that
    assert len(stored[last].chunk.data) == 10  # what there is; the kernel says that it is too little
    assert bytes(stored[0].chunk.data) == first


def test_an_absurd_stored_length_is_not_read(tmp_path: Path, readers: ThreadPoolExecutor) -> None:
    path = scans.stack(tmp_path / "scan.h5", DATA)
    stretch = stretch_of(path)
    sizes = stretch.table.sizes.copy()
    sizes[4] = 1 << 40
    sizes[5] = -1  # what the index notes for a frame beyond the end of the file
    stored = read(replace(stretch, table=replace(stretch.table, sizes=sizes)), readers)
    assert "which no frame has" in stored[4].reason
    assert "the file ends before" in stored[5].reason
    assert [number for number, frame in enumerate(stored) if frame.reason] == [4, 5]


def test_damaged_gzip_costs_one_frame(tmp_path: Path, readers: ThreadPoolExecutor) -> None:
    path = scans.stack(tmp_path / "scan.h5", DATA, **GZIP)
    scans.damage_chunk(path, "/entry/data/data", 4)
    stored = read(stretch_of(path), readers)
    assert [number for number, frame in enumerate(stored) if frame.reason] == [4]
    assert not stored[4].passing


def test_tables_are_kept_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = scans.stack(tmp_path / "scan.h5", DATA)
    first, _ = chunk_table(path, "/entry/data/data", tmp_path / "index")
    monkeypatch.setattr(chunk_index, "open_hdf5", lambda path: pytest.fail("the file was opened again"))
    again, _ = chunk_table(path, "/entry/data/data", tmp_path / "index")
    for name in ("offsets", "sizes", "filter_masks"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    assert (again.codec, again.shape, again.dtype, again.n_frames) == ("bslz4", scans.SHAPE, "<u2", 23)


def test_a_changed_file_gets_a_new_table(tmp_path: Path) -> None:
    path = scans.stack(tmp_path / "scan.h5", DATA)
    chunk_table(path, "/entry/data/data", tmp_path / "index")
    scans.stack(path, DATA[:5])
    assert chunk_table(path, "/entry/data/data", tmp_path / "index")[0].n_frames == 5


def test_a_damaged_or_unwritable_index_is_no_matter(tmp_path: Path) -> None:
    path = scans.stack(tmp_path / "scan.h5", DATA)
    chunk_table(path, "/entry/data/data", tmp_path / "index")
    (kept,) = (tmp_path / "index").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert chunk_table(path, "/entry/data/data", tmp_path / "index")[0].n_frames == 23
    (tmp_path / "file").write_text("in the way")
    assert chunk_table(path, "/entry/data/data", tmp_path / "file" / "index")[0].n_frames == 23


def test_a_growing_file_is_read_while_its_writer_has_it_open(tmp_path: Path, readers: ThreadPoolExecutor) -> None:
    path = tmp_path / "live.h5"
    with h5py.File(path, "w", libver="latest", locking=False) as file:
        data = file.create_dataset(
            "/entry/data/data",
            (0, *scans.SHAPE),
            "uint16",
            maxshape=(None, *scans.SHAPE),
            chunks=(1, *scans.SHAPE),
            **hdf5plugin.Bitshuffle(cname="lz4"),
        )
        file.swmr_mode = True
        for count in (3, 7):
            for number in range(len(data), count):
                data.resize(number + 1, axis=0)
                data[number] = DATA[number]
            data.flush()
            np.testing.assert_array_equal(pixels(read(stretch_of(path), readers)), DATA[:count])


def test_a_file_that_never_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = scans.stack(tmp_path / "scan.h5", DATA)
    index = chunk_index.index_dataset

    def grow(*arguments: object) -> chunk_index.ChunkTable:
        with path.open("ab") as file:
            file.write(b"more")
        return index(*arguments)  # type: ignore[arg-type]

    def rewrite(*arguments: object) -> chunk_index.ChunkTable:
        os.utime(path)
        return index(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(chunk_index, "index_dataset", grow)
    assert chunk_table(path, "/entry/data/data", tmp_path / "index")[0].n_frames == 23
    assert not (tmp_path / "index").exists()  # a table of no known state is not kept
    monkeypatch.setattr(chunk_index, "index_dataset", rewrite)
    with pytest.raises(DataError, match="changes faster"):
        chunk_table(path, "/entry/data/data", tmp_path / "index")
