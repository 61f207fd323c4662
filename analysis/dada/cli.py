"""The `dada` command."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dada import __version__
from dada.errors import ExitCode, UsageError, UserError
from dada.grid import ScanGrid, parse_numbers, parse_shape
from dada.options import DEFAULT_RADIAL_BINS, StxmOptions, parse_pair, parse_ring

Command = Callable[..., Any]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="dada")
def dada() -> None:
    """Maps of scanning diffraction experiments."""


def _running_options(command: Command) -> Command:
    """Options of every command that runs an analysis."""
    for option in reversed(
        (
            click.option("-o", "--output", type=click.Path(), help="write the maps to this HDF5/NeXus file"),
            click.option("--png", type=click.Path(), help="draw the maps into this picture"),
            click.option("--store", help="results store: a directory or aerospike://HOST:3000/NAMESPACE/SET"),
            click.option("--no-store", is_flag=True, help="neither take results from a store nor keep them"),
            click.option("--jobs", type=click.IntRange(1, 1024), help="workers on this machine  [one a core]"),
            click.option("--cluster", help="workers of a Dask cluster: tcp://SCHEDULER:8786"),
            click.option("--json", "as_json", is_flag=True, help="the account of the run as JSON on standard output"),
            click.option("-q", "--quiet", is_flag=True, help="no progress bar"),
        )
    ):
        command = option(command)
    return command


def _grid_options(command: Command) -> Command:
    """Options that say how the scan was taken."""
    for option in reversed(
        (
            click.option("--shape", required=True, metavar="NYxNX", help="points of the map: rows x columns"),
            click.option("--zigzag", is_flag=True, help="every second line was taken backwards"),
            click.option("--columns-first", is_flag=True, help="the scan moved along columns first"),
            click.option(
                "--offset", default=0, help="frames in front of the first point; negative: points without frame"
            ),
            click.option("--missing", default="", help="points without a frame, in the order of the scan: 3,17,40:43"),
            click.option("--repeated", default="", help="frames that repeat the point of the frame before"),
            click.option("--aborted", is_flag=True, help="frames or data files may be missing at the end: leave holes"),
            click.option("--step", help="distance of points DY,DX in micrometres, for the axes"),
        )
    ):
        command = option(command)
    return command


@dada.command()
@click.argument("scan")
@_grid_options
@click.option("--center", metavar="CY,CX", help="beam on the detector, in pixels from the centre of pixel 0,0")
@click.option(
    "--mask", "masks", multiple=True, metavar="FILE", help="pixels to leave out (non-zero): npy, edf, FILE.h5::PATH"
)
@click.option("--roi", "rois", multiple=True, metavar="NAME=R0:R1", help="sum over a ring, in pixels, or NAME=Q0:Q1/nm")
@click.option("--poni", type=click.Path(), help="geometry as pyFAI calibrated it")
@click.option("--q-range", "q_range", metavar="Q0,Q1", help="limits of I(q) in 1/nm  [all of the detector]")
@click.option(
    "--radial-bins", default=DEFAULT_RADIAL_BINS, type=click.IntRange(0, 65534), show_default=True, help="of I(q)"
)
@click.option("--polarization", type=click.FloatRange(-1, 1), help="correct I(q) for polarization (1 = horizontal)")
@click.option("--orientation", is_flag=True, help="orientation and anisotropy (second moments)")
@click.option("--fit", "fits", multiple=True, metavar="NAME=Q0:Q1", help="fit I(q) of each point: powerlaw or guinier")
@click.option("--composite", default=0, type=click.IntRange(0), help="each frame made small by this factor")
@click.option("--channel", default=0, type=click.IntRange(0), help="of a dataset of (image, channel, y, x)")
@_running_options
def stxm(scan: str, **given: Any) -> None:
    """Darkfield, phase contrast, ROI and radial maps of SCAN: a master file, a data file or FILE::DATASET."""
    options = StxmOptions(
        scan,
        _grid(given),
        centre=parse_pair(given["center"], "centre") if given["center"] else None,
        masks=given["masks"],
        rings=dict(parse_ring(text) for text in given["rois"]),
        poni=given["poni"],
        radial_bins=given["radial_bins"],
        radial_range=parse_pair(given["q_range"], "range of q") if given["q_range"] else None,
        orientation=given["orientation"],
        fits=dict(_fit(text) for text in given["fits"]),
        polarization=given["polarization"],
        composite=given["composite"],
        channel=given["channel"],
    )
    _run(options, None, given)


@dada.command()
@click.argument("result", type=click.Path())
@click.option("--scan", help="where the scan is now, when it was moved")
@_running_options
def recompute(result: str, scan: str | None, **given: Any) -> None:
    """Compute RESULT, a file that `dada stxm -o` wrote, again from what it says about itself."""
    from dataclasses import replace

    from dada.nexus import read_options

    options, mask = read_options(Path(result))
    _run(replace(options, scan=scan) if scan else options, mask, given)


@dada.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--shape", required=True, metavar="NYxNX", help="points of the map: rows x columns")
@click.option("--frames-per-file", default=1000, type=click.IntRange(1), show_default=True)
@click.option("--counts", default=0.05, type=click.FloatRange(0, 1000), show_default=True, help="per pixel, on average")
@click.option("--seed", default=1, type=click.IntRange(0), show_default=True)
@click.option("--detector", default="eiger4m", show_default=True, help="eiger4m or WIDTHxHEIGHT")
@click.option("--dtype", default="uint16", type=click.Choice(["uint16", "uint32"]), show_default=True)
@click.option(
    "--live", type=click.FloatRange(0, min_open=True), metavar="RATE", help="frames per second, as while measuring"
)
@click.option("-q", "--quiet", is_flag=True, help="no progress bar")
def simulate(directory: Path, shape: str, quiet: bool, **given: Any) -> None:
    """Write the scan of a known phantom into DIRECTORY, as an EIGER X writes it, and the truth beside it."""
    from dada.console import progress_bar, say
    from dada.simulate import Simulation
    from dada.simulate import simulate as write

    simulation = Simulation(parse_shape(shape), **given)
    with progress_bar("simulating", quiet) as bar:
        master = write(directory, simulation, bar)
    say(f"{simulation.shape[0] * simulation.shape[1]} frames behind {master}, the truth in {directory / 'truth.h5'}")


@dada.command()
@click.argument("frame", metavar="FRAMEFILE")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--shape", required=True, metavar="NYxNX", help="points of the map: rows x columns")
@click.option("--frames-per-file", default=1000, type=click.IntRange(1), show_default=True)
@click.option("--counts", default=0.05, type=click.FloatRange(0, 1000), show_default=True, help="per valid pixel")
@click.option("--seed", default=1, type=click.IntRange(0), show_default=True)
@click.option("--crop", metavar="Y0:Y1,X0:X1", help="use only these rows and columns of the frame")
@click.option("-q", "--quiet", is_flag=True, help="no progress bar")
def thin(frame: str, directory: Path, shape: str, crop: str | None, quiet: bool, **given: Any) -> None:
    """Make a scan in DIRECTORY of the first frame of FRAMEFILE, by keeping each photon with a probability."""
    from dada.console import progress_bar, say
    from dada.thin import Thinning
    from dada.thin import thin as write

    thinning = Thinning(parse_shape(shape), crop=_crop(crop) if crop else None, **given)
    with progress_bar("thinning", quiet) as bar:
        master = write(frame, directory, thinning, bar)
    say(f"{thinning.shape[0] * thinning.shape[1]} frames behind {master}, the truth in {directory / 'truth.h5'}")


def _crop(text: str) -> tuple[int, int, int, int]:
    match = re.fullmatch(r"(\d+):(\d+),(\d+):(\d+)", text)
    if not match:
        raise UsageError(f"'{text}' is no part of a frame: write Y0:Y1,X0:X1")
    y0, y1, x0, x1 = (int(number) for number in match.groups())
    return y0, y1, x0, x1


def _grid(given: dict[str, Any]) -> ScanGrid:
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


def _fit(text: str) -> tuple[str, tuple[float, float]]:
    name, _, limits = text.partition("=")
    return name.strip().lower(), parse_pair(limits, "fit; write NAME=Q0:Q1 in 1/nm")


def _run(options: StxmOptions, mask: Any, given: dict[str, Any]) -> None:
    """Run an analysis, show how it goes and say what came of it."""
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
    finally:
        if store is not None:
            store.close()


def main() -> None:
    """Run the command; ends the process with the exit codes of `dada.errors`."""
    os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")
    try:
        dada.main(prog_name="dada", standalone_mode=False)
    except UserError as error:
        _fail(str(error), error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), ExitCode.USAGE)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.FAILED)


def _fail(message: str, code: int) -> None:
    click.echo(f"dada: {message}", err=True)
    sys.exit(int(code))


from dada.cli_results import results  # noqa: E402

dada.add_command(results)
