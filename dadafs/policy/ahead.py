"""Which small files of a directory to open ahead of a program that goes through them in order (sans-IO).

Positions are those of a listing, which is sorted by name: programs go through it in that order, or sort the names
themselves. An open near the last one proves that this goes on, and proof doubles the number of files asked for at a
time. Whoever opens names here and there gets nothing ahead.
"""

from __future__ import annotations

#: Files asked for at a time: at the first proof, and at most.
FIRST = 4
MOST = 64
#: An open goes on where the last one was when it is at most so many names behind it or beyond it: several workers share
#: a directory, and some skip what they do not want.
NEAR = 8


class InOrder:
    """One program's way through the names of one directory."""

    __slots__ = ("_asked", "_count", "_position")

    def __init__(self) -> None:
        self._position = -1
        self._asked = 0  # names below this were asked for
        self._count = 0  # how many at a time

    def opened(self, position: int) -> range:
        """The file at `position` is opened: positions to open ahead now, maybe none."""
        if self._position < 0 or abs(position - self._position) > NEAR:
            self._position = position
            self._asked = position + 1
            self._count = 0
            return range(0)
        if position <= self._position:
            return range(0)
        self._position = position
        if self._asked - position > max(1, self._count // 2):
            return range(0)
        self._count = min(max(FIRST, self._count * 2), MOST)
        start = max(self._asked, position + 1)
        self._asked = start + self._count
        return range(start, self._asked)
