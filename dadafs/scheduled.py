"""Which tasks can go on: those that were scheduled and have not had their turn yet.

trio tells its instruments of both. A run queue would not do: while tasks run, the rest of the same turn is in none.
"""

from __future__ import annotations

import trio


class Scheduled(trio.abc.Instrument):
    """`tasks`: those that wait for their turn, in no order. Add it with `trio.lowlevel.add_instrument`."""

    def __init__(self) -> None:
        self.tasks: set[trio.lowlevel.Task] = set()

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """It can go on."""
        self.tasks.add(task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """It goes on."""
        self.tasks.discard(task)
