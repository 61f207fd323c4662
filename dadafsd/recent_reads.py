"""The last reads that had to wait, to answer "why was this slow?"."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, NamedTuple


class SlowRead(NamedTuple):
    """One read: when it began (seconds since the epoch), for whom, of what, from where, how long it took."""

    at: float
    node: str
    export: str
    path: bytes
    fragment: int
    tier: str
    size: int
    seconds: float
    prefetch: bool

    def as_dict(self) -> dict[str, Any]:
        """For the admin socket."""
        return {**self._asdict(), "path": self.path.decode(errors="surrogateescape")}


class RecentReads:
    """A ring of the latest."""

    def __init__(self, length: int = 4096) -> None:
        self._reads: deque[SlowRead] = deque(maxlen=length)

    def note(
        self,
        node: str,
        export: str,
        path: bytes,
        fragment: int,
        tier: str,
        size: int,
        seconds: float,
        *,
        prefetch: bool,
    ) -> None:
        """A read has just been answered after `seconds`."""
        at = time.time() - seconds
        self._reads.append(SlowRead(at, node, export, path, fragment, tier, size, seconds, prefetch))

    def select(self, export: str | None, path: bytes | None, limit: int) -> list[SlowRead]:
        """The latest reads, newest first, of one export, and of files at or below a path, where given."""
        below = path + b"/" if path else None
        chosen = (
            read
            for read in reversed(self._reads)
            if (export is None or read.export == export)
            and (below is None or read.path == path or read.path.startswith(below))
        )
        return [read for read, _ in zip(chosen, range(limit), strict=False)]
