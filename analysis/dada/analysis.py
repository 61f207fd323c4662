"""The STXM analysis of a scan: reductions chosen by the options, run over the scan, laid out as maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from dada import engine, jobs
from dada.empty import empty_beam_of
from dada.errors import DataChanged, UsageError
from dada.frames import kernel_dtype
from dada.geometry import Geometry, read_poni
from dada.grid import frames_needed, to_map
from dada.kernels import FrameSums
from dada.mask import combine, cut_of, read_mask
from dada.options import StxmOptions
from dada.plan import SumsPlan, share
from dada.provenance import provenance_of, remembered
from dada.quantity import format_bytes
from dada.reductions.centre_of_mass import phase_gradient
from dada.reductions.dpc import integrate
from dada.reductions.protocol import Quantity, Reduction, Setup
from dada.results.store import ResultsStore
from dada.scan import Scan, open_scan
from dada.selection import choose
from dada.workers import Plan, Workers, local_workers

#: A scan that grows meanwhile is opened again so often before the run gives up.
REOPEN = 3
#: Bytes that the sums of a scan may take.
MOST_MEMORY = 4 << 30
MakeWorkers = Callable[[Scan, Plan], Workers]
_T = TypeVar("_T")


class PixelOptions(Protocol):
    """Options that say which pixels count."""

    masks: tuple[str, ...]
    cut: int | None
    threshold: int | None


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
    damaged: tuple[engine.DamagedFrame, ...]
    progress: engine.Progress
    provenance: Mapping[str, Any]
    run_id: str = field(default="")


def analyse(
    options: StxmOptions,
    *,
    store: ResultsStore | None = None,
    make_workers: MakeWorkers = local_workers,
    notify: engine.Callback = lambda progress: None,
    user_mask: np.ndarray | None = None,
) -> StxmResult:
    """Run the analysis that the options describe.

    user_mask: (rows, columns), non-zero = invalid, instead of reading `options.masks`.
    Raises UsageError, DataError, Interrupted.
    """
    return with_a_steady_scan(
        options.scan,
        options.channel,
        options.grid.aborted,
        lambda scan: _analyse(options, scan, store, make_workers, notify, user_mask),
    )


def with_a_steady_scan(name: str, channel: int, missing_ok: bool, run: Callable[[Scan], _T]) -> _T:
    """Open a scan and run something over it, again with what there is then where its files changed meanwhile."""
    for attempt in range(REOPEN):
        scan = open_scan(name, channel=channel, missing_ok=missing_ok)
        try:
            return run(scan)
        except DataChanged:
            if attempt == REOPEN - 1:
                raise
    raise AssertionError("not reached")


def _analyse(
    options: StxmOptions,
    scan: Scan,
    store: ResultsStore | None,
    make_workers: MakeWorkers,
    notify: engine.Callback,
    user_mask: np.ndarray | None,
) -> StxmResult:
    map_ptr = options.grid.map_ptr(scan.n_frames)
    wanted = np.zeros(scan.n_frames, dtype=bool)
    wanted[frames_needed(map_ptr)] = True
    setup = prepare(options, scan, user_mask)
    reductions = choose(options, setup)
    tables = [reduction.prepare(setup) for reduction in reductions]
    plan = SumsPlan.of(setup, tables)
    check_memory(plan, scan.n_frames)
    provenance = provenance_of(options, scan, setup)
    empty = empty_beam_of(options, scan, plan, map_ptr, store=store, make_workers=make_workers, notify=notify)
    if empty is not None:
        provenance["empty"] = empty.provenance
    provenance, name = remembered(provenance, store)
    sums = jobs.run(scan, plan, wanted, store=store, workers=lambda: make_workers(scan, plan), notify=notify)
    maps: dict[str, Map] = {}
    for index, reduction in enumerate(reductions):
        own = share(plan, tables, index, sums.sums, sums.tables)
        correct = None
        if empty is not None and reduction.corrected:
            correct = empty.correction(share(plan, tables, index, empty.sums, empty.tables))
        maps |= _maps(reduction, own, wanted, map_ptr, correct)
    maps |= _phase(maps, options, setup.geometry)
    return StxmResult(
        options, scan, maps, map_ptr, setup.mask, setup.geometry, sums.damaged, sums.progress, provenance, name
    )


def check_memory(plan: SumsPlan, n_frames: int) -> None:
    """Raises UsageError where the sums alone (two int64 each) would need more memory than a node has to spare."""
    size = 16 * n_frames * sum(part.width for part in plan.parts)
    if size > MOST_MEMORY:
        raise UsageError(
            f"the sums of {n_frames} frames would need {format_bytes(size)} of memory; ask for fewer radial bins, "
            "or a composite of smaller frames"
        )


def prepare(options: StxmOptions, scan: Scan, user_mask: np.ndarray | None = None) -> Setup:
    """Mask, cut and geometry of a scan. Raises UsageError, DataError."""
    mask, cut = invalid_pixels(options, scan, user_mask)
    return Setup(scan.shape, kernel_dtype(scan.dtype), mask, geometry_of(options, scan), cut, options.threshold)


def invalid_pixels(options: PixelOptions, scan: Scan, user_mask: np.ndarray | None) -> tuple[np.ndarray, int]:
    """(rows, columns) bool, True = invalid, and the lowest invalid count. Raises UsageError, DataError."""
    if user_mask is None:
        users = [read_mask(name, scan.shape) for name in options.masks]
    else:
        users = [user_mask]
    if options.cut is not None and options.cut < 1:
        raise UsageError(f"--cut {options.cut} would make every pixel invalid; give the lowest invalid count")
    cut = cut_of(kernel_dtype(scan.dtype), scan.detector.saturation if options.cut is None else options.cut - 1)
    if options.threshold is not None and not 0 <= options.threshold < cut:
        raise UsageError(f"a threshold of {options.threshold} is not possible: valid counts lie from 0 to {cut - 1}")
    return combine(scan.shape, scan.detector.pixel_mask, *users), cut


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


def _maps(
    reduction: Reduction,
    sums: FrameSums,
    wanted: np.ndarray,
    map_ptr: np.ndarray,
    correct: Callable[[FrameSums, np.ndarray], FrameSums] | None = None,
) -> dict[str, Map]:
    """What a reduction makes of the wanted frames, laid out as maps."""
    rows = np.flatnonzero(wanted)
    position = np.full(wanted.size, -1)
    position[rows] = np.arange(rows.size)
    pointer = np.where(map_ptr >= 0, position[np.maximum(map_ptr, 0)], -1)
    own = sums[rows] if correct is None else correct(sums[rows], rows)
    found: Mapping[str, Quantity] = reduction.finish(own if correct else reduction.merge([reduction.frames(own)]))
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
