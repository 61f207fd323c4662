"""What an admin says about one tier: where, how much, when to evict, how much to leave free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dadafs.errors import ExitCode, UserError

SYNC_NONE = "none"
SYNC_DATA = "data"
KIND_SSD = "ssd"
KIND_RAM = "ram"


@dataclass(frozen=True, slots=True)
class TierSettings:
    """One directory of the store. Sizes in bytes, watermarks as fractions of `size`."""

    directory: Path
    size: int
    high: float = 0.97  #: eviction begins when more than this part of `size` is used
    low: float = 0.93  #: and ends at this part
    floor: int = 0  #: free space of the file system that is never touched
    name: str = "ssd"
    sync: str = SYNC_NONE  #: `data`: fdatasync before a record gets its name (docs/decisions-store.md)
    kind: str = KIND_SSD  #: `ram`: a directory in memory (tmpfs), asked before all others

    def check(self) -> None:
        """Raises `UserError(USAGE)` for values that make no sense."""
        if self.size < 4 * 1024 * 1024:
            raise UserError(f"Tier {self.name} has a size below 4 MiB: give it more.", ExitCode.USAGE)
        if not 0.0 < self.low <= self.high <= 1.0:
            raise UserError(
                f"Tier {self.name} has watermarks low {self.low} and high {self.high}:"
                " they must be above 0, at most 1, and low must not exceed high.",
                ExitCode.USAGE,
            )
        if self.floor < 0:
            raise UserError(f"Tier {self.name} has a negative free-space floor.", ExitCode.USAGE)
        if self.sync not in (SYNC_NONE, SYNC_DATA):
            raise UserError(f"Tier {self.name} has sync {self.sync!r}: it must be 'none' or 'data'.", ExitCode.USAGE)
        if self.kind not in (KIND_SSD, KIND_RAM):
            raise UserError(f"Tier {self.name} has kind {self.kind!r}: it must be 'ssd' or 'ram'.", ExitCode.USAGE)
