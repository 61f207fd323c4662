"""The Python interface: the same names as on the command line.

import dada
result = dada.stxm("scan_master.h5", shape=(250, 250), rings={"peak": (0.2, 0.4, "q")}, output="maps.h5")
result.maps["itot"].values
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dada.analysis import StxmResult
from dada.engine import Callback
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


def stxm(
    scan: str | Path,
    shape: tuple[int, int],
    *,
    center: tuple[float, float] | None = None,
    mask: str | np.ndarray | None = None,
    rings: Mapping[str, tuple[float, float] | tuple[float, float, str]] | None = None,
    poni: str | None = None,
    radial_bins: int = DEFAULT_RADIAL_BINS,
    radial_range: tuple[float, float] | None = None,
    orientation: bool = False,
    grid: ScanGrid | None = None,
    store: Store = None,
    output: str | Path | None = None,
    png: str | Path | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    notify: Callback = lambda progress: None,
    **more: Any,
) -> StxmResult:
    """Maps of a scan: darkfield, centre of mass, ROIs and what else is asked for.

    scan: master file, data file or FILE::DATASET. shape: (ny, nx) points; `grid` instead for scans that were not taken
    row by row. center: (row, column) of the beam in pixels. mask: (rows, columns), non-zero = invalid, or
    a file's name.
    rings: ROIs as (low, high) in pixels or (low, high, "q") in 1/nm. store: name of a results store, None for the
    default one, False for none. jobs: workers. more: further fields of StxmOptions.
    Raises dada.errors.UserError with a sentence for a person.
    """
    options = StxmOptions(
        str(scan),
        grid or ScanGrid(tuple(shape)),
        centre=center,
        masks=(mask,) if isinstance(mask, str) else (),
        rings={name: Ring(*ring) for name, ring in (rings or {}).items()},
        poni=poni,
        radial_bins=radial_bins,
        radial_range=radial_range,
        orientation=orientation,
        **more,
    )
    user_mask = mask if isinstance(mask, np.ndarray) else None
    return run(options, store, output, png, jobs, cluster, notify, user_mask)


def average(
    scan: str | Path,
    shape: tuple[int, int] | None = None,
    *,
    region: tuple[int, int, int, int] | None = None,
    frames: Sequence[int] = (),
    binning: int = 1,
    mask: str | np.ndarray | None = None,
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
) -> FramesResult:
    """Sum, average, maximum and variance of each pixel over a scan, a region of its map or a list of frames.

    shape: (ny, nx) points, needed for a region; `grid` instead for scans that were not taken row by row. region: (first
    row, end, first column, end) in points. frames: their numbers, counted from 0. binning: pixels taken together. cut:
    counts from here on are invalid. threshold: counts below it are taken as 0. The rest as in `stxm`. The images are
    `.images["average"].values` and so on, (rows, columns). Raises dada.errors.UserError with a sentence for a person.
    """
    options = AverageOptions(
        str(scan),
        grid or (ScanGrid(tuple(shape)) if shape else None),
        region=region and tuple(region),
        frames=tuple(int(frame) for frame in frames),
        masks=(mask,) if isinstance(mask, str) else (),
        binning=binning,
        cut=cut,
        threshold=threshold,
        channel=channel,
    )
    user_mask = mask if isinstance(mask, np.ndarray) else None
    return run(options, store, output, png, jobs, cluster, notify, user_mask)


def composite(
    scan: str | Path,
    shape: tuple[int, int] | None = None,
    *,
    region: tuple[int, int, int, int] | None = None,
    skip: tuple[int, int] = (1, 1),
    crop: tuple[int, int, int, int] | None = None,
    binning: int = 0,
    border: int = 1,
    mask: str | np.ndarray | None = None,
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
) -> FramesResult:
    """The frames of a scan, each made small, side by side as one image: `.images["composite"].values`.

    region: (first row, end, first column, end) in points of the map. skip: every n-th row and column of them. crop: the
    same four numbers in pixels of the detector. binning: pixels taken together, 0 for what makes a picture for a
    screen. border: pixels between two frames. The rest as in `average`.
    """
    options = CompositeOptions(
        str(scan),
        grid or (ScanGrid(tuple(shape)) if shape else None),
        region=region and tuple(region),
        skip=tuple(skip),
        crop=crop and tuple(crop),
        binning=binning,
        border=border,
        masks=(mask,) if isinstance(mask, str) else (),
        cut=cut,
        threshold=threshold,
        channel=channel,
    )
    user_mask = mask if isinstance(mask, np.ndarray) else None
    return run(options, store, output, png, jobs, cluster, notify, user_mask)


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
