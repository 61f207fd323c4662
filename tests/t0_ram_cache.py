"""The byte budget: never exceeded, nothing leaked; what becomes of data when a file changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dadafs.buffers import UNIT, BufferPool, capacity, view_of
from dadafs.cached_file import CachedFile, Extent, State, uncovered
from dadafs.checksum import block_checksums
from dadafs.ram_cache import PREFETCH_SHARE, RamCache, extent_cost
from dadafs.wire.messages import BLOCK_SIZE, Version

MIB = 2**20
BLOCKS = MIB // BLOCK_SIZE


def version(ino: int = 1, size: int = 16 * MIB, mtime: int = 1) -> Version:
    return Version(1, ino, size, mtime, mtime)


def filled(cache: RamCache, extent: Extent | None, byte: int = 1, expires: float | None = None) -> Extent:
    """`extent`, filled with `byte` and held."""
    assert extent is not None
    extent.view()[:] = bytes([byte]) * extent.length
    cache.finish(extent, block_checksums(extent.view()), expires)
    return extent


@pytest.fixture
def cache() -> RamCache:
    return RamCache(8 * MIB)


# --- buffers ------------------------------------------------------------------------------------------------------


class Holder:
    """Something that owns a buffer."""

    def __init__(self, pool: BufferPool, size: int) -> None:
        self.buffer = pool.take(size)


def test_a_buffer_is_reused_when_nobody_looks_at_it() -> None:
    pool = BufferPool(8 * MIB)
    holder = Holder(pool, MIB)
    view_of(holder.buffer)[:5] = b"hello"
    pool.give(holder)
    assert (pool.free_bytes, pool.limbo_bytes) == (MIB, 0)
    assert bytes(view_of(pool.take(MIB))[:5]) == b"hello", "the same memory"
    assert pool.free_bytes == 0


def test_a_buffer_that_is_looked_at_is_never_reused() -> None:
    pool = BufferPool(8 * MIB)
    holder = Holder(pool, MIB)
    view = view_of(holder.buffer)[5:10]
    view[:] = b"hello"
    pool.give(holder)
    pool.sweep()
    assert (pool.free_bytes, pool.limbo_bytes) == (0, MIB)
    view_of(pool.take(MIB))[:] = bytes(MIB)
    assert bytes(view) == b"hello"
    del view
    pool.sweep()
    assert (pool.free_bytes, pool.limbo_bytes) == (MIB, 0)


def test_trim_gives_free_memory_back() -> None:
    pool = BufferPool(8 * MIB)
    for size in (MIB, BLOCK_SIZE):
        pool.give(Holder(pool, size))
    pool.trim(keep=MIB)
    assert pool.free_bytes == MIB
    pool.trim()
    assert pool.free_bytes == 0


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_trimmed_memory_is_the_system_s_again() -> None:
    pool = BufferPool(64 * MIB)
    before = resident()
    holders = [Holder(pool, MIB) for _ in range(64)]
    for holder in holders:
        view_of(holder.buffer)[:] = bytes(MIB)
    assert resident() > before + 60 * MIB
    for holder in holders:
        pool.give(holder)
    pool.trim(keep=MIB)
    assert pool.free_bytes == MIB
    assert resident() < before + 4 * MIB


def test_no_more_is_trimmed_than_is_wanted() -> None:
    pool = BufferPool(64 * MIB)
    holders = [Holder(pool, MIB) for _ in range(16)]
    for holder in holders:
        pool.give(holder)
    before = resident()
    pool.trim(3 * MIB, keep=MIB)
    assert pool.free_bytes == 13 * MIB
    assert resident() < before - 2 * MIB
    pool.trim(0)
    assert pool.free_bytes == 13 * MIB
    pool.trim(64 * MIB)
    assert pool.free_bytes == 0


def test_memory_can_be_had_before_it_is_needed() -> None:
    pool = BufferPool(16 * MIB)
    before = resident()
    while pool.free_bytes < 8 * MIB and (work := pool.prepare(MIB)) is not None:
        assert pool.limbo_bytes == MIB
        pool.prepared(work())
    assert (pool.free_bytes, pool.limbo_bytes) == (8 * MIB, 0)
    assert resident() > before + 7 * MIB
    assert pool.reusable(4 * MIB) == 4 * MIB
    at_hand = resident()
    for _ in range(8):
        view_of(pool.take(MIB))[:] = bytes(MIB)
    assert resident() < at_hand + MIB
    assert pool.free_bytes == 0


def test_a_cache_prepares_most_of_its_budget_and_gives_it_up_for_what_needs_it() -> None:
    cache = RamCache(16 * MIB)

    async def prepare() -> None:
        with trio.fail_after(20):
            await cache.prepare()

    trio.run(prepare)
    assert 13 * MIB <= cache.used <= 14 * MIB
    cache.charge_metadata(4 * MIB)
    assert 15 * MIB <= cache.used <= 16 * MIB
    file = cache.file(version(1, size=32 * MIB))
    for fragment in range(11):
        extent = cache.begin(file, fragment, 0, BLOCKS)
        assert extent is not None
        assert cache.finish(extent, [0] * BLOCKS)
    assert cache.held > 11 * MIB
    assert cache.used <= 16 * MIB
    cache.resize(8 * MIB)
    assert cache.used <= 8 * MIB


def test_a_piece_of_another_length_is_made_of_what_is_free() -> None:
    pool = BufferPool(8 * MIB)
    holders = [Holder(pool, MIB) for _ in range(3)]
    for holder in holders[:2]:
        pool.give(holder)
    assert pool.reusable(300_000) == capacity(300_000)
    pool.take(300_000)
    assert pool.free_bytes == 2 * MIB - capacity(300_000)


def test_beyond_the_arena_there_is_memory_all_the_same() -> None:
    pool = BufferPool(MIB)
    holders = [Holder(pool, MIB) for _ in range(4)]
    for number, holder in enumerate(holders):
        view_of(holder.buffer)[:] = bytes([number]) * MIB
    assert [view_of(holder.buffer)[-1] for holder in holders] == [0, 1, 2, 3]
    for holder in holders:
        pool.give(holder)
    assert pool.free_bytes == 2 * MIB, "the others went back to the system"


def test_content_from_the_wire_is_never_handed_out_for_writing() -> None:
    pool = BufferPool(8 * MIB)
    holder = Holder(pool, BLOCK_SIZE)
    holder.buffer = bytes(bytearray(BLOCK_SIZE))
    pool.give(holder)
    assert not view_of(pool.take(BLOCK_SIZE)).readonly


def test_capacity_is_what_the_system_gives() -> None:
    assert capacity(10) == 10
    assert capacity(5 * UNIT + 1) == 6 * UNIT


# --- extents ------------------------------------------------------------------------------------------------------


def test_what_was_finished_is_found_and_what_was_abandoned_is_not(cache: RamCache) -> None:
    file = cache.file(version())
    filled(cache, cache.begin(file, 0, 0, BLOCKS))
    abandoned = cache.begin(file, 1, 0, BLOCKS)
    assert abandoned is not None
    assert cache.lookup(file, 1, 0, BLOCKS, 0.0) is None
    cache.abandon(abandoned)
    assert cache.lookup(file, 0, 3, 5, 0.0) is not None
    assert cache.lookup(file, 1, 0, 1, 0.0) is None
    assert cache.in_flight == 0


def test_blocks_are_held_block_by_block(cache: RamCache) -> None:
    file = cache.file(version())
    filled(cache, cache.begin(file, 0, 3, 1))
    assert cache.held == extent_cost(BLOCK_SIZE)
    assert file.missing(0, 0, 6) == [(0, 3), (4, 6)]


def test_a_longer_extent_replaces_the_shorter_ones_it_covers(cache: RamCache) -> None:
    file = cache.file(version())
    filled(cache, cache.begin(file, 0, 0, 1))
    filled(cache, cache.begin(file, 0, 5, 2))
    filled(cache, cache.begin(file, 0, 0, BLOCKS))
    assert cache.held == extent_cost(MIB)
    assert len(file.fragments[0]) == 1


def test_the_short_last_block_of_a_file(cache: RamCache) -> None:
    file = cache.file(version(size=BLOCK_SIZE + 100))
    extent = filled(cache, cache.begin(file, 0, 0, 2))
    assert extent.length == BLOCK_SIZE + 100
    assert len(extent.checksums) == 2


def test_the_least_useful_goes_first(cache: RamCache) -> None:
    file = cache.file(version(size=100 * MIB))
    useful = filled(cache, cache.begin(file, 0, 0, BLOCKS))
    for fragment in range(1, 50):
        cache.used_by_reader(filled(cache, cache.begin(file, fragment, 0, BLOCKS)), 0, MIB)
        cache.used_by_reader(useful, 500, 600)
    assert cache.lookup(file, 0, 0, BLOCKS, 0.0) is useful
    assert cache.used <= cache.budget


def test_hits_in_a_row_are_one_use(cache: RamCache) -> None:
    """As a frame after a header: every fragment of a scan is hit so, and no scan may look like a hot set."""
    file = cache.file(version(size=100 * MIB))
    once = filled(cache, cache.begin(file, 0, 0, BLOCKS))
    for start in range(0, 8000, 1000):
        cache.used_by_reader(once, start, start + 10)
    for fragment in range(1, 20):
        cache.used_by_reader(filled(cache, cache.begin(file, fragment, 0, BLOCKS)), 0, MIB)
    assert once.state is State.GONE


def test_reading_straight_on_is_one_use(cache: RamCache) -> None:
    file = cache.file(version(size=100 * MIB))
    once = filled(cache, cache.begin(file, 0, 0, BLOCKS))
    for piece in range(8):
        cache.used_by_reader(once, piece * MIB // 8, (piece + 1) * MIB // 8)
    for fragment in range(1, 20):
        cache.used_by_reader(filled(cache, cache.begin(file, fragment, 0, BLOCKS)), 0, MIB)
    assert once.state is State.GONE


def test_a_view_outlives_the_eviction(cache: RamCache) -> None:
    file = cache.file(version(size=100 * MIB))
    view = filled(cache, cache.begin(file, 0, 0, BLOCKS), byte=7).view()
    for fragment in range(1, 40):
        filled(cache, cache.begin(file, fragment, 0, BLOCKS), byte=9)
        assert cache.used <= cache.budget
    assert bytes(view) == b"\7" * MIB


def test_no_room_while_everything_is_in_flight_but_never_nothing_for_a_first_read() -> None:
    cache = RamCache(2 * MIB + 8192)
    file = cache.file(version())
    first, second = cache.begin(file, 0, 0, BLOCKS), cache.begin(file, 1, 0, BLOCKS)
    assert first is not None
    assert second is not None
    assert cache.begin(file, 2, 0, BLOCKS) is None
    cache.abandon(first)
    cache.abandon(second)
    small = RamCache(MIB // 2)
    granted = small.begin(small.file(version()), 0, 0, BLOCKS)
    assert granted is not None
    assert not small.finish(granted, [0] * BLOCKS)
    assert small.used <= small.budget


def test_small_files_are_held_as_they_came(cache: RamCache) -> None:
    file = cache.file(version(size=5))
    cache.hold_small(file, b"hello", block_checksums(b"hello"), None)
    extent = cache.lookup(file, 0, 0, 1, 0.0)
    assert extent is not None
    assert bytes(extent.view()) == b"hello"
    assert cache.in_flight == 0


# --- prefetch -----------------------------------------------------------------------------------------------------


@pytest.fixture
def still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio.current_time", lambda: 100.0)


@pytest.mark.usefixtures("still_clock")
def test_prefetch_keeps_to_its_share_and_gets_it_back(cache: RamCache) -> None:
    file = cache.file(version(size=100 * MIB))
    granted: list[Extent] = []
    while (extent := cache.begin(file, len(granted), 0, BLOCKS, prefetch=True)) is not None:
        granted.append(filled(cache, extent))
    assert sum(extent.cost for extent in granted) <= cache.budget * PREFETCH_SHARE
    assert len(granted) >= 2
    cache.used_by_reader(granted[0], 0, MIB)
    assert cache.begin(file, 90, 0, BLOCKS, prefetch=True) is not None


@pytest.mark.usefixtures("still_clock")
def test_what_was_prefetched_is_not_evicted_before_it_is_read(cache: RamCache) -> None:
    file = cache.file(version(size=100 * MIB))
    expected = filled(cache, cache.begin(file, 0, 0, BLOCKS, prefetch=True))
    for fragment in range(1, 40):
        filled(cache, cache.begin(file, fragment, 0, BLOCKS))
    assert expected.state is State.CURRENT
    assert cache.counters.wasted == 0


@pytest.mark.usefixtures("still_clock")
def test_a_prefetch_that_nobody_wants_is_evicted_in_the_end_and_counted(cache: RamCache) -> None:
    file = cache.file(version(size=100 * MIB))
    filled(cache, cache.begin(file, 0, 0, BLOCKS, prefetch=True))
    room = cache.prefetch_room
    cache.stop_expecting(100.0)
    assert cache.prefetch_room == room
    cache.stop_expecting(100.5)
    assert cache.prefetch_room == int(cache.budget * PREFETCH_SHARE)
    for fragment in range(1, 20):
        filled(cache, cache.begin(file, fragment, 0, BLOCKS))
    assert cache.counters.wasted == 1


@pytest.mark.usefixtures("still_clock")
def test_a_demand_read_takes_room_from_prefetches_when_nothing_else_is_left() -> None:
    cache = RamCache(3 * MIB)
    file = cache.file(version(size=100 * MIB))
    filled(cache, cache.begin(file, 0, 0, BLOCKS, prefetch=True))
    demands = [cache.begin(file, fragment, 0, BLOCKS) for fragment in (1, 2)]
    assert all(demands)
    assert cache.counters.wasted == 1


@pytest.mark.usefixtures("still_clock")
def test_a_demand_read_that_joins_a_prefetch_in_flight_unpins_it(cache: RamCache) -> None:
    file = cache.file(version())
    extent = cache.begin(file, 0, 0, BLOCKS, prefetch=True)
    assert extent is not None
    cache.used_by_reader(extent, -1, -1)
    filled(cache, extent)
    assert cache.prefetch_room == int(cache.budget * PREFETCH_SHARE)


# --- versions -----------------------------------------------------------------------------------------------------


def test_a_change_makes_everything_stale(cache: RamCache) -> None:
    file = cache.file(version())
    extent = filled(cache, cache.begin(file, 0, 0, BLOCKS))
    cache.advance(file, version(mtime=2))
    assert cache.lookup(file, 0, 0, 1, 0.0) is None
    assert file.stale[0] == [extent]
    fresh = filled(cache, cache.begin(file, 0, 0, BLOCKS), byte=2)
    assert not file.stale
    assert cache.lookup(file, 0, 0, 1, 0.0) is fresh


def test_growth_under_append_keeps_what_lies_wholly_below_the_old_size(cache: RamCache) -> None:
    file = cache.file(version(size=3 * BLOCK_SIZE + 10))
    filled(cache, cache.begin(file, 0, 0, 4))
    cache.advance(file, version(size=9 * BLOCK_SIZE, mtime=2), append=True)
    assert cache.lookup(file, 0, 0, 3, 0.0) is not None
    assert cache.lookup(file, 0, 3, 4, 0.0) is None


def test_shrinking_under_append_keeps_nothing(cache: RamCache) -> None:
    file = cache.file(version(size=4 * BLOCK_SIZE))
    filled(cache, cache.begin(file, 0, 0, 4))
    cache.advance(file, version(size=3 * BLOCK_SIZE, mtime=2), append=True)
    assert cache.lookup(file, 0, 0, 1, 0.0) is None


def test_unsettled_data_expires_and_is_then_only_good_for_its_checksums(cache: RamCache) -> None:
    file = cache.file(version())
    extent = filled(cache, cache.begin(file, 0, 0, BLOCKS), expires=5.0)
    assert cache.lookup(file, 0, 0, 1, 4.9) is extent
    assert cache.lookup(file, 0, 0, 1, 5.0) is None
    assert file.stale[0] == [extent]


def test_data_outlives_its_file_object_while_the_version_is_the_same(cache: RamCache) -> None:
    file = cache.file(version())
    extent = filled(cache, cache.begin(file, 0, 0, BLOCKS))
    cache.leave(file)
    assert cache.lookup(cache.file(version()), 0, 0, 1, 0.0) is extent


def test_a_file_that_holds_nothing_is_forgotten(cache: RamCache) -> None:
    file = cache.file(version())
    cache.leave(file)
    assert cache.file(version()) is not file


def test_another_fragment_size_drops_everything(cache: RamCache) -> None:
    file = cache.file(version())
    filled(cache, cache.begin(file, 0, 0, BLOCKS))
    cache.resize_fragments(2 * MIB)
    assert cache.held == 0
    extent = cache.begin(file, 0, 0, 2 * BLOCKS)
    assert extent is not None
    assert extent.length == 2 * MIB


# --- metadata -----------------------------------------------------------------------------------------------------


def test_metadata_pushes_data_out_up_to_its_share(cache: RamCache) -> None:
    file = cache.file(version(size=100 * MIB))
    for fragment in range(8):
        filled(cache, cache.begin(file, fragment, 0, BLOCKS))
    cache.charge_metadata(4 * MIB)
    assert cache.used <= cache.budget
    assert cache.metadata_room == 0
    cache.charge_metadata(-4 * MIB)
    assert cache.metadata == 0


def test_metadata_does_not_grow_into_what_is_in_flight(cache: RamCache) -> None:
    file = cache.file(version(size=100 * MIB))
    flying = [cache.begin(file, fragment, 0, BLOCKS) for fragment in range(7)]
    assert all(flying)
    assert cache.metadata_room < MIB
    cache.charge_metadata(cache.metadata_room)
    assert cache.used <= cache.budget


def test_uncovered() -> None:
    assert uncovered(0, 10, []) == [(0, 10)]
    assert uncovered(0, 10, [(8, 12), (2, 3), (2, 5)]) == [(0, 2), (5, 8)]
    assert uncovered(3, 6, [(0, 9)]) == []
    assert uncovered(3, 6, [(7, 9)]) == [(3, 6)]


# --- the property -------------------------------------------------------------------------------------------------


class Budget(RuleBasedStateMachine):
    """Whatever readers, prefetches, writers and the tree do: the budget holds, and at the end nothing is left over."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = RamCache(4 * MIB)
        self.flying: list[Extent] = []
        self.views: list[tuple[memoryview, int]] = []
        self.files: list[CachedFile] = [self.cache.file(version(ino, size=6 * MIB + 777)) for ino in (1, 2)]
        self.now = 0.0
        self.mtime = 1
        self.preparing: Callable[[], bool] | None = None

    @rule(
        which=st.integers(0, 1),
        fragment=st.integers(0, 6),
        first=st.integers(0, 15),
        count=st.integers(1, 16),
        prefetch=st.booleans(),
    )
    def begin(self, which: int, fragment: int, first: int, count: int, prefetch: bool) -> None:
        file = self.files[which]
        end = min(first + count, -(-file.fragment_length(fragment) // BLOCK_SIZE))
        if end <= first:
            return
        extent = self.cache.begin(file, fragment, first, end - first, prefetch=prefetch)
        if extent is not None:
            self.flying.append(extent)

    @precondition(lambda self: self.flying)
    @rule(which=st.integers(0, 99), byte=st.integers(0, 255), keep_view=st.booleans(), expires=st.booleans())
    def finish(self, which: int, byte: int, keep_view: bool, expires: bool) -> None:
        extent = self.flying.pop(which % len(self.flying))
        view = extent.view()
        view[:] = bytes([byte]) * extent.length
        if extent.key[1] != extent.file.epoch:
            del view
            self.cache.abandon(extent)
            return
        extent.arrived = self.now
        self.cache.finish(extent, [byte] * extent.count, self.now + 1 if expires else None)
        if keep_view and len(self.views) < 2:
            self.views.append((view[:10], byte))

    @precondition(lambda self: self.flying)
    @rule(which=st.integers(0, 99))
    def abandon(self, which: int) -> None:
        self.cache.abandon(self.flying.pop(which % len(self.flying)))

    @rule(which=st.integers(0, 1), fragment=st.integers(0, 6), first=st.integers(0, 15))
    def read(self, which: int, fragment: int, first: int) -> None:
        extent = self.cache.lookup(self.files[which], fragment, first, first + 1, self.now)
        if extent is not None:
            assert extent.state is State.CURRENT
            assert bytes(extent.view()[:1]) == bytes([extent.checksums[0]])
            self.cache.used_by_reader(extent, first, first + 1)

    @rule(which=st.integers(0, 1), append=st.booleans(), size=st.integers(0, 7 * MIB))
    def change(self, which: int, append: bool, size: int) -> None:
        self.mtime += 1
        self.cache.advance(self.files[which], version(which + 1, size, self.mtime), append=append)

    @rule(size=st.integers(1, MIB))
    def prepare(self, size: int) -> None:
        if self.preparing is None and self.cache.used + size <= self.cache.budget:
            self.preparing = self.cache._pool.prepare(size)

    @precondition(lambda self: self.preparing is not None)
    @rule(worked=st.booleans())
    def prepared(self, worked: bool) -> None:
        assert self.preparing is not None
        self.cache._pool.prepared(self.preparing() and worked)
        self.preparing = None

    @rule(delta=st.integers(-MIB, MIB))
    def metadata(self, delta: int) -> None:
        if delta <= self.cache.metadata_room:
            self.cache.charge_metadata(delta)

    @rule()
    def time_passes(self) -> None:
        self.now += 1
        self.cache.stop_expecting(float("inf"))

    @rule()
    def look_away(self) -> None:
        self.views.clear()

    @invariant()
    def within_budget(self) -> None:
        lone = self.cache.in_flight if len(self.flying) == 1 else 0
        assert self.cache.used <= self.cache.budget or lone
        assert self.cache.in_flight == sum(extent.cost for extent in self.flying)
        assert all(bytes(view) == bytes([byte]) * len(view) for view, byte in self.views)

    @invariant()
    def books_balance(self) -> None:
        held = sum(extent.cost for file in self.files for extent in file.extents())
        assert held == self.cache.held

    def teardown(self) -> None:
        self.views.clear()
        if self.preparing is not None:
            self.cache._pool.prepared(False)
        for extent in self.flying:
            self.cache.abandon(extent)
        self.flying.clear()
        for file in self.files:
            self.cache.drop_file(file)
        self.cache.charge_metadata(-self.cache.metadata)
        self.cache._pool.sweep()
        self.cache._pool.trim()
        assert self.cache.used == 0
        assert self.cache.prefetch_room == int(self.cache.budget * PREFETCH_SHARE)


@pytest.mark.usefixtures("still_clock")
class TestBudget(Budget.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
