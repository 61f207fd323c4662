"""How much of a cold fragment to read from the origin: the blocks asked for, or all of it."""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Hashable


class Take(enum.Enum):
    """What a cold read fetches."""

    WHOLE = "whole"  # the whole fragment, kept
    PART = "part"  # only the blocks asked for, kept nowhere
    PART_THEN_FILL = "part-then-fill"  # answer with the blocks, then fetch the whole fragment behind the reply


class Admission:
    """Small reads of a fragment fetch just their blocks until they prove that the fragment is wanted.

    A read of at least a quarter of a fragment takes all of it: the origin's cost of a request outweighs the
    bytes. A smaller one takes its blocks; from the `touches`-th on the rest is filled in behind it. Random
    readers of a huge file so cost the origin what they read, and readers of a small region get it cached.
    """

    def __init__(self, touches: int = 2, remembered: int = 8192) -> None:
        self.touches = touches
        self._remembered = remembered
        self._seen: OrderedDict[Hashable, int] = OrderedDict()

    def takes_whole(self, count: int, of_blocks: int, *, prefetch: bool) -> bool:
        """Whether a read of `count` of a fragment's `of_blocks` takes all of it, whatever came before."""
        return prefetch or 4 * count >= of_blocks

    def decide(self, key: Hashable, count: int, of_blocks: int, *, prefetch: bool) -> Take:
        """What to fetch for a read of `count` blocks of a cold fragment that has `of_blocks`."""
        if self.takes_whole(count, of_blocks, prefetch=prefetch):
            self._seen.pop(key, None)
            return Take.WHOLE
        seen = self._seen.pop(key, 0) + 1
        if seen >= self.touches:
            return Take.PART_THEN_FILL
        self._seen[key] = seen
        if len(self._seen) > self._remembered:
            self._seen.popitem(last=False)
        return Take.PART
