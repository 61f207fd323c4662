"""Orientation and anisotropy from second moments: principal component analysis of each frame.

As published from Göttingen (M. Bernhardt et al., Biophys. J. 110 (2016) 680; New J. Phys. 19 (2017) 013012;
J.-D. Nicolas et al., J. Synchrotron Rad. 24 (2017) 1163): with u to the right, v up, both in pixels from the beam
centre, and <f> = sum I f / sum I over the valid pixels,

    C = [[<uu>, <uv>], [<uv>, <vv>]],  eigenvalues l1 >= l2

    pca_w         = (l1 - l2) / (l1 + l2) = sqrt((<uu> - <vv>)^2 + 4 <uv>^2) / (<uu> + <vv>)      anisotropy, no unit
    pca_angle     = atan2(2 <uv>, <uu> - <vv>) / 2  in [0, 180)                                   degrees
    second_moment = l1 + l2                                                                       pixels squared

The angle is that of the first eigenvector, 0 along +x, counter-clockwise on a picture with row 0 at the top; the fibre
lies at angle - 90.

Pixels stand for q, which is right to 3/8 tan^2(2 theta): 5e-4 at 2 degrees. **The mask biases all three**: gaps and the
beamstop have moments of their own (`mask_bias` says how large). `dada.reductions.azimuthal` corrects for that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dada.kernels import FrameSums
from dada.reductions.protocol import FloatArray, Quantity, Reduction, Setup, Tables, divide, significant


def central_moments(sums: FrameSums, centre: tuple[float, float]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """<uu>, <vv>, <uv> about `centre` = (y, x), each (n,) in pixels squared; u to the right, v up."""
    cy, cx = centre
    x, y = divide(sums.sum_x, sums.total, sums.ok), divide(sums.sum_y, sums.total, sums.ok)
    uu = divide(sums.sum_xx, sums.total, sums.ok) - 2 * cx * x + cx**2
    vv = divide(sums.sum_yy, sums.total, sums.ok) - 2 * cy * y + cy**2
    xy = divide(sums.sum_xy, sums.total, sums.ok) - cx * y - cy * x + cx * cy
    return uu, vv, -xy


def principal_components(uu: FloatArray, vv: FloatArray, uv: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Anisotropy w, angle in degrees and trace of the matrices [[uu, uv], [uv, vv]]."""
    trace = uu + vv
    anisotropy = divide(np.hypot(uu - vv, 2 * uv), trace)
    angle = np.degrees(np.arctan2(2 * uv, uu - vv) / 2) % 180
    return anisotropy, np.where(np.isfinite(trace), angle, np.nan), trace


class Orientation(Reduction):
    """pca_angle, pca_w and second_moment of each frame about the beam centre.

    centre: (y, x) in pixels; None takes the geometry's.
    """

    name = "orientation"

    def __init__(self, centre: tuple[float, float] | None = None) -> None:
        self._centre = centre

    def prepare(self, setup: Setup) -> Tables:
        self.centre = self._centre or setup.need_geometry("orientation").centre
        return Tables(moments=True)

    def finish(self, part: FrameSums) -> dict[str, Quantity]:
        left = significant(part.total, part.variance.total)
        moments = (np.where(left, values, np.nan) for values in central_moments(part, self.centre))
        w, angle, trace = principal_components(*moments)
        return {
            "pca_angle": Quantity(angle, "deg", "Orientation of the scattering (PCA)"),
            "pca_w": Quantity(w, "", "Anisotropy of the scattering (PCA)"),
            "second_moment": Quantity(trace, "px^2", "Second moment of the scattering about the beam"),
        }


def mask_bias(mask: NDArray[np.bool_], centre: tuple[float, float]) -> tuple[float, float]:
    """(w, angle in degrees) that PCA finds in a frame of equal counts: what the mask alone pretends."""
    y, x = np.nonzero(~mask)
    u, v = x - centre[1], centre[0] - y
    w, angle, _ = principal_components(
        *(np.array([value.mean()]) for value in (u * u, v * v, u * v))  # type: ignore[arg-type]
    )
    return float(w[0]), float(angle[0])
