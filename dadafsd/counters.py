"""What the head counts: reads and bytes per tier, export and node, and everything out of the ordinary."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import asdict, dataclass, field

from dadafs.histogram import Histogram
from dadafsd.policy.scans import scan_of

#: Where a fragment can be found beside the tiers of the store, which have names of their own.
MEMORY, ORIGIN = "memory", "origin"


@dataclass
class Tally:
    """Reads answered for one node of one export from one tier; `waits` of them had to wait for `seconds` together."""

    reads: int = 0
    bytes: int = 0
    waits: int = 0
    seconds: float = 0.0


@dataclass
class ScanTally:
    """Reads of one scan; `waits` of them had to wait for `seconds` together. `tiers`: bytes by who answered."""

    reads: int = 0
    bytes: int = 0
    waits: int = 0
    seconds: float = 0.0
    tiers: dict[str, int] = field(default_factory=dict)


#: Scans that are counted at a time; the one opened longest ago is forgotten first.
SCANS = 2048


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
    scans: OrderedDict[tuple[str, str], ScanTally] = field(default_factory=OrderedDict)  # (export, scan)

    def scan(self, export: str, path: bytes) -> ScanTally:
        """What is counted for the scan that a file belongs to."""
        key = export, scan_of(path)
        tally = self.scans.get(key)
        if tally is None:
            tally = self.scans[key] = ScanTally()
            if len(self.scans) > SCANS:
                self.scans.popitem(last=False)
        else:
            self.scans.move_to_end(key)
        return tally

    def wait(self, export: str, node: str, tier: str, seconds: float) -> None:
        """A read that was just served had waited for so long until `tier` could answer it."""
        tally = self.served[export, node, tier]
        tally.waits += 1
        tally.seconds += seconds
        histogram = self.waited.get(tier)
        if histogram is None:
            histogram = self.waited[tier] = Histogram()
        histogram.observe(seconds)

    def serve(self, export: str, node: str, tier: str, size: int) -> None:
        """A read of `size` bytes was answered from `tier`."""
        tally = self.tally(export, node, tier)
        tally.reads += 1
        tally.bytes += size

    def tally(self, export: str, node: str, tier: str) -> Tally:
        """What is counted of the reads of one node that `tier` answers."""
        tally = self.served.get((export, node, tier))
        if tally is None:
            tally = self.served[export, node, tier] = Tally()
        return tally

    def as_dict(self) -> dict[str, object]:
        """Everything, for the admin socket: nested plain dictionaries."""
        return {
            "served": [
                {"export": export, "node": node, "tier": tier, **asdict(tally)}
                for (export, node, tier), tally in sorted(self.served.items())
            ],
            "scans": [
                {"export": export, "scan": scan, **asdict(tally)} for (export, scan), tally in self.scans.items()
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
