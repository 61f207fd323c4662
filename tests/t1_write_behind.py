"""The queue of writes: who waits for room and how long, what is dropped, and what is offered again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from dadafs.checksum import block_checksums
from dadafsd.counters import Counters
from dadafsd.policy import patience
from dadafsd.store import FragmentStore, TierSettings
from dadafsd.store.record import FragmentKey
from dadafsd.write_behind import PLACE_SECONDS, Place, Waiting, WriteBehind
from tests.harness.fragments import FRAGMENT, MIB, data_of, key_of, read

LIMIT = 4 * FRAGMENT


class Bench:
    """A queue over a real store whose threads are not started yet, and a memory."""

    def __init__(self, store: FragmentStore) -> None:
        self.store = store
        self.counters = Counters()
        self.memory: dict[FragmentKey, tuple[bytes, list[int]]] = {}
        self.behind = WriteBehind(store, self.counters, limit=LIMIT, in_memory=self.memory.get)

    def offer(self, number: int, *, shared: bool = False) -> bool:
        return self.behind.offer(self.waiting(number), shared=shared)

    def waiting(self, number: int) -> Waiting:
        data = data_of(key_of(number))
        return Waiting(key_of(number), data, block_checksums(data))

    async def written(self) -> None:
        """Let the threads write everything."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.behind.run)
            with trio.fail_after(60):
                await self.behind.flush()
            nursery.cancel_scope.cancel()

    def kept(self) -> set[int]:
        return {number for number in range(32) if read(self.store, key_of(number)) is not None}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FragmentStore]:
    opened = FragmentStore.open([TierSettings(tmp_path / "cache", 32 * MIB)], housekeeping=False)
    opened.housekeep()
    yield opened
    opened.close()


def run(store: FragmentStore, test: Callable[[Bench], Awaitable[None]], *, clock: bool = False) -> None:
    async def main() -> None:
        await test(Bench(store))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0) if clock else None)


def test_what_finds_no_room_is_dropped_and_counted(store: FragmentStore) -> None:
    async def test(bench: Bench) -> None:
        assert [bench.offer(number) for number in range(6)] == [True] * 4 + [False] * 2
        assert bench.counters.events["store_writes_dropped"] == 2
        await bench.written()
        assert bench.kept() == {0, 1, 2, 3}
        assert bench.counters.events["store_writes"] == 4

    run(store, test)


def test_what_several_wanted_goes_before_what_one_did(store: FragmentStore) -> None:
    async def test(bench: Bench) -> None:
        for number in range(4):
            assert bench.offer(number)
        assert bench.offer(10, shared=True)
        assert bench.offer(11, shared=True)
        assert bench.behind.queued == LIMIT
        await bench.written()
        assert bench.kept() == {0, 1, 10, 11}

    run(store, test)


def test_what_was_dropped_is_written_later_while_memory_has_it(store: FragmentStore) -> None:
    async def test(bench: Bench) -> None:
        for number in range(8):
            bench.offer(number)
        for number in (5, 6):
            _, data, checksums, _ = bench.waiting(number)
            bench.memory[key_of(number)] = data, checksums
        await bench.written()
        assert bench.kept() == {0, 1, 2, 3, 5, 6}
        assert bench.counters.events["store_writes_late"] == 2

    run(store, test)


async def waited(place: Place, *, prefetch: bool) -> float:
    """Seconds that a place had to wait."""
    begun = trio.current_time()
    await place.wait(prefetch=prefetch)
    return trio.current_time() - begun


def test_nobody_waits_while_there_is_room_and_all_a_short_while_where_there_is_none(store: FragmentStore) -> None:
    async def test(bench: Bench) -> None:
        with bench.behind.place(LIMIT) as place:
            assert await waited(place, prefetch=False) == 0
            assert place.offer(bench.waiting(0), shared=False), "less than was set aside"
        for number in range(1, 4):
            assert bench.offer(number)
        for prefetch, longest in ((False, patience.DEMAND), (True, patience.PREFETCH)):
            with bench.behind.place(FRAGMENT) as place:
                assert await waited(place, prefetch=prefetch) == pytest.approx(longest)
        assert bench.counters.events["store_writes_waited"] == 2
        with bench.behind.place(2 * LIMIT) as place:
            assert await waited(place, prefetch=True) == 0, "there will never be room for that"
        bench.store.tiers[0].writing.take_down(0.0)
        with bench.behind.place(FRAGMENT) as place:
            assert await waited(place, prefetch=True) == 0, "and nothing is written to a disk that hangs"

    run(store, test, clock=True)


def test_a_disk_that_cannot_keep_up_is_not_waited_for(store: FragmentStore) -> None:
    async def test(bench: Bench) -> None:
        for number in range(4):
            bench.offer(number)
        with bench.behind.place(FRAGMENT) as place:
            await place.wait(prefetch=True)
        await trio.sleep(patience.BURST)
        with bench.behind.place(FRAGMENT) as place:
            assert await waited(place, prefetch=True) == 0
        bench.behind.limit = 4 * LIMIT  # half of it is free
        with bench.behind.place(4 * LIMIT) as place:
            assert await waited(place, prefetch=True) == pytest.approx(patience.PREFETCH), "a new burst"

    run(store, test, clock=True)


def test_who_waits_for_reads_of_the_origin_does_not_wait_for_the_disk(store: FragmentStore) -> None:
    async def test(bench: Bench) -> None:
        bench.offer(0)
        for _ in range(3):
            with bench.behind.place(LIMIT - FRAGMENT) as slow, bench.behind.place(FRAGMENT) as place:
                assert await waited(slow, prefetch=True) == 0
                assert await waited(place, prefetch=False) == pytest.approx(patience.DEMAND)
            await trio.sleep(patience.BURST)
        assert bench.counters.events["store_writes_waited"] == 0

    run(store, test, clock=True)


def test_room_goes_to_demand_first(store: FragmentStore) -> None:
    async def test(bench: Bench) -> None:
        order: list[str] = []

        async def one(name: str, place: Place, *, prefetch: bool) -> None:
            await place.wait(prefetch=prefetch)
            assert place.admitted.is_set()
            order.append(name)

        with (
            bench.behind.place(LIMIT) as holder,
            bench.behind.place(LIMIT) as ahead,
            bench.behind.place(LIMIT) as hurried,
            bench.behind.place(LIMIT) as demand,
        ):
            await holder.wait(prefetch=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: one("ahead", ahead, prefetch=True))
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(lambda: one("hurried", hurried, prefetch=True))
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(lambda: one("demand", demand, prefetch=False))
                await trio.testing.wait_all_tasks_blocked()
                hurried.hurry()
                for place in (holder, demand, hurried):
                    place.__exit__()
                    await trio.testing.wait_all_tasks_blocked()
        assert order == ["demand", "hurried", "ahead"]

    run(store, test)


def test_places_of_a_slow_origin_are_given_to_others(store: FragmentStore) -> None:
    async def test(bench: Bench) -> None:
        with bench.behind.place(LIMIT) as slow:
            await slow.wait(prefetch=False)
            assert not bench.offer(0)
            await trio.sleep(PLACE_SECONDS)
            assert bench.offer(1)
            with bench.behind.place(FRAGMENT) as place:
                assert await waited(place, prefetch=False) == 0

    run(store, test, clock=True)
