"""Counters of this node (promise P9): plain integers, read by status, `.dadafs/stats` and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dadafs.histogram import Histogram

#: Where a head finds data.
TIERS = ("memory", "ssd", "origin")


@dataclass(slots=True)
class Counters:
    """Everything this node counts. Increment the attributes directly; `snapshot` is for readers."""

    # reads, by how the RAM cache answered (each read of the kernel counts once)
    hit: int = 0
    miss: int = 0
    bypass: int = 0  # answered, but not kept in the RAM cache
    hit_bytes: int = 0
    miss_bytes: int = 0
    bypass_bytes: int = 0
    hot_reads: int = 0  # of all these: small ones here and there that the compiled part answered by itself
    # prefetch, in fragments
    prefetched: int = 0
    prefetch_used: int = 0
    late: int = 0  # a read had to wait for a prefetch in flight
    wasted: int = 0  # prefetched and evicted unread
    prefetch_refused: int = 0  # no room in the budget
    # small files opened before anybody asked for them
    opened_ahead: int = 0
    ahead_used: int = 0
    # what came over the wire, by the head's tier
    wire_bytes: int = 0
    fetched_memory: int = 0
    fetched_ssd: int = 0
    fetched_origin: int = 0
    blocks_unchanged: int = 0  # revalidated by checksum, not sent again
    # versions and damage
    version_changes: int = 0
    read_restarts: int = 0  # a read began again because the file changed under it
    checksum_errors: int = 0
    evicted: int = 0
    # session
    requests: int = 0
    retried_requests: int = 0
    failed_requests: int = 0  # answered with EIO because the head did not answer in time
    connects: int = 0
    disconnects: int = 0
    connect_failures: int = 0
    silent_heads: int = 0  # connections declared dead because keepalives were not answered
    pushes: int = 0
    leases_lost: int = 0
    # how long replies with data took, by the head's tier
    waits: dict[str, Histogram] = field(default_factory=dict)
    # errors by numbered site
    eio_sites: dict[str, int] = field(default_factory=dict)

    def eio(self, site: str) -> None:
        """Count one EIO at a numbered site."""
        self.eio_sites[site] = self.eio_sites.get(site, 0) + 1

    def fetched(self, tier: str, seconds: float) -> None:
        """Count one reply with blocks, by the head's tier that they came from and how long it took."""
        tier = tier if tier in TIERS else "origin"
        histogram = self.waits.get(tier)
        if histogram is None:
            histogram = self.waits[tier] = Histogram()
        histogram.observe(seconds)
        if tier == "memory":
            self.fetched_memory += 1
        elif tier == "ssd":
            self.fetched_ssd += 1
        else:
            self.fetched_origin += 1

    def fetched_many(self, tier: str, seconds: float, counts: Sequence[int]) -> None:
        """Count replies with blocks from one tier, by how long they took; together `seconds`."""
        if not any(counts):
            return
        histogram = self.waits.setdefault(tier, Histogram())
        histogram.total += seconds
        histogram.counts = [have + more for have, more in zip(histogram.counts, counts, strict=True)]
        name = f"fetched_{tier}"
        setattr(self, name, getattr(self, name) + sum(counts))

    def report(self) -> dict[str, int | float | str]:
        """What the head is told of this node with every keepalive."""
        return {name: getattr(self, name) for name in REPORTED}

    def snapshot(self) -> dict[str, int | dict[str, int]]:
        """All counters by name, without the histograms."""
        values = asdict(self)
        del values["waits"]
        return values

    def waited(self) -> dict[str, dict[str, Any]]:
        """By the head's tier: how many replies with data there were, `sum` of their seconds, cumulative `buckets`."""
        return {
            tier: {"count": sum(each.counts), "sum": each.total, "buckets": dict(each.cumulative())}
            for tier, each in list(self.waits.items())
        }


#: The counters that travel to the head.
REPORTED = (
    "hit",
    "miss",
    "bypass",
    "late",
    "wasted",
    "hit_bytes",
    "miss_bytes",
    "bypass_bytes",
    "prefetched",
    "wire_bytes",
    "checksum_errors",
    "failed_requests",
)
