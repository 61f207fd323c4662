"""Which reductions the options ask for."""

from __future__ import annotations

import numpy as np

from dada.errors import UsageError
from dada.mask import annulus
from dada.options import StxmOptions
from dada.reductions.centre_of_mass import CentreOfMass
from dada.reductions.darkfield import Darkfield, Regions
from dada.reductions.protocol import Reduction, Setup


def choose(options: StxmOptions, setup: Setup) -> list[Reduction]:
    """The reductions, in the order in which their maps are listed. Raises UsageError where something is missing."""
    reductions: list[Reduction] = [Darkfield(), CentreOfMass(_reference(options, setup))]
    reductions += _regions(options, setup)
    return reductions


def _reference(options: StxmOptions, setup: Setup) -> tuple[float, float] | None:
    return options.centre or (setup.geometry.centre if setup.geometry else None)


def _regions(options: StxmOptions, setup: Setup) -> list[Reduction]:
    in_q = {name: (ring.low, ring.high) for name, ring in options.rings.items() if ring.unit == "q"}
    in_px = {name: (ring.low, ring.high) for name, ring in options.rings.items() if ring.unit == "px"}
    found: list[Reduction] = []
    if in_px:
        centre = _reference(options, setup)
        if centre is None:
            raise UsageError("a ring needs the beam's position, which the file does not say; give --center ROW,COLUMN")
        radius = _radius(setup.shape, centre)
        found.append(Regions(masks={name: annulus(radius, *limits) for name, limits in in_px.items()}))
    if in_q:
        found.append(Regions(rings=in_q, unit="q"))
    return found


def _radius(shape: tuple[int, int], centre: tuple[float, float]) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(y - centre[0], x - centre[1])
