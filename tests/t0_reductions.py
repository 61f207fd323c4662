"""Darkfield, regions, centre of mass: against plain NumPy on decoded frames, alone and in one pass together."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dada.errors import UsageError
from dada.geometry import Geometry
from dada.kernels import Codec, FrameSums, RawChunk
from dada.reductions.centre_of_mass import CentreOfMass, deflection, phase_gradient, standard_error
from dada.reductions.darkfield import Darkfield, Regions
from dada.reductions.protocol import Pass, Quantity, Reduction, Setup, Tables
from tests.harness.chunks import pack

SHAPE = (64, 90)
BEAM = Geometry.from_beam(SHAPE, (30.0, 44.0), distance_m=2.0, wavelength_nm=0.1)


def setup(**changes: object) -> Setup:
    mask = np.zeros(SHAPE, bool)
    mask[20:23] = True
    return Setup(**({"shape": SHAPE, "dtype": np.dtype("uint16"), "mask": mask, "geometry": BEAM} | changes))


def spots(centres: list[tuple[float, float]]) -> NDArray[np.uint16]:
    """Noisy frames with a Gaussian spot at each (y, x)."""
    rng = np.random.default_rng(0)
    y, x = np.indices(SHAPE)
    frames = [rng.poisson(50 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 18)) for cy, cx in centres]
    return np.array(frames, np.uint16)


def run(
    reductions: list[Reduction], frames: NDArray[np.uint16], known: Setup, damaged: bool = False
) -> dict[str, Quantity]:
    """All frames in patches of two, then one damaged frame if wanted."""
    whole = Pass(reductions, known)
    chunks = [pack(frame, Codec.BITSHUFFLE_LZ4) for frame in frames]
    if damaged:
        chunks.append(RawChunk(b"damaged", Codec.BITSHUFFLE_LZ4))
    parts = [whole.frames(whole.reducer.reduce(chunks[i : i + 2])) for i in range(0, len(chunks), 2)]
    return whole.finish(whole.merge(parts))


def test_darkfield_and_regions_are_sums_over_valid_pixels() -> None:
    frames, known = spots([(30, 40), (35, 50), (40, 44)]), setup()
    rings = Regions({"inner": (0, 8), "outer": (8, 20)}, {"left": np.indices(SHAPE)[1] < 45}, unit="px")
    found = run([Darkfield(), rings], frames, known, damaged=True)
    counts = np.where(known.mask, 0, frames)
    radius = BEAM.radius_px()
    np.testing.assert_array_equal(found["itot"].values[:3], counts.sum((1, 2)))
    np.testing.assert_array_equal(found["imax"].values[:3], counts.max((1, 2)))
    np.testing.assert_array_equal(found["outer"].values[:3], counts[:, (radius > 8) & (radius <= 20)].sum(1))
    np.testing.assert_array_equal(found["left"].values[:3], counts[:, :, :45].sum((1, 2)))
    assert found["inner_n"].values[0] == ((radius > 0) & (radius <= 8) & ~known.mask).sum()
    for quantity in found.values():
        assert np.isnan(quantity.values[3])


def test_rings_in_q_and_in_pixels_are_the_same_ring() -> None:
    frames = spots([(30, 40)])
    q = float(BEAM.q()[30, 54])
    in_q = run([Regions({"r": (0, q * 1.0001)})], frames, setup())
    in_px = run([Regions({"r": (0, 10.001)}, unit="px")], frames, setup())
    assert in_q["r"].values == in_px["r"].values


def test_centre_of_mass_finds_the_spot() -> None:
    centres = [(40.0, 40.0), (45.0, 50.0), (40.0, 44.0)]
    frames, known = spots(centres), setup()
    found = run([CentreOfMass(reference=(40.0, 40.0))], frames, known)
    counts = np.where(known.mask, 0, frames).astype(float)
    y, x = np.indices(SHAPE)
    np.testing.assert_allclose(found["comv"].values, (counts * y).sum((1, 2)) / counts.sum((1, 2)), rtol=1e-14)
    np.testing.assert_allclose(found["comh"].values, (counts * x).sum((1, 2)) / counts.sum((1, 2)), rtol=1e-14)
    for name, axis in (("comv", 0), ("comh", 1)):
        away = found[name].values - np.array(centres)[:, axis]
        assert (np.abs(away) < 5 * found[f"{name}_error"].values).all()
    expected = (found["comh"].values - 40) * 75e-6 / 2
    np.testing.assert_allclose(found["alphah"].values, expected, rtol=1e-12)


def test_frames_without_counts_have_no_centre() -> None:
    found = run([CentreOfMass(), Darkfield()], np.zeros((2, *SHAPE), np.uint16), setup(), damaged=True)
    assert np.isnan(found["comh"].values).all()
    assert "alphah" not in found
    np.testing.assert_array_equal(found["itot"].values, [0, 0, np.nan])


def test_errors_of_the_centre_of_mass_are_those_of_counting() -> None:
    """The scatter of many frames of the same spot is the error that each of them states."""
    rng = np.random.default_rng(1)
    y, x = np.indices(SHAPE)
    frames = rng.poisson(2 * np.exp(-((y - 40) ** 2 + (x - 45) ** 2) / 18), (300, *SHAPE)).astype(np.uint16)
    whole = Pass([CentreOfMass()], setup())
    sums = whole.reducer.reduce([pack(frame, Codec.NONE) for frame in frames])
    error = standard_error(sums)[1].mean()
    assert (sums.sum_x / sums.total).std() == pytest.approx(error, rel=0.15)


def test_phase_gradient_of_a_deflection() -> None:
    angle = deflection(np.array([1.0]), 0.0, 75e-6, 5.0)
    assert angle == pytest.approx(1.5e-5)
    assert phase_gradient(angle, 0.1) == pytest.approx(2 * np.pi / 1e-10 * 1.5e-5)


def test_only_one_reduction_of_a_pass_may_bring_bins() -> None:
    class Halves(Reduction):
        name = "halves"

        def prepare(self, setup: Setup) -> Tables:
            return Tables(bins=(np.indices(setup.shape)[1] >= 45).astype(np.uint16), n_bins=2)

        def finish(self, part: FrameSums) -> dict[str, Quantity]:
            return {"halves": Quantity(part.bins, "counts", "Left and right", [("side", np.arange(2), "")])}

    frames, known = spots([(40, 45)]), setup()
    found = run([Halves(), Darkfield()], frames, known)
    assert found["halves"].values.sum() == found["itot"].values[0]
    with pytest.raises(UsageError, match="halves and halves both need bins"):
        Pass([Halves(), Halves()], known)


def test_rings_without_a_geometry_are_refused() -> None:
    with pytest.raises(UsageError, match="needs the beam centre"):
        Pass([Regions({"a": (0, 1)})], setup(geometry=None))


def test_the_example_in_the_documentation_works() -> None:
    """docs/reductions.md, its code as it stands there."""
    text = (Path(__file__).parent.parent / "docs" / "reductions.md").read_text()
    defining, using = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    frames, known = spots([(40, 30), (40, 60)]), setup()
    chunks = [pack(frame, Codec.BITSHUFFLE_LZ4) for frame in frames]
    names: dict[str, object] = {"setup": known, "batches": [chunks[:1], chunks[1:]], "print": lambda found: None}
    exec(defining, names)
    exec(using.replace("print(", "found = (", 1), names)
    left, right = names["found"]
    assert left > 0.9
    assert right < -0.9
