"""Parameters of what is made of frames as frames: averages and the like, and composites."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from dada.errors import UsageError
from dada.grid import ScanGrid

Box = tuple[int, int, int, int]
_BOX = re.compile(r"(\d+):(\d+),(\d+):(\d+)")


@dataclass(frozen=True)
class FrameOptions:
    """Which frames of a scan, and which of their pixels.

    scan: its name. grid: how it was taken, None where only numbers of frames matter. region: points of the map,
    (first row, end, first column, end), ends excluded; None for all. frames: numbers of frames, counted from 0 in the
    scan, instead of a region. masks: names of user's masks. binning: pixels taken together. cut: counts from here on
    are invalid, None as the file says. threshold: counts below it are taken as 0. channel: of (image, channel, y, x).
    """

    scan: str
    grid: ScanGrid | None = None
    region: Box | None = None
    frames: tuple[int, ...] = ()
    masks: tuple[str, ...] = ()
    binning: int = 1
    cut: int | None = None
    threshold: int | None = None
    channel: int = 0
    poni: None = None  # geometry plays no part here

    kind = ""

    def __post_init__(self) -> None:
        if self.region and self.frames:
            raise UsageError("a region of the map and a list of frames exclude each other; give one of them")
        if self.region and self.grid is None:
            raise UsageError("a region of the map needs the shape of the scan; give --shape")

    def describe(self) -> dict[str, Any]:
        """As plain JSON values; `from_description` is its inverse."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {"kind": self.kind, "grid": self.grid and self.grid.describe()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """The options that `describe` described. Raises UsageError where they are not understood."""
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in description.items() if name != "kind"}
        try:
            values["grid"] = ScanGrid.from_description(values["grid"]) if values["grid"] else None
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"the parameters are of another version of dada ({error})") from None

    def points(self, map_ptr: np.ndarray) -> np.ndarray:
        """The part of a table of frames (ny, nx) that the region is. Raises UsageError where it is not on the map."""
        y0, y1, x0, x1 = self.region or (0, map_ptr.shape[0], 0, map_ptr.shape[1])
        if not (0 <= y0 < y1 <= map_ptr.shape[0] and 0 <= x0 < x1 <= map_ptr.shape[1]):
            ny, nx = map_ptr.shape
            raise UsageError(f"the region {y0}:{y1},{x0}:{x1} does not lie in a map of {ny}x{nx} points")
        return map_ptr[y0:y1, x0:x1]


@dataclass(frozen=True)
class AverageOptions(FrameOptions):
    """Sum, average, maximum and variance of the chosen frames."""

    kind = "average"


@dataclass(frozen=True)
class CompositeOptions(FrameOptions):
    """A composite of the frames of a region of the map, each binned.

    crop: (first row, end, first column, end) of the detector, None for all of it. skip: every n-th row and column of
    the points. border: pixels between two frames.
    """

    binning: int = 0
    crop: Box | None = None
    skip: tuple[int, int] = (1, 1)
    border: int = 1

    kind = "composite"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid is None or self.frames:
            raise UsageError("a composite lays frames out as the scan's map is; give --shape, and a region if you like")
        if min(self.skip) < 1 or self.border < 0:
            raise UsageError("every how many points, and pixels between frames, are whole numbers from 1 and from 0 on")

    def points(self, map_ptr: np.ndarray) -> np.ndarray:
        """The part of a table of frames that is shown."""
        return super().points(map_ptr)[:: self.skip[0], :: self.skip[1]]


def parse_box(text: str, what: str) -> Box:
    """`Y0:Y1,X0:X1`, ends excluded. Raises UsageError."""
    match = _BOX.fullmatch(text.strip())
    if not match:
        raise UsageError(f"'{text}' is no {what}: write Y0:Y1,X0:X1")
    y0, y1, x0, x1 = (int(number) for number in match.groups())
    if y0 >= y1 or x0 >= x1:
        raise UsageError(f"the {what} {text} is empty; each second number must be the larger")
    return y0, y1, x0, x1
