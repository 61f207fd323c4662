"""Power laws and Guinier fits of I(q), for a whole map at once, with errors.

Counts N_b in bin b follow a Poisson distribution about norm_b * I(q_b), norm_b as in `radial`. The models are lines in
the logarithm,

    power law   ln I = ln A - p ln q            p without unit, A in counts/pixel at q = 1/nm (Porod: p = 4)
    Guinier     ln I = ln I0 - Rg^2 q^2 / 3     Rg in nm; good while q Rg < 1.3, `guinier_qrg` says where the range ends

and are fitted by maximum likelihood (Poisson regression, Newton's method; P. McCullagh and J. Nelder, Generalized
Linear Models, 1989): no logarithm of noisy counts, so bins without counts take part and nothing is biased at 0.01
counts a bin. Errors are from the inverse of the information matrix; chi^2 is Pearson's, per degree of freedom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dada.kernels import FrameSums
from dada.reductions.empty_beam import as_measured
from dada.reductions.protocol import FloatArray, Quantity, sound
from dada.reductions.radial import RadialProfile

_STEPS = 50
_CLOSE = 1e-9


@dataclass(frozen=True, eq=False)
class LineFit:
    """ln I = intercept + slope x; each array (n,), NaN where a frame has too few counts or bins."""

    intercept: FloatArray
    slope: FloatArray
    intercept_error: FloatArray
    slope_error: FloatArray
    covariance: FloatArray  #: between intercept and slope
    chi2: FloatArray  #: per degree of freedom


def poisson_line(
    x: NDArray[np.floating], counts: NDArray[np.generic], norm: FloatArray, background: FloatArray | float = 0.0
) -> LineFit:
    """Maximum-likelihood line through the logarithm of rates, above a known background.

    x: (n_bins,). counts, norm: (n, n_bins); bins with norm 0 do not take part. background: counts expected besides.
    Needs counts in two bins or more.
    """
    middle = float(x.mean())
    t = (x - middle) / (float(np.ptp(x)) or 1.0)
    counts, norm = np.asarray(counts, float), np.asarray(norm, float)
    usable = ((counts > 0) & (norm > 0)).sum(axis=1) >= 2
    background = np.broadcast_to(np.where(norm > 0, background, 0.0), counts.shape)
    a, b, information, expected = _newton(t, np.where(norm > 0, counts, 0), norm, background, usable)
    covariance = np.linalg.inv(np.where(usable[:, None, None], information, np.eye(2)))
    degrees = np.maximum((norm > 0).sum(axis=1) - 2, 1)
    pearson = np.divide((counts - expected) ** 2, expected, out=np.zeros_like(counts), where=expected > 0)
    scale = float(np.ptp(x)) or 1.0
    shift = middle / scale
    intercept_variance = covariance[:, 0, 0] - 2 * shift * covariance[:, 0, 1] + shift**2 * covariance[:, 1, 1]
    found = (
        a - b * shift,
        b / scale,
        np.sqrt(intercept_variance),
        np.sqrt(covariance[:, 1, 1]) / scale,
        (covariance[:, 0, 1] - shift * covariance[:, 1, 1]) / scale,
        pearson.sum(axis=1) / degrees,
    )
    return LineFit(*(np.where(usable, value, np.nan) for value in found))


def _newton(
    t: FloatArray, counts: FloatArray, norm: FloatArray, background: FloatArray, usable: NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Intercept and slope of all frames, their information matrices (n, 2, 2) and the expected counts."""
    above = np.maximum((counts - background).sum(axis=1), 0.1 * counts.sum(axis=1))
    a = np.log(np.maximum(above, 1e-300) / np.maximum(norm.sum(axis=1), 1e-300))
    b = np.zeros_like(a)
    basis = np.stack([np.ones_like(t), t])
    for _ in range(_STEPS):
        signal = norm * np.exp(np.clip(a[:, None] + b[:, None] * t, -700, 700))
        expected = signal + background
        part = np.divide(signal, expected, out=np.zeros_like(expected), where=expected > 0)
        information = np.einsum("ib,nb,jb->nij", basis, signal * part, basis)
        score = np.einsum("ib,nb->ni", basis, part * (counts - expected))
        solvable = usable & (np.linalg.det(information) > 0)
        step = np.zeros_like(score)
        step[solvable] = np.linalg.solve(information[solvable], score[solvable][..., None])[..., 0]
        step = np.clip(step, -3, 3)  # far from the solution Newton's steps overshoot
        a, b = a + step[:, 0], b + step[:, 1]
        if np.abs(step).max(initial=0) < _CLOSE:
            break
    return a, b, information, expected


class _Line(RadialProfile):
    """A line through ln I(q), of frames with or without an empty-beam correction."""

    def line(self, x: FloatArray, part: FrameSums) -> LineFit:
        """ln I over `x`, (n_bins,) made of the bins' q."""
        counts, transmission, background = as_measured(part)
        return poisson_line(x, counts, self.normalization(part) * transmission, background)


class PowerLaw(_Line):
    """Exponent p and amplitude A of I = A q^-p over `limits`, for each frame; see the module for the method."""

    name = "power_law"

    def finish(self, part: FrameSums) -> dict[str, Quantity]:
        q = self.map.centres
        fit = self.line(np.log(q), part)
        return {
            "power_p": Quantity(sound(part, -fit.slope), "", "Exponent p of I = A q^-p"),
            "power_p_error": Quantity(sound(part, fit.slope_error), "", "Error of p"),
            "power_lnA": Quantity(sound(part, fit.intercept), "ln(counts/pixel)", "Logarithm of A at q = 1/nm"),
            "power_lnA_error": Quantity(sound(part, fit.intercept_error), "", "Error of ln A"),
            "power_chi2": Quantity(sound(part, fit.chi2), "", "chi^2 per degree of freedom of the power law"),
        }


class Guinier(_Line):
    """Radius of gyration and forward scattering over `limits`, for each frame; NaN where I rises with q."""

    name = "guinier"

    def finish(self, part: FrameSums) -> dict[str, Quantity]:
        q = self.map.centres
        fit = self.line(q**2, part)
        square = np.where(fit.slope < 0, -3 * fit.slope, np.nan)
        radius = np.sqrt(square)
        return {
            "guinier_rg": Quantity(sound(part, radius), "nm", "Radius of gyration"),
            "guinier_rg_error": Quantity(sound(part, 1.5 * fit.slope_error / radius), "nm", "Error of Rg"),
            "guinier_i0": Quantity(sound(part, np.exp(fit.intercept)), "counts/pixel", "Forward scattering I(0)"),
            "guinier_qrg": Quantity(sound(part, radius * self.map.edges[-1]), "", "q Rg at the end of the range"),
            "guinier_chi2": Quantity(sound(part, fit.chi2), "", "chi^2 per degree of freedom of the Guinier fit"),
        }
