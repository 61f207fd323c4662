"""Writes averages and composites as HDF5/NeXus: one NXdata an image, and how it was made, as `nexus` does for maps.

/entry                      NXentry, default: the average, or the composite
  sum, average, ...         NXdata: `data` over the detector's rows `y` and columns `x` in pixels
  composite                 NXdata: the small frames side by side as one image; `thumbnail`: the same frames over (slow,
                            fast, y, x)
  dada                      NXprocess as with maps, and `frames`: the numbers of the frames that took part
  measurement               external links to the frames
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from dada.analysis import Map
from dada.frame_analysis import FramesResult
from dada.nexus import group_of, new_entry, write_links, write_process, write_whole


def write_frames(path: Path, result: FramesResult) -> None:
    """Write the images to `path`, replacing what is there only once all of it is written. Raises UserError."""
    write_whole(path, lambda file: _write_entry(file, result, path))


def _write_entry(file: h5py.File, result: FramesResult, path: Path) -> None:
    kind = result.options.kind
    entry = new_entry(file, f"{kind.capitalize()} of {result.scan.name}", kind)
    for name, item in result.images.items():
        _write_image(entry, name, item)
    write_process(entry, result)
    entry["dada/frames"] = result.frames
    entry["dada/frames"].attrs["long_name"] = "frames that took part, counted from 0 in the scan"
    write_links(entry, result.scan, path)


def _write_image(entry: h5py.Group, name: str, item: Map) -> None:
    data = group_of(entry, name, "NXdata")
    unnamed = ["slow", "fast"][: item.values.ndim - len(item.axes)]
    data.attrs["signal"] = "data"
    data.attrs["axes"] = [*unnamed, *(axis for axis, _, _ in item.axes)]
    data["title"] = item.long_name
    chunks = (*(1 for _ in item.values.shape[:-2]), *item.values.shape[-2:])
    values = data.create_dataset(
        "data", data=item.values.astype(np.float32 if name == "composite" else float), chunks=chunks,
        compression="gzip", compression_opts=1, shuffle=True,
    )  # fmt: skip
    values.attrs.update({"units": item.unit, "long_name": f"{item.long_name} ({item.unit})", "interpretation": "image"})
    for axis, n in zip(unnamed, item.values.shape, strict=False):
        data[axis] = np.arange(n)
        data[axis].attrs["units"] = ""
    for axis, positions, unit in item.axes:
        data[axis] = positions
        data[axis].attrs["units"] = unit
