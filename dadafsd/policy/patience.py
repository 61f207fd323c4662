"""How long a read of the origin waits for room in the queue of writes (sans-IO)."""

from __future__ import annotations

#: Seconds that a read waits at most: somebody waits for it, or it was asked for ahead.
DEMAND = 0.1
PREFETCH = 1.0
#: A queue that was more than half full for so many seconds has a disk that cannot keep up: nobody waits any more.
BURST = 30.0


class Patience:
    """For one queue. A burst begins when somebody finds it without room, and is over when it was found half empty."""

    def __init__(self) -> None:
        self._since: float | None = None

    def allows(self, now: float, *, prefetch: bool) -> float:
        """How long who finds the queue full may wait, in seconds."""
        if self._since is None:
            self._since = now
        if now - self._since > BURST:
            return 0.0
        return PREFETCH if prefetch else DEMAND

    def relieved(self) -> None:
        """The disk has written at least half of what the queue may hold."""
        self._since = None
