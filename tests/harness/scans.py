"""Scans for tests: known frames in every layout that detectors and their software write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from dada.eiger_file import EigerWriter

SHAPE = (67, 53)  # odd on purpose: no block, byte or tile divides it
GAP = 65535


def frames(n: int, *, seed: int = 1, dtype: str = "uint16", shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """(n, rows, columns) Poisson counts with a gap, a dead pixel and one saturated pixel in every third frame."""
    rng = np.random.default_rng(seed)
    data = rng.poisson(0.3, (n, *shape)).astype(dtype)
    largest = np.iinfo(dtype).max
    data[:, 30:34] = largest
    data[:, 5, 7] = largest
    data[::3, 50, 40] = largest - 1
    return data


def pixel_mask(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """The mask that goes with `frames`, and a noisy pixel besides."""
    mask = np.zeros(shape, dtype=np.uint32)
    mask[30:34] = 1
    mask[5, 7] = 2
    mask[9, 9] = 16
    return mask


def metadata(shape: tuple[int, int] = SHAPE, **changes: Any) -> dict[str, Any]:
    """What `EigerWriter` wants to know about the detector."""
    values: dict[str, Any] = {
        "description": "test detector",
        "pixel_mask": pixel_mask(shape),
        "saturation_value": 60_000,
        "wavelength_nm": 0.1,
        "detector_distance": 2.0,
        "beam_center_x": 26.5,
        "beam_center_y": 33.5,
        "x_pixel_size": 75e-6,
        "y_pixel_size": 75e-6,
    }
    return values | changes


def legacy(directory: Path, data: np.ndarray, per_file: int = 10, **changes: Any) -> Path:
    """A master file with external links to data files."""
    shape = data.shape[1:]
    with EigerWriter(
        directory, "scan", len(data), shape, data.dtype, metadata(shape, **changes), frames_per_file=per_file
    ) as writer:
        for frame in data:
            writer.write(frame)
    return writer.path


def stack(path: Path, data: np.ndarray, name: str = "/entry/data/data", **options: Any) -> Path:
    """One file with one dataset; `options` are h5py's, bitshuffle+LZ4 with one frame a chunk unless they
    say otherwise.
    """
    if not options:
        options = {"chunks": (1,) * (data.ndim - 2) + data.shape[-2:], **hdf5plugin.Bitshuffle(cname="lz4")}
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=data, **options)
    return path


def virtual(directory: Path, data: np.ndarray, per_file: int) -> Path:
    """A master file with one virtual dataset over several data files."""
    layout = h5py.VirtualLayout(data.shape, data.dtype)
    for number, start in enumerate(range(0, len(data), per_file)):
        part = data[start : start + per_file]
        file = stack(directory / f"part_{number}.h5", part, "/data")
        layout[start : start + len(part)] = h5py.VirtualSource(file.name, "/data", part.shape)
    path = directory / "virtual_master.h5"
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("/entry/data/data", layout, fillvalue=7)
    return path


def damage_chunk(path: Path, dataset: str, frame: int, at: int = 12, what: bytes = b"\xff" * 8) -> None:
    """Overwrite some bytes of a stored frame in place: with bitshuffle+LZ4 the length of its first block."""
    with h5py.File(path, "r") as file:
        where = (frame,) + (0,) * (file[dataset].ndim - 1)
        info = file[dataset].id.get_chunk_info_by_coord(where)
    with path.open("r+b") as raw:
        raw.seek(info.byte_offset + at)
        raw.write(what)
