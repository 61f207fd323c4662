"""Draws the photons of a frame one by one: exact Poisson statistics at the price of the photons, not of the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from dada.virtual_detector import VirtualDetector

_QUANTILES = 1 << 16
_RINGS, _ANGLES = 512, 128
_BACKGROUND = 0.2  # part of the photons that is spread evenly over the detector


@dataclass(frozen=True)
class FrameModel:
    """What one frame is drawn from. photons: expected number before the detector loses some; angles in radians from x
    towards y (rows)."""

    photons: float
    shift_y: float
    shift_x: float
    angle: float
    anisotropy: float


class _Points(NamedTuple):
    """Points of equal weight beside the beam, in pixels, and the cosine and sine of twice their azimuth."""

    y: np.ndarray
    x: np.ndarray
    cos2: np.ndarray
    sin2: np.ndarray


@dataclass(frozen=True)
class Scattering:
    """Small-angle scattering on a detector: I(r) falls as a power law, with one ring, and 1 + a cos 2(phi - angle)."""

    detector: VirtualDetector

    @cached_property
    def radii(self) -> np.ndarray:
        """Radii in pixels at equally spaced quantiles of the distribution: (2^16,) float32."""
        start = 0.7 * self.detector.beamstop_radius
        r = np.linspace(start, 1.1 * np.hypot(*self.detector.shape) / 2, 20_000)
        core = 1.3 * self.detector.beamstop_radius
        ring = 0.11 * min(self.detector.shape)
        density = r * ((1 + (r / core) ** 2) ** -1.6 + 0.05 * np.exp(-((r - ring) ** 2) / (2 * (0.06 * ring) ** 2)))
        cumulative = np.cumsum(density)
        quantiles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        return np.interp(quantiles, cumulative / cumulative[-1], r).astype(np.float32)

    def draw(self, model: FrameModel, rng: np.random.Generator) -> np.ndarray:
        """The frame as the detector would write it: (rows, columns)."""
        frame = self.detector.empty_frame(rng)
        positions = np.concatenate([self._scattered(model, rng), self._background(model, rng)])
        positions = positions[self.detector.sensitive.ravel()[positions]]
        np.add.at(frame.reshape(-1), positions, frame.dtype.type(1))
        return frame

    def _scattered(self, model: FrameModel, rng: np.random.Generator) -> np.ndarray:
        n = rng.poisson(model.photons * (1 - _BACKGROUND))
        r = self.radii[rng.integers(0, _QUANTILES, n, dtype=np.uint16)]
        phi = rng.random(n, dtype=np.float32) * np.float32(2 * np.pi)
        keep = 1 + model.anisotropy * np.cos(2 * (phi - model.angle))
        phi += np.float32(np.pi / 2) * (2 * rng.random(n, dtype=np.float32) >= keep)  # the other half of cos 2 phi
        return self._land(model, r * np.sin(phi), r * np.cos(phi))[0]

    def _background(self, model: FrameModel, rng: np.random.Generator) -> np.ndarray:
        n = rng.poisson(model.photons * _BACKGROUND)
        return rng.integers(0, self.detector.sensitive.size, n, dtype=np.int32)

    def _land(self, model: FrameModel, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flat index of the pixels that photons hit which go (y, x) pixels beside the beam, and which of them these
        are: the rest pass beside the detector.
        """
        ny, nx = self.detector.shape
        centre_y, centre_x = self.detector.beam_centre
        rows = np.rint(y + np.float32(centre_y + model.shift_y)).astype(np.int32)
        columns = np.rint(x + np.float32(centre_x + model.shift_x)).astype(np.int32)
        inside = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
        return rows[inside] * np.int32(nx) + columns[inside], inside

    def expected(self, model: FrameModel) -> np.ndarray:
        """Expected sums over the valid pixels: of I, I y, I x, I y^2, I x^2, I x y; (6,) float64.

        By quadrature over rings of equal weight, good to some 1e-4 of the total.
        """
        points = self._quadrature
        positions, inside = self._land(model, points.y, points.x)
        cos, sin = np.cos(2 * model.angle), np.sin(2 * model.angle)
        weights = 1 + model.anisotropy * (cos * points.cos2[inside] + sin * points.sin2[inside])
        weights *= self.detector.sensitive.ravel()[positions]
        y, x = (part.astype(np.float64) for part in np.divmod(positions, self.detector.shape[1]))
        sums = np.array([np.sum(weights), *(weights @ f for f in (y, x, y * y, x * x, x * y))])
        even = model.photons * _BACKGROUND / self.detector.sensitive.size
        return sums * model.photons * (1 - _BACKGROUND) / points.y.size + even * self._flat_sums

    @cached_property
    def _quadrature(self) -> _Points:
        radii = self.radii.reshape(_RINGS, -1).mean(axis=1)
        turned = np.random.default_rng(0).random((_RINGS, 1))  # each ring by its own part of a step
        phi = (2 * np.pi * (np.arange(_ANGLES) + turned) / _ANGLES).ravel()
        r = np.repeat(radii, _ANGLES)
        y, x = (part.astype(np.float32) for part in (r * np.sin(phi), r * np.cos(phi)))
        return _Points(y, x, np.cos(2 * phi), np.sin(2 * phi))

    @cached_property
    def _flat_sums(self) -> np.ndarray:
        """Sums of 1, y, x, y^2, x^2, x y over the sensitive pixels."""
        lit = self.detector.sensitive
        y, x = (np.arange(n, dtype=np.float64) for n in lit.shape)
        rows, columns = lit.sum(axis=1), lit.sum(axis=0)
        return np.array([rows.sum(), rows @ y, columns @ x, rows @ y**2, columns @ x**2, y @ (lit @ x)])
