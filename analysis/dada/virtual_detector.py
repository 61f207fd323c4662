"""A detector that does not exist: an EIGER X 4M or a smaller one like it, with gaps, dead and noisy
pixels, a beamstop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dada.errors import UsageError

EIGER_4M = (2167, 2070)
_MODULE = (514, 1030)
_GAP = (37, 10)
#: Bits of the pixel mask, as NXmx defines them.
MASK_GAP, MASK_DEAD, MASK_NOISY = 1, 2, 16
_SMALLEST = 64


@dataclass(frozen=True)
class VirtualDetector:
    """shape: (rows, columns); dtype: uint16 or uint32, as the firmware writes; seed: where the bad pixels are."""

    shape: tuple[int, int]
    dtype: np.dtype
    seed: int = 1
    distance_m: float = 5.0
    wavelength_nm: float = 0.1
    pixel_size_m: float = 75e-6

    @property
    def beam_centre(self) -> tuple[float, float]:
        """(row, column) of the beam, pixel centres at integers; off the middle, clear of the gaps."""
        return round(0.567 * self.shape[0]) + 0.25, round(0.543 * self.shape[1]) - 0.25

    @property
    def beamstop_radius(self) -> float:
        """In pixels."""
        return max(0.014 * min(self.shape), 3.0)

    @property
    def gap_value(self) -> int:
        """What gaps and dead pixels hold: all bits set."""
        return int(np.iinfo(self.dtype).max)

    @property
    def saturation(self) -> int:
        """The largest count that the detector vouches for."""
        return 48_000 if self.dtype.itemsize == 2 else 199_000

    @cached_property
    def pixel_mask(self) -> np.ndarray:
        """(rows, columns) uint32: 0 good, 1 gap, 2 dead, 16 noisy."""
        mask = np.zeros(self.shape, dtype=np.uint32)
        for axis, lines in enumerate(_gap_lines(self.shape)):
            mask[(slice(None),) * axis + (lines,)] = MASK_GAP
        rng = np.random.default_rng([self.seed, 7])
        for bit, part in ((MASK_DEAD, 5e-5), (MASK_NOISY, 5e-6)):
            chosen = rng.choice(mask.size, max(2, int(part * mask.size)), replace=False)
            mask.ravel()[chosen] |= np.uint32(bit)
        return mask

    @cached_property
    def sensitive(self) -> np.ndarray:
        """(rows, columns) bool: where photons are counted and counts are valid."""
        y, x = np.ogrid[: self.shape[0], : self.shape[1]]
        centre_y, centre_x = self.beam_centre
        shadow = np.hypot(y - centre_y, x - centre_x) <= self.beamstop_radius
        shadow |= (np.abs(x - centre_x) <= self.beamstop_radius / 5) & (y > centre_y)  # its holder, downwards
        return (self.pixel_mask == 0) & ~shadow

    @cached_property
    def _noisy(self) -> np.ndarray:
        return np.flatnonzero((self.pixel_mask & (MASK_GAP | MASK_DEAD | MASK_NOISY)) == MASK_NOISY)

    @cached_property
    def _dark(self) -> np.ndarray:
        bad = (self.pixel_mask & (MASK_GAP | MASK_DEAD)) != 0
        return np.where(bad, self.gap_value, 0).astype(self.dtype)

    def empty_frame(self, rng: np.random.Generator) -> np.ndarray:
        """A frame without a photon: gaps and dead pixels hold their value, noisy ones anything."""
        frame = self._dark.copy()
        frame.reshape(-1)[self._noisy] = rng.poisson(700, self._noisy.size)
        return frame


def parse_detector(text: str, dtype: str, seed: int) -> VirtualDetector:
    """`eiger4m` or `WIDTHxHEIGHT` in pixels. Raises UsageError."""
    kind = np.dtype(dtype)
    if text.lower() == "eiger4m":
        return VirtualDetector(EIGER_4M, kind, seed)
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()) or min(int(width), int(height)) < _SMALLEST:
        raise UsageError(f"'{text}' is no detector: write eiger4m or WIDTHxHEIGHT, at least {_SMALLEST}x{_SMALLEST}")
    scale = int(height) / EIGER_4M[0]
    return VirtualDetector((int(height), int(width)), kind, seed, pixel_size_m=75e-6 / scale)


def _gap_lines(shape: tuple[int, int]) -> list[np.ndarray]:
    """The rows and the columns between modules."""
    lines = []
    for length, full, module, gap in zip(shape, EIGER_4M, _MODULE, _GAP, strict=True):
        scale = length / full
        starts = np.arange(module, full, module + gap)
        scaled = [np.arange(round(s * scale), round(s * scale) + max(round(gap * scale), 2)) for s in starts]
        lines.append(np.concatenate(scaled))
    return lines
