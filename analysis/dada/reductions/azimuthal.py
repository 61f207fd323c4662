"""Azimuthal profiles I(phi) of rings, and orientation from their second harmonic, corrected for the mask.

With the mean counts per valid pixel m_b of the azimuthal bin b (middle phi_b, width D, n_b valid pixels) the model

    m(phi) = a0 + c cos 2 phi + s sin 2 phi         averaged over each bin: factor sin(D) / D

is fitted by least squares weighted with n_b, so that gaps and the beamstop lower the precision but turn nothing. Then

    phi0   = atan2(s, c) / 2  in [0, 180)           degrees, direction of strongest scattering
    degree = a2 / a0 = hypot(s, c) / a0             degree of orientation, no unit
    order  = <cos 2 (phi - phi0)> = a2 / (2 a0)     nematic order in two dimensions, no unit

and the structure (fibre) lies at phi0 - 90 degrees. a2 / a0 of opposite segments averaged is how the degree of
orientation is defined by O. Bunk et al., New J. Phys. 11 (2009) 123016.

phi is 0 along +x and grows counter-clockwise on a picture with row 0 at the top. Errors come from counting statistics
through the covariance of the fit. A gap that cuts away one side of a wide ring, across which I falls steeply, still
changes a bin's mean: choose rings across which I changes little. Below a2 of about three times its error the angle
means nothing: look at the error.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dada.bins import azimuth_bins, cross
from dada.errors import UsageError
from dada.kernels import FrameSums
from dada.mask import annulus
from dada.reductions.protocol import FloatArray, Quantity, Reduction, Setup, Tables, divide, significant, sound


class AzimuthalProfile(Reduction):
    """I(phi) of each ring in `n_bins` bins of equal angle, and (with `orientation`) what its second harmonic says.

    rings: (low, high] by name, in 1/nm where `unit` is "q", in pixels where it is "px"; they must not
    overlap.
    """

    name = "azimuthal"

    def __init__(
        self,
        rings: Mapping[str, tuple[float, float]],
        n_bins: int = 36,
        *,
        unit: str = "q",
        orientation: bool = True,
    ) -> None:
        if n_bins < 5:
            raise UsageError(f"{n_bins} azimuthal bins are too few for a second harmonic; use at least 5")
        self.rings = dict(rings)
        self.n_bins = n_bins
        self.unit = unit
        self.orientation = orientation

    def prepare(self, setup: Setup) -> Tables:
        geometry = setup.need_geometry("an azimuthal profile")
        radius = geometry.q() if self.unit == "q" else geometry.radius_px()
        self._azimuth = azimuth_bins(geometry, self.n_bins)
        bins = cross([annulus(radius, *limits) for limits in self.rings.values()], self._azimuth)
        return Tables(bins=bins, n_bins=len(self.rings) * self.n_bins)

    def finish(self, part: FrameSums) -> dict[str, Quantity]:
        shape = (len(part), len(self.rings), self.n_bins)
        sums, counts = part.bins.reshape(shape), part.bin_counts.reshape(shape)
        variance = None if part.variance is part else part.variance.bins.reshape(shape)
        found: dict[str, Quantity] = {}
        for i, ring in enumerate(self.rings):
            found |= self._profile(part, ring, sums[:, i], counts[:, i])
            if self.orientation:
                own = None if variance is None else variance[:, i]
                found |= self._harmonic(part, ring, second_harmonic(sums[:, i], counts[:, i], own))
        return found

    def _profile(self, part: FrameSums, ring: str, sums: FloatArray, counts: FloatArray) -> dict[str, Quantity]:
        axis = [("phi", self._azimuth.centres, "deg")]
        profile = sound(part, divide(sums, counts))
        return {f"iphi_{ring}": Quantity(profile, "counts/pixel", f"Azimuthal profile of the ring {ring}", axis)}

    def _harmonic(self, part: FrameSums, ring: str, found: Mapping[str, FloatArray]) -> dict[str, Quantity]:
        fit = {name: sound(part, value) for name, value in found.items()}
        return {
            f"orient2_{ring}": Quantity(fit["angle"], "deg", f"Orientation from the second harmonic, ring {ring}"),
            f"orient2_{ring}_error": Quantity(fit["angle_error"], "deg", "Its error from counting statistics"),
            f"degree_{ring}": Quantity(fit["degree"], "", f"Degree of orientation a2/a0, ring {ring}"),
            f"degree_{ring}_error": Quantity(fit["degree_error"], "", "Its error from counting statistics"),
            f"order_{ring}": Quantity(fit["degree"] / 2, "", f"Nematic order <cos 2(phi - phi0)>, ring {ring}"),
        }


def second_harmonic(sums: FloatArray, counts: FloatArray, variance: FloatArray | None = None) -> dict[str, FloatArray]:
    """Fit a0 + c cos 2 phi + s sin 2 phi to counts per azimuthal bin.

    sums, counts: (n, n_bins) counts and valid pixels of bins that divide the full circle equally, from phi = 0.
    variance: of the counts, None where it is they. Returns (n,) arrays: a0, a2, angle (degrees, 0 to 180),
    angle_error, degree (a2/a0), degree_error; NaN where too few bins have pixels or there are no counts.
    """
    n_bins = sums.shape[1]
    width = 2 * np.pi / n_bins
    phi = (np.arange(n_bins) + 0.5) * width
    smear = np.sin(width) / width
    model = np.stack([np.ones(n_bins), smear * np.cos(2 * phi), smear * np.sin(2 * phi)], axis=1)
    normal = np.einsum("bi,nb,bj->nij", model, counts.astype(float), model)
    total = sums.sum(axis=1)
    left = significant(total, total if variance is None else variance.sum(axis=1))
    usable = (np.linalg.cond(normal) < 1e8) & left
    inverse = np.linalg.inv(np.where(usable[:, None, None], normal, np.eye(3)))
    a0, c, s = np.einsum("nij,bj,nb->in", inverse, model, sums.astype(float))
    noise = np.einsum("bi,nb,bj->nij", model, (sums if variance is None else variance).astype(float), model)
    covariance = inverse @ noise @ inverse
    return {name: np.where(usable, value, np.nan) for name, value in _harmonic_results(a0, c, s, covariance).items()}


def _harmonic_results(a0: FloatArray, c: FloatArray, s: FloatArray, covariance: FloatArray) -> dict[str, FloatArray]:
    a2 = np.hypot(c, s)
    a0, safe = np.where(a0 > 0, a0, np.nan), np.where(a2 > 0, a2, np.nan)
    zero = np.zeros_like(a0)
    along = np.stack([-safe / a0**2, c / safe / a0, s / safe / a0])  # gradient of a2 / a0
    across = np.stack([zero, -s, c]) / (2 * safe**2)  # gradient of the angle
    return {
        "a0": a0,
        "a2": a2,
        "angle": np.degrees(np.arctan2(s, c) / 2) % 180,
        "angle_error": np.degrees(np.sqrt(np.einsum("in,nij,jn->n", across, covariance, across))),
        "degree": a2 / a0,
        "degree_error": np.sqrt(np.einsum("in,nij,jn->n", along, covariance, along)),
    }
