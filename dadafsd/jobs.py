"""Long tasks of an admin (warming, verifying): numbered, with progress, and cancellable."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from dadafs.errors import UserError

log = logging.getLogger(__name__)
#: Jobs that run at a time, and ended ones that are remembered.
MAX_RUNNING = 8
REMEMBERED = 100


@dataclass(eq=False)
class Job:
    """One task with what it has done so far; `total` grows while the work is being found."""

    id: int
    kind: str
    target: str
    started_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    state: str = "running"  # done, failed, cancelled
    message: str = ""
    done: int = 0
    total: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope, repr=False)

    def problem(self, text: str) -> None:
        """Something that did not stop the job; the first hundred are kept."""
        if len(self.problems) < 100:
            self.problems.append(text)

    def as_dict(self) -> dict[str, Any]:
        """For the admin socket."""
        names = ("id", "kind", "target", "started_at", "ended_at", "state", "message", "done", "total", "bytes")
        return {**{name: getattr(self, name) for name in names}, "problems": list(self.problems)}


class Jobs:
    """All jobs of a head."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._jobs: OrderedDict[int, Job] = OrderedDict()
        self._last = 0

    def start(self, kind: str, target: str, work: Callable[[Job], Awaitable[None]]) -> Job:
        """Begin `work`. Raises UserError where too many jobs are running."""
        if sum(job.state == "running" for job in self._jobs.values()) >= MAX_RUNNING:
            raise UserError(f"{MAX_RUNNING} jobs are running already: wait for one, or cancel it.")
        self._last += 1
        job = self._jobs[self._last] = Job(self._last, kind, target)
        for old in [one for one in self._jobs.values() if one.state != "running"][:-REMEMBERED]:
            del self._jobs[old.id]
        self._nursery.start_soon(self._run, job, work)
        return job

    async def _run(self, job: Job, work: Callable[[Job], Awaitable[None]]) -> None:
        try:
            with job.scope:
                await work(job)
                job.state = "done"
            if job.scope.cancelled_caught:
                job.state = "cancelled"
        except (OSError, UserError) as error:
            job.state, job.message = "failed", _sentence(error)
        except Exception as error:
            log.exception("job %d (%s %s) failed", job.id, job.kind, job.target)
            job.state, job.message = "failed", repr(error)
        finally:
            job.ended_at = time.time()

    def get(self, number: int) -> Job:
        """The job of that number. Raises UserError."""
        try:
            return self._jobs[number]
        except KeyError:
            raise UserError(f"There is no job {number}.") from None

    def all(self) -> list[Job]:
        """Every job that is remembered, oldest first."""
        return list(self._jobs.values())


def _sentence(error: Exception) -> str:
    """An error for a person: an OSError without its number."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
