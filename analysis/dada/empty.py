"""The frames without sample of an analysis: which they are, their sums, and how they correct those of the scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dada import engine, jobs
from dada.errors import DataError, UsageError
from dada.frames import kernel_dtype
from dada.kernels import FrameSums
from dada.mask import cut_of
from dada.options import StxmOptions
from dada.plan import SumsPlan, TableSums
from dada.provenance import files_of
from dada.reductions.empty_beam import correct
from dada.results.store import ResultsStore
from dada.scan import Scan, open_scan
from dada.workers import Plan, Workers

Correction = Callable[[FrameSums, np.ndarray], FrameSums]


@dataclass(frozen=True)
class Empty:
    """Sums of the frames without sample over the plan's tables; transmission: one a frame of the scan."""

    sums: FrameSums
    tables: TableSums
    transmission: np.ndarray
    scale: float
    provenance: dict[str, Any]

    def correction(self, own: FrameSums) -> Correction:
        """Corrects the sums of some frames (and their numbers); `own`: a reduction's share of the sums here."""
        return lambda measured, frames: correct(measured, own, self.transmission[frames], self.scale)


def empty_beam_of(
    options: StxmOptions,
    scan: Scan,
    plan: SumsPlan,
    map_ptr: np.ndarray,
    *,
    store: ResultsStore | None,
    make_workers: Callable[[Scan, Plan], Workers],
    notify: engine.Callback,
) -> Empty | None:
    """The correction that the options ask for; None for none. Raises UsageError, DataError, and what a run raises."""
    transmission = _per_frame(options, scan.n_frames, map_ptr)
    if options.empty is None and not options.empty_frames:
        if (transmission != 1).any() or options.empty_scale != 1:
            raise UsageError("a transmission or scale needs frames without sample; give --empty or --empty-frames")
        return None
    if options.empty is not None and options.empty_frames:
        raise UsageError("--empty and --empty-frames both say what was measured without sample; give one of them")
    other = scan if options.empty is None else open_scan(options.empty, channel=options.channel)
    if other.shape != scan.shape:
        raise DataError(f"{other.path}: frames without sample of {other.shape} do not fit frames of {scan.shape}")
    wanted = _wanted(options, other)
    plan = plan if other is scan else _for(other, options, plan)
    found = jobs.run(other, plan, wanted, store=store, workers=lambda: make_workers(other, plan), notify=notify)
    sums = found.sums[wanted]
    tables = {part: (total[wanted], count[wanted]) for part, (total, count) in found.tables.items()}
    provenance = {"files": files_of(other), "frames": int(sums.ok.sum()), "scale": options.empty_scale}
    return Empty(sums, tables, transmission, options.empty_scale, provenance)


def _wanted(options: StxmOptions, scan: Scan) -> np.ndarray:
    if options.empty_frames and max(options.empty_frames) >= scan.n_frames:
        raise UsageError(f"the scan has frames 0..{scan.n_frames - 1}, not {max(options.empty_frames)}")
    wanted = np.full(scan.n_frames, not options.empty_frames)
    wanted[list(options.empty_frames)] = True
    return wanted


def _for(scan: Scan, options: StxmOptions, plan: SumsPlan) -> SumsPlan:
    """The same tables for a scan whose pixels may be of another type."""
    dtype = kernel_dtype(scan.dtype)
    cut = cut_of(dtype, scan.detector.saturation if options.cut is None else options.cut - 1)
    return replace(plan, dtype=dtype, cut=cut)


def _per_frame(options: StxmOptions, n_frames: int, map_ptr: np.ndarray) -> np.ndarray:
    values = np.asarray(options.transmission, float)
    if values.ndim == 2 and values.shape != map_ptr.shape:
        raise UsageError(f"the map of transmissions is {values.shape}, the map of the scan {map_ptr.shape}")
    found = np.ones(n_frames)
    there = map_ptr >= 0
    found[map_ptr[there]] = np.broadcast_to(values, map_ptr.shape)[there]
    return found
