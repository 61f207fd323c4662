"""Averages and composites of a scan: frames chosen by the options, reduced, laid out as images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dada import engine, frame_jobs, jobs
from dada.analysis import (
    MakeWorkers,
    Map,
    check_memory,
    invalid_pixels,
    with_a_steady_scan,
)
from dada.errors import UsageError
from dada.frame_options import AverageOptions, CompositeOptions, FrameOptions
from dada.frames import kernel_dtype
from dada.grid import frames_needed, to_map
from dada.pixel_units import PixelPlan
from dada.plan import SumsPlan, share
from dada.provenance import provenance_of, remembered
from dada.reductions.composite import Thumbnails, composite, usual_binning
from dada.reductions.frame_statistics import LONG_NAMES, UNITS
from dada.reductions.protocol import Setup
from dada.results.store import ResultsStore
from dada.scan import Scan
from dada.workers import local_workers


@dataclass(frozen=True)
class FramesResult:
    """What came of it.

    images: by name, with the detector's rows and columns (or those of a composite) as `axes`. frames: the numbers of
    the frames that took part; map_ptr: (ny, nx) int32 the table of all frames, None without a grid. mask: (rows,
    columns) bool, True = invalid. provenance: everything that is needed to compute it again, as plain JSON values.
    """

    options: FrameOptions
    scan: Scan
    images: Mapping[str, Map]
    frames: np.ndarray
    map_ptr: np.ndarray | None
    mask: np.ndarray
    damaged: tuple[engine.DamagedFrame, ...]
    progress: engine.Progress
    provenance: Mapping[str, Any]
    run_id: str = ""


def average(
    options: AverageOptions,
    *,
    store: ResultsStore | None = None,
    make_workers: MakeWorkers = local_workers,
    notify: engine.Callback = lambda progress: None,
    user_mask: np.ndarray | None = None,
) -> FramesResult:
    """Sum, average, maximum, variance and number of frames of each pixel; formulas in `reductions.frame_statistics`.

    user_mask: (rows, columns), non-zero = invalid, instead of reading `options.masks`. Raises UsageError, DataError,
    Interrupted.
    """

    def run(scan: Scan) -> FramesResult:
        setup, selection = _setup(options, scan, user_mask), _select(options, scan)
        plan = PixelPlan(setup.shape, setup.dtype, setup.mask, setup.cut, setup.threshold)
        provenance, name = remembered(provenance_of(options, scan, setup), store)
        statistics, damaged, progress = frame_jobs.run(
            scan, plan, selection.wanted, store=store, workers=lambda: make_workers(scan, plan), notify=notify
        )
        images = {
            key: Map(values, UNITS[key], LONG_NAMES[key], _pixel_axes(values.shape, options.binning))
            for key, values in statistics.finish(setup.mask, options.binning).items()
        }
        return FramesResult(
            options, scan, images, selection.frames, selection.map_ptr, setup.mask, damaged, progress, provenance, name
        )

    return _steadily(options, run)


def composite_of(
    options: CompositeOptions,
    *,
    store: ResultsStore | None = None,
    make_workers: MakeWorkers = local_workers,
    notify: engine.Callback = lambda progress: None,
    user_mask: np.ndarray | None = None,
) -> FramesResult:
    """A 2D array of small frames as one image; formulas in `reductions.composite`. Parameters as `average`."""

    def run(scan: Scan) -> FramesResult:
        setup, selection = _setup(options, scan, user_mask), _select(options, scan)
        points = options.points(selection.map_ptr)
        y0, y1, x0, x1 = options.crop or (0, setup.shape[0], 0, setup.shape[1])
        factor = options.binning or usual_binning((y1 - y0, x1 - x0), points.shape)
        reduction = Thumbnails(factor, (y0, x0, y1 - y0, x1 - x0))
        tables = [reduction.prepare(setup)]
        plan = SumsPlan.of(setup, tables)
        check_memory(plan, scan.n_frames)
        provenance, name = remembered(provenance_of(options, scan, setup) | {"binning": factor}, store)
        sums = jobs.run(
            scan, plan, selection.wanted, store=store, workers=lambda: make_workers(scan, plan), notify=notify
        )
        own = share(plan, tables, 0, sums.sums, sums.tables)
        found = reduction.finish(own)["thumbnail"]
        small = to_map(np.asarray(found.values), points)
        image = composite(small, options.border)
        images = {
            "composite": Map(image, found.unit, f"Composite of frames binned by {factor}", _pixel_axes(image.shape, 1)),
            "thumbnail": Map(small, found.unit, found.long_name, tuple(found.axes)),
        }
        return FramesResult(
            options, scan, images, selection.frames, selection.map_ptr, setup.mask, sums.damaged, sums.progress,
            provenance, name,
        )  # fmt: skip

    return _steadily(options, run)


@dataclass(frozen=True)
class _Selection:
    """wanted: bool, one a frame of the scan; frames: their numbers."""

    wanted: np.ndarray
    frames: np.ndarray
    map_ptr: Any


def _select(options: FrameOptions, scan: Scan) -> _Selection:
    map_ptr = None if options.grid is None else options.grid.map_ptr(scan.n_frames)
    if options.frames:
        if max(options.frames) >= scan.n_frames or min(options.frames) < 0:
            raise UsageError(f"the scan has frames 0..{scan.n_frames - 1}, not {max(options.frames)}")
        frames = np.unique(options.frames)
    elif map_ptr is None:
        frames = np.arange(scan.n_frames)
    else:
        frames = frames_needed(options.points(map_ptr))
    if frames.size == 0:
        raise UsageError("there is no frame in that region; choose another one")
    wanted = np.zeros(scan.n_frames, dtype=bool)
    wanted[frames] = True
    return _Selection(wanted, frames, map_ptr)


def _setup(options: FrameOptions, scan: Scan, user_mask: np.ndarray | None) -> Setup:
    mask, cut = invalid_pixels(options, scan, user_mask)
    return Setup(scan.shape, kernel_dtype(scan.dtype), mask, None, cut, options.threshold)


def _steadily(options: FrameOptions, run: Callable[[Scan], FramesResult]) -> FramesResult:
    missing_ok = options.grid is not None and options.grid.aborted
    return with_a_steady_scan(options.scan, options.channel, missing_ok, run)


def _pixel_axes(shape: tuple[int, ...], factor: int) -> tuple[tuple[str, np.ndarray, str], ...]:
    """Middles of the pixels of an image, in pixels of the detector."""
    return tuple(
        (name, np.arange(n) * factor + (factor - 1) / 2, "px") for name, n in zip(("y", "x"), shape, strict=True)
    )
