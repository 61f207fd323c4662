"""Differential phase contrast: from maps of deflection to the phase, and to its divergence and curl.

The gradient of the phase (see `centre_of_mass`) is known at each point of the scan; the phase is what fits it best:

    least squares   minimizes the sum over neighbours of (phase difference - mean gradient * step)^2, with free edges;
                    solved exactly with cosine transforms
    Fourier         phase = IFFT[-i (k_x G_x + k_y G_y) / k^2] on the mirrored map, so that nothing wraps around
                    (R. Frankot and R. Chellappa, IEEE Trans. Pattern Anal. 10 (1988) 439)

Phases are in radians, gradients in radians per unit of `step`. Both ways leave the constant free: the mean of the phase
is 0. Axes are (y, x), y grows downwards.
"""

from __future__ import annotations

import numpy as np

from dada.errors import UsageError
from dada.reductions.protocol import FloatArray


def divergence(gradient_y: FloatArray, gradient_x: FloatArray, step: tuple[float, float] = (1.0, 1.0)) -> FloatArray:
    """d g_y / dy + d g_x / dx of maps (ny, nx); steps (y, x) in the unit of length that is wanted."""
    return np.asarray(np.gradient(gradient_y, step[0], axis=0) + np.gradient(gradient_x, step[1], axis=1))


def curl(gradient_y: FloatArray, gradient_x: FloatArray, step: tuple[float, float] = (1.0, 1.0)) -> FloatArray:
    """d g_y / dx - d g_x / dy, as LiberTEM defines it: 0 for a phase, so what is left is noise or a wrong rotation."""
    return np.asarray(np.gradient(gradient_y, step[1], axis=1) - np.gradient(gradient_x, step[0], axis=0))


def integrate(
    gradient_y: FloatArray,
    gradient_x: FloatArray,
    step: tuple[float, float] = (1.0, 1.0),
    method: str = "least_squares",
) -> FloatArray:
    """The phase (ny, nx) in radians, mean 0, from its gradients in radians per unit of `step` = (y, x).

    Points without a value (NaN) count as gradient 0. Raises UsageError where shapes differ, the map is a
    line or the method is unknown.
    """
    if gradient_y.shape != gradient_x.shape or gradient_y.ndim != 2 or min(gradient_y.shape) < 2:
        raise UsageError("a phase needs maps of both gradients with at least 2 x 2 points")
    methods = {"least_squares": _least_squares, "fourier": _fourier}
    if method not in methods:
        raise UsageError(f"there is no way {method!r} to integrate; choose one of {', '.join(methods)}")
    phase = methods[method](np.nan_to_num(gradient_y) * step[0], np.nan_to_num(gradient_x) * step[1])
    return np.asarray(phase - phase.mean())


def _least_squares(gy: FloatArray, gx: FloatArray) -> FloatArray:
    """Poisson's equation with free edges; differences of neighbours are the mean of their gradients."""
    ny, nx = gy.shape
    right = np.zeros((ny, nx))
    down, across = (gy[1:] + gy[:-1]) / 2, (gx[:, 1:] + gx[:, :-1]) / 2
    right[:-1] += down
    right[1:] -= down
    right[:, :-1] += across
    right[:, 1:] -= across
    eigenvalues = (2 * np.cos(np.pi * np.arange(ny) / ny) - 2)[:, None] + 2 * np.cos(np.pi * np.arange(nx) / nx) - 2
    eigenvalues[0, 0] = 1.0
    spectrum = _dct(_dct(right, 0), 1) / eigenvalues
    spectrum[0, 0] = 0.0
    return _idct(_idct(spectrum, 0), 1)


def _dct(a: FloatArray, axis: int) -> FloatArray:
    """Cosine transform (type 2, not normalized): sum of a_j cos(pi (j + 1/2) k / n)."""
    a = np.moveaxis(a, axis, -1)
    n = a.shape[-1]
    mirrored = np.concatenate([a, a[..., ::-1]], axis=-1)
    turned = np.fft.rfft(mirrored)[..., :n] * np.exp(-0.5j * np.pi * np.arange(n) / n)
    return np.moveaxis(turned.real / 2, -1, axis)


def _idct(a: FloatArray, axis: int) -> FloatArray:
    """The inverse of `_dct`."""
    a = np.moveaxis(a, axis, -1)
    n = a.shape[-1]
    spectrum = np.zeros((*a.shape[:-1], n + 1), complex)
    spectrum[..., :n] = 2 * a * np.exp(0.5j * np.pi * np.arange(n) / n)
    return np.moveaxis(np.fft.irfft(spectrum, 2 * n)[..., :n], -1, axis)


def _fourier(gy: FloatArray, gx: FloatArray) -> FloatArray:
    """On the map mirrored at its edges, where the phase is even and its gradient odd."""
    ny, nx = gy.shape
    gx = np.block([[gx, -gx[:, ::-1]], [gx[::-1], -gx[::-1, ::-1]]])
    gy = np.block([[gy, gy[:, ::-1]], [-gy[::-1], -gy[::-1, ::-1]]])
    ky = 2 * np.pi * np.fft.fftfreq(2 * ny)[:, None]
    kx = 2 * np.pi * np.fft.fftfreq(2 * nx)[None, :]
    square = ky**2 + kx**2
    square[0, 0] = 1.0
    phase = np.fft.ifft2(-1j * (ky * np.fft.fft2(gy) + kx * np.fft.fft2(gx)) / square)
    return np.asarray(phase.real[:ny, :nx])
