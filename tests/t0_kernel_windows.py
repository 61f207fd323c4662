"""What the kernel is made to read ahead where it may not be told to: for whom, how far, and never twice."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from dadafs.policy.kernel_windows import LONGEST_WINDOW, PIECE, PROOF, Range, Windows

MIB = 2**20
SIZE = 64 * MIB


def read_through(windows: Windows, size: int, start: int = 0) -> list[Range]:
    """A reader goes from `start` to the end: it asks for what is not in the page cache; what was read ahead for it."""
    ahead: list[Range] = []
    cached: set[int] = set()
    for offset in range(start, size, PIECE):
        if offset // PIECE in cached:
            continue
        for begin, end in windows.note(offset, PIECE, size):
            ahead.append((begin, end))
            cached.update(range(begin // PIECE, -(-end // PIECE)))
    return ahead


def test_nothing_is_read_ahead_before_somebody_has_read_on() -> None:
    windows = Windows()
    for offset in range(0, PROOF - PIECE, PIECE):
        assert windows.note(offset, PIECE, SIZE) == []
    assert windows.note(PROOF - PIECE, PIECE, SIZE) != []


def test_random_reads_are_left_alone() -> None:
    chance = random.Random(3)
    windows = Windows()
    offsets = [chance.randrange(SIZE // PIECE) * PIECE for _ in range(500)]
    assert sum(bool(windows.note(offset, 4096, SIZE)) for offset in offsets) <= 5


@given(st.integers(1, 64 * MIB), st.integers(0, 500))
def test_a_file_read_through_is_read_ahead_once_and_in_few_requests(size: int, start: int) -> None:
    windows = Windows()
    ahead = read_through(windows, size, start * PIECE)
    covered = [piece for begin, end in ahead for piece in range(begin // PIECE, -(-end // PIECE))]
    assert len(covered) == len(set(covered))
    assert all(0 <= begin < end <= size for begin, end in ahead)
    assert all(end - begin <= LONGEST_WINDOW for begin, end in ahead)
    pieces = -(-size // PIECE) - start
    if pieces > 64:
        assert len(covered) > 0.8 * pieces


def test_there_is_always_something_on_its_way() -> None:
    """The request in a hole comes when half of the window is left: the reader does not run dry."""
    windows = Windows()
    asked, least = 0, SIZE
    cached: set[int] = set()
    for offset in range(0, SIZE - 2 * LONGEST_WINDOW, PIECE):
        if offset // PIECE not in cached:
            for begin, end in windows.note(offset, PIECE, SIZE):
                cached.update(range(begin // PIECE, end // PIECE))
                asked = end
        if offset > 8 * MIB:
            least = min(least, asked - offset)
    assert least >= LONGEST_WINDOW // 4


def test_who_jumps_begins_anew() -> None:
    windows = Windows()
    read_through(windows, 8 * MIB)
    assert windows.note(32 * MIB, PIECE, SIZE) == []
    for offset in range(32 * MIB + PIECE, 32 * MIB + PROOF - PIECE, PIECE):
        assert windows.note(offset, PIECE, SIZE) == []
    (begin, _), *_ = windows.note(32 * MIB + PROOF - PIECE, PIECE, SIZE)
    assert begin == 32 * MIB + PROOF


def test_nothing_beyond_the_end() -> None:
    windows = Windows()
    for offset in range(0, PROOF, PIECE):
        assert windows.note(offset, PIECE, PROOF) == []
