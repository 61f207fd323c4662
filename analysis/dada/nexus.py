"""Writes an analysis as HDF5/NeXus, so that silx, H5Web, h5py and pyFAI-diffmap-view open it, and reads
back how it was made.

/entry                      NXentry, default: the darkfield map
  itot, comh, ...           NXdata, one a map: `data` over the axes `slow` and `fast` (then any further axis)
  dada                      NXprocess: program, version, date, `configuration` (NXnote, JSON: every parameter, the
                            versions of all files), `mask`, `damaged` (frames that could not be used)
  pyFAI                     NXprocess laid out as pyFAI-diffmap does it (only with I(q)): `result` (NXdata) with
                            `intensity` (slow, fast, radial), `map` (radial, slow, fast) and `map_ptr`
  measurement               images_0001, ...: the frames, by external links
/entry_0000                 the same entry under the name that pyFAI-diffmap-view looks for
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from dada.analysis import Map, StxmResult
from dada.engine import DamagedFrame
from dada.errors import DataError, UserError
from dada.geometry import Geometry
from dada.scan import Scan, Segment

_PROCESS = "/entry/dada"


class Result(Protocol):
    """What every kind of result says about how it was made."""

    map_ptr: np.ndarray | None
    mask: np.ndarray
    provenance: Mapping[str, Any]
    damaged: Sequence[DamagedFrame]


#: The only compression that every reader of HDF5 has: H5Web in a browser refuses h5py's lzf.
_DEFLATED: Mapping[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}

#: Maps that are a point's whole curve over q, by name of the reduction's quantity.
_RADIAL = "iq"


def write_nexus(path: Path, result: StxmResult) -> None:
    """Write the maps to `path`, replacing what is there only once all of it is written. Raises UserError."""
    write_whole(path, lambda file: _write_entry(file, result, path))


def write_whole(path: Path, write: Callable[[h5py.File], None]) -> None:
    """Write a file aside and put it in its place when it is complete. Raises UserError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "w", libver=("v110", "v110"), locking=False) as file:
            write(file)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"the maps cannot be written to {path}: {error.strerror or error}; choose another -o"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _write_entry(file: h5py.File, result: StxmResult, path: Path) -> None:
    entry = new_entry(file, f"STXM of {result.scan.name}", "itot")
    file["entry_0000"] = h5py.SoftLink("/entry")
    for name, item in result.maps.items():
        _write_map(entry, name, item, result)
    write_process(entry, result)
    write_links(entry, result.scan, path)
    if _RADIAL in result.maps:
        _write_diffmap(entry, result)


def new_entry(file: h5py.File, title: str, default: str) -> h5py.Group:
    """The file's only entry; `default` names the NXdata that is shown first."""
    file.attrs.update({"NX_class": "NXroot", "default": "entry", "creator": "dada"})
    entry = group_of(file, "entry", "NXentry")
    entry["title"] = title
    entry["definition"] = "NXprocess"
    entry.attrs["default"] = default
    return entry


def _write_map(entry: h5py.Group, name: str, item: Map, result: StxmResult) -> None:
    group = group_of(entry, name, "NXdata")
    group.attrs["signal"] = "data"
    group.attrs["axes"] = ["slow", "fast", *(axis for axis, _, _ in item.axes)]
    group["title"] = item.long_name
    kind = "spectrum" if len(item.axes) == 1 else "image"
    data = group.create_dataset("data", data=item.values, **_compression(item.values))
    data.attrs["units"] = item.unit
    data.attrs["long_name"] = f"{item.long_name} ({item.unit})" if item.unit else item.long_name
    data.attrs["interpretation"] = kind
    _write_scan_axes(group, result)
    for axis, values, unit in item.axes:
        group[axis] = values
        group[axis].attrs["units"] = unit


def _write_scan_axes(group: h5py.Group, result: StxmResult) -> None:
    grid = result.options.grid
    for name, count, step, label in (
        ("slow", grid.shape[0], grid.step[0], "y"),
        ("fast", grid.shape[1], grid.step[1], "x"),
    ):
        group[name] = np.arange(count) * step
        group[name].attrs["units"] = "" if grid.unit == "points" else grid.unit
        group[name].attrs["long_name"] = f"{label} ({grid.unit})"
        group[name].attrs["interpretation"] = "scalar"


