"""Which reductions the options ask for."""

from __future__ import annotations

import numpy as np

from dada.errors import UsageError
from dada.mask import annulus
from dada.options import StxmOptions
from dada.reductions.azimuthal import AzimuthalProfile
from dada.reductions.centre_of_mass import CentreOfMass
from dada.reductions.composite import Thumbnails
from dada.reductions.darkfield import Darkfield, Regions
from dada.reductions.fits import Guinier, PowerLaw
from dada.reductions.orientation import Orientation
from dada.reductions.protocol import Reduction, Setup
from dada.reductions.radial import RadialProfile

_FIT_BINS = 64
_FITS = {"powerlaw": PowerLaw, "guinier": Guinier}


def choose(options: StxmOptions, setup: Setup) -> list[Reduction]:
    """The reductions, in the order in which their maps are listed. Raises UsageError where something is missing."""
    reductions: list[Reduction] = [Darkfield(), CentreOfMass(_reference(options, setup))]
    reductions += _regions(options, setup)
    if options.orientation:
        reductions += _orientation(options, setup)
    reductions += _fits(options)
    if options.radial_bins and _wants_profile(options, setup):
        reductions.append(_profile(options, setup))
    if options.composite:
        reductions.append(Thumbnails(options.composite))
    return reductions


def _wants_profile(options: StxmOptions, setup: Setup) -> bool:
    """I(q) comes by itself wherever the geometry is known; a range of q that was asked for insists on it."""
    return setup.geometry is not None or options.radial_range is not None


def _profile(options: StxmOptions, setup: Setup) -> Reduction:
    known = setup.geometry is None or setup.geometry.wavelength_nm is not None
    unit = "q" if known or options.radial_range else "px"
    return RadialProfile(options.radial_bins, options.radial_range, unit=unit, polarization=options.polarization)


def _orientation(options: StxmOptions, setup: Setup) -> list[Reduction]:
    """Principal components of the whole frame, and of each ring the second harmonic, which gaps do not turn."""
    found: list[Reduction] = [Orientation(_reference(options, setup))]
    for unit, rings in _by_unit(options).items():
        if setup.geometry is not None:
            found += [AzimuthalProfile(group, unit=unit) for group in _disjoint(rings)]
    return found


def _disjoint(rings: dict[str, tuple[float, float]]) -> list[dict[str, tuple[float, float]]]:
    """The rings in groups within which none overlaps: each group is one pass over a frame's azimuths."""
    groups: list[dict[str, tuple[float, float]]] = []
    for name, (low, high) in sorted(rings.items(), key=lambda item: item[1]):
        group = next((group for group in groups if all(end <= low for _, end in group.values())), None)
        if group is None:
            groups.append(group := {})
        group[name] = (low, high)
    return groups


def _fits(options: StxmOptions) -> list[Reduction]:
    unknown = sorted(options.fits.keys() - _FITS.keys())
    if unknown:
        raise UsageError(f"there is no fit {unknown[0]!r}; choose from {', '.join(_FITS)}")
    return [_FITS[name](_FIT_BINS, limits) for name, limits in options.fits.items()]


def _by_unit(options: StxmOptions) -> dict[str, dict[str, tuple[float, float]]]:
    return {
        unit: {name: (ring.low, ring.high) for name, ring in options.rings.items() if ring.unit == unit}
        for unit in ("px", "q")
    }


def _reference(options: StxmOptions, setup: Setup) -> tuple[float, float] | None:
    return options.centre or (setup.geometry.centre if setup.geometry else None)


def _regions(options: StxmOptions, setup: Setup) -> list[Reduction]:
    in_px, in_q = (_by_unit(options)[unit] for unit in ("px", "q"))
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
