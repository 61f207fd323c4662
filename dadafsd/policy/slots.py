"""Who gets the next of a bounded number of slots: demand first, prefetch never more than its share."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Job = TypeVar("Job")


class Slots(Generic[Job]):
    """`total` slots, of which prefetch may hold at most `prefetch_share` at a time."""

    def __init__(self, total: int, prefetch_share: int) -> None:
        if not 0 < prefetch_share <= total:
            raise ValueError(f"prefetch share {prefetch_share} of {total} slots")
        self.total = total
        self.prefetch_share = prefetch_share
        self.busy = 0
        self.busy_prefetch = 0
        self._demand: deque[Job] = deque()
        self._prefetch: deque[Job] = deque()

    @property
    def waiting(self) -> int:
        """How many jobs have no slot yet."""
        return len(self._demand) + len(self._prefetch)

    def submit(self, job: Job, *, prefetch: bool) -> None:
        """`job` wants a slot; it gets one by a later `next`."""
        (self._prefetch if prefetch else self._demand).append(job)

    def next(self) -> tuple[Job, bool] | None:
        """The job that takes a slot now, and whether it is prefetch.

        None when there is no slot or no job for it.
        """
        if self.busy >= self.total:
            return None
        if self._demand:
            self.busy += 1
            return self._demand.popleft(), False
        if self._prefetch and self.busy_prefetch < self.prefetch_share:
            self.busy += 1
            self.busy_prefetch += 1
            return self._prefetch.popleft(), True
        return None

    def withdraw(self, job: Job) -> bool:
        """`job` gives up waiting; False where it already has a slot."""
        for queue in (self._demand, self._prefetch):
            try:
                queue.remove(job)
            except ValueError:
                continue
            return True
        return False

    def finished(self, *, prefetch: bool) -> None:
        """The slot of a job is free again."""
        self.busy -= 1
        self.busy_prefetch -= prefetch
