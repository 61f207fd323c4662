"""When a mount process counts as stuck, and how soon the next one is tried (sans-IO).

All times are monotonic seconds given by the caller.
"""

from __future__ import annotations

#: A process that starts imports its modules first, which a busy machine with cold caches may take a minute for.
START_PATIENCE = 120.0
FIRST_DELAY = 1.0
LONGEST_DELAY = 30.0
#: A process that served for so long was a good one: the next is tried at once.
PROVEN = 60.0


class Pulse:
    """Signs of life of one process, and the moment from which on it counts as stuck.

    `deadline` is how long it may be silent, in seconds; 0: for ever. Before the first sign `START_PATIENCE` counts if
    that is longer.
    """

    def __init__(self, deadline: float, now: float) -> None:
        self._deadline = deadline
        self._stuck_at = now + max(deadline, START_PATIENCE)

    def beat(self, now: float) -> None:
        """It lives."""
        self._stuck_at = now + self._deadline

    def left(self, now: float) -> float | None:
        """Seconds until it counts as stuck, 0 where it does; None: it never will."""
        return max(self._stuck_at - now, 0.0) if self._deadline else None


class Restarts:
    """Delays before a replacement is started: none for the first, then doubling from 1 s to 30 s.

    It starts anew after a process that served for a minute. There is no limit to their number: a head may come back
    after a week, and until then the path has to give errors and not to look empty.
    """

    def __init__(self) -> None:
        self._next = 0.0

    def next_delay(self, served: float) -> float:
        """Seconds to wait, after a process that served for `served` seconds (0: it never began to)."""
        delay = 0.0 if served >= PROVEN else self._next
        self._next = min(max(delay * 2, FIRST_DELAY), LONGEST_DELAY)
        return delay
