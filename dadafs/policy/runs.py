"""Which units of an arena are free: runs of consecutive units, neighbours joined (sans-IO)."""

from __future__ import annotations

from collections.abc import Iterator


class FreeRuns:
    """The free runs among the units 0 .. count - 1, all of them at first.

    A run of the very length that is wanted comes first, the one given back last before others since its memory is
    still in the processor's caches; then the shortest that is long enough, from its front.
    """

    def __init__(self, count: int) -> None:
        self._lengths: dict[int, int] = {}  # start -> length
        self._starts: dict[int, int] = {}  # end -> start
        self._by_length: dict[int, dict[int, None]] = {}  # length -> starts, given back last at the end
        if count:
            self._add(0, count)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(start, length) of every free run."""
        return iter(list(self._lengths.items()))

    def next(self, length: int) -> int | None:
        """Where `take(length)` would take from; None where no run is long enough."""
        same = self._by_length.get(length)
        if same is None:
            longer = min((known for known in self._by_length if known > length), default=None)
            if longer is None:
                return None
            same = self._by_length[longer]
        return next(reversed(same))

    def take(self, length: int) -> int | None:
        """The first of `length` (at least 1) consecutive units that are free no longer; None where there are none."""
        start = self.next(length)
        if start is not None:
            whole = self._remove(start)
            if whole > length:
                self._add(start + length, whole - length)
        return start

    def take_at(self, start: int, length: int) -> None:
        """Units `start` .. `start + length - 1`, which lie within one free run, are free no longer."""
        first, whole = next(run for run in self._lengths.items() if run[0] <= start and start + length <= sum(run))
        self._remove(first)
        if start > first:
            self._add(first, start - first)
        if first + whole > start + length:
            self._add(start + length, first + whole - start - length)

    def give(self, start: int, length: int) -> None:
        """Units `start` .. `start + length - 1`, which were taken, are free again."""
        end = start + length
        if end in self._lengths:
            length += self._remove(end)
        before = self._starts.get(start)
        if before is not None:
            length += self._remove(before)
            start = before
        self._add(start, length)

    def _add(self, start: int, length: int) -> None:
        self._lengths[start] = length
        self._starts[start + length] = start
        self._by_length.setdefault(length, {})[start] = None

    def _remove(self, start: int) -> int:
        length = self._lengths.pop(start)
        del self._starts[start + length]
        same = self._by_length[length]
        del same[start]
        if not same:
            del self._by_length[length]
        return length
