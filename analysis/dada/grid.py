"""Where each frame of a scan belongs on the map: the frame-to-point table `map_ptr`.

A scan visits the points of a (ny, nx) map row by row (or column by column), always in the same direction or back and
forth (zigzag). The detector's frames are numbered from 0 in the order they were taken. They need not match one to one:
frames may precede the first point, points may have been skipped, a scan may have been aborted, a point repeated. All
of that is said once, here, and every map is filled through the resulting table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dada.errors import DataError, UsageError

HOLE = -1


@dataclass(frozen=True)
class ScanGrid:
    """The geometry of a scan.

    shape: (ny, nx), points along the slow and the fast axis of the map (rows, columns).
    columns_first: the scan moves along a column first, so that y is the fast motor.
    zigzag: every second line is taken backwards.
    offset: frames in front of the first point that belong to no point; negative: so many points had no frame.
    missing: points, counted from 0 in the order of the scan, for which there is no frame at all.
    repeated: frames that take the point of the frame before them once more; the later frame counts.
    aborted: there may be fewer frames than points; the rest are holes.
    step: distance between points (y, x) in `unit`; (1, 1) in points.
    """

    shape: tuple[int, int]
    columns_first: bool = False
    zigzag: bool = False
    offset: int = 0
    missing: tuple[int, ...] = ()
    repeated: tuple[int, ...] = ()
    aborted: bool = False
    step: tuple[float, float] = field(default=(1.0, 1.0))
    unit: str = "points"

    def __post_init__(self) -> None:
        ny, nx = self.shape
        if ny < 1 or nx < 1 or ny * nx > 2**31 - 1:
            raise UsageError(f"a map of {ny}x{nx} points is not possible; both numbers must be at least 1")
        if any(not 0 <= point < ny * nx for point in self.missing):
            raise UsageError(f"a missing point is outside 0..{ny * nx - 1}, the points of a {ny}x{nx} map")

    @property
    def n_points(self) -> int:
        """Points of the map."""
        return self.shape[0] * self.shape[1]

    def visiting_order(self) -> np.ndarray:
        """Flat (C order) map position of each point, in the order of the scan: (ny*nx,) int64."""
        positions = np.arange(self.n_points).reshape(self.shape)
        lines = positions.T.copy() if self.columns_first else positions
        if self.zigzag:
            lines[1::2] = lines[1::2, ::-1].copy()
        return lines.ravel()

    def map_ptr(self, n_frames: int) -> np.ndarray:
        """The frame shown at each point: (ny, nx) int32, -1 for a hole.

        Raises DataError when the number of frames does not fit the number of points.
        """
        points = self._points_with_frames()
        frames = np.arange(max(self.offset, 0), n_frames)
        advances = ~np.isin(frames, np.asarray(self.repeated, dtype=np.int64))
        advances[:1] = True
        step = np.cumsum(advances) - 1
        self._check_count(n_frames, int(step[-1]) + 1 if step.size else 0, points.size)
        table = np.full(self.n_points, HOLE, dtype=np.int64)
        np.maximum.at(table, points[step], frames)
        return table.reshape(self.shape).astype(np.int32)

    def _points_with_frames(self) -> np.ndarray:
        order = self.visiting_order()
        keep = ~np.isin(np.arange(order.size), np.asarray(self.missing, dtype=np.int64))
        keep[: max(-self.offset, 0)] = False
        return order[keep]

    def _check_count(self, n_frames: int, usable: int, n_points: int) -> None:
        ny, nx = self.shape
        if usable == 0 and not self.aborted:
            raise DataError(f"the scan holds {n_frames} frames and none is left for a map of {ny}x{nx} points")
        if usable > n_points or (usable < n_points and not self.aborted):
            detail = "" if usable == n_frames else f" ({usable} of them count)"
            hint = "--aborted leaves the rest empty" if usable < n_points else "--offset skips frames in front"
            raise DataError(
                f"the scan holds {n_frames} frames{detail} but --shape {ny}x{nx} needs {n_points}; "
                f"give the shape of the scan ({hint})"
            )

    def describe(self) -> dict[str, Any]:
        """All parameters as plain JSON values; `from_description` is its inverse."""
        return {
            "shape": list(self.shape),
            "columns_first": self.columns_first,
            "zigzag": self.zigzag,
            "offset": self.offset,
            "missing": list(self.missing),
            "repeated": list(self.repeated),
            "aborted": self.aborted,
            "step": list(self.step),
            "unit": self.unit,
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> ScanGrid:
        """The grid that `describe` described."""
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in description.items()}
        return cls(**values)


def parse_shape(text: str) -> tuple[int, int]:
    """`NYxNX` as (ny, nx). Raises UsageError."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"'{text}' is no shape: write rows x columns, for example --shape 250x250")
    return int(parts[0]), int(parts[1])


def parse_numbers(text: str) -> tuple[int, ...]:
    """`3,17,40:43` (end excluded) as (3, 17, 40, 41, 42). Raises UsageError."""
    numbers: list[int] = []
    try:
        for part in filter(None, text.split(",")):
            first, colon, last = part.partition(":")
            numbers += range(int(first), int(last)) if colon else [int(first)]
    except ValueError:
        raise UsageError(f"'{text}' is no list of numbers: write for example 3,17,40:43") from None
    return tuple(numbers)


def to_map(values: np.ndarray, map_ptr: np.ndarray, fill: float = np.nan) -> np.ndarray:
    """Values per frame (n_frames, ...) laid out as a map (ny, nx, ...), float64, `fill` at holes."""
    result = np.full(map_ptr.shape + values.shape[1:], fill, dtype=np.float64)
    there = map_ptr >= 0
    result[there] = values[map_ptr[there]]
    return result


def frames_needed(map_ptr: np.ndarray) -> np.ndarray:
    """The frames that some point shows, ascending."""
    return np.unique(map_ptr[map_ptr >= 0])


def holes(map_ptr: np.ndarray) -> Iterable[tuple[int, int]]:
    """(row, column) of the points without a frame."""
    return [(int(y), int(x)) for y, x in np.argwhere(map_ptr < 0)]
