"""Patches on the workers of a Dask cluster: the same interface as the local ones, `--cluster tcp://SCHEDULER:8786`.

The workers read the same files under the same paths. The plan (masks and tables) is sent to them once. Dask itself
gives the tasks of a worker that died to another one; one that keeps dying comes back as `WorkerDied`.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dada.errors import UsageError, UserError
from dada.patches import Part, Patch, PatchSums
from dada.pixel_units import Unit, UnitSums
from dada.workers import READS_PER_WORKER, Plan, WorkerDied, work

_SCHEMES = ("tcp://", "tls://", "inproc://")
_CONNECT_S = 10
_PATCHES_PER_THREAD = 2

_readers: ThreadPoolExecutor | None = None
_readers_lock = threading.Lock()


class DaskWorkers:
    """The workers of the cluster whose scheduler is at `address`. Raises UserError when it does not answer."""

    def __init__(self, address: str, plan: Plan) -> None:
        try:
            import distributed
        except ImportError:
            raise UsageError("--cluster needs Dask: pip install distributed") from None
        if not address.startswith(_SCHEMES):
            raise UsageError(f"'{address}' is no Dask scheduler; write tcp://HOST:8786")
        self._distributed = distributed
        try:
            self._client = distributed.Client(address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"no Dask scheduler answers at {address} ({error}); start one with `dask scheduler`"
            ) from None
        threads = sum(self._client.nthreads().values())
        if threads == 0:
            self._client.close()
            raise UserError(f"the Dask cluster at {address} has no workers; start some with `dask worker {address}`")
        self.slots = _PATCHES_PER_THREAD * threads
        self._plan = self._client.scatter(plan, broadcast=True, hash=False)

    def submit(self, patch: Patch, parts: tuple[Part, ...]) -> Any:
        return self._client.submit(_TASK, patch, self._plan, parts, pure=False)

    def wait(self, running: Collection[Any]) -> Collection[Any]:
        with self._client.as_current():
            return self._distributed.wait(list(running), return_when="FIRST_COMPLETED").done

    def result(self, future: Any) -> PatchSums:
        try:
            return future.result()
        except self._distributed.KilledWorker as error:
            raise WorkerDied(str(error)) from error

    def cancel(self, future: Any) -> bool:
        if future.done():
            return False
        future.cancel()
        return True

    def close(self) -> None:
        self._client.close()


def _compute_on_worker(patch: Patch | Unit, plan: Plan, parts: tuple[Part, ...]) -> PatchSums | UnitSums:
    return work(patch, plan, parts, _worker_readers())


#: What a worker does with a patch.
_TASK = _compute_on_worker


def _worker_readers() -> ThreadPoolExecutor:
    """Reading threads of this worker process, for all its threads."""
    global _readers
    with _readers_lock:
        if _readers is None:
            _readers = ThreadPoolExecutor(2 * READS_PER_WORKER)
        return _readers
