"""The Python interface: the same names as on the command line.

import dada
result = dada.stxm("scan_master.h5", shape=(250, 250), rings={"peak": (0.2, 0.4, "q")}, output="maps.h5")
result.maps["itot"].values
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dada.analysis import StxmResult, analyse
from dada.grid import ScanGrid
from dada.jobs import Callback
from dada.nexus import read_options, write_nexus
from dada.options import DEFAULT_RADIAL_BINS, Ring, StxmOptions
from dada.plan import SumsPlan
from dada.results.store import ResultsStore, open_store
from dada.scan import Scan
from dada.workers import Workers, local_workers

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
) -> StxmResult:
    """Compute a result again from its own file: same parameters, same mask; `scan`: where the scan is now."""
    options, mask = read_options(Path(result))
    if scan is not None:
        options = replace(options, scan=str(scan))
    return run(options, store, output, png, jobs, cluster, notify, mask)


def run(
    options: StxmOptions,
    store: Store = None,
    output: str | Path | None = None,
    png: str | Path | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    notify: Callback = lambda progress: None,
    user_mask: np.ndarray | None = None,
) -> StxmResult:
    """Run the options and write what is asked for."""
    opened = open_results(store)
    try:
        result = analyse(options, store=opened, make_workers=workers(jobs, cluster), notify=notify, user_mask=user_mask)
    finally:
        if opened is not None and opened is not store:
            opened.close()
    if output is not None:
        write_nexus(Path(output), result)
    if png is not None:
        from dada.picture import draw

        draw(Path(png), result)
    return result


def open_results(store: Store) -> ResultsStore | None:
    """The store that `store` means: None the default one, False none, else a name or an open store."""
    if store is False:
        return None
    if store is None or store is True or isinstance(store, str | Path):
        return open_store(None if store is True else store)
    return store


def workers(jobs: int | None, cluster: str | None) -> Callable[[Scan, SumsPlan], Workers]:
    """Makes the workers: those of a Dask cluster, else `jobs` local ones."""
    if cluster:
        from dada.cluster import DaskWorkers

        return lambda scan, plan: DaskWorkers(cluster, plan)
    return lambda scan, plan: local_workers(scan, plan, jobs)
