"""What a tier counts (promise P9: hit, miss, damaged, refused and evicted are separate numbers)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(slots=True)
class TierCounts:
    """Totals since the tier was opened; bytes are of data, without headers."""

    hits: int = 0
    hit_bytes: int = 0
    misses: int = 0  #: no record under that name
    bypassed: int = 0  #: not asked, because the tier is unstable or down
    damaged: int = 0  #: a record was there and was not what it should be
    inserted: int = 0
    inserted_bytes: int = 0
    evicted: int = 0
    evicted_bytes: int = 0  #: of space on disk
    evicted_unread: int = 0
    evicted_in_use: int = 0  #: while somebody had them open, because nothing else was left
    removed: int = 0  #: on request
    errors: int = 0  #: input/output errors met
    refused: dict[str, int] = field(default_factory=dict)  #: not kept, by reason
    #: `(export, what)`, what being `hit`, `miss`, `bypass` (not asked, or not kept) or `wasted` (evicted unread)
    by_export: dict[tuple[str, str], int] = field(default_factory=dict)

    def copy(self) -> TierCounts:
        """What it is now, for somebody who reads it later."""
        return replace(self, refused=dict(self.refused), by_export=dict(self.by_export))

    def refuse(self, reason: str, export: str = "") -> bool:
        """Count a refusal; False, for the caller to hand on."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        if export:
            self.note(export, "bypass")
        return False

    def note(self, export: str, what: str) -> None:
        """Count one of `by_export`."""
        self.by_export[export, what] = self.by_export.get((export, what), 0) + 1
