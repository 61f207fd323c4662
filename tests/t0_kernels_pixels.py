"""Frames added up pixel by pixel, and thresholds: every kernel gives what the NumPy definition gives."""

from __future__ import annotations

import _dada_kernels
import numpy as np
import pytest

from dada.kernels import Codec, FrameReducer, PixelAccumulator, RawChunk, Status, reference
from tests.harness.chunks import pack
from tests.t0_kernels import CODECS, KERNELS, SHAPES, TYPES, assert_equal, content, tables

KINDS = ["zero", "sparse", "dense", "hot", "full", "invalid", "random"]


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    return request.param


def assert_pixels(found: PixelAccumulator, expected: dict[str, np.ndarray]) -> None:
    for name in ("sum", "maximum", "dropped"):
        np.testing.assert_array_equal(getattr(found, name), expected[name], err_msg=name)
    squares = found.squares.astype(object) + (found.squares_high.astype(object) << 64)
    assert (squares == expected["squares"]).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_of_pixels_equal_the_definition(kernel: str, shape: tuple[int, int], dtype: str) -> None:
    rng = np.random.default_rng([shape[0], shape[1], len(dtype)])
    mask = rng.random(shape) < 0.05
    frames = np.concatenate([content(kind, (2, *shape), dtype, rng) for kind in KINDS])
    expected = reference.pixel_sums(frames, mask=mask)
    for codec in CODECS:
        found = PixelAccumulator(shape, dtype, mask=mask, kernel=kernel)
        for start in range(0, len(frames), 4):
            status = found.add([pack(frame, codec) for frame in frames[start : start + 4]])
            assert not status.any()
        assert_pixels(found, expected)


@pytest.mark.parametrize("codec", CODECS[:2])
@pytest.mark.parametrize("block_bytes", [64, 8192, 65536, 2**20])
def test_any_block_size_and_a_cut(kernel: str, codec: Codec, block_bytes: int) -> None:
    shape, rng = (61, 307), np.random.default_rng(block_bytes)
    frames = content("hot", (3, *shape), "uint16", rng)
    found = PixelAccumulator(shape, "uint16", cut=900, threshold=2, kernel=kernel)
    found.add([pack(frame, codec, block_bytes) for frame in frames])
    assert_pixels(found, reference.pixel_sums(frames, cut=900, threshold=2))


def test_a_damaged_frame_leaves_no_trace(kernel: str) -> None:
    shape, rng = (61, 307), np.random.default_rng(3)
    frames = content("dense", (3, *shape), "uint16", rng)
    chunks = [pack(frame, Codec.BITSHUFFLE_LZ4) for frame in frames]
    cut_off = RawChunk(bytes(chunks[1].data)[:-9], Codec.BITSHUFFLE_LZ4)  # its first blocks are sound
    found = PixelAccumulator(shape, "uint16", kernel=kernel)
    assert found.add([chunks[0], cut_off, chunks[2]]).tolist() == [0, Status.TRUNCATED, 0]
    assert_pixels(found, reference.pixel_sums(frames[[0, 2]]))


def test_squares_beyond_64_bits(kernel: str) -> None:
    frames = np.full((3, 4, 64), 2**32 - 3, np.uint32)
    found = PixelAccumulator((4, 64), "uint32", kernel=kernel)
    found.add([pack(frame, Codec.BITSHUFFLE_LZ4) for frame in frames])
    assert found.squares_high.all()
    assert_pixels(found, reference.pixel_sums(frames))


def test_buffers_of_the_wrong_size_are_refused() -> None:
    plan = _dada_kernels.Plan(2, 2, 2, b"\x0f", None, 0, None, 0, 100, 0, False, None)
    good = [np.zeros(1, np.int32), *np.zeros((3, 4), np.uint64), *np.zeros((2, 4), np.uint32)]
    plan.accumulate([(b"", 0)], *good)
    for i in range(len(good)):
        bad = [*good[:i], good[i][:-1], *good[i + 1 :]]
        with pytest.raises(ValueError, match="are needed"):
            plan.accumulate([(b"", 0)], *bad)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("threshold", [0, 1, 2, 3, 9, 64, 200])
def test_counts_below_a_threshold_are_none(kernel: str, dtype: str, threshold: int) -> None:
    shape, rng = (83, 131), np.random.default_rng(threshold)
    table = tables(shape, rng)
    frames = np.concatenate([content(kind, (1, *shape), dtype, rng) for kind in KINDS])
    expected = reference.reduce(frames, threshold=threshold, **table)
    reducer = FrameReducer(shape, dtype, kernel=kernel, threshold=threshold, **table)
    for codec in CODECS:
        assert_equal(reducer.reduce([pack(frame, codec) for frame in frames]), expected)


@pytest.mark.parametrize("threshold", [-1, 500, 65535])
def test_a_threshold_that_nothing_can_reach_is_refused(threshold: int) -> None:
    with pytest.raises(ValueError, match="threshold"):
        FrameReducer((8, 8), "uint16", cut=500, threshold=threshold)
