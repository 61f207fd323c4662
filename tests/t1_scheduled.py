"""What trio tells of tasks that can go on."""

from __future__ import annotations

import trio
import trio.testing

from dadafs.scheduled import Scheduled


async def _follow(scheduled: Scheduled, seen: list[set[str]]) -> None:
    """Note who can go on while others of the same turn have not had theirs."""
    await trio.lowlevel.checkpoint()
    seen.append({task.name for task in scheduled.tasks})


def test_a_task_is_among_them_from_its_scheduling_to_its_step() -> None:
    seen: list[set[str]] = []

    async def main() -> None:
        scheduled = Scheduled()
        trio.lowlevel.add_instrument(scheduled)
        event = trio.Event()
        async with trio.open_nursery() as nursery:
            for name in ("one", "other"):
                nursery.start_soon(event.wait, name=name)
            await trio.testing.wait_all_tasks_blocked()
            assert not {task.name for task in scheduled.tasks}
            event.set()
            assert {task.name for task in scheduled.tasks} == {"one", "other"}
            for name in ("first", "second"):
                nursery.start_soon(_follow, scheduled, seen, name=name)
        assert not {"one", "other"} & {task.name for task in scheduled.tasks}
        trio.lowlevel.remove_instrument(scheduled)

    trio.run(main)
    # The two go on in the same turn, in any order: the first of them sees the other, which is in no queue any more.
    assert sorted(len(names & {"first", "second"}) for names in seen) == [0, 1]
