"""The phantom that `dada simulate` scans: a cell with a nucleus and fibres wound around it, with everything known.

Coordinates: u to the right and v downwards over the map, both from -1 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_MAX_SHIFT = 6.0  # pixels on the detector
_MAX_ANISOTROPY = 0.8


@dataclass(frozen=True)
class Phantom:
    """What the sample does at each point of the map; all arrays (ny, nx) float64.

    strength: scattering relative to its mean over the map. shift_y, shift_x: of the beam on the detector, in pixels, by
    refraction. angle: direction of the scattered streak in radians, from the x axis towards the y axis
    (rows, downwards).
    anisotropy: a in the azimuthal intensity 1 + a cos 2(phi - angle), 0 to 1.
    """

    strength: np.ndarray
    shift_y: np.ndarray
    shift_x: np.ndarray
    angle: np.ndarray
    anisotropy: np.ndarray


def cell(shape: tuple[int, int]) -> Phantom:
    """The phantom on a map of (ny, nx) points."""
    v, u = np.meshgrid(_axis(shape[0]), _axis(shape[1]), indexing="ij")
    radius, around = np.hypot(u / 0.95, v / 0.8), np.arctan2(v / 0.8, u / 0.95)
    body = _edge(0.88 - radius)
    nucleus = _edge(0.30 - np.hypot(u + 0.10, v - 0.05))
    shell = body * (1 - nucleus)
    fibres = shell * (0.55 + 0.45 * np.cos(18 * radius + 2 * around))
    strength = 0.45 + 0.35 * body + 0.75 * nucleus + 0.8 * fibres
    shift_y, shift_x = _refraction(u, v)
    return Phantom(
        strength=strength / strength.mean(),
        shift_y=shift_y,
        shift_x=shift_x,
        angle=np.arctan2(v / 0.8, u / 0.95),  # fibres run around the centre, they scatter at right angles to themselves
        anisotropy=_MAX_ANISOTROPY * shell,
    )


def _axis(n: int) -> np.ndarray:
    return np.zeros(1) if n == 1 else np.linspace(-1, 1, n)


def _edge(distance: np.ndarray) -> np.ndarray:
    """1 inside, 0 outside, with a soft edge."""
    return 1 / (1 + np.exp(-distance / 0.04))


def _refraction(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift (y, x) in pixels, proportional to the gradient of a phase: a large lens and a small one."""

    def gradient(u0: float, v0: float, width: float) -> tuple[np.ndarray, np.ndarray]:
        bump = np.exp(-((u - u0) ** 2 + (v - v0) ** 2) / (2 * width**2)) / width
        return (v - v0) / width * bump, (u - u0) / width * bump

    large, small = gradient(0, 0, 0.5), gradient(-0.1, 0.05, 0.2)
    shift_y, shift_x = (large[i] + 0.35 * small[i] for i in (0, 1))
    scale = _MAX_SHIFT / max(np.hypot(shift_y, shift_x).max(), 1e-9)
    return scale * shift_y, scale * shift_x
