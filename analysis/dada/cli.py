"""The `dada` command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from dada import __version__
from dada.cli_run import grid_of, grid_options, pixel_options, run, running_options
from dada.errors import ExitCode, UserError
from dada.frame_options import parse_box
from dada.grid import parse_numbers, parse_shape
from dada.options import DEFAULT_RADIAL_BINS, StxmOptions, parse_pair, parse_ring, parse_transmission


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="dada")
def dada() -> None:
    """Maps of scanning diffraction experiments."""


@dada.command()
@click.argument("scan")
@grid_options(required=True)
@click.option("--center", metavar="CY,CX", help="beam on the detector, in pixels from the centre of pixel 0,0")
@pixel_options
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
@click.option("--empty", metavar="SCAN", help="scan without sample, subtracted: a file, as SCAN")
@click.option("--empty-frames", default="", metavar="LIST", help="or frames of this scan without sample: 0:10,120")
@click.option("--empty-scale", default=1.0, type=click.FloatRange(0), help="flux x time of SCAN over that of the empty")
@click.option("--transmission", default="1", metavar="T", help="of the sample: a number, or FILE.npy with a map")
@running_options
def stxm(scan: str, **given: Any) -> None:
    """Darkfield, phase contrast, ROI and radial maps of SCAN: a master file, a data file or FILE::DATASET."""
    options = StxmOptions(
        scan,
        grid_of(given),
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
        cut=given["cut"],
        threshold=given["threshold"],
        empty=given["empty"],
        empty_frames=parse_numbers(given["empty_frames"]),
        empty_scale=given["empty_scale"],
        transmission=parse_transmission(given["transmission"]),
    )
    run(options, None, given)


@dada.command()
@click.argument("result", type=click.Path())
@click.option("--scan", help="where the scan is now, when it was moved")
@running_options
def recompute(result: str, scan: str | None, **given: Any) -> None:
    """Compute RESULT, a file that one of these commands wrote, again from what it says about itself."""
    from dataclasses import replace

    from dada.console import say
    from dada.kinds import options_of
    from dada.nexus import read_provenance
    from dada.provenance import changed_files

    before, mask = read_provenance(Path(result))
    options = options_of(before["options"])
    now = run(replace(options, scan=scan) if scan else options, mask, given)
    changed = changed_files(before, now.provenance)
    if changed:
        say(f"{changed} data files are not in the state from which {result} was made")


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

    thinning = Thinning(parse_shape(shape), crop=parse_box(crop, "part of a frame") if crop else None, **given)
    with progress_bar("thinning", quiet) as bar:
        master = write(frame, directory, thinning, bar)
    say(f"{thinning.shape[0] * thinning.shape[1]} frames behind {master}, the truth in {directory / 'truth.h5'}")


def _fit(text: str) -> tuple[str, tuple[float, float]]:
    name, _, limits = text.partition("=")
    return name.strip().lower(), parse_pair(limits, "fit; write NAME=Q0:Q1 in 1/nm")


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


from dada.cli_frames import average, composite  # noqa: E402
from dada.cli_results import results  # noqa: E402

for command in (average, composite, results):
    dada.add_command(command)
