"""Whether a file's timestamps can prove its version, or whether it changed too recently for that.

Two writes within one granule of the origin's clock leave the same timestamps, so bytes read in the same
granule as the last write prove nothing about later. Only a version that is older than a margin is *settled*
and may be kept. The same reasoning as the index of git ("racily clean" entries).

Each clock says itself what time it is (`now_ns`), because a step of this machine's clock means different things: it
moves the timestamps of a local origin as well, and leaves those of a server alone.
"""

from __future__ import annotations

import time

NANOSECONDS = 1_000_000_000


class LocalClock:
    """The origin's timestamps come from this machine's clock."""

    def __init__(self, margin_ns: int = 20_000_000) -> None:
        self.margin_ns = margin_ns

    def now_ns(self) -> int:
        """This machine's time, steps and all. After a step back, files from before it are in the future: unsettled."""
        return time.time_ns()

    def settled(self, mtime_ns: int, ctime_ns: int, now_ns: int) -> bool:
        """Whether a file with these times, looked at when our clock says `now_ns`, has a proven version.

        A modification time in the future was set by hand and says nothing; the change time cannot be set.
        """
        newest = max(ctime_ns, mtime_ns) if mtime_ns <= now_ns else ctime_ns
        return now_ns - newest >= self.margin_ns


class ForeignClock:
    """The origin's timestamps come from a server whose clock may differ from ours by up to `skew_ns`.

    What is older than the margin plus the worst skew is settled. For younger files the server's clock is
    estimated from below: it has reached every timestamp that it ever gave, and has run on since.
    """

    def __init__(self, margin_ns: int = 2 * NANOSECONDS, skew_ns: int = 60 * NANOSECONDS) -> None:
        self.margin_ns = margin_ns
        self.skew_ns = skew_ns
        self._lag_ns: int | None = None  # the server's clock is at least our clock minus this
        self._start_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def now_ns(self) -> int:
        """This machine's time as it was at the start, running on: a step of hours would look like a skew of hours."""
        return self._start_ns + time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def settled(self, mtime_ns: int, ctime_ns: int, now_ns: int) -> bool:
        """As `LocalClock.settled`; also learns from the times it is shown."""
        newest = max(ctime_ns, mtime_ns) if mtime_ns <= now_ns else ctime_ns
        age = now_ns - newest
        if age >= self.margin_ns + self.skew_ns:
            return True
        self._lag_ns = age if self._lag_ns is None else min(self._lag_ns, age)
        return age - max(self._lag_ns, 0) >= self.margin_ns and age >= self.margin_ns
