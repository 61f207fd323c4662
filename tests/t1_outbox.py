"""What is pushed to one session: in order, in batches, bounded."""

from __future__ import annotations

import trio
import trio.testing

from dadafs.wire.messages import Change, Changes, LeasesLost, Message, Pass
from dadafsd.outbox import BATCH, LIMIT, Outbox


def emptied(outbox: Outbox) -> list[Message]:
    """Everything that is queued."""
    got: list[Message] = []

    async def push(message: Message) -> None:
        got.append(message)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.empty_into, push)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main)
    return got


def changes(count: int) -> list[Change]:
    return [Change(b"%d" % number, None) for number in range(count)]


def test_order_and_batches() -> None:
    outbox = Outbox()
    assert outbox.post_changes(changes(BATCH + 1))
    outbox.post(Pass(1))
    assert outbox.post_changes(changes(1))
    got = emptied(outbox)
    assert [type(message) for message in got] == [Changes, Changes, Pass, Changes]
    assert [len(message.changes) for message in got if isinstance(message, Changes)] == [BATCH, 1, 1]


def test_a_node_that_does_not_keep_up_loses_its_leases_but_no_pass() -> None:
    outbox = Outbox()
    outbox.post(Pass(1))
    assert outbox.post_changes(changes(LIMIT))
    assert not outbox.post_changes(changes(1))
    outbox.post(Pass(2))
    assert emptied(outbox) == [LeasesLost([b""]), Pass(1), Pass(2)]
    assert outbox.post_changes(changes(LIMIT)), "afterwards there is room again"
