"""Every parameter of an analysis, as plain values: what the command line says, what a result remembers,
what makes it again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dada.errors import UsageError
from dada.grid import ScanGrid

DEFAULT_RADIAL_BINS = 256
#: A map (ny, nx) as plain numbers.
Rows = tuple[tuple[float, ...], ...]
_RING = re.compile(
    r"(?P<name>[A-Za-z][\w.-]{0,63})=(?P<low>[\d.eE+-]+):(?P<high>[\d.eE+-]+)\s*(?P<unit>px|q|nm-1|nm\^-1|1/nm|/nm)?$"
)


@dataclass(frozen=True)
class Ring:
    """A ring on the detector: low < radius <= high, in pixels from the beam (`px`) or in 1/nm (`q`)."""

    low: float
    high: float
    unit: str = "px"

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise UsageError(
                f"a ring from {self.low:g} to {self.high:g} is empty; its first radius must be the smaller"
            )


@dataclass(frozen=True)
class StxmOptions:
    """What is to be computed of a scan.

    scan: its name. grid: its shape and how it was taken. centre: (row, column) of the beam, None as the file says.
    masks: names of user's masks. rings: ROIs by name. poni: name of a PONI file. radial_bins: 0 for no I(q).
    radial_range: limits of I(q) in its unit, None for all. orientation: second moments and PCA. fits: power laws and
    the like, by name, with their range in 1/nm. polarization: factor for I(q), None for no correction.
    composite: factor by which each frame is made small for a picture of all frames, 0 for none. channel: of a dataset
    of (image, channel, y, x). cut: counts from here on are invalid, None as the file says. threshold: counts below it
    are taken as 0. empty, empty_frames, empty_scale, transmission: see `dada.reductions.empty_beam`; the scan, or the
    frames of this scan, without sample.
    """

    scan: str
    grid: ScanGrid
    centre: tuple[float, float] | None = None
    masks: tuple[str, ...] = ()
    rings: Mapping[str, Ring] = field(default_factory=dict)
    poni: str | None = None
    radial_bins: int = DEFAULT_RADIAL_BINS
    radial_range: tuple[float, float] | None = None
    orientation: bool = False
    fits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    polarization: float | None = None
    composite: int = 0
    channel: int = 0
    cut: int | None = None
    threshold: int | None = None
    empty: str | None = None
    empty_frames: tuple[int, ...] = ()
    empty_scale: float = 1.0
    transmission: float | Rows = 1.0

    kind = "stxm"

    def __post_init__(self) -> None:
        object.__setattr__(self, "transmission", transmission_of(self.transmission))
        object.__setattr__(self, "empty_frames", tuple(int(frame) for frame in self.empty_frames))

    def describe(self) -> dict[str, Any]:
        """As plain JSON values; `from_description` is its inverse."""
        values = asdict(replace(self, grid=ScanGrid((1, 1))))
        return values | {
            "grid": self.grid.describe(),
            "rings": {name: [ring.low, ring.high, ring.unit] for name, ring in self.rings.items()},
            "masks": list(self.masks),
            "centre": self.centre and list(self.centre),
            "radial_range": self.radial_range and list(self.radial_range),
            "kind": self.kind,
            "empty_frames": list(self.empty_frames),
            "fits": {name: list(limits) for name, limits in self.fits.items()},
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> StxmOptions:
        """The options that `describe` described. Raises UsageError where they are not understood."""
        values = {name: value for name, value in description.items() if name != "kind"}
        try:
            values["empty_frames"] = tuple(values.get("empty_frames", ()))
            values["grid"] = ScanGrid.from_description(values["grid"])
            values["rings"] = {name: Ring(*ring) for name, ring in values["rings"].items()}
            values["masks"] = tuple(values["masks"])
            values["fits"] = {name: tuple(limits) for name, limits in values["fits"].items()}
            for name in ("centre", "radial_range"):
                values[name] = tuple(values[name]) if values[name] else None
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"the parameters are of another version of dada ({error})") from None


def parse_ring(text: str) -> tuple[str, Ring]:
    """`NAME=R0:R1` in pixels, `NAME=Q0:Q1/nm` in 1/nm. Raises UsageError."""
    match = _RING.match(text.strip())
    try:
        if match:
            unit = "px" if match["unit"] in (None, "px") else "q"
            return match["name"], Ring(float(match["low"]), float(match["high"]), unit)
    except ValueError:
        pass
    raise UsageError(f"'{text}' is no region: write NAME=R0:R1 in pixels or NAME=Q0:Q1/nm, for example ring=0.2:0.4/nm")


def parse_pair(text: str, what: str) -> tuple[float, float]:
    """`A,B` or `A:B` as two numbers. Raises UsageError."""
    parts = re.split(r"[,:]", text)
    try:
        first, second = (float(part) for part in parts)
    except ValueError:
        raise UsageError(f"'{text}' is no {what}: write two numbers") from None
    return first, second


def parse_transmission(text: str) -> float | Rows:
    """A number from 0 (excluded) to 1, or the name of a .npy file with a map of them. Raises UsageError."""
    try:
        return transmission_of(np.load(text, allow_pickle=False) if text.endswith(".npy") else float(text))
    except (ValueError, OSError):
        raise UsageError(
            f"'{text}' is no transmission: write a number between 0 and 1, or FILE.npy with a map of them"
        ) from None


def transmission_of(values: ArrayLike) -> float | Rows:
    """A transmission, or a map (ny, nx) of them, as plain numbers. Raises UsageError where they are impossible."""
    array = np.asarray(values, float)
    if array.ndim not in (0, 2) or not ((array > 0) & (array <= 1)).all():
        raise UsageError("a transmission is a number between 0 and 1, not 0, or a map (rows, columns) of such numbers")
    return float(array) if array.ndim == 0 else tuple(tuple(row) for row in array.tolist())
