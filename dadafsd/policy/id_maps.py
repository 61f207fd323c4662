"""Reading maps of user and group ids from the configuration (sans-IO)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

#: Ranges in one map at most.
MOST_RANGES = 4096
_LARGEST = 2**32 - 2
_ENTRY = re.compile(r"\s*(\d{1,10})(?:\s*-\s*(\d{1,10}))?\s*=\s*(\d{1,10})\s*", re.ASCII)


def parse_map(texts: Sequence[str]) -> list[tuple[int, int, int]]:
    """Sorted ranges (first, last, first on nodes) from `1000=5000` or `1000-1999=5000`. Raises ValueError."""
    if len(texts) > MOST_RANGES:
        raise ValueError(f"it has more than {MOST_RANGES} entries")
    ranges = sorted(_parse(text) for text in texts)
    for (_, last, _), (first, _, _) in itertools.pairwise(ranges):
        if first <= last:
            raise ValueError(f"{first} is mapped twice")
    return ranges


def _parse(text: str) -> tuple[int, int, int]:
    found = _ENTRY.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no entry: write 1000=5000, or 1000-1999=5000 for a range")
    first, target = int(found[1]), int(found[3])
    last = int(found[2] or first)
    if not first <= last <= _LARGEST or target + last - first > _LARGEST:
        raise ValueError(f"{text!r} is no range of ids")
    return first, last, target
