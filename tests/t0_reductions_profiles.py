"""I(q), I(phi), orientation and fits: pyFAI's numbers, known answers, and errors that are what they say."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from pyFAI.detectors import Detector
from pyFAI.integrator.azimuthal import AzimuthalIntegrator

from dada.bins import NO_BIN
from dada.errors import UsageError
from dada.geometry import Geometry
from dada.kernels import Codec, FrameReducer, FrameSums, reference
from dada.reductions.azimuthal import AzimuthalProfile, second_harmonic
from dada.reductions.fits import Guinier, PowerLaw, poisson_line
from dada.reductions.orientation import Orientation, mask_bias
from dada.reductions.protocol import Quantity, Reduction, Setup
from dada.reductions.radial import RadialProfile
from tests.harness.chunks import pack

SHAPE = (211, 307)
BEAM = Geometry.from_beam(SHAPE, (100.3, 147.8), distance_m=0.5, wavelength_nm=0.1)


def setup(geometry: Geometry = BEAM, gaps: bool = True) -> Setup:
    mask = np.zeros(SHAPE, bool)
    if gaps:
        mask[60:68] = True
        mask[:, 90:97] = True
        mask[BEAM.radius_px() < 4] = True
    return Setup(SHAPE, np.dtype("uint32"), mask, geometry)


def run(reduction: Reduction, frames: NDArray[np.generic], known: Setup) -> dict[str, Quantity]:
    """The reduction's results through the compiled kernel."""
    tables = reduction.prepare(known)
    reducer = FrameReducer(
        known.shape,
        known.dtype,
        mask=known.mask,
        bins=tables.bins,
        n_bins=tables.n_bins,
        moments=tables.moments,
    )
    sums = reducer.reduce([pack(frame.astype(np.uint32), Codec.BITSHUFFLE_LZ4) for frame in frames])
    return reduction.finish(reduction.merge([reduction.frames(sums)]))


def pattern(rng: np.random.Generator, strength: float = 300.0) -> NDArray[np.integer]:
    return rng.poisson(strength / (1 + (BEAM.radius_px() / 20) ** 2), SHAPE)


@pytest.mark.parametrize("limits", [None, (0.4, 2.1)])
@pytest.mark.parametrize("tilt", [{}, {"rot1": 0.02, "rot2": -0.03, "rot3": 0.4}])
@pytest.mark.parametrize("polarization", [None, 0.95])
def test_iq_is_pyfais(limits: tuple[float, float] | None, tilt: dict[str, float], polarization: float | None) -> None:
    geometry = Geometry(SHAPE, 0.5, BEAM.poni1_m, BEAM.poni2_m, wavelength_nm=0.1, **tilt)
    known, frame = setup(geometry), pattern(np.random.default_rng(0))
    found = run(RadialProfile(120, limits, polarization=polarization), frame[None], known)
    theirs = AzimuthalIntegrator(
        dist=0.5,
        poni1=geometry.poni1_m,
        poni2=geometry.poni2_m,
        detector=Detector(75e-6, 75e-6, max_shape=SHAPE),
        wavelength=1e-10,
        **tilt,
    ).integrate1d(
        frame,
        120,
        unit="q_nm^-1",
        mask=known.mask,
        radial_range=limits,
        method=("no", "histogram", "numpy"),
        polarization_factor=polarization,
    )
    np.testing.assert_array_equal(found["iq_sum"].values[0], theirs.sum_signal)
    np.testing.assert_array_equal(found["iq_n"].values[0], theirs.count)
    np.testing.assert_allclose(found["iq"].axes[0][1], theirs.radial, rtol=1e-12)
    filled = theirs.count > 0
    np.testing.assert_allclose(found["iq"].values[0][filled], theirs.intensity[filled], rtol=1e-5)
    assert np.isnan(found["iq"].values[0][~filled]).all()


def test_errors_of_iq_are_those_of_counting() -> None:
    frames = np.random.default_rng(1).poisson(0.02, (200, *SHAPE))
    found = run(RadialProfile(12, (0.2, 2.0)), frames, setup())
    scatter, stated = found["iq"].values.std(axis=0), found["iq_error"].values.mean(axis=0)
    np.testing.assert_allclose(stated, scatter, rtol=0.2)


def test_a_saturated_pixel_leaves_its_bin() -> None:
    frame = np.full(SHAPE, 7, np.uint32)
    frame[100, 200] = 2**32 - 1
    found = run(RadialProfile(30, solid_angle=False), frame[None], setup())
    filled = found["iq_n"].values[0] > 0
    np.testing.assert_array_equal(found["iq"].values[0][filled], 7)


