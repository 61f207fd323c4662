"""`dada average` and `dada composite`: frames made of frames."""

from __future__ import annotations

from typing import Any

import click

from dada.cli_run import grid_of, grid_options, pixel_options, run, running_options
from dada.errors import UsageError
from dada.frame_options import AverageOptions, Box, CompositeOptions, parse_box
from dada.grid import parse_numbers

_region_option = click.option(
    "--region", metavar="Y0:Y1,X0:X1", help="only these points of the map: rows, columns, ends excluded"
)


@click.command()
@click.argument("scan")
@grid_options(required=False)
@_region_option
@click.option("--frames", default="", metavar="LIST", help="only these frames, counted from 0: 3,17,40:43")
@click.option("--binning", default=1, type=click.IntRange(1), show_default=True, help="N x N pixels taken together")
@pixel_options
@running_options
def average(scan: str, **given: Any) -> None:
    """Sum, average, maximum and variance frames of SCAN, or of a region of it. Without --shape: of all its frames."""
    options = AverageOptions(
        scan,
        grid_of(given) if given["shape"] else None,
        region=_region(given["region"]),
        frames=parse_numbers(given["frames"]),
        binning=given["binning"],
        **_pixels(given),
    )
    run(options, None, given)


@click.command()
@click.argument("scan")
@grid_options(required=True)
@_region_option
@click.option("--skip", default="1,1", show_default=True, metavar="NY,NX", help="every NY-th row, every NX-th column")
@click.option("--crop", metavar="Y0:Y1,X0:X1", help="only this part of the detector, in pixels")
@click.option(
    "--binning", default=0, type=click.IntRange(0), help="N x N pixels taken together  [what makes a picture]"
)
@click.option("--border", default=1, type=click.IntRange(0), show_default=True, help="pixels between two frames")
@pixel_options
@running_options
def composite(scan: str, **given: Any) -> None:
    """The frames of SCAN, each made small, side by side as one image."""
    options = CompositeOptions(
        scan,
        grid_of(given),
        region=_region(given["region"]),
        skip=_skip(given["skip"]),
        crop=parse_box(given["crop"], "part of the detector") if given["crop"] else None,
        binning=given["binning"],
        border=given["border"],
        **_pixels(given),
    )
    run(options, None, given)


def _pixels(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("masks", "cut", "threshold", "channel")}


def _region(text: str | None) -> Box | None:
    return parse_box(text, "region of the map") if text else None


def _skip(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) not in (1, 2) or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"'{text}' does not say how many points to skip: write NY,NX")
    return int(parts[0]), int(parts[-1])
