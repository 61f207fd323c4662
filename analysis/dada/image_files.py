"""Scans of one image a file: CBF, TIFF, EDF and what else FabIO reads."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import Any

import numpy as np

from dada.chunk_index import ChunkTable
from dada.detector import Detector
from dada.errors import DataError

FABIO = "fabio"
_SUFFIXES = (".cbf", ".tif", ".tiff", ".edf")
_DIGITS = re.compile(r"(\d+)")


def is_image_scan(name: str) -> bool:
    """Whether the name of a scan means image files: a directory, a pattern, or one such file."""
    path = Path(name)
    return path.suffix.lower() in _SUFFIXES or path.is_dir() or (bool(glob.has_magic(name)) and not path.exists())


def list_files(name: str) -> list[Path]:
    """The files of a scan, in the order of the numbers in their names. Raises DataError when there is none."""
    path = Path(name)
    if path.is_dir():
        found = [file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES]
    else:
        found = [Path(file) for file in glob.glob(name)] if glob.has_magic(name) else [path]
    found = [file for file in found if file.is_file()]
    if not found:
        raise DataError(f"there is no CBF, TIFF or EDF file at {name}; give a master file, a directory or a pattern")
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in _DIGITS.split(path.name)]


def read_image(path: Path) -> np.ndarray:
    """The frame in an image file: (rows, columns) of integers, with -1 and -2 in gaps and bad pixels.

    Raises OSError when the file cannot be read as an image.
    """
    fabio = _fabio()
    try:
        with fabio.open(str(path)) as image:
            data = np.asarray(image.data)
    except OSError:
        raise
    except Exception as error:  # FabIO raises whatever its parsers do
        raise OSError(f"no image that FabIO can read: {error}") from error
    if data.ndim != 2 or data.dtype.kind not in "iu":
        raise OSError(f"an image of {data.dtype} {data.shape}, not of counts in rows and columns")
    return data


def table_of(path: Path) -> ChunkTable:
    """What frames of a scan look like, by its first file. Raises DataError."""
    try:
        image = read_image(path)
    except OSError as error:
        raise DataError(f"{path} is no image: {error}") from None
    none = np.zeros((1, 1), dtype=np.int64)
    return ChunkTable(image.shape, image.dtype.str, 1, 1, FABIO, none, none, none.astype(np.uint32))


def detector_of(path: Path) -> Detector:
    """What the header of a CBF file says (DECTRIS mini header); empty for other formats."""
    fabio = _fabio()
    try:
        with fabio.open(str(path)) as image:
            header = str(image.header.get("_array_data.header_contents", ""))
    except Exception:  # the frames decide whether the file is good
        return Detector()
    return _from_mini_header(header)


def _from_mini_header(header: str) -> Detector:
    def numbers(key: str, count: int) -> list[float] | None:
        line = re.search(rf"{key}[^\n]*", header)
        values = re.findall(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?", line.group(0)[len(key) :]) if line else []
        return [float(value) for value in values[:count]] if len(values) >= count else None

    beam, pixel = numbers("Beam_xy", 2), numbers("Pixel_size", 2)
    distance, wavelength, cutoff = numbers("Detector_distance", 1), numbers("Wavelength", 1), numbers("Count_cutoff", 1)
    return Detector(
        saturation=int(cutoff[0]) if cutoff else None,
        distance_m=distance[0] if distance else None,
        wavelength_nm=wavelength[0] / 10 if wavelength else None,
        pixel_size_m=(pixel[1], pixel[0]) if pixel else None,
        beam_centre=(beam[1] - 0.5, beam[0] - 0.5) if beam else None,
    )


def _fabio() -> Any:
    try:
        import fabio
    except ImportError:
        raise DataError("CBF and TIFF files need FabIO; install it with `pip install fabio`") from None
    return fabio