def write_process(entry: h5py.Group, result: Result) -> None:
    """How it was made: what `read_provenance` reads back, and the frames that could not be used."""
    process = group_of(entry, "dada", "NXprocess")
    process["program"] = "dada"
    process["version"] = result.provenance["version"]
    process["date"] = result.provenance["date"]
    if result.map_ptr is not None:
        process["map_ptr"] = result.map_ptr
        process["map_ptr"].attrs["long_name"] = "frame shown at each point, -1: none"
    process.create_dataset("mask", data=result.mask, chunks=result.mask.shape, compression="gzip", shuffle=True)
    process["mask"].attrs["long_name"] = "pixels that were left out: detector's mask and user's masks"
    note = group_of(process, "configuration", "NXnote")
    note["type"] = "application/json"
    note["data"] = json.dumps(result.provenance, indent=1)
    _write_damaged(process, result)


def _write_damaged(process: h5py.Group, result: Result) -> None:
    """The frames without a result: number in the scan, file, dataset, number in the dataset and why."""
    text = h5py.string_dtype()
    kind = np.dtype([("frame", "i8"), ("file", text), ("dataset", text), ("number", "i8"), ("reason", text)])
    rows = [(d.frame, str(d.path), d.dataset, d.number, d.reason) for d in result.damaged]
    process.create_dataset("damaged", data=np.array(rows, dtype=kind), maxshape=(None,), chunks=(64,))


def write_links(entry: h5py.Group, scan: Scan, path: Path) -> None:
    """The frames, where whoever counts through all images in turn finds each under its number in the scan.

    Links to whole datasets; a view where only a part of one belongs to the scan; invalid frames for a missing file.
    """
    measurement = group_of(entry, "measurement", "NXcollection")
    for number, segment in enumerate(scan.segments, 1):
        if not segment.dataset:
            continue
        name, table = f"images_{number:04d}", segment.table
        target = os.path.relpath(os.path.abspath(segment.path), os.path.abspath(path.parent))
        if table is None:
            invalid = np.iinfo(scan.dtype).max
            shape = (segment.count, *scan.shape)
            measurement.create_dataset(name, shape, scan.dtype, chunks=(1, *scan.shape), fillvalue=invalid)
        elif table.channels == 1 and segment.count == table.n_frames:
            measurement[name] = h5py.ExternalLink(target, segment.dataset)
        else:
            _write_view(measurement, name, segment, scan, target)


def _write_view(group: h5py.Group, name: str, segment: Segment, scan: Scan, target: str) -> None:
    """The frames of a segment as a virtual dataset."""
    assert segment.table is not None
    axes = (segment.table.n_frames, *((segment.table.channels,) if segment.table.channels > 1 else ()))
    source = h5py.VirtualSource(target, segment.dataset, (*axes, *scan.shape), scan.dtype)
    frames = slice(segment.start, segment.start + segment.count)
    layout = h5py.VirtualLayout((segment.count, *scan.shape), scan.dtype)
    layout[:] = source[frames] if len(axes) == 1 else source[frames, scan.channel]
    group.create_virtual_dataset(name, layout)


