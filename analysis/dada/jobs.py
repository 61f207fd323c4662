"""Runs a plan over a scan: what the store has is taken from it, the rest is computed patch by patch and kept.

A run that is interrupted keeps what is finished; the next one goes on from there. A worker that dies costs its patch a
retry. A frame that cannot be used costs itself only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dada.errors import DataChanged, DataError, Interrupted, UserError
from dada.kernels import FrameSums, Status
from dada.patches import Part, Patch, PatchSums, from_record, key_of, patches_of, to_records, unreadable
from dada.plan import MOMENTS, SumsPlan, TableSums
from dada.results.store import ResultsStore
from dada.scan import Scan
from dada.workers import WorkerDied, Workers

#: How often a patch is given to a worker before the run gives up.
ATTEMPTS = 3


@dataclass(frozen=True)
class DamagedFrame:
    """A frame whose point of the map is NaN, and why."""

    frame: int
    path: Path
    dataset: str
    number: int  # within the dataset
    reason: str

    def __str__(self) -> str:
        return f"frame {self.frame} ({self.path.name}{self.dataset} number {self.number}): {self.reason}"


@dataclass
class Progress:
    """How far a run is; `frames` is what the map needs, in whole patches."""

    frames: int = 0
    from_store: int = 0
    computed: int = 0
    damaged: int = 0
    patches: int = 0
    patches_done: int = 0
    retries: int = 0
    stored_bytes: int = 0  # compressed bytes of the computed frames
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """Frames that are finished, whichever way."""
        return self.from_store + self.computed

    @property
    def rate(self) -> float:
        """Computed frames per second."""
        return self.computed / self.seconds if self.seconds > 0 else 0.0


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


Callback = Callable[[Progress], None]


@dataclass
class _Run:
    """The state of one run."""

    scan: Scan
    plan: SumsPlan
    store: ResultsStore | None
    sums: FrameSums
    tables: TableSums
    notify: Callback
    progress: Progress = field(default_factory=Progress)
    reasons: dict[int, str] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)


def run(
    scan: Scan,
    plan: SumsPlan,
    wanted: np.ndarray,
    *,
    store: ResultsStore | None,
    workers: Callable[[], Workers],
    notify: Callback = lambda progress: None,
) -> ScanSums:
    """Sums of the wanted frames (bool, one a frame of the scan) and of their neighbours in the same patches.

    workers: called only when something is left to compute. notify: called after each patch.
    Raises Interrupted on Ctrl-C, DataChanged when a file changes meanwhile, UserError when a patch fails repeatedly.
    """
    sums = FrameSums.zeros(scan.n_frames)
    sums.status[:] = Status.EMPTY
    widths = {part: part.width for part in plan.parts if part.family != MOMENTS}
    tables = {part: tuple(np.zeros((2, scan.n_frames, width), np.int64)) for part, width in widths.items()}
    state = _Run(scan, plan, store, sums, tables, notify)
    _note_missing_files(state, wanted)
    patches = list(patches_of(scan, wanted))
    state.progress.patches = len(patches)
    state.progress.frames = sum(patch.count for patch in patches)
    missing = _take_from_store(state, patches)
    if missing:
        state.started = time.monotonic()
        team = workers()
        try:
            _compute(state, missing, team)
        finally:
            team.close()
    return ScanSums(sums, tables, _damaged_frames(state, wanted), state.progress)


def _note_missing_files(state: _Run, wanted: np.ndarray) -> None:
    for segment in state.scan.segments:
        if segment.table is None:
            frames = np.flatnonzero(wanted[segment.first : segment.stop]) + segment.first
            state.reasons.update(dict.fromkeys(frames.tolist(), segment.reason))


def _take_from_store(state: _Run, patches: list[Patch]) -> list[tuple[Patch, tuple[Part, ...]]]:
    """Fill in what the store has; returns what it has not: patches and the parts they lack."""
    missing = []
    for patch in patches:
        lacking = _take_patch(state, patch)
        if lacking:
            missing.append((patch, lacking))
        else:
            state.progress.from_store += patch.count
            state.progress.patches_done += 1
            state.notify(state.progress)
    return missing


def _take_patch(state: _Run, patch: Patch) -> tuple[Part, ...]:
    parts = state.plan.parts
    if state.store is None:
        return parts
    keys = {part: key_of(patch, state.plan, part) for part in parts}
    records = state.store.get_many(keys.values())
    lacking = []
    for part, key in keys.items():
        found = from_record(patch, part, records[key]) if key in records else None
        if found is None:
            lacking.append(part)
        else:
            _fill_in(state, patch, found)
    return tuple(lacking)


def _compute(state: _Run, work: Iterable[tuple[Patch, tuple[Part, ...]]], team: Workers) -> None:
    queue = list(work)[::-1]
    running: dict[Any, tuple[Patch, tuple[Part, ...]]] = {}
    try:
        while queue or running:
            while queue and len(running) < team.slots:
                task = queue.pop()
                running[team.submit(*task)] = task
            for future in team.wait(running.keys()):
                task = running[future]
                if not _finish(state, task, future, team):
                    queue.append(task)
                del running[future]
    except KeyboardInterrupt:
        _keep_what_is_done(state, running, team)
        progress = state.progress
        raise Interrupted(progress.done, progress.frames, state.store is not None) from None


def _keep_what_is_done(state: _Run, running: dict[Any, tuple[Patch, tuple[Part, ...]]], team: Workers) -> None:
    """After Ctrl-C: patches that are being computed are waited for and kept, a second Ctrl-C ends that."""
    begun = {future: task for future, task in running.items() if not team.cancel(future)}
    for future, task in begun.items():
        try:
            _finish(state, task, future, team)
        except UserError:
            continue


def _finish(state: _Run, task: tuple[Patch, tuple[Part, ...]], future: Any, team: Workers) -> bool:
    """Take a computed patch over; False when it has to be computed again."""
    patch, parts = task
    try:
        computed = team.result(future)
    except DataChanged:
        raise
    except WorkerDied as died:
        return _again(state, patch, died)
    except OSError as error:
        computed = unreadable(patch, parts, f"{patch.stretch.path.name} cannot be read: {error.strerror or error}")
    _fill_in(state, patch, computed)
    if state.store is not None and computed.keepable:
        for key, record in to_records(patch, state.plan, computed):
            state.store.put(key, record)
    _count(state, patch)
    return True


def _again(state: _Run, patch: Patch, died: WorkerDied) -> bool:
    state.attempts[patch.first] = state.attempts.get(patch.first, 1) + 1
    state.progress.retries += 1
    if state.attempts[patch.first] > ATTEMPTS:
        last = patch.first + patch.count - 1
        raise DataError(
            f"frames {patch.first}..{last} ended their worker {ATTEMPTS} times ({died}); look at its memory"
        )
    return False


def _count(state: _Run, patch: Patch) -> None:
    progress = state.progress
    progress.computed += patch.count
    progress.patches_done += 1
    progress.damaged = len(state.reasons)
    progress.stored_bytes += int(np.maximum(patch.stretch.table.sizes[:, patch.stretch.channel], 0).sum())
    progress.seconds = time.monotonic() - state.started
    state.notify(progress)


def _fill_in(state: _Run, patch: Patch, found: PatchSums) -> None:
    """Put parts of a patch's sums where they belong in the scan's."""
    rows = slice(patch.first, patch.first + patch.count)
    for name, values in (found.scalars or {}).items():
        getattr(state.sums, name)[rows] = values
    for part, (total, count) in found.tables.items():
        state.tables[part][0][rows] = total
        state.tables[part][1][rows] = count
    for damage in found.damages:
        state.reasons[patch.first + damage.frame] = damage.reason


def _damaged_frames(state: _Run, wanted: np.ndarray) -> tuple[DamagedFrame, ...]:
    found = []
    for frame in state.reasons:  # also where only one part of the sums could not be computed
        state.sums.status[frame] = state.sums.status[frame] or Status.EMPTY
    for frame in sorted(frame for frame in state.reasons if wanted[frame]):
        path, dataset, number = state.scan.where(frame)
        found.append(DamagedFrame(frame, path, dataset, number, state.reasons[frame]))
    return tuple(found)
