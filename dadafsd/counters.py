"""What the head counts: reads and bytes per tier, export and node, and everything out of the ordinary."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

#: Where a fragment was found, best first.
TIERS = ("memory", "ssd", "origin")


@dataclass
class Tally:
    """Reads answered for one node of one export from one tier."""

    reads: int = 0
    bytes: int = 0


@dataclass
class Counters:
    """All counters of one head; they only grow."""

    served: dict[tuple[str, str, str], Tally] = field(default_factory=dict)  # (export, node, tier)
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)  # (export, kind of request)
    origin: Counter[tuple[str, str]] = field(default_factory=Counter)  # (export, what)
    events: Counter[str] = field(default_factory=Counter)

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
        }
