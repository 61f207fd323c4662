"""Admission: keep a fragment only when it is asked for the n-th time (sans-IO).

Counts lie in a fixed table of 4 bytes a place, 24 bits of the key and 8 of count. A fragment that finds another in its
place takes it, so that counts of long ago fade; the table has many more places than fragments are read in a while.
"""

from __future__ import annotations

from array import array

_PLACES = 1 << 18


class Admission:
    """How often fragments were offered to the store lately."""

    def __init__(self, places: int = _PLACES) -> None:
        self._places = places
        self._counts = array("I", [0]) * places

    def admit(self, digest: int, after: int) -> bool:
        """Count one offer; True from the `after`-th on."""
        if after <= 1:
            return True
        place, mark = (digest >> 32) * self._places >> 32, (digest & 0xFFFFFF) << 8
        held = self._counts[place]
        count = min(255, (held & 0xFF) + 1) if held & 0xFFFFFF00 == mark else 1
        self._counts[place] = mark | count
        return count >= min(after, 255)