def _write_diffmap(entry: h5py.Group, result: StxmResult) -> None:
    """The group that pyFAI-diffmap-view reads."""
    item = result.maps[_RADIAL]
    axis, radial, unit = item.axes[0]
    ny, nx, n_radial = item.values.shape
    process = group_of(entry, "pyFAI", "NXprocess")
    process["program"] = "dada"
    process["version"] = result.provenance["version"]
    process["date"] = result.provenance["date"]
    process["inputfiles"] = sorted({str(segment.path) for segment in result.scan.segments})
    for number, (count, name) in enumerate(((ny, "slow"), (nx, "fast"), (n_radial, "diffraction"))):
        process[f"dim{number}"] = count
        process[f"dim{number}"].attrs["axis"] = name
    process["offset"] = result.options.grid.offset
    configuration = group_of(process, "configuration", "NXnote")
    configuration["type"] = "text/json"
    configuration["data"] = json.dumps(_pyfai_configuration(result.geometry, n_radial, axis))
    data = group_of(process, "result", "NXdata")
    data.attrs["signal"] = "map"
    data.attrs["axes"] = [axis, "slow", "fast"]
    intensity = _without_gaps(item.values)
    data.create_dataset("intensity", data=intensity, chunks=(1, nx, n_radial), fillvalue=np.nan, **_DEFLATED)
    data["intensity"].attrs["interpretation"] = "spectrum"
    _transposed_view(data, intensity.shape)
    data[axis] = radial
    data[axis].attrs.update({"unit": unit, "units": unit, "long_name": f"{axis} ({unit})", "interpretation": "scalar"})
    _write_scan_axes(data, result)
    data["map_ptr"] = result.map_ptr
    data["map_ptr"].attrs.update({"interpretation": "image", "long_name": "Frame index for given map position"})


def _without_gaps(curves: np.ndarray) -> np.ndarray:
    """Curves (ny, nx, n) as pyFAI gives them: 0 in bins without a pixel, NaN only at points without a frame. Its viewer
    adds the bins up, and one that is NaN would empty the whole map.
    """
    there = np.isfinite(curves).any(axis=2, keepdims=True)
    return np.where(there, np.nan_to_num(curves), np.nan).astype(np.float32)


def _transposed_view(data: h5py.Group, shape: tuple[int, ...]) -> None:
    """`map`: the intensities as a stack of maps, one for each radial bin, without a copy of them."""
    ny, nx, n_radial = shape
    layout = h5py.VirtualLayout(shape=(n_radial, ny, nx), dtype=np.float32)
    source = h5py.VirtualSource(data["intensity"])
    for number in range(n_radial):
        layout[number] = source[:, :, number]
    data.create_virtual_dataset("map", layout, fillvalue=np.nan)
    data["map"].attrs["interpretation"] = "image"


def _pyfai_configuration(geometry: Geometry | None, n_radial: int, axis: str) -> dict[str, Any]:
    """The configuration of a pyFAI worker that would give these curves."""
    assert geometry is not None
    pixel = {"pixel1": geometry.pixel_m[0], "pixel2": geometry.pixel_m[1], "orientation": 3}
    poni = {
        "poni_version": 2.1,
        "detector": "Detector",
        "detector_config": pixel | {"max_shape": list(geometry.shape)},
        "dist": geometry.distance_m,
        "poni1": geometry.poni1_m,
        "poni2": geometry.poni2_m,
        "rot1": geometry.rot1,
        "rot2": geometry.rot2,
        "rot3": geometry.rot3,
        "wavelength": geometry.wavelength_nm and geometry.wavelength_nm * 1e-9,
    }
    return {
        "application": "worker",
        "version": 4,
        "poni": poni,
        "nbpt_rad": n_radial,
        "unit": "q_nm^-1" if axis.startswith("q") else "r_mm",
        "shape": list(geometry.shape),
        "method": ["no", "histogram", "cython"],
    }


def read_provenance(path: Path) -> tuple[Mapping[str, Any], np.ndarray]:
    """How a result was made: its provenance and its mask (rows, columns) bool. Raises DataError."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            provenance = dict(json.loads(file[f"{_PROCESS}/configuration/data"][()]))
            mask = file[f"{_PROCESS}/mask"][()].astype(bool)
    except FileNotFoundError:
        raise DataError(f"{path} is not there; give a file that `dada -o` wrote") from None
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} is not a result of dada ({error}); give a file that `dada -o` wrote") from None
    return provenance, mask


def group_of(parent: h5py.Group, name: str, kind: str) -> h5py.Group:
    """A new group of that NeXus class, whose members keep their order."""
    group = parent.create_group(name, track_order=True)
    group.attrs["NX_class"] = kind
    return group


def _compression(values: np.ndarray) -> dict[str, Any]:
    return {"chunks": (1, *values.shape[1:]), **_DEFLATED} if values.ndim > 2 else {}
