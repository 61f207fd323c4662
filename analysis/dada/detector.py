"""What a file says about the detector: geometry, pixel mask, saturation; from the usual places, with their units.

Conventions at this border: lengths in metres, wavelength in nanometres, the beam's position as (row, column) counted
from 0 at the *centre* of the first pixel. Files count the beam from the *corner* of the first pixel (DECTRIS, NXmx),
which is half a pixel more: 0.5 is subtracted here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dada.errors import DataError

DETECTOR = "/entry/instrument/detector"
SPECIFIC = f"{DETECTOR}/detectorSpecific"
_METRES = {"m": 1.0, "metre": 1.0, "meter": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "micron": 1e-6}
_NANOMETRES = {"m": 1e9, "nm": 1.0, "angstrom": 0.1, "angstroms": 0.1, "å": 0.1, "a": 0.1}
_HC_EV_NM = 1239.841984  # Planck's constant times the speed of light, eV nm (CODATA 2018)
_PLAUSIBLE_VERY_LARGE = 1e6
_LONGEST_HALL_M = 50.0


@dataclass(frozen=True)
class Detector:
    """Metadata of the detector; None where the file does not say.

    pixel_mask: (rows, columns) uint32, 0 = good, bits as NXmx defines them. saturation: the largest count that can be
    trusted. beam_centre: (row, column), pixel centres at integers. pixel_size_m: (row pitch, column pitch).
    """

    pixel_mask: np.ndarray | None = None
    saturation: int | None = None
    distance_m: float | None = None
    wavelength_nm: float | None = None
    pixel_size_m: tuple[float, float] | None = None
    beam_centre: tuple[float, float] | None = None
    description: str = ""

    def describe(self) -> dict[str, Any]:
        """All but the mask as plain JSON values."""
        return {
            "description": self.description,
            "distance_m": self.distance_m,
            "wavelength_nm": self.wavelength_nm,
            "pixel_size_m": self.pixel_size_m and list(self.pixel_size_m),
            "beam_centre": self.beam_centre and list(self.beam_centre),
            "saturation": self.saturation,
        }


def read_detector(file: h5py.File, path: Path, shape: tuple[int, int], channel: int = 0) -> Detector:
    """The detector as the open file at `path` describes it, for frames of `shape`.

    Raises DataError when the pixel mask does not have the frames' shape.
    """
    return Detector(
        pixel_mask=_pixel_mask(file, path, shape, channel),
        saturation=_saturation(file),
        distance_m=_length(file, [f"{DETECTOR}/detector_distance", f"{DETECTOR}/distance"], _METRES),
        wavelength_nm=_wavelength(file),
        pixel_size_m=_pixel_size(file),
        beam_centre=_beam_centre(file),
        description=_text(file, f"{DETECTOR}/description"),
    )


def _pixel_mask(file: h5py.File, path: Path, shape: tuple[int, int], channel: int) -> np.ndarray | None:
    group = file.get(DETECTOR)
    channels = sorted(name for name in group if name.endswith("_channel")) if isinstance(group, h5py.Group) else []
    per_channel = [f"{DETECTOR}/{name}/pixel_mask" for name in channels[channel : channel + 1]]
    for name in [*per_channel, f"{SPECIFIC}/pixel_mask", f"{DETECTOR}/pixel_mask"]:
        found = _dataset(file, name)
        if found is None:
            continue
        mask = found[()]
        if mask.ndim == 3:  # one mask a channel
            mask = mask[min(channel, len(mask) - 1)]
        if mask.shape != shape:
            raise DataError(f"{path}: the pixel mask {name} is {mask.shape}, the frames are {shape}")
        return mask.astype(np.uint32)
    return None


def _saturation(file: h5py.File) -> int | None:
    for name in (f"{SPECIFIC}/countrate_correction_count_cutoff", f"{DETECTOR}/saturation_value"):
        value = _number(file, name)
        if value is not None and value > 0:
            return int(value)
    return None


def _wavelength(file: h5py.File) -> float | None:
    beam = "/entry/instrument/beam"
    names = [f"{beam}/incident_wavelength", f"{beam}/wavelength", "/entry/sample/beam/incident_wavelength"]
    wavelength = _length(file, names, _NANOMETRES, default="angstrom")
    if wavelength:
        return wavelength
    energy = _number(file, f"{SPECIFIC}/photon_energy")
    return _HC_EV_NM / energy if energy else None


def _pixel_size(file: h5py.File) -> tuple[float, float] | None:
    rows = _length(file, [f"{DETECTOR}/y_pixel_size"], _METRES)
    columns = _length(file, [f"{DETECTOR}/x_pixel_size"], _METRES)
    return (rows, columns) if rows and columns else None


def _beam_centre(file: h5py.File) -> tuple[float, float] | None:
    row = _number(file, f"{DETECTOR}/beam_center_y")
    column = _number(file, f"{DETECTOR}/beam_center_x")
    if row is None or column is None or (row == 0 and column == 0):
        return None  # DECTRIS writes 0, 0 where nobody has set it
    return row - 0.5, column - 0.5


def _length(file: h5py.File, names: Iterable[str], units: dict[str, float], default: str = "m") -> float | None:
    for name in names:
        value = _number(file, name)
        if value is None or not 0 < value < _PLAUSIBLE_VERY_LARGE:
            continue
        unit = file[name].attrs.get("units")
        if unit is None:  # a distance beyond any hall is in millimetres
            unit = "mm" if default == "m" and value > _LONGEST_HALL_M else default
        unit = unit.decode() if isinstance(unit, bytes) else str(unit)
        factor = units.get(unit.strip().lower())
        if factor:
            return value * factor
    return None


def _number(file: h5py.File, name: str) -> float | None:
    found = _dataset(file, name)
    if found is None or found.dtype.kind not in "iuf" or found.size < 1:
        return None
    value = float(found[()] if found.ndim == 0 else found[(0,) * found.ndim])
    return value if np.isfinite(value) else None


def _text(file: h5py.File, name: str) -> str:
    found = _dataset(file, name)
    if found is None or found.ndim or not h5py.check_string_dtype(found.dtype):
        return ""
    return str(found.asstr()[()])


def _dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
    try:
        found = file.get(name)
    except (KeyError, OSError, RuntimeError):  # a link that leads nowhere
        return None
    return found if isinstance(found, h5py.Dataset) else None
