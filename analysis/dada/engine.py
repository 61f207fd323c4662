"""Runs over the patches of a scan: what the store has is taken from it, the rest is computed and kept.

A run that is interrupted keeps what is finished; the next one goes on from there. A worker that dies costs its patch a
retry. A frame that cannot be used costs itself only. What is computed of a patch, and where it goes, is the `Target`'s
business: see `jobs` (sums of each frame) and `frame_jobs` (sums of each pixel).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dada.errors import DataChanged, DataError, Interrupted, UserError
from dada.patches import Damage
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


Callback = Callable[[Progress], None]


class Work(Protocol):
    """A patch: some frames that are computed, kept and retried together."""

    @property
    def first(self) -> int:
        """Number in the scan of the frame from which damages are counted; names the patch."""

    @property
    def count(self) -> int:
        """How many frames are read."""

    @property
    def stored_bytes(self) -> int:
        """Bytes of them as they are stored."""

    @property
    def label(self) -> str:
        """The file, for people."""


class Computed(Protocol):
    """What came of a patch."""

    @property
    def damages(self) -> Sequence[Damage]:
        """Frames that could not be used."""

    @property
    def keepable(self) -> bool:
        """Whether it is what computing it again from this version of the file would give."""


class Target(Protocol):
    """Where the results of a run go."""

    def take(self, patch: Any, store: ResultsStore | None) -> tuple[Sequence[Damage], tuple[Any, ...]]:
        """Take over what the store has of a patch: the damages found in it, and the parts that it lacks."""

    def accept(self, patch: Any, computed: Any) -> None:
        """Take over what was computed."""

    def records(self, patch: Any, computed: Any) -> Iterable[tuple[str, bytes]]:
        """(key, record) of everything that was computed."""

    def unreadable(self, patch: Any, parts: tuple[Any, ...], reason: str) -> Any:
        """What a patch comes to whose file cannot be opened at present."""


@dataclass
class _Run:
    """The state of one run."""

    scan: Scan
    target: Target
    store: ResultsStore | None
    notify: Callback
    progress: Progress = field(default_factory=Progress)
    reasons: dict[int, str] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)


def run_patches(
    scan: Scan,
    patches: Sequence[Work],
    wanted: np.ndarray,
    target: Target,
    *,
    store: ResultsStore | None,
    workers: Callable[[], Workers],
    notify: Callback = lambda progress: None,
) -> tuple[dict[int, str], Progress]:
    """Bring all patches to the target; the frames that could not be used, with the reason, and the account of the run.

    wanted: bool, one a frame of the scan. workers: called only when something is left to compute. notify: called
    at the beginning and after each patch. Raises Interrupted on Ctrl-C, DataChanged when a file changes meanwhile,
    UserError when a patch fails repeatedly.
    """
    state = _Run(scan, target, store, notify)
    state.reasons.update(missing_frames(scan, wanted))
    state.progress.patches = len(patches)
    state.progress.frames = sum(patch.count for patch in patches)
    notify(state.progress)
    missing = list(_take_from_store(state, patches))
    if missing:
        state.started = time.monotonic()
        team = workers()
        try:
            _compute(state, missing, team)
        finally:
            team.close()
    return state.reasons, state.progress


def damaged_frames(scan: Scan, reasons: dict[int, str], wanted: np.ndarray) -> tuple[DamagedFrame, ...]:
    """The wanted frames among those with a reason, ascending."""
    frames = sorted(frame for frame in reasons if wanted[frame])
    return tuple(DamagedFrame(frame, *scan.where(frame), reasons[frame]) for frame in frames)


def missing_frames(scan: Scan, wanted: np.ndarray) -> dict[int, str]:
    """The wanted frames whose files are missing, with the reason."""
    reasons: dict[int, str] = {}
    for segment in scan.segments:
        if segment.table is None:
            frames = np.flatnonzero(wanted[segment.first : segment.stop]) + segment.first
            reasons.update(dict.fromkeys(frames.tolist(), segment.reason))
    return reasons


def _take_from_store(state: _Run, patches: Iterable[Work]) -> Iterator[tuple[Work, tuple[Any, ...]]]:
    """Fill in what the store has; gives what it has not: patches and the parts they lack."""
    for patch in patches:
        damages, lacking = state.target.take(patch, state.store)
        _note(state, patch, damages)
        if lacking:
            yield patch, lacking
            continue
        state.progress.from_store += patch.count
        state.progress.patches_done += 1
        state.notify(state.progress)


def _compute(state: _Run, work: Iterable[tuple[Work, tuple[Any, ...]]], team: Workers) -> None:
    queue = list(work)[::-1]
    running: dict[Any, tuple[Work, tuple[Any, ...]]] = {}
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


def _keep_what_is_done(state: _Run, running: dict[Any, tuple[Work, tuple[Any, ...]]], team: Workers) -> None:
    """After Ctrl-C: patches that are being computed are waited for and kept, a second Ctrl-C ends that."""
    begun = {future: task for future, task in running.items() if not team.cancel(future)}
    for future, task in begun.items():
        try:
            _finish(state, task, future, team)
        except UserError:
            continue


def _finish(state: _Run, task: tuple[Work, tuple[Any, ...]], future: Any, team: Workers) -> bool:
    """Take a computed patch over; False when it has to be computed again."""
    patch, parts = task
    try:
        computed: Computed = team.result(future)
    except DataChanged:
        raise
    except WorkerDied as died:
        return _again(state, patch, died)
    except OSError as error:
        computed = state.target.unreadable(patch, parts, f"{patch.label} cannot be read: {error.strerror or error}")
    state.target.accept(patch, computed)
    _note(state, patch, computed.damages)
    if state.store is not None and computed.keepable:
        for key, record in state.target.records(patch, computed):
            state.store.put(key, record)
    _count(state, patch)
    return True


def _note(state: _Run, patch: Work, damages: Iterable[Damage]) -> None:
    for damage in damages:
        state.reasons[patch.first + damage.frame] = damage.reason


def _again(state: _Run, patch: Work, died: WorkerDied) -> bool:
    state.attempts[patch.first] = state.attempts.get(patch.first, 1) + 1
    state.progress.retries += 1
    if state.attempts[patch.first] > ATTEMPTS:
        raise DataError(
            f"the {patch.count} frames from {patch.first} on ended their worker {ATTEMPTS} times ({died}); "
            "look at its memory"
        )
    return False


def _count(state: _Run, patch: Work) -> None:
    progress = state.progress
    progress.computed += patch.count
    progress.patches_done += 1
    progress.damaged = len(state.reasons)
    progress.stored_bytes += patch.stored_bytes
    progress.seconds = time.monotonic() - state.started
    state.notify(progress)
