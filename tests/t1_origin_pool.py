"""Threads into the origin: a call that hangs costs its slot and nothing else."""

from __future__ import annotations

import errno
import threading
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from dadafsd.origin_pool import OriginPool, Ticket
from dadafsd.sites import Failure, Site


def run_with_pool(body: Callable[[OriginPool], Awaitable[None]], slots: int = 2, deadline: float = 60.0) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            pool = OriginPool("the origin", slots, deadline)
            nursery.start_soon(pool.enforce_deadlines)
            with trio.fail_after(60):
                await body(pool)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_results_and_errors_come_back() -> None:
    async def body(pool: OriginPool) -> None:
        assert await pool.run(pow, 2, 10) == 1024
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)
        assert pool.busy == 0

    run_with_pool(body)


def test_a_hung_call_fails_by_its_deadline_and_keeps_its_slot() -> None:
    release = threading.Event()

    async def body(pool: OriginPool) -> None:
        with pytest.raises(Failure) as caught:
            await pool.run(release.wait, deadline=0.2)
        assert (caught.value.errno, caught.value.site) == (errno.EIO, Site.ORIGIN_DEADLINE)
        assert pool.stuck == 1
        assert await pool.run(pow, 2, 3) == 8, "the other slot serves on"
        with pytest.raises(Failure):
            await pool.run(release.wait, deadline=0.2)
        with pytest.raises(Failure) as caught:
            await pool.run(pow, 2, 3, deadline=0.2)
        assert caught.value.site is Site.ORIGIN_BUSY
        release.set()
        assert await pool.run(pow, 2, 3) == 8, "once the origin answers, all is well"
        with trio.fail_after(30):
            while pool.stuck:  # the other call may still be on its way back
                await trio.sleep(0.01)

    run_with_pool(body)


def test_a_cancelled_call_is_forgotten() -> None:
    release = threading.Event()

    async def body(pool: OriginPool) -> None:
        with trio.move_on_after(0.1) as scope:
            await pool.run(release.wait)
        assert scope.cancelled_caught
        assert pool.stuck == 1
        release.set()
        while pool.busy:
            await trio.sleep(0.01)

    run_with_pool(body)


def test_a_prefetch_that_somebody_waits_for_is_demand() -> None:
    release = threading.Event()
    order: list[str] = []

    async def body(pool: OriginPool) -> None:
        ticket = Ticket()

        async def call(name: str, ticket: Ticket | None = None) -> None:
            await pool.run(order.append, name, prefetch=True, ticket=ticket)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, release.wait)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(3):
                nursery.start_soon(call, f"prefetch{number}")
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lambda: call("urgent", ticket))
            await trio.testing.wait_all_tasks_blocked()
            pool.promote(ticket)
            release.set()
        assert order[0] == "urgent"

    run_with_pool(body, slots=1)
