"""How patient the node is with its head: back-off, the circuit breaker, and when silence means death
(sans-IO).

All times are monotonic seconds given by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable

FIRST_DELAY = 0.05
LONGEST_DELAY = 2.0
#: A request that finds the head down for longer than `retry` waits no longer than this.
IMPATIENT = 0.5
#: What an outage of just `retry` seconds takes beyond that until the head is connected again.
GRACE = LONGEST_DELAY + 1.0
#: A head is given this long to answer a keepalive, however short `freshness` is: a busy head on a loaded
#: machine stalls for a second or two, and declaring it dead costs the session, its leases and its handles.
SHORTEST_SILENCE = 5.0


class Backoff:
    """Delays between attempts to connect: doubling from 50 ms to 2 s, with jitter so that nodes do not march
    in step.

    `random` gives floats in [0, 1); a delay lies between half and the whole of its nominal value.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._nominal = FIRST_DELAY

    def next_delay(self) -> float:
        """Seconds to wait before the next attempt, after one that failed."""
        nominal = self._nominal
        self._nominal = min(nominal * 2, LONGEST_DELAY)
        return nominal * (0.5 + 0.5 * self._random())

    def succeeded(self) -> None:
        """A connection stood: the next failure starts from the shortest delay again."""
        self._nominal = FIRST_DELAY


class Circuit:
    """How long a request may wait, given how long the head has been away.

    Closed while the head answers: a request waits `retry` seconds. While it is away a request waits until
    it has been away for `retry` (and `GRACE`), after that for only `IMPATIENT` seconds: nothing piles up
    behind a head that is not coming back, and a read(2) that the kernel tries again after an error, page
    by page, does not take `retry` once more. With `hard` every request waits for ever.
    """

    def __init__(self, retry: float, *, hard: bool = False) -> None:
        if retry < 0:
            raise ValueError("retry must not be negative")
        self.retry = retry
        self.hard = hard
        self.down_since: float | None = None

    def lost(self, now: float) -> None:
        """The head was found to be away; the first such moment of an outage counts."""
        if self.down_since is None:
            self.down_since = now

    def restored(self) -> None:
        """The head answers."""
        self.down_since = None

    def deadline(self, now: float) -> float:
        """The moment at which a request that arrives `now` gives up."""
        if self.hard:
            return math.inf
        if self.down_since is None:
            return now + self.retry
        return max(now + min(IMPATIENT, self.retry), min(now, self.down_since + GRACE) + self.retry)


def silence_limit(keepalive_interval: float, retry: float) -> float:
    """Seconds without any sign of life after which a connection is dead.

    Several keepalives must have gone unanswered, and a busy head must have had time to catch up; but an
    outage has to leave room for two more attempts within `retry`.
    """
    patient = max(SHORTEST_SILENCE, 10 * keepalive_interval)
    return min(patient, retry / 3) if retry > 0 else patient
