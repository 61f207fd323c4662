"""The compact index: it decides as the plain S3-FIFO does, and keeps to 32 bytes a fragment."""

from __future__ import annotations

import gc
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dadafs.policy.s3fifo import S3Fifo
from dadafsd.store import snapshot
from dadafsd.store.ghosts import Ghosts
from dadafsd.store.index import FragmentIndex, stamp
from dadafsd.store.key_table import KeyTable
from dadafsd.store.ring import Entries, EntryRing

MILLIONS = 4_000_000


def spread(number: int) -> int:
    """A 64-bit key for `number`: keys are hashes, and the index relies on that."""
    return (number * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64


def nothing_pinned(key: int, file: int) -> bool:
    return False


# --- the same decisions as the plain policy ------------------------------------------------------------------------

operations = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.integers(2, 257)),
        st.tuples(st.just("hit"), st.integers(0, 10**6)),
        st.tuples(st.just("remove"), st.integers(0, 10**6)),
        st.tuples(st.just("again"), st.integers(0, 10**6)),
        st.tuples(st.just("pin"), st.integers(0, 10**6)),
        st.tuples(st.just("unpin"), st.just(0)),
        st.tuples(st.just("evict"), st.just(0)),
    ),
    max_size=300,
)


@settings(max_examples=300, deadline=None)
@given(operations)
def test_it_evicts_what_the_plain_s3fifo_evicts(steps: list[tuple[str, int]]) -> None:
    """Without ghosts, which the index keeps by approximation: no key ever comes back."""
    pinned: set[int] = set()
    plain: S3Fifo[int] = S3Fifo(lambda key: key in pinned)
    index = FragmentIndex()
    held: list[int] = []
    new = 0
    for name, number in steps:
        key = held[number % len(held)] if held else 0
        if name == "insert":
            key, new = spread(new), new + 1
            held.append(key)
            plain.insert(key, number)
            index.insert(key, 0, number, 0)
        elif name == "evict":
            victim = index.evict(lambda key, file: key in pinned)
            assert (victim.key if victim else None) == plain.evict()
            if victim:
                held.remove(victim.key)
        elif name == "unpin":
            pinned.clear()
        elif held and name == "hit":
            plain.hit(key)
            assert index.touch(key)
        elif held and name == "again":
            plain.insert(key, 100)
            index.insert(key, 0, 100, 0)
        elif held and name == "pin":
            pinned.add(key)
        elif held and name == "remove":
            held.remove(key)
            plain.remove(key)
            assert index.remove(key)
        assert (len(index), index.units) == (len(plain), plain.weight)
    assert all(key in index for key in held)


def test_a_ghost_that_comes_back_goes_to_the_main_queue() -> None:
    index = FragmentIndex()
    for number in range(20):
        index.insert(spread(number), 0, 10, 0)
    victim = index.evict(nothing_pinned)
    assert victim is not None
    assert victim.key == spread(0)
    index.insert(victim.key, 0, 10, 0)
    gone = [index.evict(nothing_pinned) for _ in range(17)]
    assert [one.key for one in gone if one] == [spread(number) for number in range(1, 18)]
    assert victim.key in index  # though it has not been read since, and came before none of these


def test_hits_in_a_row_are_one_use_and_hits_apart_are_two() -> None:
    index = FragmentIndex()
    for number in range(100):
        index.insert(spread(number), 0, 10, 0)
    for _ in range(9):
        index.touch(spread(0))  # in a row
    for number in range(100, 110):
        index.touch(spread(1))  # something came in between
        index.insert(spread(number), 0, 10, 0)
    gone = [victim.key for _ in range(100) if (victim := index.evict(nothing_pinned))]
    assert spread(0) in gone
    assert spread(1) not in gone


def test_a_restored_entry_may_be_hit_at_once() -> None:
    """Its last hit was in another life."""
    index = FragmentIndex()
    index.insert(spread(0), 0, 10, 0)
    assert index.touch(spread(0))
    assert index.state()[0][2].tolist()[0] & 3 << 14 == 0
    index.restore(*index.state())
    assert index.touch(spread(0))
    assert index.state()[0][2].tolist()[0] & 3 << 14 == 1 << 14


