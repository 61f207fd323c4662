"""Fetches that no task waits for: begun in one step, ended by a function call when their reply is here.

A task for each read costs more than everything else about a read of a few KiB. What goes wrong here, a connection that
is lost, another version, damage, or a head that takes its time, is not dealt with: the read is done again by a task,
which knows how.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from dadafs.fetch import Fetcher
from dadafs.flight import Flight
from dadafs.remote_file import RemoteFile

log = logging.getLogger(__name__)

#: Reads under way at a time.
MOST = 256
#: A read that was not answered within this time is given to a task, which has the deadline of any other, in seconds.
PATIENCE = 1.0
#: The same for a prefetch, which nobody waits for: a slow network needs long for a window of megabytes.
AHEAD_PATIENCE = 10.0
TICK = 0.25


class _Late:
    """One fetch under way."""

    __slots__ = ("flight", "give_up", "over", "until")

    def __init__(self, flight: Flight, over: Callable[[bool | None], None], until: float) -> None:
        self.flight = flight
        self.over = over
        self.until = until
        self.give_up: Callable[[], bool] | None = None


class LateReads:
    """All such fetches of one mount; `run` must be running for those that are not answered."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._pending: dict[_Late, None] = {}
        self._running = False

    @property
    def full(self) -> bool:
        """Whether no more can be begun."""
        return not self._running or len(self._pending) >= MOST

    def begin(
        self,
        file: RemoteFile,
        flight: Flight,
        over: Callable[[bool | None], None],
        now: float,
        patience: float = PATIENCE,
    ) -> bool:
        """Ask for the flight's extent, `now`; False where that cannot be done at once.

        `over` is called once, later: with whether the extent is kept, `flight.view` its verified data, or with None
        where it was not filled, within `patience` seconds.
        """
        late = _Late(flight, over, now + patience)
        flight.view = flight.extent.view()
        late.give_up = self._fetcher.fill_now(file, flight.extent, lambda kept: self._filled(late, kept), now)
        if late.give_up is None:
            flight.view = None
            return False
        self._pending[late] = None
        return True

    def _filled(self, late: _Late, kept: bool | None) -> None:
        self._pending.pop(late, None)
        if kept is None:
            late.flight.view = None
        try:
            late.over(kept)
        except Exception:
            log.exception("cannot end a read")

    async def run(self) -> None:
        """Background task: give up what was not answered in time. Runs until cancelled."""
        self._running = True
        try:
            while True:
                await trio.sleep(TICK)
                self._give_up(trio.current_time())
        finally:
            self._running = False
            self._give_up(float("inf"))

    def _give_up(self, now: float) -> None:
        for late in list(self._pending):
            if late.until <= now and late.give_up is not None and late.give_up():
                self._filled(late, None)
