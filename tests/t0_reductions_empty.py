"""The empty-beam correction of sums is that of every pixel, and errors and fits know of it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dada.errors import DataError, UsageError
from dada.geometry import Geometry
from dada.kernels import FrameSums, reference
from dada.options import transmission_of
from dada.reductions.azimuthal import AzimuthalProfile
from dada.reductions.centre_of_mass import CentreOfMass, standard_error
from dada.reductions.darkfield import Darkfield, Regions
from dada.reductions.empty_beam import as_measured, correct
from dada.reductions.fits import PowerLaw, poisson_line
from dada.reductions.orientation import Orientation
from dada.reductions.protocol import Reduction, Setup, Tables
from dada.reductions.radial import RadialProfile

SHAPE = (31, 43)
T, S = np.array([0.5, 0.8, 1.0, 0.25, 0.7]), 1.7
RNG = np.random.default_rng(5)
FRAMES = RNG.poisson(3, (5, *SHAPE)).astype(np.uint16)
EMPTY = RNG.poisson(2, (4, *SHAPE)).astype(np.uint16)
MASK = RNG.random(SHAPE) < 0.1
BEAM = Geometry.from_beam(SHAPE, (14.25, 20.5), distance_m=0.2, wavelength_nm=0.1)
Y, X = np.indices(SHAPE)
BINS = (Y // 8 * 6 + X // 8).astype(np.uint16)
ROIS = np.array([X < 20, Y + X < 40])
WEIGHTS = {"total": X**0, "sum_y": Y, "sum_x": X, "sum_yy": Y * Y, "sum_xx": X * X, "sum_xy": X * Y}


def sums_of(frames: NDArray[np.integer]) -> FrameSums:
    return reference.reduce(frames, mask=MASK, bins=BINS, n_bins=24, rois=ROIS)


def test_sums_are_corrected_as_every_pixel_would_be() -> None:
    found = correct(sums_of(FRAMES), sums_of(EMPTY), T, S)
    background = S * EMPTY.mean(0)
    pixels = np.where(MASK, 0, FRAMES / T[:, None, None] - background)
    noise = np.where(MASK, 0, FRAMES / T[:, None, None] ** 2 + S * background / len(EMPTY))
    for sums, expected in ((found, pixels), (found.variance, noise)):
        for name, weight in WEIGHTS.items():
            np.testing.assert_allclose(getattr(sums, name), (expected * weight).sum((1, 2)), err_msg=name)
        for i, roi in enumerate(ROIS):
            np.testing.assert_allclose(sums.rois[:, i], expected[:, roi].sum(1))
        for b in range(24):
            np.testing.assert_allclose(sums.bins[:, b], expected[:, b == BINS].sum(1), atol=1e-9)
    np.testing.assert_array_equal(found.bin_counts, sums_of(FRAMES).bin_counts)


def test_a_saturated_pixel_takes_its_part_of_the_empty_beam_with_it() -> None:
    frames = FRAMES.copy()
    y, x = np.argwhere(~MASK)[100]
    frames[1, y, x] = 65535
    measured = sums_of(frames)
    found = correct(measured, sums_of(EMPTY), 1.0, 1.0)
    inside = (BINS[y, x] == BINS) & ~MASK
    n = inside.sum()
    expected = measured.bins[1, BINS[y, x]] - EMPTY[:, inside].sum() / 4 * (n - 1) / n
    assert found.bins[1, BINS[y, x]] == pytest.approx(expected)


def test_what_was_measured_can_be_had_back() -> None:
    measured = sums_of(FRAMES)
    counts, transmission, background = as_measured(correct(measured, sums_of(EMPTY), T, S))
    np.testing.assert_allclose(counts, measured.bins)
    np.testing.assert_array_equal(transmission[:, 0], T)
    assert background.min() >= 0
    counts, transmission, background = as_measured(measured)
    assert counts is measured.bins
    assert (transmission == 1).all()
    assert not background.any()


def test_errors_are_those_of_many_measurements() -> None:
    """Of the centre of mass and of I(q), against the scatter of 400 measurements."""
    sample = 8 * np.exp(-((Y - 12) ** 2 + (X - 20) ** 2) / 60)
    stray = np.full(SHAPE, 1.5)
    setup = Setup(SHAPE, np.dtype(np.uint16), MASK, BEAM)
    radial = RadialProfile(6, (0.2, 0.35), solid_angle=False)
    bins = radial.prepare(setup).bins
    coms, errors, profiles, profile_errors = [], [], [], []
    rng = np.random.default_rng(1)
    for _ in range(400):
        frames = rng.poisson(0.5 * (sample + stray), (1, *SHAPE)).astype(np.uint16)
        empty = rng.poisson(stray, (3, *SHAPE)).astype(np.uint16)
        measured, dark = (reference.reduce(f, mask=MASK, bins=bins, n_bins=6) for f in (frames, empty))
        sums = correct(measured, dark, 0.5, 1.0)
        coms.append(float(sums.sum_y[0] / sums.total[0]))
        errors.append(float(standard_error(sums)[0][0]))
        found = radial.finish(sums)
        profiles.append(found["iq"].values[0])
        profile_errors.append(found["iq_error"].values[0])
    assert np.std(coms) / np.mean(errors) == pytest.approx(1, abs=0.2)  # 400 values: 1 +- 0.035
    assert np.mean(coms) == pytest.approx((sample * Y)[~MASK].sum() / sample[~MASK].sum(), abs=0.1)
    np.testing.assert_allclose(np.std(profiles, axis=0) / np.mean(profile_errors, axis=0), 1, atol=0.2)
    means = [sample[(bins == b) & ~MASK].mean() for b in range(6)]
    np.testing.assert_allclose(np.mean(profiles, axis=0), means, atol=0.1)


def test_fits_above_a_known_background_are_not_biased() -> None:
    rng = np.random.default_rng(2)
    x, norm = np.log(np.linspace(0.2, 2, 40)), np.full((2000, 40), 5.0)
    background = np.full((2000, 40), 6.0)
    counts = rng.poisson(norm * np.exp(0.5 - 2.0 * x) + background)
    fit = poisson_line(x, counts, norm, background)
    pull = (fit.slope + 2.0) / fit.slope_error
    assert abs(pull.mean()) < 0.15
    assert pull.std() == pytest.approx(1, abs=0.1)
    assert fit.chi2.mean() == pytest.approx(1, abs=0.05)
    assert abs(poisson_line(x, counts, norm).slope.mean() + 2.0) > 0.3  # without it, the slope is wrong


REDUCTIONS: list[Reduction] = [
    Darkfield(),
    CentreOfMass((14.25, 20.5)),
    Regions({"ring": (0.1, 0.3)}),
    Orientation(),
    RadialProfile(20),
    AzimuthalProfile({"ring": (0.1, 0.3)}),
    PowerLaw(20, (0.1, 0.4)),
]


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda reduction: reduction.name)
def test_without_a_background_nothing_changes(reduction: Reduction) -> None:
    table: Tables = reduction.prepare(Setup(SHAPE, np.dtype(np.uint16), MASK, BEAM))
    rois = np.array(list(table.rois.values())) if table.rois else None
    measured, dark = (
        reference.reduce(frames, mask=MASK, bins=table.bins, n_bins=table.n_bins, rois=rois)
        for frames in (FRAMES, EMPTY * 0)
    )
    plain, corrected = reduction.finish(measured), reduction.finish(correct(measured, dark, 1.0, 1.0))
    assert plain.keys() == corrected.keys()
    for name, item in plain.items():
        np.testing.assert_allclose(item.values, corrected[name].values, rtol=1e-9, err_msg=name)


def test_nothing_has_an_orientation_where_nothing_is_left() -> None:
    """A frame of nothing but the empty beam, and one with a sample in it."""
    rng = np.random.default_rng(4)
    stray, streak = np.full(SHAPE, 2.0), 20 * (abs(Y - 14.25) < 2) * (abs(X - 20.5) < 12)
    frames = rng.poisson([stray, stray + streak]).astype(np.uint16)
    empty = rng.poisson(stray, (4, *SHAPE)).astype(np.uint16)
    setup = Setup(SHAPE, np.dtype(np.uint16), MASK, BEAM)
    for reduction, name in ((Orientation(), "pca_angle"), (AzimuthalProfile({"ring": (0.05, 0.3)}), "orient2_ring")):
        table = reduction.prepare(setup)
        measured, dark = (reference.reduce(f, mask=MASK, bins=table.bins, n_bins=table.n_bins) for f in (frames, empty))
        assert np.isfinite(reduction.finish(measured)[name].values).all()  # of what was measured there is one
        angles = reduction.finish(correct(measured, dark, 1.0, 1.1))[name].values
        assert np.isnan(angles[0])
        assert abs((angles[1] + 90) % 180 - 90) < 5  # along x


def test_frames_without_sample_that_cannot_be_used() -> None:
    with pytest.raises(DataError, match="not one frame without sample"):
        correct(sums_of(FRAMES), FrameSums.zeros(0, 24, 2), 1.0, 1.0)


@pytest.mark.parametrize("values", [0, 1.2, -1, [0.5, 0.5], [[0.5, 2.0]], np.nan])
def test_impossible_transmissions_are_refused(values: object) -> None:
    with pytest.raises(UsageError, match="between 0"):
        transmission_of(values)  # type: ignore[arg-type]
