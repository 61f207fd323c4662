"""Chunks as HDF5 files hold them: written by h5py with hdf5plugin's filters, and by a real detector."""

from __future__ import annotations

from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

from dada.kernels import Codec, FrameReducer, RawChunk, decode_frame, reference


def raw_chunk(dataset: h5py.Dataset, index: int, codec: Codec) -> RawChunk:
    """The stored bytes of one frame of a dataset with one frame a chunk."""
    offset = (index, *[0] * (dataset.ndim - 1))
    # read_direct_chunk returns a filter mask too, but always 0 (h5py 3.16)
    unfiltered = dataset.id.get_chunk_info_by_coord(offset).filter_mask
    return RawChunk(dataset.id.read_direct_chunk(offset)[1], Codec.NONE if unfiltered else codec)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32"])
@pytest.mark.parametrize("block", [0, 512, 2048])
@pytest.mark.parametrize("codec", [Codec.BITSHUFFLE_LZ4, Codec.LZ4])
def test_files_written_by_the_plugins(tmp_path: Path, dtype: str, block: int, codec: Codec) -> None:
    frames = np.random.default_rng(block).poisson(0.3, (3, 101, 259)).astype(dtype)
    frames[:, 50:60] = -1 if dtype == "int32" else np.iinfo(dtype).max
    bitshuffled = codec is Codec.BITSHUFFLE_LZ4
    filters = hdf5plugin.Bitshuffle(nelems=block) if bitshuffled else hdf5plugin.LZ4(nbytes=block * 4)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        dataset = file.create_dataset("data", data=frames, chunks=(1, 101, 259), **filters)
        chunks = [raw_chunk(dataset, i, codec) for i in range(3)]
    found = FrameReducer((101, 259), dtype).reduce(chunks)
    expected = reference.reduce(frames)
    assert found.status.tolist() == [0, 0, 0]
    assert found.total.tolist() == expected.total.tolist()
    assert found.sum_xy.tolist() == expected.sum_xy.tolist()
    np.testing.assert_array_equal(decode_frame(chunks[1], (101, 259), dtype).view(dtype), frames[1])


def test_a_chunk_stored_without_its_filter(tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 60000, (1, 33, 21)).astype(np.uint16)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        dataset = file.create_dataset("data", (1, 33, 21), np.uint16, chunks=(1, 33, 21), **hdf5plugin.Bitshuffle())
        dataset.id.write_direct_chunk((0, 0, 0), frame.tobytes(), filter_mask=1)
        chunk = raw_chunk(dataset, 0, Codec.BITSHUFFLE_LZ4)
    assert FrameReducer((33, 21), "uint16").reduce([chunk]).total[0] == frame.sum(dtype=np.int64)


GOLDEN = {
    "whole": (9473699, 31037384, 55382832832, 47148792887, 128819295423440, 93424134806639, 83622611714093),
    "4M": (4210490, 16226545, 20282647295, 18270683399, 32296322601121, 25457465291247, 23954178634611),
}
SUMS = ("n_valid", "total", "sum_y", "sum_x", "sum_yy", "sum_xx", "sum_xy")
ANNULI = {(20, 60): (10060, 2322068), (60, 150): (59380, 568983), (150, 400): (321481, 876714)}


@pytest.fixture(scope="module")
def eiger(realdata: Path) -> RawChunk:
    """A frame of an EIGER2 9M: small-angle scattering, 3262 x 3108 uint32, gaps 2^32 - 1."""
    with h5py.File(realdata / "eiger2_9m_saxs_aps12idb.h5") as file:
        filter_mask, data = file["entry/data/data"].id.read_direct_chunk((0, 0))
    assert filter_mask == 0
    return RawChunk(data, Codec.BITSHUFFLE_LZ4)


@pytest.mark.parametrize("kernel", ["portable", None])
def test_a_real_frame_has_its_golden_sums(eiger: RawChunk, kernel: str | None) -> None:
    sums = FrameReducer((3262, 3108), "uint32", kernel=kernel).reduce([eiger])
    assert tuple(getattr(sums, name)[0] for name in SUMS) == GOLDEN["whole"]
    assert (sums.n_value_invalid[0], sums.maximum[0]) == (664597, 6510)


def test_part_of_a_real_frame_has_its_golden_sums(eiger: RawChunk) -> None:
    frame = np.ascontiguousarray(decode_frame(eiger, (3262, 3108), "uint32")[1100:, :2068])
    y, x = np.indices(frame.shape)
    radius = np.hypot(y - 1952.852, x - 1436.47)
    rois = np.stack([(radius > low) & (radius <= high) for low, high in ANNULI])
    sums = FrameReducer(frame.shape, "uint32", rois=rois).reduce([RawChunk(frame, Codec.NONE)])
    assert tuple(getattr(sums, name)[0] for name in SUMS) == GOLDEN["4M"]
    assert list(zip(sums.roi_counts[0], sums.rois[0], strict=True)) == list(ANNULI.values())
    assert sums.sum_y[0] / sums.total[0] == pytest.approx(1249.967094, abs=1e-6)
    assert sums.sum_x[0] / sums.total[0] == pytest.approx(1125.974963, abs=1e-6)
