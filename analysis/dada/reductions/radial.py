"""Azimuthal average I(q): exact sums and counts per bin, divided by solid angle and polarization as pyFAI does it.

For bin b with the valid pixels M_b, counts I, relative solid angle Omega and polarization factor P of each pixel

    iq_sum   = sum over M_b of I                             counts, exact
    iq_n     = number of pixels in M_b                       pixels
    iq       = iq_sum / (sum over M_b of Omega P)            counts per pixel at the centre of the detector
    iq_error = sqrt(iq_sum) / (sum over M_b of Omega P)      the same, from counting statistics

(pyFAI's error takes max(1, I) per pixel instead, ten times too much at 0.01 counts a pixel). q of a bin is its middle.
iq_sum and iq_n are those of pyFAI's ("no", "histogram", "numpy") method exactly; its compiled methods put pixels from
just below a given range into the first bin. Where a pixel drops out of a frame by its value (saturated), the sum of
Omega P shrinks in proportion to the pixels, that is the pixel's weight is taken as its bin's mean.

The formulas are those of J. Kieffer et al., J. Appl. Cryst. 53 (2020) 1293. What a measurement without sample
contributes is subtracted by `dada.reductions.empty_beam`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dada.bins import NO_BIN, BinMap, q_bins, radius_bins
from dada.kernels import FrameSums
from dada.reductions.protocol import FloatArray, Quantity, Reduction, Setup, Tables, divide, sound


class RadialProfile(Reduction):
    """I(q) of each frame in `n_bins` bins.

    limits: (lowest, highest) q in 1/nm, or radius in pixels where `unit` is "px"; None takes the whole detector.
    solid_angle: divide by it. polarization: degree of horizontal polarization (0.99 at an undulator), None for none.
    """

    name = "radial"

    def __init__(
        self,
        n_bins: int = 1000,
        limits: tuple[float, float] | None = None,
        *,
        unit: str = "q",
        solid_angle: bool = True,
        polarization: float | None = None,
    ) -> None:
        self.n_bins = n_bins
        self.limits = limits
        self.unit = unit
        self.solid_angle = solid_angle
        self.polarization = polarization

    def prepare(self, setup: Setup) -> Tables:
        geometry = setup.need_geometry("a radial profile")
        make = q_bins if self.unit == "q" else radius_bins
        self.map: BinMap = make(geometry, self.n_bins, self.limits)
        weights = np.ones(setup.shape)
        if self.solid_angle:
            weights *= geometry.solid_angle()
        if self.polarization is not None:
            weights *= geometry.polarization(self.polarization)
        self._weight = _mean_weight(self.map, weights, ~setup.mask)
        return Tables(bins=self.map.bins, n_bins=self.n_bins)

    def normalization(self, sums: FrameSums) -> FloatArray:
        """(n, n_bins) sum over the valid pixels of each bin of Omega P."""
        return np.asarray(sums.bin_counts * self._weight)

    def finish(self, part: FrameSums) -> dict[str, Quantity]:
        norm = self.normalization(part)
        axis = [(self.unit if self.unit == "q" else "radius", self.map.centres, self.map.unit)]
        profile = divide(part.bins, norm)
        error = divide(np.sqrt(part.variance.bins), norm)
        return {
            "iq": Quantity(sound(part, profile), "counts/pixel", "Azimuthal average I(q)", axis),
            "iq_error": Quantity(sound(part, error), "counts/pixel", "Counting error of I(q)", axis),
            "iq_sum": Quantity(sound(part, part.bins), "counts", "Sum of counts per q bin", axis),
            "iq_n": Quantity(sound(part, part.bin_counts), "pixels", "Valid pixels per q bin", axis),
        }


def _mean_weight(bin_map: BinMap, weights: FloatArray, valid: NDArray[np.bool_]) -> FloatArray:
    """(n_bins,) mean weight of the unmasked pixels of each bin, 0 where there are none."""
    use = valid & (bin_map.bins != NO_BIN)
    which = bin_map.bins[use]
    total = np.bincount(which, weights[use], bin_map.n_bins)
    count = np.bincount(which, minlength=bin_map.n_bins)
    return np.asarray(total / np.maximum(count, 1))
