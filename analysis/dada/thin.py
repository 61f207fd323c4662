"""`dada thin`: a scan made of one real frame by binomial thinning, statistically exact for Poisson counts.

Each photon of the frame is kept with probability p, which differs from point to point as the phantom of `dada simulate`
scatters; at each point the photons are moved by the phantom's shift in whole pixels. Gaps and dead pixels stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dada.eiger_file import DEFAULT_FRAMES_PER_FILE, EigerWriter
from dada.errors import DataError, UserError
from dada.kernels import Codec, RawChunk, decode_frame
from dada.phantom import cell
from dada.scan import Scan, open_scan

Callback = Callable[[int, int], None]


@dataclass(frozen=True)
class Thinning:
    """Parameters. counts: expected per valid pixel, mean over the map. crop: rows and columns (y0, y1, x0,
    x1) or None.
    """

    shape: tuple[int, int]
    counts: float = 0.05
    seed: int = 1
    crop: tuple[int, int, int, int] | None = None
    frames_per_file: int = DEFAULT_FRAMES_PER_FILE


@dataclass(frozen=True)
class Parent:
    """The frame to be thinned: (rows, columns), and True where its pixels are invalid."""

    frame: np.ndarray
    invalid: np.ndarray

    @cached_property
    def photons(self) -> np.ndarray:
        """Running number of photons over the flat pixels; (rows * columns,) int64."""
        return np.cumsum(np.where(self.invalid, 0, self.frame).ravel().astype(np.int64))

    def thinned(self, p: float, shift: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """A frame in which each photon of the parent is kept with probability `p` and moved by (rows, columns)."""
        kept = _kept(int(self.photons[-1]), p, rng)
        y, x = np.divmod(np.searchsorted(self.photons, kept, side="right"), self.frame.shape[1])
        y, x = y + shift[0], x + shift[1]
        inside = (y >= 0) & (y < self.frame.shape[0]) & (x >= 0) & (x < self.frame.shape[1])
        result = np.where(self.invalid, np.iinfo(self.frame.dtype).max, 0).astype(self.frame.dtype)
        positions = y[inside] * self.frame.shape[1] + x[inside]
        positions = positions[~self.invalid.ravel()[positions]]
        np.add.at(result.reshape(-1), positions, result.dtype.type(1))
        return result


def _kept(n: int, p: float, rng: np.random.Generator) -> np.ndarray:
    """Numbers, ascending, of the photons out of `n` that are kept, each with probability `p` by itself."""
    if p >= 1:
        return np.arange(n)
    expected = n * p
    gaps = rng.geometric(p, int(expected + 8 * np.sqrt(expected) + 16))
    kept = np.cumsum(gaps) - 1
    while kept[-1] < n:
        kept = np.concatenate([kept, kept[-1] + np.cumsum(rng.geometric(p, 1024))])
    return kept[kept < n]


def thin(source: str, directory: Path, thinning: Thinning, notify: Callback = lambda done, total: None) -> Path:
    """Write the scan; returns the path of its master file. Raises DataError, UserError."""
    scan = open_scan(source)
    parent = _parent(scan, thinning.crop)
    phantom = cell(thinning.shape)
    mean = float(parent.photons[-1]) / max(int((~parent.invalid).sum()), 1)
    if mean <= 0:
        raise DataError(f"the frame in {source} holds no counts; there is nothing to thin")
    keep = np.clip(thinning.counts / mean * phantom.strength, 0, 1).ravel()
    shifts = np.stack([phantom.shift_y.ravel(), phantom.shift_x.ravel()], axis=1).round().astype(int)
    metadata = _metadata(scan, parent, thinning)
    n = keep.size
    try:
        with EigerWriter(
            directory,
            "scan",
            n,
            parent.frame.shape,
            parent.frame.dtype,
            metadata,
            frames_per_file=thinning.frames_per_file,
        ) as writer:
            for number in range(n):
                rng = np.random.default_rng([thinning.seed, number])
                writer.write(parent.thinned(float(keep[number]), tuple(shifts[number]), rng))
                notify(number + 1, n)
        _write_truth(directory / "truth.h5", thinning, keep, shifts)
    except OSError as error:
        raise UserError(f"the thinned scan cannot be written to {directory}: {error.strerror or error}") from error
    return writer.path


def _parent(scan: Scan, crop: tuple[int, int, int, int] | None) -> Parent:
    """The first frame of the scan, cropped, in the smallest type that holds its counts."""
    from concurrent.futures import ThreadPoolExecutor

    from dada.frames import Stretch, kernel_dtype, read_batches

    segment = scan.segments[0]
    assert segment.table is not None
    assert segment.version is not None
    stretch = Stretch(segment.path, segment.dataset, segment.start, 1, 0, segment.table.rows(0, 1), segment.version)
    with ThreadPoolExecutor(1) as readers:
        (stored,) = next(iter(list(read_batches(stretch, readers))))
    frame = decode_frame(RawChunk(stored.chunk.data, Codec(stored.chunk.codec)), scan.shape, kernel_dtype(scan.dtype))
    invalid = frame >= np.iinfo(frame.dtype).max - 1
    if scan.detector.pixel_mask is not None:
        invalid |= scan.detector.pixel_mask != 0
    y0, y1, x0, x1 = crop or (0, frame.shape[0], 0, frame.shape[1])
    return Parent(frame[y0:y1, x0:x1], invalid[y0:y1, x0:x1])


def _metadata(scan: Scan, parent: Parent, thinning: Thinning) -> dict[str, Any]:
    detector = scan.detector
    y0, _, x0, _ = thinning.crop or (0, 0, 0, 0)
    centre = detector.beam_centre
    pixel = detector.pixel_size_m or (75e-6, 75e-6)
    return {
        "description": f"one frame of {scan.path.name}, thinned",
        "pixel_mask": parent.invalid.astype(np.uint32),
        "saturation_value": detector.saturation or int(np.iinfo(parent.frame.dtype).max) - 2,
        "wavelength_nm": detector.wavelength_nm,
        "detector_distance": detector.distance_m,
        "beam_center_x": centre and centre[1] + 0.5 - x0,
        "beam_center_y": centre and centre[0] + 0.5 - y0,
        "x_pixel_size": pixel[1],
        "y_pixel_size": pixel[0],
    }


def _write_truth(path: Path, thinning: Thinning, keep: np.ndarray, shifts: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["kept_fraction"] = keep.reshape(thinning.shape)
        for axis, name in enumerate(("shift_y", "shift_x")):
            file[name] = shifts[:, axis].reshape(thinning.shape)
            file[name].attrs["units"] = "pixel"
