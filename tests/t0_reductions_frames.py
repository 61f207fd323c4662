"""Phase integration, frames that stand for many, binned frames and composites."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dada.errors import UsageError
from dada.kernels import Codec, FrameReducer, PixelAccumulator
from dada.reductions.composite import Thumbnails, binning, composite
from dada.reductions.dpc import curl, divergence, integrate
from dada.reductions.frame_statistics import FrameStatistics
from dada.reductions.protocol import Setup
from tests.harness.chunks import pack

SHAPE = (45, 62)
STEP = (0.5e-6, 0.3e-6)


def phantom() -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """A smooth phase in radians and its gradients (y, x) per metre."""
    y, x = np.indices(SHAPE) * np.array(STEP)[:, None, None]
    height, width, sigma = SHAPE[0] * STEP[0], SHAPE[1] * STEP[1], 3e-6
    dy, dx = y - 0.4 * height, x - 0.5 * width
    phase = 3 * np.exp(-(dy**2 + dx**2) / (2 * sigma**2))
    return phase - phase.mean(), -phase * dy / sigma**2, -phase * dx / sigma**2


@pytest.mark.parametrize("method", ["least_squares", "fourier"])
def test_the_phase_comes_back_from_its_gradients(method: str) -> None:
    phase, gy, gx = phantom()
    np.testing.assert_allclose(integrate(gy, gx, STEP, method), phase, atol=0.05)
    assert integrate(gy, gx, STEP, method).mean() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("method", ["least_squares", "fourier"])
def test_a_tilted_plane_has_no_periodic_edges(method: str) -> None:
    plane = integrate(np.full(SHAPE, 2.0), np.full(SHAPE, -1.0), method=method)
    y, x = np.indices(SHAPE)
    expected = 2.0 * y - x
    tolerance = 1e-9 if method == "least_squares" else 8.0
    np.testing.assert_allclose(plane, expected - expected.mean(), atol=tolerance)


def test_least_squares_is_the_least() -> None:
    """With noise, no nearby phase fits the differences better."""
    rng = np.random.default_rng(0)
    gy, gx = rng.normal(size=(2, 9, 7))
    found = integrate(gy, gx)

    def misfit(phase: NDArray[np.floating]) -> float:
        down = np.diff(phase, axis=0) - (gy[1:] + gy[:-1]) / 2
        across = np.diff(phase, axis=1) - (gx[:, 1:] + gx[:, :-1]) / 2
        return float((down**2).sum() + (across**2).sum())

    best = misfit(found)
    assert all(misfit(found + 1e-3 * rng.normal(size=(9, 7))) > best for _ in range(50))


def test_divergence_and_curl() -> None:
    phase, gy, gx = phantom()
    inside = (slice(2, -2), slice(2, -2))
    laplacian = np.gradient(np.gradient(phase, STEP[0], axis=0), STEP[0], axis=0)
    laplacian += np.gradient(np.gradient(phase, STEP[1], axis=1), STEP[1], axis=1)
    scale = np.abs(laplacian).max()
    np.testing.assert_allclose(divergence(gy, gx, STEP)[inside], laplacian[inside], atol=0.06 * scale)
    assert np.abs(curl(gy, gx, STEP)[inside]).max() < 0.03 * scale
    assert np.abs(curl(gx, -gy, STEP)[inside]).max() > 0.5 * scale


def test_integration_refuses_what_it_cannot_do() -> None:
    phase, gy, gx = phantom()
    assert np.isfinite(integrate(np.where(phase > 2, np.nan, gy), gx, STEP)).all()
    with pytest.raises(UsageError, match="choose one of"):
        integrate(gy, gx, method="guess")
    with pytest.raises(UsageError, match="2 x 2"):
        integrate(gy[:1], gx[:1])


def known(dtype: str = "uint16") -> Setup:
    mask = np.zeros(SHAPE, bool)
    mask[10:12] = True
    return Setup(SHAPE, np.dtype(dtype), mask)


def added(frames: NDArray[np.integer]) -> FrameStatistics:
    """The statistics of some frames, as a worker makes them."""
    sums = PixelAccumulator(SHAPE, frames.dtype, mask=known().mask)
    assert not sums.add([pack(frame, Codec.BITSHUFFLE_LZ4) for frame in frames]).any()
    return FrameStatistics.of(sums, len(frames))


@pytest.mark.parametrize(("dtype", "mean"), [("uint8", 2), ("uint16", 3), ("uint32", 2**21)])
def test_statistics_over_frames(dtype: str, mean: int) -> None:
    frames = np.random.default_rng(1).poisson(mean, (20, *SHAPE)).astype(dtype)
    frames[3, 20, 30] = np.iinfo(dtype).max
    whole = FrameStatistics.empty(SHAPE)
    for part in (frames[:7], frames[7:]):
        whole.merge(added(part))
    found = FrameStatistics.from_compact(whole.n_frames, whole.compact()).finish(known().mask)
    values = np.where(known().mask | (frames == np.iinfo(dtype).max), np.nan, frames)
    good = ~known().mask
    np.testing.assert_array_equal(found["sum"][good], np.nansum(values, axis=0)[good])
    np.testing.assert_allclose(found["average"][good], np.nanmean(values[:, good], axis=0))
    np.testing.assert_array_equal(found["maximum"][good], np.nanmax(values[:, good], axis=0))
    np.testing.assert_allclose(found["variance"][good], np.nanvar(values[:, good], axis=0, ddof=1), rtol=1e-6)
    assert found["n"][20, 30] == 19
    assert np.isnan(found["average"][10]).all()


def test_statistics_of_one_frame_have_no_variance() -> None:
    found = added(np.ones((1, *SHAPE), np.uint16)).finish(known().mask)
    assert np.isnan(found["variance"]).all()
    assert found["average"][0, 0] == 1


def test_binned_statistics_take_pixels_together() -> None:
    frames = np.random.default_rng(1).poisson(3, (5, *SHAPE)).astype(np.uint16)
    found = added(frames).finish(known().mask, binning=4)
    assert found["sum"].shape == (12, 16)
    block = frames[:, [8, 9], 12:16].astype(float)  # rows 10 and 11 are masked
    assert found["n"][2, 3] == block.size
    assert found["sum"][2, 3] == block.sum()
    assert found["maximum"][2, 3] == block.max()
    assert found["variance"][2, 3] == pytest.approx(block.var(ddof=1))
    with pytest.raises(UsageError, match="choose 1 or more"):
        added(frames).finish(known().mask, binning=0)


def test_squares_carry_into_their_high_part() -> None:
    frames = np.full((3, *SHAPE), 2**32 - 3, np.uint32)
    whole = FrameStatistics.empty(SHAPE)
    for frame in frames:
        whole.merge(added(frame[None]))
    assert int(whole.squares[0, 0]) + (int(whole.squares_high[0, 0]) << 64) == 3 * (2**32 - 3) ** 2


def test_thumbnails_are_means_over_valid_pixels() -> None:
    frames = np.random.default_rng(2).poisson(5, (3, *SHAPE)).astype(np.uint16)
    thumbnails, setup = Thumbnails(6), known()
    tables = thumbnails.prepare(setup)
    reducer = FrameReducer(SHAPE, "uint16", mask=setup.mask, bins=tables.bins, n_bins=tables.n_bins)
    found = thumbnails.finish(reducer.reduce([pack(frame, Codec.BITSHUFFLE_LZ4) for frame in frames]))["thumbnail"]
    assert found.values.shape == (3, 8, 11)
    assert found.values[1, 0, 0] == frames[1, :6, :6].mean()
    assert found.values[1, 1, 2] == pytest.approx(frames[1, [6, 7, 8, 9], 12:18].mean())
    assert found.values[1, 7, 10] == pytest.approx(frames[1, 42:, 60:].mean())
    assert found.axes[0][1][1] == 8.5


def test_thumbnails_of_a_region() -> None:
    frame = np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(SHAPE)
    thumbnails = Thumbnails(2, region=(20, 30, 4, 6))
    tables = thumbnails.prepare(known())
    reducer = FrameReducer(SHAPE, "uint16", bins=tables.bins, n_bins=tables.n_bins)
    found = thumbnails.finish(reducer.reduce([pack(frame, Codec.NONE)]))["thumbnail"]
    np.testing.assert_allclose(found.values[0], frame[20:24, 30:36].reshape(2, 2, 3, 2).mean((1, 3)))
    with pytest.raises(UsageError, match="does not lie"):
        Thumbnails(2, region=(40, 0, 10, 10)).prepare(known())


def test_binning_that_leaves_too_many_pixels_says_what_would_do() -> None:
    with pytest.raises(UsageError, match="bin by 9 or more"):
        binning((2167, 2070), 8)
    assert binning((2167, 2070), 9).max() == 241 * 230 - 1
    with pytest.raises(UsageError, match="choose 1 or more"):
        binning((4, 4), 0)


def test_a_composite_puts_each_frame_at_its_point() -> None:
    small = np.arange(2 * 3 * 4 * 5, dtype=float).reshape(2, 3, 4, 5)
    image = composite(small, border=1)
    assert image.shape == (10, 18)
    np.testing.assert_array_equal(image[5:9, 12:17], small[1, 2])
    assert np.isnan(image[4]).all()
