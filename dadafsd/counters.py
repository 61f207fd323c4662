"""What the head counts: reads and bytes per tier, export and node, and everything out of the ordinary."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate

#: Where a fragment can be found beside the tiers of the store, which have names of their own.
MEMORY, ORIGIN = "memory", "origin"


@dataclass
class Tally:
    """Reads answered for one node of one export from one tier."""

    reads: int = 0
    bytes: int = 0


#: Upper bounds of the buckets of a histogram of waiting times, in seconds.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass
class Histogram:
    """How long something took, in buckets."""

    total: float = 0.0
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, int]]:
        """`(upper bound, how many took at most that)`, the last bound being `+Inf`."""
        bounds = [*map(str, BOUNDS), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


@dataclass
class Counters:
    """All counters of one head; they only grow."""

    served: dict[tuple[str, str, str], Tally] = field(default_factory=dict)  # (export, node, tier)
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)  # (export, kind of request)
    origin: Counter[tuple[str, str]] = field(default_factory=Counter)  # (export, what)
    events: Counter[str] = field(default_factory=Counter)
    late: Counter[tuple[str, str]] = field(default_factory=Counter)  # (export, tier): a prefetch was not there yet
    bypassed: Counter[str] = field(default_factory=Counter)  # by export: read from the origin and not kept
    waited: dict[str, Histogram] = field(default_factory=dict)  # tier: reads that had to wait

    def wait(self, tier: str, seconds: float) -> None:
        """A read waited for so long until `tier` could answer it."""
        histogram = self.waited.get(tier)
        if histogram is None:
            histogram = self.waited[tier] = Histogram()
        histogram.observe(seconds)

    def serve(self, export: str, node: str, tier: str, size: int) -> None:
        """A read of `size` bytes was answered from `tier`."""
        tally = self.served.get((export, node, tier))
        if tally is None:
            tally = self.served[export, node, tier] = Tally()
        tally.reads += 1
        tally.bytes += size

    def as_dict(self) -> dict[str, object]:
        """Everything, for the admin socket: nested plain dictionaries."""
        return {
            "served": [
                {"export": export, "node": node, "tier": tier, "reads": tally.reads, "bytes": tally.bytes}
                for (export, node, tier), tally in sorted(self.served.items())
            ],
            "requests": [
                {"export": export, "request": kind, "count": count}
                for (export, kind), count in sorted(self.requests.items())
            ],
            "origin": [
                {"export": export, "what": what, "count": count}
                for (export, what), count in sorted(self.origin.items())
            ],
            "events": dict(sorted(self.events.items())),
            "waited": {tier: dict(histogram.cumulative()) for tier, histogram in sorted(self.waited.items())},
        }
