"""One fetch in flight that any number of readers may wait for: single flight per run of blocks."""

from __future__ import annotations

import trio

from dadafs.cached_file import CachedFile, Extent, Run, uncovered


class Flight:
    """An extent on its way. When `done`, `view` is its verified data, or `error` says why there is none."""

    __slots__ = ("_event", "done", "end", "error", "extent", "first", "kept", "prefetch", "view")

    def __init__(self, extent: Extent, *, prefetch: bool) -> None:
        self.extent = extent
        self.first = extent.first
        self.end = extent.end
        self.prefetch = prefetch
        self.done = False
        self.kept = False
        self.view: memoryview | None = None
        self.error: Exception | None = None
        self._event: trio.Event | None = None

    async def wait(self) -> None:
        """Return when it is done."""
        if not self.done:
            if self._event is None:
                self._event = trio.Event()
            await self._event.wait()

    def land(self) -> None:
        """It is done: wake whoever waits."""
        self.done = True
        if self._event is not None:
            self._event.set()


def taken_off(file: CachedFile, flight: Flight) -> None:
    """Readers of `file` find `flight` from now on."""
    file.flights.setdefault(flight.extent.fragment, []).append(flight)


def landed(file: CachedFile, flight: Flight) -> None:
    """`flight` is done and found no more."""
    row = file.flights.get(flight.extent.fragment)
    if row is not None and flight in row:
        row.remove(flight)
        if not row:
            del file.flights[flight.extent.fragment]
    flight.land()


def in_flight(file: CachedFile, fragment: int, first: int, end: int) -> list[Flight]:
    """The flights of the present version that bring some of the blocks `first` .. `end - 1`."""
    return [
        flight
        for flight in file.flights.get(fragment, ())
        if flight.first < end and first < flight.end and flight.extent.key[1] == file.epoch
    ]


def missing(file: CachedFile, fragment: int, first: int, end: int) -> list[Run]:
    """The runs of blocks that are neither held nor in flight."""
    gaps = file.missing(fragment, first, end)
    flights = in_flight(file, fragment, first, end)
    if not gaps or not flights:
        return gaps
    flying = [(flight.first, flight.end) for flight in flights]
    return [run for gap in gaps for run in uncovered(*gap, flying)]
