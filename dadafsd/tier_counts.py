"""Hits, misses, bypasses, late and wasted prefetches, per tier and export, from where each of them is counted.

The loop counts what was answered from where, the store what it was asked for: a record that is kept open is read many
times and looked up once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal, TypedDict

from dadafsd.counters import MEMORY, ORIGIN, Counters
from dadafsd.store_access import StoreAccess

RESULTS: tuple[Literal["hit", "miss", "bypass", "late", "wasted"], ...] = ("hit", "miss", "bypass", "late", "wasted")


class TierRow(TypedDict):
    """What one tier did for one export since the head was started; None where there is no such thing."""

    export: str
    tier: str
    hit: int  # reads answered
    miss: int | None  # asked and not there
    bypass: int | None  # not asked, or what was read is not kept
    late: int  # reads that found their prefetch still under way
    wasted: int | None  # evicted unread


def tier_rows(counters: Counters, store: StoreAccess | None, exports: Iterable[str]) -> list[TierRow]:
    """One row for each export and tier that it uses, memory first and the origin last. Takes no time."""
    answered: Counter[tuple[str, str]] = Counter()
    for (export, _, tier), tally in list(counters.served.items()):
        answered[export, tier] += tally.reads
    rows = []
    for export in exports:
        elsewhere = sum(count for (name, tier), count in answered.items() if name == export and tier != MEMORY)
        rows.append(_row(counters, answered, export, MEMORY, miss=elsewhere))
        for name, counts in _counts(store, export):
            found = {what: counts.get((export, what), 0) for what in ("miss", "bypass", "wasted")}
            rows.append(_row(counters, answered, export, name, **found))
        rows.append(_row(counters, answered, export, ORIGIN, bypass=counters.bypassed[export]))
    return rows


def _row(
    counters: Counters,
    answered: Counter[tuple[str, str]],
    export: str,
    tier: str,
    *,
    miss: int | None = None,
    bypass: int | None = None,
    wasted: int | None = None,
) -> TierRow:
    return TierRow(
        export=export,
        tier=tier,
        hit=answered[export, tier],
        miss=miss,
        bypass=bypass,
        late=counters.late[export, tier],
        wasted=wasted,
    )


def _counts(store: StoreAccess | None, export: str) -> list[tuple[str, dict[tuple[str, str], int]]]:
    if store is None:
        return []
    used = store.store.used_by(export)
    tiers = {tier.name: tier for tier in store.store.tiers}
    return [(name, tiers[name].totals().by_export) for name in used if name in tiers]
