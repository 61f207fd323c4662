"""A hash table from 64-bit keys to 32-bit positions that takes 4 bytes a place: the keys lie elsewhere.

Open addressing with linear probing and backward-shift deletion. A key's home is its rank among all 64-bit numbers
scaled to the table, so keys in ascending order fill a table from left to right: that is how it is built and grown, part
by part, with little memory besides the new table. There is no wrap-around: the last `_MARGIN` places take what runs
over, and a table that overflows there all the same is rebuilt larger.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.uint32]
#: Makes an iterator over parts (keys, positions); every key of a part is greater than all keys of the part before.
Parts = Callable[[], Iterator[tuple[Keys, Positions]]]

_EMPTY = 0xFFFFFFFF
_MARGIN = 1024
_LEAST = 1024
_FULLEST = 0.80
_AFTER_GROWTH = 0.66
_CHUNK = 1 << 18


class KeyTable:
    """Positions by key. `key_at(position)` and `keys_at(positions)` tell the keys that lie there."""

    def __init__(self, key_at: Callable[[int], int], keys_at: Callable[[Positions], Keys]) -> None:
        self._key_at = key_at
        self._keys_at = keys_at
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._homes = _LEAST
        self._places = array("I", [_EMPTY]) * (self._homes + _MARGIN)
        self._used = 0

    def __len__(self) -> int:
        return self._used

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return len(self._places) * 4

    def _find(self, key: int) -> int:
        """The place of `key`, or of the empty place where it would go; -1 past the end."""
        places, key_at = self._places, self._key_at
        place = ((key >> 32) * self._homes) >> 32
        try:
            while (position := places[place]) != _EMPTY and key_at(position) != key:
                place += 1
        except IndexError:
            return -1
        return place

    def get(self, key: int) -> int:
        """The position of `key`, -1 where there is none."""
        place = self._find(key)
        if place < 0 or (position := self._places[place]) == _EMPTY:
            return -1
        return position

    def put(self, key: int, position: int) -> None:
        """`key` lies at `position` now. The table may grow, which asks for the keys of all positions put before."""
        place = self._find(key)
        if place < 0 or (self._places[place] == _EMPTY and self._used >= _FULLEST * self._homes):
            self._grow()
            self.put(key, position)
            return
        if self._places[place] == _EMPTY:
            self._used += 1
        self._places[place] = position

    def remove(self, key: int) -> int:
        """Forget `key`; its position, or -1. What lies behind it moves up, so that no gap breaks a probe."""
        hole = self._find(key)
        places, key_at, homes = self._places, self._key_at, self._homes
        if hole < 0 or (removed := places[hole]) == _EMPTY:
            return -1
        place, end = hole + 1, len(places)
        while place < end and (position := places[place]) != _EMPTY:
            if ((key_at(position) >> 32) * homes) >> 32 <= hole:
                places[hole] = position
                hole = place
            place += 1
        places[hole] = _EMPTY
        self._used -= 1
        return removed

    def build(self, count: int, parts: Parts) -> None:
        """Replace everything by the `count` keys (all different) and positions of `parts`."""
        homes = max(_LEAST, int(count / _AFTER_GROWTH))
        while not self._fill(homes, parts):
            homes += homes // 4

    def remap(self, change: Callable[[Positions], Positions]) -> None:
        """Put `change(positions)` in place of all positions (the same keys now lie elsewhere)."""
        view = np.frombuffer(self._places, dtype=np.uint32)
        for start in range(0, len(view), _CHUNK):
            chunk = view[start : start + _CHUNK]
            taken = np.flatnonzero(chunk != _EMPTY)
            chunk[taken] = change(chunk[taken])

    def _grow(self) -> None:
        self.build(max(self._used, int(self._homes * _FULLEST)) + 1, self._parts())

    def _parts(self) -> Parts:
        """The table as it is, cut where a place is empty: whatever lies behind such a place has its home there too."""
        old = self._places

        def parts() -> Iterator[tuple[Keys, Positions]]:
            view = np.frombuffer(old, dtype=np.uint32)
            start = 0
            while start < len(view):
                end = min(start + _CHUNK, len(view))
                while end < len(view) and view[end] != _EMPTY:
                    end += 1
                positions = view[start:end]
                positions = positions[positions != _EMPTY]
                yield self._keys_at(positions), positions
                start = end

        return parts

    def _fill(self, homes: int, parts: Parts) -> bool:
        """Place keys in ascending order, each as near behind its home as those before allow; False if it overflows."""
        places = array("I", [_EMPTY]) * (homes + _MARGIN)
        view = np.frombuffer(places, dtype=np.uint32)
        used, last = 0, -1
        for keys, positions in parts():
            if not len(keys):
                continue
            order = np.argsort(keys)
            home = (((keys[order] >> np.uint64(32)) * np.uint64(homes)) >> np.uint64(32)).astype(np.int64)
            ranks = np.arange(len(keys), dtype=np.int64)
            place = np.maximum(np.maximum.accumulate(home - ranks), last + 1) + ranks
            last = int(place[-1])
            if last >= len(places):
                return False
            view[place] = positions[order]
            used += len(keys)
        self._places, self._homes, self._used = places, homes, used
        return True
