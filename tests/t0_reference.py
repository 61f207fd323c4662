"""The NumPy definition itself, on frames small enough to add up by hand and on numbers that need care."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from dada.kernels import KERNEL_VERSION, Status, message, reference
from dada.kernels.reducer import NO_BIN, effective_cut, stored_dtype

FRAME = np.array([[[1, 2, 65535], [0, 65534, 4]]], np.uint16)


def test_a_frame_added_up_by_hand() -> None:
    mask = np.array([[False, True, False], [False, False, False]])
    bins = np.array([[0, 0, 1], [1, NO_BIN, 1]], np.uint16)
    rois = np.array([[[1, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 1]]], bool)
    sums = reference.reduce(FRAME, mask=mask, bins=bins, n_bins=2, rois=rois)
    assert (sums.n_valid[0], sums.n_masked[0], sums.n_value_invalid[0]) == (3, 1, 2)
    assert (sums.total[0], sums.sum_y[0], sums.sum_x[0]) == (5, 4, 8)
    assert (sums.sum_yy[0], sums.sum_xx[0], sums.sum_xy[0], sums.maximum[0]) == (4, 16, 8, 4)
    assert sums.bins.tolist() == [[1, 4]]
    assert sums.bin_counts.tolist() == [[1, 2]]
    assert sums.rois.tolist() == [[1, 4]]
    assert sums.roi_counts.tolist() == [[1, 2]]


def test_a_lower_cut_leaves_less() -> None:
    sums = reference.reduce(FRAME, cut=4)
    assert (sums.total[0], sums.n_value_invalid[0], sums.maximum[0]) == (3, 3, 2)


def test_nothing_valid() -> None:
    sums = reference.reduce(FRAME, mask=np.ones((2, 3), bool))
    assert (sums.n_valid[0], sums.total[0], sums.maximum[0], sums.status[0]) == (0, 0, -1, Status.OK)


def test_32_bit_counts_are_exact() -> None:
    """Against rational numbers, with values and positions whose products do not fit into a float."""
    frame = np.random.default_rng(0).integers(0, 2**32 - 2, (1, 3, 4001)).astype(np.uint32)
    frame[0, :, :-40] >>= 9
    sums = reference.reduce(frame)
    expected = sum(Fraction(int(v)) * x * x for row in frame[0] for x, v in enumerate(row))
    assert sums.status[0] == Status.OK
    assert int(sums.sum_xx[0]) == expected


def test_moments_are_left_out_on_demand() -> None:
    sums = reference.reduce(FRAME, moments=False)
    assert (sums.total[0], sums.sum_x[0], sums.sum_yy[0]) == (7, 0, 0)


@pytest.mark.parametrize(("dtype", "cut"), [("uint8", 254), ("int16", 65534), ("<u4", 2**32 - 2)])
def test_the_cut_of_a_type(dtype: str, cut: int) -> None:
    assert effective_cut(stored_dtype(dtype), None) == cut
    assert effective_cut(stored_dtype(dtype), cut + 1) == cut
    assert effective_cut(stored_dtype(dtype), 100) == 100


def test_every_status_has_words_and_the_kernels_a_version() -> None:
    assert len({message(status) for status in Status}) == len(Status)
    assert KERNEL_VERSION >= 1
