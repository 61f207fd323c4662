"""Every kernel gives, bit for bit, what the NumPy definition gives, whatever is in the frames."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import _dada_kernels
import numpy as np
import pytest
from numpy.typing import NDArray

from dada.kernels import Codec, FrameReducer, FrameSums, RawChunk, Status, decode_frame, message, reference
from dada.kernels.reducer import NO_BIN
from tests.harness.chunks import pack

KERNELS = _dada_kernels.kernels()
TYPES = ["uint8", "uint16", "uint32"]
SHAPES = [(1, 1), (1, 7), (3, 5), (8, 8), (149, 211), (5, 4099), (521, 37), (67, 1030)]
CODECS = [Codec.BITSHUFFLE_LZ4, Codec.LZ4, Codec.NONE]


def content(kind: str, shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> NDArray[np.integer]:
    """Frames (n, ny, nx) of one kind, with the invalid values that detectors write."""
    top = np.iinfo(dtype).max
    if kind == "random":
        return rng.integers(0, top, shape, dtype, endpoint=True)
    frames = {
        "zero": lambda: np.zeros(shape),
        "sparse": lambda: rng.poisson(0.06, shape),
        "dense": lambda: rng.poisson(5, shape),
        "hot": lambda: np.where(rng.random(shape) < 0.01, rng.integers(0, top, shape), rng.poisson(0.1, shape)),
        "full": lambda: np.full(shape, top - 2),
        "invalid": lambda: np.full(shape, top),
    }[kind]().astype(dtype)
    frames[:, :: max(shape[1] // 3, 2)] = top
    frames[rng.random(shape) < 0.002] = top - 1
    return frames


def tables(shape: tuple[int, int], rng: np.random.Generator) -> dict[str, object]:
    """A mask, a bin map and overlapping ROIs: everything, nothing, a stripe, noise."""
    rois = np.zeros((5, *shape), bool)
    rois[0] = True
    rois[2, shape[0] // 2] = True
    rois[3] = rng.random(shape) < 0.3
    rois[4, :, : shape[1] // 2] = True
    bins = rng.integers(0, 40, shape).astype(np.uint16)
    bins[bins == 39] = NO_BIN
    mask = rng.random(shape) < 0.05
    mask[shape[0] // 3] = True
    return {"mask": mask, "bins": bins, "n_bins": 38, "rois": rois}


def assert_equal(found: FrameSums, expected: FrameSums) -> None:
    for field in fields(FrameSums):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), field.name
        np.testing.assert_array_equal(a, b, err_msg=field.name)


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_all_contents_and_codecs_equal_the_definition(kernel: str, shape: tuple[int, int], dtype: str) -> None:
    rng = np.random.default_rng([shape[0], shape[1], len(dtype)])
    table = tables(shape, rng)
    reducer = FrameReducer(shape, dtype, kernel=kernel, **table)
    kinds = ["zero", "sparse", "dense", "hot", "full", "invalid"]
    frames = np.concatenate([content(kind, (1, *shape), dtype, rng) for kind in kinds])
    expected = reference.reduce(frames, **table)
    for codec in CODECS:
        assert_equal(reducer.reduce([pack(frame, codec) for frame in frames]), expected)


@pytest.mark.parametrize("dtype", TYPES)
def test_random_bits_equal_the_definition(kernel: str, dtype: str) -> None:
    shape, rng = (83, 131), np.random.default_rng(7)
    table = tables(shape, rng)
    frames = content("random", (2, *shape), dtype, rng)
    reducer = FrameReducer(shape, dtype, kernel=kernel, **table)
    expected = reference.reduce(frames, **table)
    for codec in CODECS:
        assert_equal(reducer.reduce([pack(frame, codec) for frame in frames]), expected)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("block_bytes", [32, 64, 1024, 4096, 8192, 24576, 65536, 2**20])
def test_any_block_size(kernel: str, dtype: str, block_bytes: int) -> None:
    shape, rng = (61, 307), np.random.default_rng(block_bytes)
    table = tables(shape, rng)
    frames = content("hot", (2, *shape), dtype, rng)
    reducer = FrameReducer(shape, dtype, kernel=kernel, **table)
    expected = reference.reduce(frames, **table)
    for codec in CODECS[:2]:
        assert_equal(reducer.reduce([pack(frame, codec, block_bytes) for frame in frames]), expected)


def test_frames_of_one_batch_may_be_stored_differently(kernel: str) -> None:
    shape, rng = (61, 307), np.random.default_rng(1)
    frames = content("sparse", (6, *shape), "uint16", rng)
    chunks = [pack(f, CODECS[i % 3], 4096 << i % 2) for i, f in enumerate(frames)]
    assert_equal(FrameReducer(shape, "uint16", kernel=kernel).reduce(chunks), reference.reduce(frames))


def test_only_what_is_asked_for(kernel: str) -> None:
    shape, rng = (61, 307), np.random.default_rng(2)
    frames = content("dense", (2, *shape), "uint16", rng)
    table = tables(shape, rng)
    for wanted in (["mask"], ["bins", "n_bins"], ["rois"], []):
        options = {name: table[name] for name in wanted} | {"moments": False}
        found = FrameReducer(shape, "uint16", kernel=kernel, **options).reduce([pack(f, CODECS[0]) for f in frames])
        assert_equal(found, reference.reduce(frames, **options))
        assert not found.sum_xy.any()
        assert found.total.all()


def test_many_rois(kernel: str) -> None:
    shape, rng = (40, 333), np.random.default_rng(3)
    rois = np.arange(100)[:, None, None] == rng.integers(0, 100, shape)
    frames = content("sparse", (2, *shape), "uint32", rng)
    found = FrameReducer(shape, "uint32", rois=rois, kernel=kernel).reduce([pack(f, CODECS[0]) for f in frames])
    assert_equal(found, reference.reduce(frames, rois=rois))


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 5, 64, 100, 65533, 65534, 65535, 10**6])
def test_a_saturation_value_lowers_the_cut(kernel: str, cut: int) -> None:
    shape, rng = (61, 307), np.random.default_rng(cut)
    table = tables(shape, rng)
    frames = np.concatenate([content(kind, (1, *shape), "uint16", rng) for kind in ("dense", "hot", "random")])
    reducer = FrameReducer(shape, "uint16", kernel=kernel, cut=cut, **table)
    for codec in CODECS:
        found = reducer.reduce([pack(f, codec) for f in frames])
        assert_equal(found, reference.reduce(frames, cut=cut, **table))


def test_a_sum_beyond_64_bits_is_an_error_not_a_number(kernel: str) -> None:
    shape = (400, 3000)
    frames = np.stack([np.full(shape, 2**32 - 3, np.uint32), np.ones(shape, np.uint32)])
    found = FrameReducer(shape, "uint32", kernel=kernel).reduce([pack(f, CODECS[0]) for f in frames])
    assert found.status.tolist() == [Status.OVERFLOW, Status.OK]
    assert found.total.tolist() == [0, 400 * 3000]
    assert_equal(found, reference.reduce(frames))


def test_signed_pixels_are_read_as_unsigned(kernel: str) -> None:
    frames = np.array([[[3, -1, 4], [-2, 0, 7]]], np.int32)
    found = FrameReducer((2, 3), "int32", kernel=kernel).reduce([pack(frames[0], Codec.NONE)])
    assert (found.total[0], found.n_valid[0], found.n_value_invalid[0], found.maximum[0]) == (14, 4, 2, 7)


def test_decoding_gives_the_pixels() -> None:
    rng = np.random.default_rng(4)
    for dtype in TYPES:
        for shape in SHAPES:
            frame = content("hot", (1, *shape), dtype, rng)[0]
            for codec in CODECS:
                np.testing.assert_array_equal(decode_frame(pack(frame, codec), shape, dtype), frame)


def test_one_reducer_serves_many_threads(kernel: str) -> None:
    shape, rng = (149, 211), np.random.default_rng(5)
    table = tables(shape, rng)
    frames = content("sparse", (8, *shape), "uint16", rng)
    reducer = FrameReducer(shape, "uint16", kernel=kernel, **table)
    chunks = [pack(frame, CODECS[0]) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda i: reducer.reduce(chunks[i % 8 : i % 8 + 1]), range(64)))
    expected = reference.reduce(frames, **table)
    assert_equal(FrameSums.concatenate(parts), FrameSums.concatenate([expected] * 8))


def test_sums_are_put_together_and_added_up() -> None:
    rng = np.random.default_rng(6)
    frames = content("sparse", (3, 20, 30), "uint16", rng)
    reducer = FrameReducer((20, 30), "uint16")
    chunks = [*(pack(f, CODECS[0]) for f in frames), RawChunk(b"", CODECS[0])]
    sums = reducer.reduce(chunks[:2]).merge(reducer.reduce(chunks[2:]))
    assert sums.ok.tolist() == [True, True, True, False]
    assert message(sums.status[3]) == "the frame was never written"
    whole, expected = sums.summed(), reference.reduce(frames)
    assert (whole.total[0], whole.sum_xy[0]) == (expected.total.sum(), expected.sum_xy.sum())
    assert whole.maximum[0] == expected.maximum.max()
    assert len(sums[sums.ok]) == 3
    with pytest.raises(ValueError, match="no frames"):
        FrameSums.concatenate([])
    assert len(reducer.reduce([])) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float32"}, "little-endian integers"),
        ({"dtype": ">u2"}, "little-endian integers"),
        ({"dtype": "uint64"}, "little-endian integers"),
        ({"mask": np.zeros((3, 4), bool)}, "mask has the shape"),
        ({"bins": np.zeros((2, 5), np.uint16), "n_bins": 3}, "bins has the shape"),
        ({"bins": np.zeros((2, 3), np.uint16), "n_bins": 70000}, "65535 bins"),
        ({"rois": np.zeros((2, 3, 3), bool)}, "ROI 0 has the shape"),
        ({"cut": -1}, "every pixel invalid"),
        ({"kernel": "abacus"}, "cannot run the kernel abacus"),
        ({"shape": (0, 3)}, "pixels"),
        ({"shape": (2**20, 2**20)}, "2.30 pixels"),
    ],
)
def test_tables_that_do_not_fit_are_refused(options: dict[str, object], words: str) -> None:
    settings = {"shape": (2, 3), "dtype": "uint16", **options}
    with pytest.raises(ValueError, match=words):
        FrameReducer(**settings)


def test_the_environment_forces_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DADA_KERNEL", "portable")
    assert FrameReducer((2, 3), "uint16").kernel == "portable"
    monkeypatch.setenv("DADA_KERNEL", "")
    assert FrameReducer((2, 3), "uint16").kernel == KERNELS[-1]


def test_counts_beyond_32_bits_in_one_bin(kernel: str) -> None:
    """Bins are kept in 32 bits while they fill up; sums beyond that must not be lost."""
    shape = (64, 2048)
    frames = np.full((3, *shape), 2**30, np.uint32)
    frames[1] = 4000
    frames[2, ::64] = 2**31
    bins = np.zeros(shape, np.uint16)
    rois = np.ones((1, *shape), bool)
    found = FrameReducer(shape, "uint32", kernel=kernel, bins=bins, n_bins=1, rois=rois).reduce(
        [pack(frame, CODECS[0]) for frame in frames]
    )
    assert_equal(found, reference.reduce(frames, bins=bins, n_bins=1, rois=rois))


@pytest.mark.parametrize("n", [2, 3, 8, 9, 21])
def test_dense_frames_reduced_together(kernel: str, n: int) -> None:
    shape, rng = (37, 1030), np.random.default_rng(n)
    table = tables(shape, rng)
    frames = content("dense", (n, *shape), "uint16", rng)
    frames[n // 2] = 0
    chunks = [pack(frame, CODECS[0]) for frame in frames]
    chunks.insert(1, RawChunk(chunks[0].data[:-40], CODECS[0]))  # fails in the middle of its frame
    found = FrameReducer(shape, "uint16", kernel=kernel, **table).reduce(chunks)
    assert found.status[1] in {Status.TRUNCATED, Status.BLOCK}
    assert_equal(found[found.ok], reference.reduce(frames, **table))


@pytest.mark.parametrize("kind", ["zero", "sparse", "hot", "random", "invalid"])
def test_one_lz4_block_for_the_whole_frame(kernel: str, kind: str) -> None:
    """As EIGER1 detectors write it: the window slides several times, matches reach back 64 KiB, random data is raw."""
    shape, rng = (211, 1031), np.random.default_rng(8)
    table = tables(shape, rng)
    frames = content(kind, (2, *shape), "uint16", rng)
    frames[:, 100:] = np.where(rng.random((2, 111, 1031)) < 0.999, frames[:, 69:180], frames[:, 100:])
    chunks = [pack(frame, Codec.LZ4, frame.nbytes) for frame in frames]
    chunks.append(RawChunk(chunks[0].data[:-1], Codec.LZ4))
    found = FrameReducer(shape, "uint16", kernel=kernel, **table).reduce(chunks)
    assert found.status[2] in {Status.BLOCK, Status.TRUNCATED}
    assert_equal(found[:2], reference.reduce(frames, **table))
    np.testing.assert_array_equal(decode_frame(chunks[1], shape, "uint16"), frames[1])
