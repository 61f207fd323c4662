"""Blocking calls in a bounded number of threads, each with a deadline; demand before prefetch.

A call that never returns (an NFS server that is gone) keeps its thread and its slot, and nothing else:
whoever waits for it fails by the deadline, the loop never waits, and calls for other exports have pools of
their own. The threads are daemons, so that a hung one cannot keep the process from ending. Cheaper than
`trio.to_thread` because threads are kept and there is no cancel scope a call: one task enforces all
deadlines.

All state belongs to the loop; a worker thread touches only its job and the two queues.
"""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import outcome
import trio

from dadafsd.policy.slots import Slots
from dadafsd.sites import Failure, Site

Result = TypeVar("Result")
#: How often deadlines are looked at, in seconds.
TICK = 0.1


class _Job:
    __slots__ = ("args", "deadline", "function", "prefetch", "result", "started", "task")

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], task: trio.lowlevel.Task, deadline: float
    ) -> None:
        self.function = function
        self.args = args
        self.task: trio.lowlevel.Task | None = task  # None: nobody waits any more
        self.deadline = deadline
        self.prefetch = False
        self.started = False
        self.result: outcome.Outcome[Any] | None = None


class Ticket:
    """Names a call that may have to be made more urgent (`OriginPool.promote`)."""

    __slots__ = ("job",)

    def __init__(self) -> None:
        self.job: _Job | None = None


class OriginPool:
    """At most `slots` calls at a time, prefetch at most half of them.

    Each answers or fails within `deadline` seconds. `become` is called once in each thread, before its first call.
    """

    def __init__(
        self, name: str, slots: int = 16, deadline: float = 15.0, become: Callable[[], None] | None = None
    ) -> None:
        self.name = name
        self.deadline = deadline
        self.timeouts = 0
        self._become = become
        self._slots: Slots[_Job] = Slots(slots, max(1, slots // 2))
        self._jobs: dict[_Job, None] = {}  # every job somebody waits for
        self._work: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._threads = 0
        self._idle = 0
        self._token = trio.lowlevel.current_trio_token()

    @property
    def stuck(self) -> int:
        """Slots held by calls that nobody waits for any more."""
        waited_for = sum(1 for job in self._jobs if job.started)
        return self._slots.busy - waited_for

    @property
    def busy(self) -> int:
        """Slots in use."""
        return self._slots.busy

    @property
    def waiting(self) -> int:
        """Calls without a slot."""
        return self._slots.waiting

    async def run(
        self,
        function: Callable[..., Result],
        *args: Any,
        prefetch: bool = False,
        deadline: float | None = None,
        ticket: Ticket | None = None,
    ) -> Result:
        """`function(*args)` in a thread. Raises `Failure(EIO)` at the deadline, and what the function raises.

        What a function returns after its deadline is dropped, so it must own its resources (`Descriptor`
        does).
        """
        limit = trio.current_time() + (self.deadline if deadline is None else deadline)
        job = _Job(function, args, trio.lowlevel.current_task(), limit)
        self._jobs[job] = None
        if ticket is not None:
            ticket.job = job
        self._slots.submit(job, prefetch=prefetch)
        self._dispatch()

        def abort(_: Callable[[], object]) -> trio.lowlevel.Abort:
            self._give_up(job)
            return trio.lowlevel.Abort.SUCCEEDED

        result: Result = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    def promote(self, ticket: Ticket) -> None:
        """Somebody waits for a call that was begun as prefetch: it is demand from now on."""
        job = ticket.job
        if job is not None and job.task is not None and not job.started and self._slots.withdraw(job):
            self._slots.submit(job, prefetch=False)
            self._dispatch()

    async def enforce_deadlines(self) -> None:
        """Fail every call that is past its deadline; run this as a task for as long as the pool is used."""
        while True:
            await trio.sleep(TICK)
            now = trio.current_time()
            for job in [job for job in self._jobs if job.deadline <= now]:
                self._expire(job)

    def _expire(self, job: _Job) -> None:
        task, started = job.task, job.started
        self._give_up(job)
        self.timeouts += 1
        site = Site.ORIGIN_DEADLINE if started else Site.ORIGIN_BUSY
        message = f"{self.name} did not answer in time" if started else f"all calls to {self.name} hang"
        if task is not None:
            trio.lowlevel.reschedule(task, outcome.Error(Failure(errno.EIO, site, message)))

    def _give_up(self, job: _Job) -> None:
        job.task = None
        self._jobs.pop(job, None)
        if not job.started:
            self._slots.withdraw(job)

    def _dispatch(self) -> None:
        while (chosen := self._slots.next()) is not None:
            job, prefetch = chosen
            job.prefetch = prefetch
            job.started = True
            if self._idle == 0 and self._threads < self._slots.total:
                self._threads += 1
                threading.Thread(target=self._serve, name=f"{self.name}-{self._threads}", daemon=True).start()
            else:
                self._idle -= 1
            self._work.put(job)

    def _serve(self) -> None:
        """A worker thread."""
        failed = outcome.capture(self._become) if self._become is not None else None
        while True:
            job: _Job = self._work.get()
            if isinstance(failed, outcome.Error):  # never work as somebody else than was asked for
                job.result = failed
            else:
                job.result = outcome.capture(job.function, *job.args)
            job.args = ()
            try:
                self._token.run_sync_soon(self._returned, job)
            except trio.RunFinishedError:
                return
            del job  # what it returned must not live until the next call

    def _returned(self, job: _Job) -> None:
        self._idle += 1
        self._slots.finished(prefetch=job.prefetch)
        self._jobs.pop(job, None)
        if job.task is not None and job.result is not None:
            trio.lowlevel.reschedule(job.task, job.result)
        self._dispatch()