def oriented(angle: float, degree: float) -> NDArray[np.floating]:
    """Expected counts with a second harmonic about the beam: strongest at `angle` degrees, a2/a0 = degree."""
    phi = BEAM.azimuth()
    return 1 + degree * np.cos(2 * (phi - np.radians(angle)))


@pytest.mark.parametrize("angle", [0.0, 30.0, 89.0, 150.0])
def test_orientation_is_found_in_spite_of_gaps(angle: float) -> None:
    frames = np.random.default_rng(2).poisson(oriented(angle, 0.3), (100, *SHAPE))
    found = run(AzimuthalProfile({"ring": (20, 60)}, 36, unit="px"), frames, setup())
    turn = (found["orient2_ring"].values - angle + 90) % 180 - 90
    error = found["orient2_ring_error"].values
    assert abs(turn.mean()) < 4 * error.mean() / 10
    assert turn.std() == pytest.approx(error.mean(), rel=0.25)
    degree, stated = found["degree_ring"].values, found["degree_ring_error"].values
    assert abs(degree.mean() - 0.3) < 4 * stated.mean() / 10
    assert degree.std() == pytest.approx(stated.mean(), rel=0.25)
    np.testing.assert_allclose(found["order_ring"].values, degree / 2)


def test_azimuthal_profiles_of_several_rings() -> None:
    frame = np.round(oriented(40, 0.5) * 100)
    known = setup()
    rings = {"a": (10, 20), "b": (25, 50)}
    found = run(AzimuthalProfile(rings, 12, unit="px"), frame[None], known)
    radius, degrees = BEAM.radius_px(), np.degrees(BEAM.azimuth()) % 360
    for ring, (low, high) in rings.items():
        use = (radius > low) & (radius <= high) & ~known.mask & (degrees >= 30) & (degrees < 60)
        assert found[f"iphi_{ring}"].values[0, 1] == pytest.approx(frame[use].mean())
    assert found["iphi_a"].axes[0][1][1] == 45


def test_the_bin_width_does_not_blur_the_degree_of_orientation() -> None:
    edges = np.linspace(0, 2 * np.pi, 9)
    exact = np.diff(edges + 0.4 * np.sin(2 * edges) / 2) * 1e6  # integral of 1 + 0.4 cos 2 phi
    fit = second_harmonic(exact[None], np.full((1, 8), 1e6))
    assert fit["degree"][0] == pytest.approx(0.4)


def test_frames_without_counts_have_no_orientation() -> None:
    found = run(AzimuthalProfile({"ring": (20, 60)}, unit="px"), np.zeros((1, *SHAPE)), setup())
    assert np.isnan(found["orient2_ring"].values[0])
    assert np.isnan(found["degree_ring"].values[0])
    with pytest.raises(UsageError, match="too few"):
        AzimuthalProfile({}, 4)


@pytest.mark.parametrize("angle", [0.0, 30.0, 120.0])
def test_pca_finds_the_principal_axis(angle: float) -> None:
    y, x = np.indices(SHAPE)
    u, v = x - 147.8, 100.3 - y
    along = u * np.cos(np.radians(angle)) + v * np.sin(np.radians(angle))
    across = -u * np.sin(np.radians(angle)) + v * np.cos(np.radians(angle))
    frame = np.round(1e5 * np.exp(-(along**2) / (2 * 12**2) - across**2 / (2 * 6**2)))
    found = run(Orientation(), frame[None], setup(gaps=False))
    assert (found["pca_angle"].values[0] - angle + 90) % 180 - 90 == pytest.approx(0, abs=0.05)
    assert found["pca_w"].values[0] == pytest.approx((144 - 36) / (144 + 36), rel=1e-3)
    assert found["second_moment"].values[0] == pytest.approx(144 + 36, rel=1e-3)


def test_pca_is_the_eigenvalue_problem() -> None:
    frame = pattern(np.random.default_rng(3))
    known = setup()
    found = run(Orientation(), frame[None], known)
    y, x = np.nonzero(~known.mask)
    weights = frame[y, x] / frame[y, x].sum()
    d = np.stack([x - 147.8, 100.3 - y])
    values, vectors = np.linalg.eigh((d * weights) @ d.T)
    assert found["pca_w"].values[0] == pytest.approx((values[1] - values[0]) / values.sum(), rel=1e-9)
    expected = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])) % 180
    assert found["pca_angle"].values[0] == pytest.approx(expected, abs=1e-6)


