"""Geometry, bin maps and masks: half pixels, signs, and pyFAI's numbers."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from pyFAI.detectors import Detector
from pyFAI.integrator.azimuthal import AzimuthalIntegrator

from dada.bins import NO_BIN, azimuth_bins, cross, equal_bins, q_bins, radius_bins
from dada.errors import DataError, UsageError
from dada.geometry import Geometry, read_poni
from dada.mask import annuli, combine, cut_of, read_mask, reasons

SHAPE = (61, 83)
TILTED = {"rot1": 0.11, "rot2": -0.07, "rot3": 0.3}


def geometry(**changes: object) -> Geometry:
    numbers = {"distance_m": 0.31, "poni1_m": 2.2e-3, "poni2_m": 3.7e-3, "wavelength_nm": 0.0932}
    return Geometry(SHAPE, **(numbers | changes))


def pyfai_of(ours: Geometry) -> AzimuthalIntegrator:
    return AzimuthalIntegrator(
        dist=ours.distance_m,
        poni1=ours.poni1_m,
        poni2=ours.poni2_m,
        rot1=ours.rot1,
        rot2=ours.rot2,
        rot3=ours.rot3,
        detector=Detector(*ours.pixel_m, max_shape=ours.shape),
        wavelength=ours.wavelength_nm * 1e-9,
    )


def test_a_pixel_centre_is_an_integer() -> None:
    beam = Geometry.from_beam(SHAPE, (30, 41.5), distance_m=1, pixel_m=(75e-6, 55e-6))
    assert (beam.poni1_m, beam.poni2_m) == (30.5 * 75e-6, 42 * 55e-6)
    assert beam.centre == pytest.approx((30, 41.5), abs=1e-12)
    radius = beam.radius_px()
    assert radius[30, 41] == pytest.approx(0.5)
    assert radius[33, 41] == pytest.approx(np.hypot(3, 0.5))


def test_azimuth_grows_counter_clockwise_on_the_picture() -> None:
    beam = Geometry.from_beam(SHAPE, (30, 40), distance_m=1)
    degrees = np.degrees(beam.azimuth())
    assert degrees[30, 50] == 0
    assert degrees[20, 40] == pytest.approx(90)  # a smaller row is higher up
    assert degrees[40, 30] == pytest.approx(-135)


@pytest.mark.parametrize("tilt", [{}, TILTED])
def test_every_pixel_is_where_pyfai_says(tilt: dict[str, float]) -> None:
    ours = geometry(**tilt)
    theirs = pyfai_of(ours)
    np.testing.assert_allclose(ours.q(), theirs.center_array(unit="q_nm^-1"), rtol=1e-13)
    np.testing.assert_allclose(ours.two_theta(), theirs.center_array(unit="2th_rad"), rtol=1e-13)
    np.testing.assert_allclose(-ours.azimuth(), theirs.center_array(unit="chi_rad"), atol=1e-13)
    np.testing.assert_allclose(ours.solid_angle(), theirs.solidAngleArray(), rtol=1e-6)  # theirs is float32
    for factor in (0, 0.99, -1):
        np.testing.assert_allclose(ours.polarization(factor), theirs.polarization(factor=factor), rtol=1e-6)


def test_the_beam_of_a_tilted_detector_is_where_q_is_0() -> None:
    tilted = Geometry((400, 600), 0.1, 0.01, 0.012, rot1=0.05, rot2=-0.03, wavelength_nm=0.1)
    y, x = np.unravel_index(np.argmin(tilted.q()), (400, 600))
    assert tilted.centre == pytest.approx((y, x), abs=0.5)
    fit2d = pyfai_of(tilted).getFit2D()
    assert tilted.centre == pytest.approx((fit2d["centerY"] - 0.5, fit2d["centerX"] - 0.5), abs=1e-6)
    assert tilted.beam_distance_m == pytest.approx(fit2d["directDist"] * 1e-3)


def test_radius_of_q_is_the_inverse_of_q() -> None:
    beam = Geometry.from_beam(SHAPE, (30, 40), distance_m=0.05, wavelength_nm=0.1)
    assert beam.radius_of_q(float(beam.q()[30, 75])) == pytest.approx(35)
    with pytest.raises(UsageError, match="out of reach"):
        beam.radius_of_q(1e4)


def test_arrays_are_computed_once_and_shared_read_only() -> None:
    first = geometry()
    for name in ("q", "azimuth", "radius_px", "solid_angle"):
        array = getattr(first, name)()
        assert getattr(geometry(), name)() is array  # of an equal geometry
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1
    assert geometry(distance_m=3.0).q() is not first.q()
    assert q_bins(first, 10) is q_bins(geometry(), 10)


def test_q_needs_a_wavelength() -> None:
    with pytest.raises(UsageError, match="wavelength"):
        geometry(wavelength_nm=None).q()


@pytest.mark.parametrize("name", ["distance_m", "wavelength_nm"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_impossible_numbers_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match="positive"):
        geometry(**{name: value})


@pytest.mark.parametrize("tilt", [{}, TILTED])
def test_a_poni_file_of_pyfai_is_read(tmp_path: Path, tilt: dict[str, float]) -> None:
    ours = geometry(**tilt)
    pyfai_of(ours).save(str(tmp_path / "a.poni"))
    read = read_poni(tmp_path / "a.poni", SHAPE)
    np.testing.assert_allclose(read.q(), ours.q(), rtol=1e-12)


def test_old_poni_files_and_known_detectors(tmp_path: Path) -> None:
    poni = tmp_path / "old.poni"
    poni.write_text("# old\nPixelSize1: 5e-05\nPixelSize2: 6e-05\nDistance: 0.2\nPoni1: 0.01\nPoni2: 0.02\n")
    assert read_poni(poni, SHAPE).pixel_m == (5e-5, 6e-5)
    poni.write_text(
        "poni_version: 2\nDetector: Eiger2_4M\nDistance: 0.2\nPoni1: 0.01\nPoni2: 0.02\nWavelength: 1e-10\n"
    )
    read = read_poni(poni, SHAPE)
    assert (read.pixel_m, read.wavelength_nm) == ((75e-6, 75e-6), pytest.approx(0.1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Distance: 1\nPoni1: 0\nDetector: Eiger4M\n", "no poni2"),
        ("Distance: 1\nPoni1: 0\nPoni2: 0\n", "no pixel size"),
        ("Distance: far\nPoni1: 0\nPoni2: 0\nDetector: Eiger4M\n", "a number that is none"),
        ('Detector_config: {"orientation": 2}\nDistance: 1\nPoni1: 0\nPoni2: 0\n', "orientation 2"),
        ('Detector_config: {"max_shape": [5, 6]}\nDistance: 1\nPoni1: 0\nPoni2: 0\n', "calibrated for frames"),
    ],
)
def test_a_bad_poni_file_gets_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.poni").write_text(text)
    with pytest.raises(DataError, match=words):
        read_poni(tmp_path / "bad.poni", SHAPE)
    with pytest.raises(DataError, match="cannot be read"):
        read_poni(tmp_path / "none.poni", SHAPE)


@pytest.mark.parametrize("limits", [None, (0.7, 1.9)])
def test_bins_are_those_of_numpys_histogram(limits: tuple[float, float] | None) -> None:
    values = geometry().q().copy()
    values[5, :9] = np.linspace(0.7, 1.9, 9)  # on the edges
    found = equal_bins(values, 8, limits)
    low, high = limits or (values.min(), values.max() * (1 + np.finfo(np.float32).eps))
    counts, edges = np.histogram(values, 8, range=(low, high))
    np.testing.assert_array_equal(np.bincount(found.bins[found.bins != NO_BIN], minlength=8), counts)
    np.testing.assert_array_equal(found.edges, edges)
    assert found.centres[0] == (edges[0] + edges[1]) / 2


def test_bins_of_q_radius_and_azimuth() -> None:
    beam = Geometry.from_beam(SHAPE, (30, 40), distance_m=1, wavelength_nm=0.1)
    assert radius_bins(beam, 10, (0, 10)).bins[30, 43] == 3
    assert radius_bins(beam, 10, (0, 10)).bins[30, 60] == NO_BIN
    assert q_bins(beam, 100).unit == "1/nm"
    quarters = azimuth_bins(beam, 4)
    assert [quarters.bins[y, x] for y, x in ((25, 45), (25, 35), (35, 35), (35, 45))] == [0, 1, 2, 3]


def test_crossed_bins() -> None:
    beam = Geometry.from_beam(SHAPE, (30, 40), distance_m=1)
    rings = list(annuli(beam.radius_px(), [(2, 5), (5, 9)]))
    bins = cross(rings, azimuth_bins(beam, 8))
    assert bins[30, 47] == 8
    assert bins[30, 44] == 0
    assert bins[30, 60] == NO_BIN
    both = cross(radius_bins(beam, 3, (0, 9)), azimuth_bins(beam, 8))
    assert both[30, 47] == 2 * 8
    with pytest.raises(UsageError, match="overlap"):
        cross([rings[0], rings[0]], azimuth_bins(beam, 8))
    with pytest.raises(UsageError, match="too many"):
        cross(rings, azimuth_bins(beam, 40000))


@pytest.mark.parametrize(("n", "limits"), [(0, None), (65536, None), (5, (2.0, 1.0)), (5, (0.0, float("nan")))])
def test_impossible_bins_are_refused(n: int, limits: tuple[float, float] | None) -> None:
    with pytest.raises(UsageError, match="not possible"):
        equal_bins(np.ones((2, 2)), n, limits)


def test_masks_are_put_together() -> None:
    first, second = np.zeros((2, 3), np.uint32), np.zeros((2, 3), bool)
    first[0, 1] = 1 << 30
    second[1, 2] = True
    assert combine((2, 3), first, None, second).nonzero()[0].tolist() == [0, 1]
    with pytest.raises(DataError, match="does not fit"):
        combine((3, 2), first)


def test_the_cut_follows_the_saturation_value() -> None:
    assert cut_of("uint16", None) == 65534
    assert cut_of("uint16", 10000) == 10001
    assert cut_of("uint16", 10**7) == 65534
    assert cut_of("uint32", 10**7) == 10**7 + 1


def test_reasons_of_a_pixel_mask() -> None:
    mask = np.array([[1, 1, 0, 2, 16 | 2, 1 << 20]], np.uint32)
    assert reasons(mask) == {"gap": 2, "dead": 2, "noisy": 1, "bit 20": 1}


def test_mask_files(tmp_path: Path) -> None:
    mask = np.zeros((4, 5), np.uint8)
    mask[1, 2] = 7
    np.save(tmp_path / "m.npy", mask)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["a/mask"] = mask[None]
    fabio = pytest.importorskip("fabio")
    fabio.edfimage.EdfImage(data=mask).save(str(tmp_path / "m.edf"))
    for name in ("m.npy", "m.h5", "m.h5::/a/mask", "m.edf"):
        assert read_mask(f"{tmp_path}/{name}", (4, 5)).nonzero()[1].tolist() == [2]
    with pytest.raises(DataError, match="same shape"):
        read_mask(tmp_path / "m.npy", (5, 4))
    with pytest.raises(DataError, match="cannot be read as a mask"):
        read_mask(tmp_path / "none.npy", (4, 5))
    with h5py.File(tmp_path / "m.h5", "a") as file:
        file["second"] = mask
    with pytest.raises(DataError, match="holds 2 data sets"):
        read_mask(tmp_path / "m.h5", (4, 5))
