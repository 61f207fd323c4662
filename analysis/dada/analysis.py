"""The STXM analysis of a scan: reductions chosen by the options, run over the scan, laid out as maps."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dada import jobs
from dada.errors import DataChanged, UsageError
from dada.frames import kernel_dtype
from dada.geometry import Geometry, read_poni
from dada.grid import frames_needed, to_map
from dada.kernels import KERNEL_VERSION
from dada.mask import combine, cut_of, read_mask
from dada.options import StxmOptions
from dada.plan import SumsPlan, share
from dada.quantity import format_bytes
from dada.reductions.centre_of_mass import phase_gradient
from dada.reductions.dpc import integrate
from dada.reductions.protocol import Quantity, Reduction, Setup
from dada.results.keys import run_id
from dada.results.store import ResultsStore
from dada.scan import Scan, open_scan
from dada.selection import choose
from dada.version import FileVersion
from dada.workers import Workers, local_workers

#: A scan that grows meanwhile is opened again so often before the run gives up.
REOPEN = 3
#: Bytes that the sums of a scan may take.
MOST_MEMORY = 4 << 30
MakeWorkers = Callable[[Scan, SumsPlan], Workers]


@dataclass(frozen=True)
class Map:
    """One result: values (ny, nx, ...) float64 with NaN where there is none; `axes`: further dimensions,
    as in Quantity.
    """

    values: np.ndarray
    unit: str
    long_name: str
    axes: tuple[tuple[str, np.ndarray, str], ...] = ()


@dataclass(frozen=True)
class StxmResult:
    """What came of an analysis.

    maps: by name. map_ptr: (ny, nx) int32 frame of each point, -1 for a hole. mask: (rows, columns) bool,
    True = invalid.
    provenance: everything that is needed to compute it again, as plain JSON values.
    """

    options: StxmOptions
    scan: Scan
    maps: Mapping[str, Map]
    map_ptr: np.ndarray
    mask: np.ndarray
    geometry: Geometry | None
    damaged: tuple[jobs.DamagedFrame, ...]
    progress: jobs.Progress
    provenance: Mapping[str, Any]
    run_id: str = field(default="")


def analyse(
    options: StxmOptions,
    *,
    store: ResultsStore | None = None,
    make_workers: MakeWorkers = local_workers,
    notify: jobs.Callback = lambda progress: None,
    user_mask: np.ndarray | None = None,
) -> StxmResult:
    """Run the analysis that the options describe.

    user_mask: (rows, columns), non-zero = invalid, instead of reading `options.masks`.
    Raises UsageError, DataError, Interrupted.
    """
    for attempt in range(REOPEN):
        scan = open_scan(options.scan, channel=options.channel, missing_ok=options.grid.aborted)
        try:
            return _analyse(options, scan, store, make_workers, notify, user_mask)
        except DataChanged:
            if attempt == REOPEN - 1:
                raise
    raise AssertionError("not reached")


def _analyse(
    options: StxmOptions,
    scan: Scan,
    store: ResultsStore | None,
    make_workers: MakeWorkers,
    notify: jobs.Callback,
    user_mask: np.ndarray | None,
) -> StxmResult:
    map_ptr = options.grid.map_ptr(scan.n_frames)
    wanted = np.zeros(scan.n_frames, dtype=bool)
    wanted[frames_needed(map_ptr)] = True
    setup = prepare(options, scan, user_mask)
    reductions = choose(options, setup)
    tables = [reduction.prepare(setup) for reduction in reductions]
    plan = SumsPlan.of(setup, tables)
    _check_memory(plan, scan.n_frames)
    provenance = _provenance(options, scan, setup)
    name = run_id({key: provenance[key] for key in ("options", "files", "mask")})
    if store is not None:
        store.remember_run(name, provenance)
    sums = jobs.run(scan, plan, wanted, store=store, workers=lambda: make_workers(scan, plan), notify=notify)
    maps: dict[str, Map] = {}
    for index, reduction in enumerate(reductions):
        own = share(plan, tables, index, sums.sums, sums.tables)
        maps |= _maps(reduction, own, wanted, map_ptr)
    maps |= _phase(maps, options, setup.geometry)
    return StxmResult(
        options, scan, maps, map_ptr, setup.mask, setup.geometry, sums.damaged, sums.progress, provenance, name
    )


def _check_memory(plan: SumsPlan, n_frames: int) -> None:
    """Raises UsageError where the sums alone (two int64 each) would need more memory than a node has to spare."""
    size = 16 * n_frames * sum(part.width for part in plan.parts)
    if size > MOST_MEMORY:
        raise UsageError(
            f"the sums of {n_frames} frames would need {format_bytes(size)} of memory; ask for fewer radial bins, "
            "or a composite of smaller frames"
        )


def prepare(options: StxmOptions, scan: Scan, user_mask: np.ndarray | None = None) -> Setup:
    """Mask, cut and geometry of a scan. Raises UsageError, DataError."""
    if user_mask is None:
        users = [read_mask(name, scan.shape) for name in options.masks]
    else:
        users = [user_mask]
    dtype = kernel_dtype(scan.dtype)
    cut = options.cut if options.cut is not None else cut_of(dtype, scan.detector.saturation)
    mask = combine(scan.shape, scan.detector.pixel_mask, *users)
    return Setup(scan.shape, dtype, mask, geometry_of(options, scan), cut)


def geometry_of(options: StxmOptions, scan: Scan) -> Geometry | None:
    """From the PONI file, else from the scan's own metadata with the centre of the options; None where
    neither suffices.
    """
    if options.poni:
        if options.centre:
            raise UsageError("--poni and --center both say where the beam is; give one of them")
        return read_poni(options.poni, scan.shape)
    detector = scan.detector
    centre = options.centre or detector.beam_centre
    if centre is None or detector.distance_m is None or detector.pixel_size_m is None:
        return None
    return Geometry.from_beam(
        scan.shape,
        centre,
        distance_m=detector.distance_m,
        wavelength_nm=detector.wavelength_nm,
        pixel_m=detector.pixel_size_m,
    )


def _maps(reduction: Reduction, sums: Any, wanted: np.ndarray, map_ptr: np.ndarray) -> dict[str, Map]:
    """What a reduction makes of the wanted frames, laid out as maps."""
    rows = np.flatnonzero(wanted)
    position = np.full(wanted.size, -1)
    position[rows] = np.arange(rows.size)
    pointer = np.where(map_ptr >= 0, position[np.maximum(map_ptr, 0)], -1)
    found: Mapping[str, Quantity] = reduction.finish(reduction.merge([reduction.frames(sums[rows])]))
    return {
        name: Map(to_map(np.asarray(item.values), pointer), item.unit, item.long_name, tuple(item.axes))
        for name, item in found.items()
    }


def _phase(maps: Mapping[str, Map], options: StxmOptions, geometry: Geometry | None) -> dict[str, Map]:
    """The phase whose gradient the deflections are, where wavelength and step of the scan are known."""
    grid = options.grid
    if "alphah" not in maps or geometry is None or geometry.wavelength_nm is None:
        return {}
    if grid.unit != "um" or min(grid.shape) < 2:
        return {}
    deflections = (maps[name].values for name in ("alphav", "alphah"))
    if not all(np.isfinite(values).any() for values in deflections):
        return {}
    deflections = (maps[name].values - np.nanmedian(maps[name].values) for name in ("alphav", "alphah"))
    gradients = (phase_gradient(values, geometry.wavelength_nm) for values in deflections)
    phase = integrate(*gradients, (grid.step[0] * 1e-6, grid.step[1] * 1e-6))
    return {"phase": Map(phase, "rad", "Phase from both deflections (least squares), without its mean slope")}


def _provenance(options: StxmOptions, scan: Scan, setup: Setup) -> dict[str, Any]:
    from dada import __version__

    absolute = dataclasses.replace(options, scan=_absolute(options.scan), poni=options.poni and _absolute(options.poni))
    return {
        "program": "dada",
        "version": __version__,
        "kernel_version": KERNEL_VERSION,
        "numpy_version": np.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "options": absolute.describe(),
        "frames": {"count": scan.n_frames, "shape": list(scan.shape), "dtype": scan.dtype.str},
        "detector": scan.detector.describe(),
        "geometry": setup.geometry.describe() if setup.geometry else None,
        "cut": setup.cut,
        "mask": {
            "sha256": hashlib.sha256(np.packbits(setup.mask).tobytes()).hexdigest(),
            "invalid_pixels": int(setup.mask.sum()),
        },
        "files": [
            [str(segment.path), segment.dataset, segment.count, _version(segment.version)] for segment in scan.segments
        ],
    }


def _version(version: FileVersion | None) -> list[int] | None:
    return version.describe() if version else None


def _absolute(name: str) -> str:
    path, separator, dataset = name.partition("::")
    return os.path.abspath(Path(path)) + separator + dataset