def test_a_victim_says_whether_it_was_read() -> None:
    index = FragmentIndex()
    index.insert(spread(1), 0, 10, 0)
    index.insert(spread(2), 0, 10, 0)
    index.touch(spread(1))
    assert [index.evict(nothing_pinned), index.evict(nothing_pinned)] == [(spread(1), 10, True), (spread(2), 10, False)]
    assert index.evict(nothing_pinned) is None


def test_when_all_are_pinned_evicting_gives_up_soon() -> None:
    index = FragmentIndex()
    for number in range(20_000):
        index.insert(spread(number), 5, 10, 0)
    asked = 0

    def pinned(key: int, file: int) -> bool:
        nonlocal asked
        asked += 1
        return True

    assert index.evict(pinned) is None
    assert asked <= 4096
    assert len(index) == 20_000


def test_fragments_of_one_file_are_found() -> None:
    index = FragmentIndex()
    for number in range(3000):
        index.insert(spread(number), number % 3, 10, 0)
    keys, units = index.of_file(1)
    assert sorted(keys) == sorted(spread(number) for number in range(1, 3000, 3))
    assert units == 10_000


def test_adopted_records_are_evicted_in_the_order_of_their_age() -> None:
    index = FragmentIndex()
    now = 1_800_000_000.0
    ages = list(range(100))
    random.Random(1).shuffle(ages)
    for age in ages:
        index.adopt(spread(age), 0, 10, stamp(now - 3600 * age))
    index.order_by_age(stamp(now))
    order = [victim.key for _ in range(100) if (victim := index.evict(nothing_pinned))]
    assert order == [spread(age) for age in range(99, -1, -1)]


# --- its parts -----------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 400)), max_size=1500), st.sampled_from([1, 2**32, 2**50]))
def test_the_table_is_a_dictionary(steps: list[tuple[bool, int]], stride: int) -> None:
    """Also for keys that crowd in one corner of it (`stride` 1: all have one home)."""
    keys = [number * stride for number in range(401)]
    array = np.array(keys, dtype=np.uint64)
    table = KeyTable(keys.__getitem__, lambda positions: array[positions])
    model: set[int] = set()
    for add, number in steps:
        if add:
            table.put(keys[number], number)
            model.add(number)
        else:
            assert table.remove(keys[number]) == (number if number in model else -1)
            model.discard(number)
    assert len(table) == len(model)
    assert [table.get(key) for key in keys] == [n if n in model else -1 for n in range(401)]


def test_the_table_grows_and_is_built_in_bulk_to_the_same() -> None:
    keys = [spread(number) for number in range(100_000)]
    array = np.array(keys, dtype=np.uint64)
    grown = KeyTable(keys.__getitem__, lambda positions: array[positions])
    for position, key in enumerate(keys):
        grown.put(key, position)
    built = KeyTable(keys.__getitem__, lambda positions: array[positions])
    built.build(len(keys), lambda: iter([(array, np.arange(len(keys), dtype=np.uint32))]))
    assert [grown.get(key) for key in keys] == list(range(len(keys)))
    assert [built.get(key) for key in keys] == list(range(len(keys)))
    assert grown.get(spread(100_001)) == -1
    assert built.nbytes <= 6.3 * len(keys)


def test_a_ring_keeps_its_order_over_wraps_holes_and_packing() -> None:
    ring, next_key = EntryRing(), 1
    model: list[int] = []
    chance = random.Random(5)
    for _ in range(20_000):
        draw = chance.random()
        if draw < 0.55:
            if ring.wants_packing:
                ring.pack()
            if ring.full:
                before = ring.slots()
                first, shift = ring.grow()
                assert ring.slots().tolist() == [slot + shift * (slot >= first) for slot in before.tolist()]
            ring.push(next_key, 0, 7, next_key % 251)
            model.append(next_key)
            next_key += 1
        elif draw < 0.9 and model:
            assert ring.keys[ring.pop()] == model.pop(0)
        elif model:
            middle = chance.randrange(len(model))
            slot = int(ring.slots()[middle])
            assert ring.keys[slot] == model.pop(middle)
            ring.punch(slot)
        assert len(ring) == len(model)
    assert ring.entries()[0].tolist() == model
    while model:
        slot = ring.pop()
        assert ring.keys[slot] == model.pop(0)
        assert ring.clocks[slot] == ring.keys[slot] % 251
    assert ring.pop() == -1


