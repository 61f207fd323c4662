"""How many batches of frames to read ahead: as many as the mount needs, found while reading.

A local disk or a page cache has a batch ready before it is wanted; behind a network a reader waits unless more are
under way. So the depth grows by one whenever a batch was not there in time, and shrinks after a long run of batches
that were.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

FEWEST, MOST = 2, 8
#: After so many batches in time, one less is read ahead.
CALM = 64
_FILE_SYSTEMS = 64


@dataclass
class Ahead:
    """The depth for one file system; not locked, since a race costs one step too many."""

    depth: int = FEWEST
    in_time: int = 0

    def came(self, late: bool) -> None:
        """A batch is wanted now: `late` if it is still being read."""
        self.in_time = 0 if late else self.in_time + 1
        if late:
            self.depth = min(self.depth + 1, MOST)
        elif self.in_time >= CALM:
            self.in_time = 0
            self.depth = max(self.depth - 1, FEWEST)


_known: dict[int, Ahead] = {}
_lock = threading.Lock()


def ahead_of(device: int) -> Ahead:
    """What is known of the file system with this device number (`st_dev`), in this process."""
    with _lock:
        if device not in _known and len(_known) >= _FILE_SYSTEMS:
            _known.pop(next(iter(_known)))
        return _known.setdefault(device, Ahead())
