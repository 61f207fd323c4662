"""Empty-beam correction: what the beam scatters without a sample is subtracted from every sum of a frame.

With the counts I of a frame, the mean counts E of the K frames without sample, the sample's transmission T and the
normalisation s = (flux x time of a frame of the scan) / (flux x time of a frame without sample), each pixel would be

    I_corrected = I / T - s E                 counts
    variance    = I / T^2 + s^2 E / K         counts squared, from counting statistics

Every sum that the kernels make (Itot, moments, bins, ROIs) is linear in I, so the sums are corrected, once per frame,
and every reduction follows: no frame is made, and what is in the results store serves any T and s. A pixel that dropped
out of a frame (saturated) takes its part of E with it, as the mean of its bin, ROI or frame. Fits take E as a known
background of what was counted, so that they need no positive numbers. Orientations are NaN where not three times its
error is left of the scattering. `imax`, and the centre of mass with all that follows from it, stay as measured: what is
deflected is the beam itself.

I - E is `emptySub` of Göttingen's nanodiffraction toolbox; the corrections for transmission and flux are those of
B. R. Pauw, J. Phys.: Condens. Matter 25 (2013) 383201.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dada.errors import DataError
from dada.kernels import FrameSums
from dada.reductions.protocol import FloatArray, divide

_MOMENTS = ("total", "sum_y", "sum_x", "sum_yy", "sum_xx", "sum_xy")


@dataclass(frozen=True)
class CorrectedSums(FrameSums):
    """Sums of I_corrected, as float64; the numbers of pixels are unchanged.

    noise: sums of its variance. background: sums of s E over the same pixels. transmission: (n,).
    """

    noise: FrameSums
    background: FrameSums
    transmission: FloatArray

    @property
    def variance(self) -> FrameSums:
        return self.noise


def correct(measured: FrameSums, empty: FrameSums, transmission: FloatArray | float, scale: float) -> CorrectedSums:
    """Sums of frames without what the empty beam scatters.

    measured, empty: sums over the same tables, of the frames (n) and of the frames without sample. transmission: (n,)
    or one for all, 0 < T <= 1. Raises DataError where no frame without sample can be used.
    """
    k = int(empty.ok.sum())
    if k == 0:
        raise DataError("not one frame without sample could be used; choose other ones with --empty or --empty-frames")
    t = np.broadcast_to(np.asarray(transmission, float), len(measured))
    background = _scaled(_expected(measured, empty.summed()), np.full(len(measured), float(scale)))
    corrected = _combined(_scaled(measured, 1 / t), background, -1.0)
    noise = _combined(_scaled(measured, 1 / t**2), background, scale / k)
    return CorrectedSums(*(getattr(corrected, f.name) for f in fields(FrameSums)), noise, background, t)


def as_measured(sums: FrameSums) -> tuple[NDArray[Any], FloatArray, FloatArray]:
    """(counts, transmission, background): the bins (n, n_bins) as they were counted, T (n, 1), and T s E in them."""
    if not isinstance(sums, CorrectedSums):
        return sums.bins, np.ones((len(sums), 1)), np.zeros((len(sums), 1))
    t = sums.transmission[:, None]
    return np.maximum(t * (sums.bins + sums.background.bins), 0), t, t * sums.background.bins


def _expected(measured: FrameSums, empty: FrameSums) -> FrameSums:
    """What E adds up to over the valid pixels of each frame; `empty` is the sum over all frames without sample."""
    found = {
        name: divide(getattr(empty, name), empty.n_valid) * measured.n_valid for name in _MOMENTS
    }  # both n_valid are those of whole frames
    found["bins"] = np.nan_to_num(divide(empty.bins, empty.bin_counts)) * measured.bin_counts
    found["rois"] = np.nan_to_num(divide(empty.rois, empty.roi_counts)) * measured.roi_counts
    return _with(measured, found)


def _scaled(sums: FrameSums, factor: FloatArray) -> FrameSums:
    tables = {name: getattr(sums, name) * factor[:, None] for name in ("bins", "rois")}
    return _with(sums, {name: getattr(sums, name) * factor for name in _MOMENTS} | tables)


def _combined(first: FrameSums, second: FrameSums, factor: float) -> FrameSums:
    names = (*_MOMENTS, "bins", "rois")
    return _with(first, {name: getattr(first, name) + factor * getattr(second, name) for name in names})


def _with(sums: FrameSums, changed: dict[str, NDArray[Any]]) -> FrameSums:
    return FrameSums(*(changed.get(f.name, getattr(sums, f.name)) for f in fields(FrameSums)))
