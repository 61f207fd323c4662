"""Sums of each frame of a scan: a plan run over its patches, with the results store between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dada.engine import Callback, DamagedFrame, Progress, damaged_frames, run_patches
from dada.kernels import FrameSums, Status
from dada.patches import Damage, Part, Patch, PatchSums, from_record, key_of, patches_of, to_records, unreadable
from dada.plan import MOMENTS, SumsPlan, TableSums
from dada.results.store import ResultsStore
from dada.scan import Scan
from dada.workers import Workers


@dataclass
class ScanSums:
    """Sums of every frame of a scan; frames that were not wanted or not readable have a status other than 0.

    sums: the scalars (its bins and ROIs are empty); tables: those of each part, see `plan.share`.
    damaged: wanted frames without sums, ascending.
    """

    sums: FrameSums
    tables: TableSums
    damaged: tuple[DamagedFrame, ...]
    progress: Progress


def run(
    scan: Scan,
    plan: SumsPlan,
    wanted: np.ndarray,
    *,
    store: ResultsStore | None,
    workers: Callable[[], Workers],
    notify: Callback = lambda progress: None,
) -> ScanSums:
    """Sums of the wanted frames (bool, one a frame of the scan) and of the others in a patch most of which is wanted.

    workers: called only when something is left to compute. notify: called after each patch. Raises what
    `engine.run_patches` raises.
    """
    found = _Sums(plan, scan.n_frames)
    patches = list(patches_of(scan, wanted))
    reasons, progress = run_patches(scan, patches, wanted, found, store=store, workers=workers, notify=notify)
    for frame in reasons:  # also where only one part of the sums could not be computed
        found.sums.status[frame] = found.sums.status[frame] or Status.EMPTY
    return ScanSums(found.sums, found.tables, damaged_frames(scan, reasons, wanted), progress)


class _Sums:
    """Where the sums of a scan's frames are put together: an `engine.Target`."""

    def __init__(self, plan: SumsPlan, n_frames: int) -> None:
        self.plan = plan
        self.sums = FrameSums.zeros(n_frames)
        self.sums.status[:] = Status.EMPTY
        widths = {part: part.width for part in plan.parts if part.family != MOMENTS}
        self.tables: TableSums = {
            part: tuple(np.zeros((2, n_frames, width), np.int64)) for part, width in widths.items()
        }

    def take(self, patch: Patch, store: ResultsStore | None) -> tuple[Sequence[Damage], tuple[Part, ...]]:
        parts = self.plan.parts
        if store is None:
            return (), parts
        forms = [patch] if patch.stretch.chosen is None else [patch, patch.whole]
        keys = [(part, form, key_of(form, self.plan, part)) for part in parts for form in forms]
        records = store.get_many(key for _, _, key in keys)
        damages: list[Damage] = []
        lacking = dict.fromkeys(parts)
        for part, form, key in keys:
            found = from_record(form, part, records[key]) if part in lacking and key in records else None
            if found is not None:
                self.accept(form, found)
                damages += found.damages
                del lacking[part]
        return damages, tuple(lacking)

    def accept(self, patch: Patch, found: PatchSums) -> None:
        """Put parts of a patch's sums where they belong in the scan's."""
        whole = patch.stretch.chosen is None
        rows = slice(patch.first, patch.first + patch.count) if whole else np.add(patch.offsets, patch.first)
        for name, values in (found.scalars or {}).items():
            getattr(self.sums, name)[rows] = values
        for part, (total, count) in found.tables.items():
            self.tables[part][0][rows] = total
            self.tables[part][1][rows] = count

    def records(self, patch: Patch, computed: PatchSums) -> Iterator[tuple[str, bytes]]:
        return to_records(patch, self.plan, computed)

    def unreadable(self, patch: Patch, parts: tuple[Part, ...], reason: str) -> PatchSums:
        return unreadable(patch, parts, reason)
