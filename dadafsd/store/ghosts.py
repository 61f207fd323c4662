"""Ghosts: which keys were evicted lately, remembered in 4 bytes each and by approximation.

The bits of a key choose a bucket of four; the newest ghost pushes the oldest of its bucket out. So a ghost is kept
for about as many evictions as there are places. Two keys are taken for one another once in about 10^9 questions,
which costs a place in the wrong queue.
"""

from __future__ import annotations

from array import array

_WAYS = 4


class Ghosts:
    """A fixed number of places for keys; `resize` forgets all."""

    def __init__(self, places: int = 1024) -> None:
        self.resize(places)

    def resize(self, places: int) -> None:
        """Have about `places` places, all empty."""
        self._buckets = max(64, places // _WAYS)
        self._marks = array("I", [0]) * (self._buckets * _WAYS)

    @property
    def places(self) -> int:
        """How many keys can be remembered at most."""
        return len(self._marks)

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return len(self._marks) * 4

    def _place(self, key: int) -> tuple[int, int]:
        return ((key >> 32) * self._buckets >> 32) * _WAYS, (key & 0xFFFFFFFF) or 1

    def remember(self, key: int) -> None:
        """`key` was evicted just now."""
        first, mark = self._place(key)
        marks = self._marks
        marks[first + 1 : first + _WAYS] = marks[first : first + _WAYS - 1]
        marks[first] = mark

    def recall(self, key: int) -> bool:
        """Whether `key` was evicted lately; it is forgotten by asking."""
        first, mark = self._place(key)
        marks = self._marks
        for place in range(first, first + _WAYS):
            if marks[place] == mark:
                marks[place] = 0
                return True
        return False
