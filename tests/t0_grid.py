"""Frame-to-point tables against walking through the scan point by point."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dada.errors import DataError, UsageError
from dada.grid import ScanGrid, frames_needed, holes, parse_numbers, parse_shape, to_map


def walk(grid: ScanGrid, n_frames: int) -> np.ndarray:
    """The table as a person would make it: go from point to point, take the next frame at each."""
    ny, nx = grid.shape
    table = np.full((ny, nx), -1)
    outer, inner = (nx, ny) if grid.columns_first else (ny, nx)
    points = []
    for line in range(outer):
        along = range(inner)[::-1] if grid.zigzag and line % 2 else range(inner)
        points += [(at, line) if grid.columns_first else (line, at) for at in along]
    frame = max(grid.offset, 0)
    for number, point in enumerate(points):
        if number in grid.missing or number < -grid.offset:
            continue
        if frame >= n_frames:
            break
        table[point] = frame
        frame += 1
        while frame < n_frames and frame in grid.repeated:
            table[point] = frame
            frame += 1
    return table


@given(st.data())
def test_table_is_what_walking_through_the_scan_gives(data: st.DataObject) -> None:
    shape = (data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6)))
    points = shape[0] * shape[1]
    numbers = st.sets(st.integers(0, points - 1), max_size=points // 2)
    grid = ScanGrid(
        shape,
        columns_first=data.draw(st.booleans()),
        zigzag=data.draw(st.booleans()),
        offset=data.draw(st.integers(-3, 3)),
        missing=tuple(sorted(data.draw(numbers))),
        repeated=tuple(sorted(data.draw(st.sets(st.integers(1, points), max_size=3)))),
        aborted=True,
    )
    n_frames = data.draw(st.integers(0, points + 2))
    try:
        table = grid.map_ptr(n_frames)
    except DataError:
        with pytest.raises(DataError):  # more frames than points: whatever is not too many is taken
            grid.map_ptr(n_frames)
        return
    np.testing.assert_array_equal(table, walk(grid, n_frames))
    assert table.dtype == np.int32


def test_rows_columns_and_zigzag() -> None:
    assert ScanGrid((2, 3)).map_ptr(6).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert ScanGrid((2, 3), zigzag=True).map_ptr(6).tolist() == [[0, 1, 2], [5, 4, 3]]
    assert ScanGrid((2, 3), columns_first=True).map_ptr(6).tolist() == [[0, 2, 4], [1, 3, 5]]
    assert ScanGrid((2, 3), columns_first=True, zigzag=True).map_ptr(6).tolist() == [[0, 3, 4], [1, 2, 5]]


def test_offset_missing_repeated_aborted() -> None:
    assert ScanGrid((1, 3), offset=2).map_ptr(5).tolist() == [[2, 3, 4]]
    assert ScanGrid((1, 3), offset=-1).map_ptr(2).tolist() == [[-1, 0, 1]]
    assert ScanGrid((1, 3), missing=(1,)).map_ptr(2).tolist() == [[0, -1, 1]]
    assert ScanGrid((1, 3), repeated=(2,)).map_ptr(4).tolist() == [[0, 2, 3]]
    assert ScanGrid((2, 2), aborted=True).map_ptr(3).tolist() == [[0, 1], [2, -1]]
    assert ScanGrid((2, 2), aborted=True).map_ptr(0).tolist() == [[-1, -1], [-1, -1]]


@pytest.mark.parametrize("n_frames", [5, 7])
def test_a_shape_that_does_not_fit_names_both_numbers(n_frames: int) -> None:
    with pytest.raises(DataError, match=rf"{n_frames} frames.*2x3 needs 6"):
        ScanGrid((2, 3)).map_ptr(n_frames)


def test_impossible_grids_are_refused() -> None:
    for bad in ({"shape": (0, 3)}, {"shape": (2, 2), "missing": (4,)}):
        with pytest.raises(UsageError):
            ScanGrid(**bad)


def test_values_are_laid_out_and_holes_are_nan() -> None:
    table = ScanGrid((2, 2), aborted=True).map_ptr(3)
    found = to_map(np.array([[1, 10], [2, 20], [3, 30]]), table)
    assert found.shape == (2, 2, 2)
    assert found[1, 0].tolist() == [3, 30]
    assert np.isnan(found[1, 1]).all()
    assert holes(table) == [(1, 1)]
    assert frames_needed(table).tolist() == [0, 1, 2]


def test_description_round_trip_through_json() -> None:
    grid = ScanGrid((3, 4), zigzag=True, missing=(1, 2), aborted=True, step=(0.5, 0.25), unit="um")
    assert ScanGrid.from_description(json.loads(json.dumps(grid.describe()))) == grid


def test_what_people_write() -> None:
    assert parse_shape("250x300") == (250, 300)
    assert parse_shape("2X3") == (2, 3)
    assert parse_numbers("3,17,40:43") == (3, 17, 40, 41, 42)
    for text in ("250", "axb", "1x2x3", "-1x2", ""):
        with pytest.raises(UsageError, match="rows x columns"):
            parse_shape(text)
    with pytest.raises(UsageError):
        parse_numbers("3,x")
