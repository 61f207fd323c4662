"""Where the detector stands: radius, q, azimuth, solid angle and polarization of each pixel; PONI files.

Conventions. Axis 1 is along rows of the array index y (slow), axis 2 along x (fast). **Pixels are counted
from 0 and the centre of pixel (j, i) is at the coordinate (j, i)**; its distance from the detector's corner
is therefore (j + 0.5) p. PONI files (and DECTRIS' beam_center) count from the corner: `Geometry` keeps
their numbers and `Geometry.from_beam` adds the half pixel, once, here. The azimuth phi is 0 along +x and
grows counter-clockwise on a picture whose row 0 is at the top; pyFAI's chi is -phi.

Formulas are pyFAI's (J. Kieffer et al., J. Appl. Cryst. 53 (2020) 1293; its geometry documentation), so
that sums over q bins equal those of its ("no", "histogram", "numpy") method exactly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dada.errors import DataError, UsageError

FloatArray = NDArray[np.float64]

_KNOWN_PIXELS_M = {"eiger": 75e-6, "pilatus": 172e-6, "lambda": 55e-6, "maxipix": 55e-6, "jungfrau": 75e-6}
_USUAL_ORIENTATIONS = (0, 3)


def _kept(compute: Callable[[Geometry], FloatArray]) -> Callable[[Geometry], FloatArray]:
    """Keep a method's array, read-only, for the geometry that was asked last: several reductions of a run want the
    same one, and 4 million pixels take a tenth of a second each time.
    """

    @lru_cache(maxsize=1)
    def read_only(geometry: Geometry) -> FloatArray:
        array = compute(geometry)
        array.setflags(write=False)
        return array

    @wraps(compute)
    def method(self: Geometry) -> FloatArray:
        return read_only(self)

    return method


@dataclass(frozen=True)
class Geometry:
    """A flat detector of square or rectangular pixels. The arrays of its methods are read-only and shared.

    distance_m: sample to the point of normal incidence (PONI). poni1_m, poni2_m: that point from the
    detector's corner, along rows' index and columns' index. rot1, rot2, rot3: rotations in radians in
    pyFAI's sense. pixel_m: (row pitch, column pitch). wavelength_nm: None where it is not known (then there
    is no q).
    """

    shape: tuple[int, int]
    distance_m: float
    poni1_m: float
    poni2_m: float
    pixel_m: tuple[float, float] = (75e-6, 75e-6)
    wavelength_nm: float | None = None
    rot1: float = 0.0
    rot2: float = 0.0
    rot3: float = 0.0

    def __post_init__(self) -> None:
        lengths = (self.distance_m, *self.pixel_m, self.wavelength_nm or 1.0)
        if not all(math.isfinite(length) and length > 0 for length in lengths):
            raise UsageError("distance, pixel size and wavelength must be positive numbers; check the geometry")

    @classmethod
    def from_beam(
        cls,
        shape: tuple[int, int],
        centre: tuple[float, float],
        *,
        distance_m: float,
        wavelength_nm: float | None = None,
        pixel_m: tuple[float, float] = (75e-6, 75e-6),
    ) -> Geometry:
        """A detector perpendicular to the beam, which hits it at `centre` = (y, x), pixel centres at integers."""
        poni = [(c + 0.5) * p for c, p in zip(centre, pixel_m, strict=True)]
        return cls(shape, distance_m, poni[0], poni[1], pixel_m, wavelength_nm)

    @property
    def centre(self) -> tuple[float, float]:
        """(y, x) in pixels, from pixel centres, where the direct beam hits the detector.

        Rounded to 1e-9 pixels, so that a centre given as an integer is one again.
        """
        along_beam = self._rotation().T @ [0.0, 0.0, 1.0]
        shift = self.distance_m * along_beam[:2] / along_beam[2]
        return (
            round(float((self.poni1_m + shift[0]) / self.pixel_m[0] - 0.5), 9),
            round(float((self.poni2_m + shift[1]) / self.pixel_m[1] - 0.5), 9),
        )

    @property
    def beam_distance_m(self) -> float:
        """Sample to the point where the direct beam hits the detector."""
        return self.distance_m / float((self._rotation().T @ [0.0, 0.0, 1.0])[2])

    def offsets_px(self) -> tuple[FloatArray, FloatArray]:
        """(ny, 1) and (1, nx): distance in pixels from the direct beam along y and along x."""
        cy, cx = self.centre
        return np.arange(self.shape[0])[:, None] - cy, np.arange(self.shape[1])[None, :] - cx

    @_kept
    def radius_px(self) -> FloatArray:
        """(ny, nx) distance from the direct beam on the detector, in pixels."""
        return np.hypot(*self.offsets_px())

    def two_theta(self) -> FloatArray:
        """(ny, nx) scattering angle in radians."""
        along, up, right = self._positions()
        return np.arctan2(np.sqrt(right * right + up * up), along)

    @_kept
    def q(self) -> FloatArray:
        """(ny, nx) scattering vector q = 4 pi / lambda sin(theta) in 1/nm. Raises UsageError without wavelength."""
        wavelength_m = self._wavelength_m()
        along, up, right = self._positions()
        radius = np.sqrt(right * right + up * up)
        return 4.0e-9 * np.pi / wavelength_m * np.sin(0.5 * np.arctan2(radius, along))

    @_kept
    def azimuth(self) -> FloatArray:
        """(ny, nx) phi in radians, -pi to pi, counter-clockwise from +x on a picture with row 0 at the top."""
        _, up, right = self._positions()
        return np.arctan2(-up, right)

    @_kept
    def solid_angle(self) -> FloatArray:
        """(ny, nx) solid angle of each pixel relative to that at the PONI: cos^3 of the angle of incidence."""
        p1, p2 = self._from_poni()
        return (self.distance_m / np.sqrt(self.distance_m**2 + p1 * p1 + p2 * p2)) ** 3

    def polarization(self, factor: float, offset: float = 0.0) -> FloatArray:
        """(ny, nx) factor by which polarization lowers intensities.

        P = (1 + cos^2 tth - f cos(2 (chi + offset)) sin^2 tth) / 2; f = 1 horizontal, -1 vertical, 0
        unpolarized.
        """
        cos2 = np.cos(self.two_theta()) ** 2
        chi = -self.azimuth()
        return 0.5 * (1.0 + cos2 - factor * np.cos(2.0 * (chi + offset)) * (1.0 - cos2))

    def radius_of_q(self, q: float) -> float:
        """Radius in pixels (of the row pitch) at which an untilted detector sees `q`, in 1/nm."""
        sine = q * self._wavelength_m() * 1e9 / (4 * math.pi)
        if not 0 <= sine < math.sin(math.pi / 4):
            raise UsageError(f"q = {q:g} 1/nm is out of reach of a flat detector at this wavelength")
        return self.distance_m * math.tan(2 * math.asin(sine)) / self.pixel_m[0]

    def describe(self) -> dict[str, object]:
        """All numbers as plain JSON values, for provenance and keys."""
        return {
            "shape": list(self.shape),
            "distance_m": self.distance_m,
            "poni_m": [self.poni1_m, self.poni2_m],
            "pixel_m": list(self.pixel_m),
            "rotation": [self.rot1, self.rot2, self.rot3],
            "wavelength_nm": self.wavelength_nm,
            "centre": list(self.centre),
        }

    def _wavelength_m(self) -> float:
        if self.wavelength_nm is None:
            raise UsageError("q needs the wavelength: the file does not say it, give it")
        return self.wavelength_nm * 1e-9

    def _from_poni(self) -> tuple[FloatArray, FloatArray]:
        """(ny, 1) and (1, nx): distance of pixel centres from the PONI along the detector's axes, in metres."""
        p1 = (np.arange(self.shape[0]) + 0.5) * self.pixel_m[0] - self.poni1_m
        p2 = (np.arange(self.shape[1]) + 0.5) * self.pixel_m[1] - self.poni2_m
        return p1[:, None], p2[None, :]

    def _positions(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Pixel centres seen from the sample, in metres: along the beam, along axis 1, along axis 2."""
        p1, p2 = self._from_poni()
        if self.rot1 == self.rot2 == self.rot3 == 0:
            return np.full(self.shape, self.distance_m), *np.broadcast_arrays(p1, p2)  # type: ignore[return-value]
        rotation, distance = self._rotation(), self.distance_m
        up, right, along = (row[0] * p1 + row[1] * p2 + row[2] * distance for row in rotation)
        return along, up, right

    def _rotation(self) -> FloatArray:
        """From the detector's axes (1, 2, beam) to the laboratory's: about 1, then 2 (both left-handed), then 3."""
        c1, c2, c3 = (math.cos(r) for r in (self.rot1, self.rot2, self.rot3))
        s1, s2, s3 = (math.sin(r) for r in (self.rot1, self.rot2, self.rot3))
        about1 = np.array([[1, 0, 0], [0, c1, s1], [0, -s1, c1]])
        about2 = np.array([[c2, 0, -s2], [0, 1, 0], [s2, 0, c2]])
        about3 = np.array([[c3, -s3, 0], [s3, c3, 0], [0, 0, 1]])
        return about3 @ about2 @ about1


def read_poni(path: str | Path, shape: tuple[int, int]) -> Geometry:
    """The geometry in a PONI file (versions 1 to 2.1), for frames of `shape`.

    Raises DataError where the file cannot be read, lacks a number or turns the image (orientation other
    than 3).
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a PONI file ({error}); give the file pyFAI wrote") from error
    pairs = (line.partition(":") for line in lines if not line.startswith("#"))
    entries = {key.strip().lower(): value.strip() for key, colon, value in pairs if colon}
    try:
        return _geometry_of(path, entries, shape)
    except KeyError as missing:
        raise DataError(f"{path}: the PONI file has no {missing.args[0]}; give one that pyFAI wrote") from missing
    except ValueError as error:
        raise DataError(f"{path}: the PONI file has a number that is none ({error})") from error


def _geometry_of(path: Path, entries: dict[str, str], shape: tuple[int, int]) -> Geometry:
    config = json.loads(entries.get("detector_config") or "{}")
    orientation = config.get("orientation") or 3
    if orientation not in _USUAL_ORIENTATIONS:
        raise DataError(f"{path}: detector orientation {orientation} is not supported; calibrate with orientation 3")
    expected = config.get("max_shape")
    if expected and tuple(expected) != tuple(shape):
        raise DataError(f"{path}: calibrated for frames of {tuple(expected)}, but these are {tuple(shape)}")
    wavelength = entries.get("wavelength")
    return Geometry(
        shape,
        distance_m=float(entries["distance"]),
        poni1_m=float(entries["poni1"]),
        poni2_m=float(entries["poni2"]),
        pixel_m=_pixel_size(entries, config),
        wavelength_nm=float(wavelength) * 1e9 if wavelength and wavelength != "None" else None,
        rot1=float(entries.get("rot1", 0)),
        rot2=float(entries.get("rot2", 0)),
        rot3=float(entries.get("rot3", 0)),
    )


def _pixel_size(entries: dict[str, str], config: dict[str, float]) -> tuple[float, float]:
    if "pixel1" in config and "pixel2" in config:
        return float(config["pixel1"]), float(config["pixel2"])
    if "pixelsize1" in entries and "pixelsize2" in entries:
        return float(entries["pixelsize1"]), float(entries["pixelsize2"])
    name = entries.get("detector", "").lower()
    for known, size in _KNOWN_PIXELS_M.items():
        if name.startswith(known):
            return size, size
    raise KeyError("pixel size")
