"""What the commands that run an analysis share: their options, and the run with its progress bar and account."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from dada.grid import ScanGrid, parse_numbers, parse_shape
from dada.options import parse_pair

if TYPE_CHECKING:
    from dada.kinds import Options

Command = Callable[..., Any]


def running_options(command: Command) -> Command:
    """Options of every command that runs an analysis."""
    options = (
        click.option("-o", "--output", type=click.Path(), help="write the maps to this HDF5/NeXus file"),
        click.option("--png", type=click.Path(), help="draw the maps into this picture"),
        click.option("--store", help="results store: a directory or aerospike://HOST:3000/NAMESPACE/SET"),
        click.option("--no-store", is_flag=True, help="neither take results from a store nor keep them"),
        click.option("--jobs", type=click.IntRange(1, 1024), help="workers on this machine  [one a core]"),
        click.option("--cluster", help="workers of a Dask cluster: tcp://SCHEDULER:8786"),
        click.option("--json", "as_json", is_flag=True, help="the account of the run as JSON on standard output"),
        click.option("-q", "--quiet", is_flag=True, help="no progress bar"),
    )
    return _with(options, command)


def grid_options(required: bool) -> Callable[[Command], Command]:
    """Options that say how the scan was taken."""
    options = (
        click.option("--shape", required=required, metavar="NYxNX", help="points of the map: rows x columns"),
        click.option("--zigzag", is_flag=True, help="every second line was taken backwards"),
        click.option("--columns-first", is_flag=True, help="the scan moved along columns first"),
        click.option("--offset", default=0, help="frames in front of the first point; negative: points without frame"),
        click.option("--missing", default="", help="points without a frame, in the order of the scan: 3,17,40:43"),
        click.option("--repeated", default="", help="frames that repeat the point of the frame before"),
        click.option("--aborted", is_flag=True, help="frames or data files may be missing at the end: leave holes"),
        click.option("--step", help="distance of points DY,DX in micrometres, for the axes"),
    )
    return lambda command: _with(options, command)


def pixel_options(command: Command) -> Command:
    """Options that say which pixels count."""
    options = (
        click.option(
            "--mask",
            "masks",
            multiple=True,
            metavar="FILE",
            help="pixels to leave out (non-zero): npy, edf, FILE.h5::PATH",
        ),
        click.option("--cut", type=click.IntRange(1), help="counts from here on are invalid  [as the file says]"),
        click.option("--threshold", type=click.IntRange(0), help="counts below it are taken as 0"),
        click.option("--channel", default=0, type=click.IntRange(0), help="of a dataset of (image, channel, y, x)"),
    )
    return _with(options, command)


def _with(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def grid_of(given: dict[str, Any]) -> ScanGrid:
    """The grid that the options describe."""
    step = parse_pair(given["step"], "step") if given["step"] else None
    return ScanGrid(
        parse_shape(given["shape"]),
        columns_first=given["columns_first"],
        zigzag=given["zigzag"],
        offset=given["offset"],
        missing=parse_numbers(given["missing"]),
        repeated=parse_numbers(given["repeated"]),
        aborted=given["aborted"],
        step=step or (1.0, 1.0),
        unit="um" if step else "points",
    )


def run(options: Options, mask: Any, given: dict[str, Any]) -> Any:
    """Run an analysis, show how it goes and say what came of it; gives the result."""
    from dada import api, console

    store = None if given["no_store"] else api.open_results(given["store"])
    output, png = given["output"], given["png"]
    try:
        with console.progress_bar("analysing", given["quiet"]) as bar:
            result = api.run(
                options, store or False, output, png, given["jobs"], given["cluster"], console.follow(bar), mask
            )
        for line in console.account(result, store, output, png):
            console.say(line)
        if given["as_json"]:
            click.echo(json.dumps(console.as_json(result, store, output, png)))
        return result
    finally:
        if store is not None:
            store.close()
