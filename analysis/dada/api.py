"""The Python interface: the same names as on the command line.

import dada
result = dada.stxm("scan_master.h5", shape=(250, 250), roi={"peak": (0.2, 0.4, "q")}, output="maps.h5")
result.maps["itot"].values
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from dada.analysis import StxmResult
from dada.engine import Callback
from dada.errors import UsageError
from dada.frame_analysis import FramesResult
from dada.frame_options import AverageOptions, CompositeOptions
from dada.grid import ScanGrid
from dada.kinds import KINDS, Options, options_of
from dada.nexus import read_provenance
from dada.options import DEFAULT_RADIAL_BINS, Ring, StxmOptions
from dada.results.store import ResultsStore, open_store
from dada.scan import Scan
from dada.workers import Plan, Workers, local_workers

Store = str | Path | ResultsStore | None | bool
Mask = str | Path | Sequence[str | Path] | np.ndarray | None


class HowTaken(TypedDict, total=False):
    """How a scan was taken, as `dada.grid.ScanGrid` says; step: distance of points (y, x) in micrometres."""

    zigzag: bool
    columns_first: bool
    offset: int
    missing: Sequence[int]
    repeated: Sequence[int]
    aborted: bool
    step: tuple[float, float]


class StxmWords(HowTaken, total=False):
    """Further parameters of maps, as `dada.options.StxmOptions` says."""

    polarization: float | None
    composite: int
    channel: int
    cut: int | None
    threshold: int | None
    empty: str | None
    empty_frames: Sequence[int]
    empty_scale: float
    transmission: float | np.ndarray


def stxm(
    scan: str | Path,
    shape: tuple[int, int] | None = None,
    *,
    center: tuple[float, float] | None = None,
    mask: Mask = None,
    roi: Mapping[str, tuple[float, float] | tuple[float, float, str]] | None = None,
    poni: str | None = None,
    radial_bins: int = DEFAULT_RADIAL_BINS,
    q_range: tuple[float, float] | None = None,
    orientation: bool = False,
    fit: Mapping[str, tuple[float, float]] | None = None,
    grid: ScanGrid | None = None,
    store: Store = None,
    output: str | Path | None = None,
    png: str | Path | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    notify: Callback = lambda progress: None,
    **more: Unpack[StxmWords],
) -> StxmResult:
    """Maps of a scan: darkfield, centre of mass, ROIs and what else is asked for.

    scan: master file, data file or FILE::DATASET. shape: (ny, nx) points, and `zigzag` and its like for scans that were
    not taken row by row; or all of that as a `grid`. center: (row, column) of the beam in pixels. mask: (rows,
    columns), non-zero = invalid, or files' names.
    roi: rings by name as (low, high) in pixels or (low, high, "q") in 1/nm. q_range: limits of I(q). fit: "powerlaw"
    or "guinier", with limits in 1/nm. store: name of a results store, None for the
    default one, False for none. jobs: workers. more: see `StxmWords`.
    Raises dada.errors.UserError with a sentence for a person.
    """
    words: dict[str, Any] = dict(more)
    taken = _grid(shape, grid, words)
    if taken is None:
        raise UsageError("maps need the shape of the scan; give shape=(rows, columns)")
    options = StxmOptions(
        str(scan),
        taken,
        centre=center,
        masks=_masks(mask),
        rings={name: Ring(*ring) for name, ring in (roi or {}).items()},
        poni=poni,
        radial_bins=radial_bins,
        radial_range=q_range,
        orientation=orientation,
        fits=dict(fit or {}),
        **words,
    )
    return run(options, store, output, png, jobs, cluster, notify, _mask_array(mask))


def _grid(shape: tuple[int, int] | None, grid: ScanGrid | None, words: dict[str, Any]) -> ScanGrid | None:
    """How the scan was taken; what `words` say about it is taken out of them. Raises UsageError."""
    taken = {name: words.pop(name) for name in HowTaken.__annotations__ if name in words}
    if taken and (grid is not None or shape is None):
        raise UsageError(f"{next(iter(taken))} goes with the shape of a scan; give shape=(rows, columns), and no grid")
    if grid is not None or shape is None:
        return grid
    for name in ("missing", "repeated"):
        taken[name] = tuple(int(number) for number in taken.get(name, ()))
    return ScanGrid(tuple(shape), **taken, unit="um" if "step" in taken else "points")


def _masks(mask: Mask) -> tuple[str, ...]:
    if mask is None or isinstance(mask, np.ndarray):
        return ()
    return (str(mask),) if isinstance(mask, str | Path) else tuple(str(name) for name in mask)


def _mask_array(mask: Mask) -> np.ndarray | None:
    return mask if isinstance(mask, np.ndarray) else None


def average(
    scan: str | Path,
    shape: tuple[int, int] | None = None,
    *,
    region: tuple[int, int, int, int] | None = None,
    frames: Sequence[int] = (),
    binning: int = 1,
    mask: Mask = None,
    cut: int | None = None,
    threshold: int | None = None,
    grid: ScanGrid | None = None,
    store: Store = None,
    output: str | Path | None = None,
    png: str | Path | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    notify: Callback = lambda progress: None,
    channel: int = 0,
    **how: Unpack[HowTaken],
) -> FramesResult:
    """Sum, average, maximum and variance of each pixel over a scan, a region of its map or a list of frames.

    shape: (ny, nx) points, needed for a region; with `zigzag` and so on as in `stxm`, or a `grid`. region: (first
    row, end, first column, end) in points. frames: their numbers, counted from 0. binning: pixels taken together. cut:
    counts from here on are invalid. threshold: counts below it are taken as 0. The rest as in `stxm`. The images are
    `.images["average"].values` and so on, (rows, columns). Raises dada.errors.UserError with a sentence for a person.
    """
    options = AverageOptions(
        str(scan),
        _grid(shape, grid, dict(how)),
        region=region and tuple(region),
        frames=tuple(int(frame) for frame in frames),
        masks=_masks(mask),
        binning=binning,
        cut=cut,
        threshold=threshold,
        channel=channel,
    )
    return run(options, store, output, png, jobs, cluster, notify, _mask_array(mask))


def composite(
    scan: str | Path,
    shape: tuple[int, int] | None = None,
    *,
    region: tuple[int, int, int, int] | None = None,
    skip: tuple[int, int] = (1, 1),
    crop: tuple[int, int, int, int] | None = None,
    binning: int = 0,
    border: int = 1,
    mask: Mask = None,
    cut: int | None = None,
    threshold: int | None = None,
    grid: ScanGrid | None = None,
    store: Store = None,
    output: str | Path | None = None,
    png: str | Path | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    notify: Callback = lambda progress: None,
    channel: int = 0,
    **how: Unpack[HowTaken],
) -> FramesResult:
    """The frames of a scan, each made small, side by side as one image: `.images["composite"].values`.

    region: (first row, end, first column, end) in points of the map. skip: every n-th row and column of them. crop: the
    same four numbers in pixels of the detector. binning: pixels taken together, 0 for what makes a picture for a
    screen. border: pixels between two frames. The rest as in `average`.
    """
    options = CompositeOptions(
        str(scan),
        _grid(shape, grid, dict(how)),
        region=region and tuple(region),
        skip=tuple(skip),
        crop=crop and tuple(crop),
        binning=binning,
        border=border,
        masks=_masks(mask),
        cut=cut,
        threshold=threshold,
        channel=channel,
    )
    return run(options, store, output, png, jobs, cluster, notify, _mask_array(mask))


def recompute(
    result: str | Path,
    *,
    scan: str | Path | None = None,
    store: Store = None,
    output: str | Path | None = None,
    png: str | Path | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    notify: Callback = lambda progress: None,
) -> StxmResult | FramesResult:
    """Compute a result again from its own file: same parameters, same mask; `scan`: where the scan is now."""
    provenance, mask = read_provenance(Path(result))
    options = options_of(provenance["options"])
    if scan is not None:
        options = replace(options, scan=str(scan))
    return run(options, store, output, png, jobs, cluster, notify, mask)


def run(
    options: Options,
    store: Store = None,
    output: str | Path | None = None,
    png: str | Path | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    notify: Callback = lambda progress: None,
    user_mask: np.ndarray | None = None,
) -> Any:
    """Run the options and write what is asked for."""
    kind = KINDS[options.kind]
    opened = open_results(store)
    try:
        result = kind.analyse(
            options, store=opened, make_workers=workers(jobs, cluster), notify=notify, user_mask=user_mask
        )
    finally:
        if opened is not None and opened is not store:
            opened.close()
    write(result, output, png)
    return result


def write(result: Any, output: str | Path | None = None, png: str | Path | None = None) -> None:
    """Write a result of any kind, and draw it. Raises UserError where that is not possible."""
    kind = KINDS[result.options.kind]
    if output is not None:
        kind.write(Path(output), result)
    if png is not None:
        kind.draw(Path(png), result)


def open_results(store: Store) -> ResultsStore | None:
    """The store that `store` means: None the default one, False none, else a name or an open store."""
    if store is False:
        return None
    if store is None or store is True or isinstance(store, str | Path):
        return open_store(None if store is True else store)
    return store


def workers(jobs: int | None, cluster: str | None) -> Callable[[Scan, Plan], Workers]:
    """Makes the workers: those of a Dask cluster, else `jobs` local ones."""
    if cluster:
        from dada.cluster import DaskWorkers

        return lambda scan, plan: DaskWorkers(cluster, plan)
    return lambda scan, plan: local_workers(scan, plan, jobs)