def test_the_mask_alone_pretends_an_orientation() -> None:
    known = setup()
    found = run(Orientation(), np.ones((1, *SHAPE)), known)
    assert mask_bias(known.mask, BEAM.centre) == pytest.approx(
        (found["pca_w"].values[0], found["pca_angle"].values[0]), rel=1e-6
    )
    assert np.isnan(run(Orientation(), np.zeros((1, *SHAPE)), known)["pca_angle"].values[0])


@pytest.mark.parametrize("mean", [30.0, 0.03])
def test_power_laws_are_found_with_their_errors(mean: float) -> None:
    """400 frames of I = A q^-2.5, dense and sparse: no bias, and scatter as stated."""
    q = np.maximum(BEAM.q(), 0.05)
    expected = q**-2.5
    expected *= mean / expected[(q > 0.3) & (q < 2)].mean()
    frames = np.random.default_rng(4).poisson(expected, (60, *SHAPE))
    found = run(PowerLaw(40, (0.3, 2.0), solid_angle=False), frames, setup())
    p, error = found["power_p"].values, found["power_p_error"].values
    assert p.mean() == pytest.approx(2.5, abs=0.015 + 4 * error.mean() / 60**0.5)
    assert p.std() == pytest.approx(error.mean(), rel=0.35)
    amplitude = np.exp(found["power_lnA"].values.mean())
    assert amplitude == pytest.approx(mean / (q[(q > 0.3) & (q < 2)] ** -2.5).mean(), rel=0.05)


def test_chi2_is_one_for_the_right_model_and_errors_cover_the_intercept() -> None:
    rng, x = np.random.default_rng(5), np.linspace(0.3, 1.5, 50)
    truth = np.exp(2 - 1.5 * x)
    counts = rng.poisson(20 * truth, (500, 50))
    fit = poisson_line(x, counts, np.full(counts.shape, 20.0))
    assert fit.chi2.mean() == pytest.approx(1, abs=0.02)
    assert ((fit.intercept - 2) / fit.intercept_error).std() == pytest.approx(1, abs=0.1)
    assert ((fit.slope + 1.5) / fit.slope_error).std() == pytest.approx(1, abs=0.1)
    correlation = np.corrcoef(fit.intercept, fit.slope)[0, 1]
    stated = (fit.covariance / fit.intercept_error / fit.slope_error).mean()
    assert correlation == pytest.approx(stated, abs=0.05)


def test_guinier_finds_the_radius_of_gyration() -> None:
    frames = np.random.default_rng(6).poisson(2 * np.exp(-((BEAM.q() * 2.5) ** 2) / 3), (40, *SHAPE))
    found = run(Guinier(30, (0.15, 0.5), solid_angle=False), frames, setup())
    radius, error = found["guinier_rg"].values, found["guinier_rg_error"].values
    assert radius.mean() == pytest.approx(2.5, abs=0.01 + 4 * error.mean() / 40**0.5)
    assert radius.std() == pytest.approx(error.mean(), rel=0.4)
    assert found["guinier_i0"].values.mean() == pytest.approx(2, rel=0.02)
    assert found["guinier_qrg"].values.mean() == pytest.approx(1.25, rel=0.02)


def test_fits_without_enough_counts_are_not_numbers() -> None:
    x = np.linspace(1, 2, 5)
    counts = np.array([[0, 0, 0, 0, 0], [3, 0, 0, 0, 0], [3, 2, 1, 0, 0]])
    fit = poisson_line(x, counts, np.ones(counts.shape))
    assert np.isfinite(fit.slope).tolist() == [False, False, True]
    rising = Guinier(20, (0.2, 1.0), solid_angle=False)
    frame = np.round(5 * np.exp(BEAM.q()))
    assert np.isnan(run(rising, frame[None], setup())["guinier_rg"].values[0])


def test_damaged_frames_are_not_numbers() -> None:
    profile = RadialProfile(10)
    tables = profile.prepare(setup())
    sums = FrameSums.zeros(1, 10)
    sums.status[0] = 5
    assert all(np.isnan(quantity.values).all() for quantity in profile.finish(sums).values())
    frame = pattern(np.random.default_rng(7)).astype(np.uint32)
    expected = reference.reduce(frame[None], mask=setup().mask, bins=tables.bins, n_bins=10)
    assert expected.bins.sum() == frame[~setup().mask & (tables.bins != NO_BIN)].sum()
