"""Centre of mass of each frame, and what follows from it: deflection angles and phase gradients.

With the exact sums S, S_y, S_x of a frame over its valid pixels

    comv = S_y / S,  comh = S_x / S                              pixels, from the centre of pixel (0, 0)
    alpha = (com - reference) p / D                               radians (small angles)
    d phi / dx = 2 pi / lambda * alpha                            radians per metre

comh and comv are dada's words for the horizontal (x) and vertical (y, growing downwards) centre of mass;
LiberTEM's raw_com is (comv, comh). Frames without a count have no centre: NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dada.geometry import Geometry
from dada.kernels import FrameSums
from dada.reductions.protocol import FloatArray, Quantity, Reduction, Setup, Tables, divide


def centre_of_mass(sums: FrameSums) -> tuple[FloatArray, FloatArray]:
    """(comv, comh), each (n,) in pixels."""
    return divide(sums.sum_y, sums.total, sums.ok), divide(sums.sum_x, sums.total, sums.ok)


def standard_error(sums: FrameSums) -> tuple[FloatArray, FloatArray]:
    """Errors of (comv, comh) from counting statistics: sqrt(sum of (y - comv)^2 var(I)) / S, in pixels."""
    comv, comh = centre_of_mass(sums)
    noise = sums.variance
    spread_y = noise.sum_yy - 2 * comv * noise.sum_y + comv**2 * noise.total
    spread_x = noise.sum_xx - 2 * comh * noise.sum_x + comh**2 * noise.total
    return (
        divide(np.sqrt(np.maximum(spread_y, 0)), np.abs(sums.total), sums.ok),
        divide(np.sqrt(np.maximum(spread_x, 0)), np.abs(sums.total), sums.ok),
    )


def deflection(com_px: NDArray[np.floating], reference_px: float, pixel_m: float, distance_m: float) -> FloatArray:
    """Angle in radians by which the beam was turned: (com - reference) p / D."""
    return np.asarray((com_px - reference_px) * pixel_m / distance_m, dtype=float)


def phase_gradient(angle: NDArray[np.floating], wavelength_nm: float) -> FloatArray:
    """Gradient of the phase in radians per metre: 2 pi / lambda times the deflection angle."""
    return np.asarray(2 * np.pi / (wavelength_nm * 1e-9) * angle, dtype=float)


class CentreOfMass(Reduction):
    """comh, comv and their errors in pixels; with a geometry the deflection angles in radians too.

    reference: (y, x) in pixels from which deflections are counted; None takes the mean of all frames.
    """

    name = "centre_of_mass"
    corrected = False  # what is deflected is the beam, and an empty beam is all beam

    def __init__(self, reference: tuple[float, float] | None = None) -> None:
        self.reference = reference
        self._geometry: Geometry | None = None

    def prepare(self, setup: Setup) -> Tables:
        self._geometry = setup.geometry
        return Tables(moments=True)

    def finish(self, part: FrameSums) -> dict[str, Quantity]:
        comv, comh = centre_of_mass(part)
        errorv, errorh = standard_error(part)
        found = {
            "comh": Quantity(comh, "px", "Horizontal centre of mass"),
            "comv": Quantity(comv, "px", "Vertical centre of mass (downwards)"),
            "comh_error": Quantity(errorh, "px", "Error of comh from counting statistics"),
            "comv_error": Quantity(errorv, "px", "Error of comv from counting statistics"),
        }
        return found | self._deflections(comv, comh)

    def _deflections(self, comv: FloatArray, comh: FloatArray) -> dict[str, Quantity]:
        geometry = self._geometry
        if geometry is None or not np.isfinite(comh).any():
            return {}
        y, x = self.reference or (float(np.nanmean(comv)), float(np.nanmean(comh)))
        distance = geometry.beam_distance_m
        return {
            "alphah": Quantity(deflection(comh, x, geometry.pixel_m[1], distance), "rad", "Horizontal deflection"),
            "alphav": Quantity(deflection(comv, y, geometry.pixel_m[0], distance), "rad", "Vertical deflection"),
        }
