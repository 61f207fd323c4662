"""Who computes patches: threads of this process, or processes of this machine (Dask: `cluster.py`).

Threads are the default: reading and the kernel both release the interpreter lock. Processes pay where
frames are decoded by HDF5 (gzip, zstd, virtual datasets with holes), which has a lock of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from dada.chunk_index import HDF5
from dada.image_files import FABIO
from dada.patches import Part, Patch, PatchSums, compute
from dada.pixel_units import PixelPlan, Unit, UnitSums, compute_unit
from dada.plan import SumsPlan
from dada.scan import Scan

#: Reads that may be under way for each worker, so that the next batches arrive while one is reduced; `ahead` says how
#: many are wanted.
READS_PER_WORKER = 4


Plan = SumsPlan | PixelPlan


class WorkerDied(Exception):
    """The worker that had a patch is gone; another may try."""


def work(patch: Patch | Unit, plan: Plan, parts: tuple[Part, ...], readers: Executor) -> PatchSums | UnitSums:
    """What a worker does with a patch: sums of each frame, or of each pixel, as the plan says."""
    if isinstance(plan, PixelPlan):
        return compute_unit(patch, plan, readers)
    return compute(patch, plan, parts, readers)


class Workers(Protocol):
    """Computes patches of one plan, some at a time."""

    slots: int  # patches to have under way at once

    def submit(self, patch: Patch, parts: tuple[Part, ...]) -> Any:
        """Begin with a patch; what is returned is for `wait`, `result` and `cancel`."""

    def wait(self, running: Collection[Any]) -> Collection[Any]:
        """Those of `running` that are finished; blocks until one is."""

    def result(self, future: Any) -> PatchSums:
        """What came of a patch. Raises what the computation raised, WorkerDied when its worker is gone."""

    def cancel(self, future: Any) -> bool:
        """Do not begin with a patch; False when it is being computed already."""

    def close(self) -> None:
        """End the workers; patches that were not begun are forgotten."""


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def local_workers(scan: Scan, plan: Plan, jobs: int | None = None, processes: bool | None = None) -> Workers:
    """Workers on this machine: `jobs` of them (default: one a core), processes or threads (default: what suits)."""
    jobs = jobs or usable_cores()
    if processes is None:
        slow = any(segment.table and segment.table.codec in (HDF5, FABIO) for segment in scan.segments)
        processes = slow and jobs > 1
    return LocalProcesses(plan, jobs) if processes else LocalThreads(plan, jobs)


class _Local:
    """What threads and processes have in common."""

    def __init__(self, jobs: int) -> None:
        self.slots = 2 * jobs

    def wait(self, running: Collection[Future[PatchSums]]) -> Collection[Future[PatchSums]]:
        return wait(running, return_when=FIRST_COMPLETED).done

    def cancel(self, future: Future[PatchSums]) -> bool:
        return future.cancel()


class LocalThreads(_Local):
    """Threads of this process."""

    def __init__(self, plan: Plan, jobs: int) -> None:
        super().__init__(jobs)
        self._plan = plan
        self._pool = ThreadPoolExecutor(jobs, thread_name_prefix="reduce")
        self._readers = ThreadPoolExecutor(READS_PER_WORKER * jobs, thread_name_prefix="read")

    def submit(self, patch: Patch, parts: tuple[Part, ...]) -> Future[PatchSums]:
        return self._pool.submit(work, patch, self._plan, parts, self._readers)

    def result(self, future: Future[PatchSums]) -> PatchSums:
        return future.result()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._readers.shutdown(wait=True, cancel_futures=True)


class LocalProcesses(_Local):
    """Processes of this machine; when one dies the others are replaced too, and their patches raise WorkerDied."""

    def __init__(
        self, plan: Plan, jobs: int, task: Callable[[Patch, tuple[Part, ...]], PatchSums] | None = None
    ) -> None:
        """task: what a process does with a patch, if not `work` on it."""
        super().__init__(jobs)
        self._plan = plan
        self._jobs = jobs
        self._task = task or _compute_in_process
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._jobs, context, initializer=_prepare_process, initargs=(self._plan,))

    def submit(self, patch: Patch, parts: tuple[Part, ...]) -> Future[PatchSums]:
        try:
            return self._pool.submit(self._task, patch, parts)
        except BrokenProcessPool:
            self._pool.shutdown(wait=False)
            self._pool = self._start()
            return self._pool.submit(self._task, patch, parts)

    def result(self, future: Future[PatchSums]) -> PatchSums:
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise WorkerDied(str(error)) from error

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class _InProcess:
    """What a worker process keeps: its plan and its reading threads."""

    plan: Plan
    readers: Executor


def _prepare_process(plan: Plan) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    _InProcess.plan = plan
    _InProcess.readers = ThreadPoolExecutor(READS_PER_WORKER)


def _compute_in_process(patch: Patch, parts: tuple[Part, ...]) -> PatchSums:
    return work(patch, _InProcess.plan, parts, _InProcess.readers)
