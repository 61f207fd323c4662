"""Writes a scan the way an EIGER X writes it: a master file with external links to data files, one frame a chunk.

Layout: DECTRIS' "hdf5 nexus legacy nxmx" file format; filter 32008 (bitshuffle) with LZ4. Used by `dada
simulate` and `dada thin`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import hdf5plugin
import numpy as np

DEFAULT_FRAMES_PER_FILE = 1000


class EigerWriter:
    """Writes frames one after another; a context manager. `path` is that of the master file, written first.

    directory: where; name: prefix of the file names (`NAME_master.h5`, `NAME_data_000001.h5`, ...).
    growing: data files are written in SWMR mode and flushed after each frame, so that readers see them grow.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        n_frames: int,
        shape: tuple[int, int],
        dtype: np.dtype,
        metadata: Mapping[str, Any],
        *,
        frames_per_file: int = DEFAULT_FRAMES_PER_FILE,
        growing: bool = False,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"{name}_master.h5"
        self._directory, self._name = directory, name
        self._n_frames, self._shape, self._dtype = n_frames, shape, dtype
        self._per_file, self._growing = frames_per_file, growing
        self._written = 0
        self._file: h5py.File | None = None
        self._data: h5py.Dataset | None = None
        self._write_master(metadata)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish_file()

    def write(self, frame: np.ndarray) -> None:
        """Append a frame of the writer's shape and type."""
        position = self._written % self._per_file
        if position == 0:
            self._finish_file()
            self._begin_file()
        assert self._data is not None
        if self._growing:
            self._data.resize(position + 1, axis=0)
        self._data[position] = frame
        if self._growing:
            self._data.flush()
        self._written += 1

    def _data_name(self, number: int) -> str:
        return f"{self._name}_data_{number:06d}.h5"

    def _begin_file(self) -> None:
        number = self._written // self._per_file + 1
        count = min(self._per_file, self._n_frames - self._written)
        self._file = h5py.File(self._directory / self._data_name(number), "w", libver="latest", locking=False)
        group = _group(_group(self._file, "entry", "NXentry"), "data", "NXdata")
        self._data = group.create_dataset(
            "data",
            shape=(0 if self._growing else count, *self._shape),
            maxshape=(None, *self._shape),
            chunks=(1, *self._shape),
            dtype=self._dtype,
            **hdf5plugin.Bitshuffle(nelems=0, cname="lz4"),
        )
        self._data.attrs["image_nr_low"] = self._written + 1
        self._data.attrs["image_nr_high"] = self._written + count
        if self._growing:
            self._file.swmr_mode = True

    def _finish_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = self._data = None

    def _write_master(self, metadata: Mapping[str, Any]) -> None:
        with h5py.File(self.path, "w", locking=False) as file:
            entry = _group(file, "entry", "NXentry")
            entry["definition"] = "NXmx"
            entry["start_time"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            data = _group(entry, "data", "NXdata")
            for number in range(1, -(-self._n_frames // self._per_file) + 1):
                data[f"data_{number:06d}"] = h5py.ExternalLink(self._data_name(number), "/entry/data/data")
            self._write_instrument(_group(entry, "instrument", "NXinstrument"), metadata)

    def _write_instrument(self, instrument: h5py.Group, metadata: Mapping[str, Any]) -> None:
        beam = _group(instrument, "beam", "NXbeam")
        detector = _group(instrument, "detector", "NXdetector")
        specific = _group(detector, "detectorSpecific", "NXcollection")
        if metadata.get("wavelength_nm") is not None:
            _put(beam, "incident_wavelength", metadata["wavelength_nm"] * 10, "angstrom")
        _put(detector, "description", metadata.get("description", ""))
        _put(detector, "bit_depth_image", 8 * self._dtype.itemsize)
        for name, unit in _IN_DETECTOR.items():
            if metadata.get(name) is not None:
                _put(detector, name, metadata[name], unit)
        _put(specific, "nimages", self._n_frames)
        _put(specific, "ntrigger", 1)
        _put(specific, "x_pixels_in_detector", self._shape[1])
        _put(specific, "y_pixels_in_detector", self._shape[0])
        _put(specific, "countrate_correction_count_cutoff", metadata["saturation_value"])
        mask = np.asarray(metadata["pixel_mask"], dtype=np.uint32)
        specific.create_dataset("pixel_mask", data=mask, chunks=mask.shape, **hdf5plugin.Bitshuffle(cname="lz4"))
        detector["pixel_mask"] = h5py.SoftLink(f"{specific.name}/pixel_mask")


#: Metadata that lies in the detector's group, with its unit. beam_center_* count from the corner of the first pixel.
_IN_DETECTOR = {
    "beam_center_x": "pixel",
    "beam_center_y": "pixel",
    "detector_distance": "m",
    "x_pixel_size": "m",
    "y_pixel_size": "m",
    "sensor_thickness": "m",
    "count_time": "s",
    "frame_time": "s",
    "saturation_value": "",
}


def _group(parent: h5py.Group, name: str, kind: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = kind
    return group


def _put(group: h5py.Group, name: str, value: Any, unit: str = "") -> None:
    group[name] = value
    if unit:
        group[name].attrs["units"] = unit