def test_ghosts_are_remembered_once_and_for_about_as_long_as_there_are_places() -> None:
    ghosts = Ghosts(4096)
    for number in range(2048):
        ghosts.remember(spread(number))
    assert not ghosts.recall(spread(99_999))
    assert sum(ghosts.recall(spread(number)) for number in range(2048)) > 1900
    assert sum(ghosts.recall(spread(number)) for number in range(2048)) == 0
    for number in range(20_000):
        ghosts.remember(spread(number))
    assert sum(ghosts.recall(spread(number)) for number in range(10_000)) == 0


# --- the snapshot --------------------------------------------------------------------------------------------------


def filled(count: int) -> FragmentIndex:
    index = FragmentIndex()
    for number in range(count):
        index.insert(spread(number), number % 7, 2 + number % 200, 5)
        if number % 3 == 0:
            index.touch(spread(number))
            index.touch(spread(number // 2))
        if number % 5 == 4:
            index.evict(nothing_pinned)
    return index


def test_a_restored_index_decides_as_the_old_one() -> None:
    old, new = filled(5000), FragmentIndex()
    queues = snapshot.decode(b"".join(snapshot.encode(*old.state())))
    assert queues is not None
    new.restore(*queues)
    assert (len(new), new.units) == (len(old), old.units)
    while victim := old.evict(nothing_pinned):
        assert new.evict(nothing_pinned) == victim
    assert len(new) == 0
    assert new.units == 0


@pytest.mark.parametrize("where", [0, 9, 20, 30, 200, -20, -1])
def test_a_damaged_snapshot_is_none(where: int) -> None:
    data = bytearray(b"".join(snapshot.encode(*filled(100).state())))
    data[where] ^= 1
    assert snapshot.decode(bytes(data)) is None


@pytest.mark.parametrize("length", [0, 1, 31, 40, 500])
def test_a_snapshot_cut_short_is_none(length: int) -> None:
    assert snapshot.decode(b"".join(snapshot.encode(*filled(100).state()))[:length]) is None


# --- P5: memory and start with four million fragments ---------------------------------------------------------------


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def synthetic(count: int, seed: int) -> Entries:
    """Entries of `count` different keys."""
    keys = np.unique(np.random.default_rng(seed).integers(0, 2**64, count + 1000, dtype=np.uint64))[:count]
    np.random.default_rng(seed).shuffle(keys)
    return keys, np.full(count, 7, np.uint32), np.full(count, 257, np.uint32)


def test_four_million_fragments_take_at_most_32_bytes_each() -> None:
    data = b"".join(snapshot.encode(synthetic(MILLIONS // 10, 1), synthetic(MILLIONS - MILLIONS // 10, 2)))
    gc.collect()
    before = resident()
    began = time.monotonic()
    queues = snapshot.decode(data)
    assert queues is not None
    index = FragmentIndex()
    index.restore(*queues)
    took = time.monotonic() - began
    assert len(index) == MILLIONS
    assert index.nbytes / MILLIONS <= 32
    assert (resident() - before) / MILLIONS <= 34  # the allocator's own share included
    print(f"{index.nbytes / MILLIONS:.1f} bytes a fragment, restored in {took:.2f} s")


def test_a_growing_index_stays_below_32_bytes_a_fragment_at_every_size() -> None:
    index = FragmentIndex()
    for number in range(300_000):
        index.insert(spread(number), 7, 257, 0)
        if number % 10 == 0:
            index.touch(spread(number - 500))
            index.touch(spread(number - 500))
        if number % 5 == 0:
            index.evict(nothing_pinned)
        if number > 20_000 and number % 1000 == 0:
            assert index.nbytes <= 32 * len(index)
    keys = {victim.key for _ in range(len(index)) if (victim := index.evict(nothing_pinned))}
    assert len(keys) == 240_000
    assert (len(index), index.units) == (0, 0)
