"""S3-FIFO: what is evicted, what survives a scan, and that its books balance."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from dadafs.policy.s3fifo import S3Fifo, UseClock

EVENTS = st.sampled_from(["insert", "hit", "remove", "evict", "pin", "unpin"])


def shrink(policy: S3Fifo[int], budget: int) -> list[int]:
    """Evict until `policy` weighs at most `budget`; what went."""
    gone = []
    while policy.weight > budget:
        key = policy.evict()
        assert key is not None
        gone.append(key)
    return gone


def test_keys_never_hit_leave_in_the_order_they_came() -> None:
    policy: S3Fifo[int] = S3Fifo()
    for key in range(5):
        policy.insert(key, 10)
    assert shrink(policy, 0) == [0, 1, 2, 3, 4]
    assert policy.evict() is None


def test_a_hot_set_survives_a_scan_far_larger_than_the_cache() -> None:
    policy: S3Fifo[int] = S3Fifo()
    hot = range(50)
    for _ in range(4):
        for key in hot:
            policy.hit(key) if key in policy else policy.insert(key, 1)
    for key in range(1000, 20_000):
        policy.insert(key, 1)
        shrink(policy, 100)
    assert all(key in policy for key in hot)


def test_a_scan_that_hits_each_key_thrice_in_a_row_leaves_the_hot_set_alone() -> None:
    """Two frames to a fragment and a header read per open: no proof that any of it is needed again."""
    policy: S3Fifo[object] = S3Fifo()
    hot = range(50)
    plain: S3Fifo[object] = S3Fifo(spacing=0)
    for key in range(20_000):
        for one in (policy, plain):
            one.insert(("scan", key), 1)
            for _ in range(3):
                one.hit(("scan", key))
            again = ("hot", hot[key % 50])
            one.hit(again) if again in one else one.insert(again, 1)
            while one.weight > 100:
                assert one.evict() is not None
    assert all(("hot", key) in policy for key in hot)
    assert not all(("hot", key) in plain for key in hot)


def test_a_working_set_proves_itself_while_nothing_else_comes_in() -> None:
    policy: S3Fifo[int] = S3Fifo()
    for key in range(50):
        policy.insert(key, 1)
    for _ in range(5):
        for key in range(50):
            policy.hit(key)
    for key in range(1000, 1200):
        policy.insert(key, 1)
    shrink(policy, 100)
    assert all(key in policy for key in range(50))


def test_one_heavy_key_does_not_make_hits_in_a_row_look_apart() -> None:
    policy: S3Fifo[int] = S3Fifo()
    policy.insert(0, 10)
    policy.insert(1, 80)
    for _ in range(9):
        policy.hit(0)
    policy.insert(2, 10)
    assert policy.evict() == 0


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 1000)), max_size=600))
def test_the_clock_fits_a_byte_and_what_was_long_ago_is_apart(uses: list[tuple[int, int]]) -> None:
    clock = UseClock()
    for weight, held in uses:
        clock.used(weight, held)
        assert 0 <= clock.now < 256
        assert 0 <= clock.long_ago < 256
        assert clock.apart(clock.long_ago)
        assert not clock.apart(clock.now)


def test_a_key_that_comes_back_soon_goes_to_the_main_queue() -> None:
    policy: S3Fifo[int] = S3Fifo()
    for key in range(10):
        policy.insert(key, 1)
    assert policy.evict() == 0
    policy.insert(0, 1)  # remembered: enters the main queue
    assert shrink(policy, 1) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_a_removed_key_leaves_no_ghost() -> None:
    policy: S3Fifo[int] = S3Fifo()
    for key in range(10):
        policy.insert(key, 1)
    policy.remove(0)
    policy.insert(0, 1)
    assert shrink(policy, 0)[-1] == 0


def test_pinned_keys_are_passed_over() -> None:
    pinned = {0, 1, 2}
    policy: S3Fifo[int] = S3Fifo(pinned.__contains__)
    for key in range(6):
        policy.insert(key, 1)
    assert shrink(policy, 3) == [3, 4, 5]
    assert policy.evict() is None
    pinned.clear()
    assert sorted(shrink(policy, 0)) == [0, 1, 2]


def test_everything_pinned_in_one_queue_frees_the_other() -> None:
    pinned: set[int] = set()
    policy: S3Fifo[int] = S3Fifo(pinned.__contains__)
    for key in range(20):
        policy.insert(key, 1)
        policy.hit(key)
        policy.hit(key)
    policy.insert(99, 1)
    shrink(policy, 20)
    pinned.update(list(policy)[:10])
    gone = shrink(policy, 10)
    assert not pinned & set(gone)
    assert policy.evict() is None


def test_weights_count_not_keys() -> None:
    policy: S3Fifo[int] = S3Fifo()
    policy.insert(1, 100)
    policy.insert(2, 1)
    policy.insert(2, 50)  # heavier than it was
    assert policy.weight == 150
    assert shrink(policy, 60) == [1]


def test_hits_on_unknown_keys_and_double_removal_do_nothing() -> None:
    policy: S3Fifo[int] = S3Fifo()
    policy.hit(1)
    policy.remove(1)
    assert len(policy) == 0
    assert policy.weight == 0


def test_the_ghosts_are_bounded() -> None:
    policy: S3Fifo[int] = S3Fifo()
    for key in range(50_000):
        policy.insert(key, 1)
        shrink(policy, 100)
    assert len(policy._ghost) <= 2 * len(policy) + 16
    assert policy._ghost_weight == sum(policy._ghost.values()) <= 101


def test_it_beats_lru_on_a_hot_set_mixed_with_scans() -> None:
    chance = random.Random(1)
    trace: list[int] = []
    for start in range(0, 100_000, 500):
        trace += [chance.randrange(80) for _ in range(100)] + list(range(1000 + start, 1500 + start))
    policy: S3Fifo[int] = S3Fifo()
    lru: dict[int, None] = {}
    hits = lru_hits = 0
    for key in trace:
        if key in policy:
            hits += 1
            policy.hit(key)
        else:
            policy.insert(key, 1)
            shrink(policy, 100)
        if key in lru:
            lru_hits += 1
            del lru[key]
        lru[key] = None
        if len(lru) > 100:
            del lru[next(iter(lru))]
    assert hits > 1.5 * lru_hits


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["insert", "hit", "remove", "evict", "pin", "unpin"]), st.integers(0, 15), st.integers(1, 9)
        ),
        max_size=200,
    )
)
def test_the_books_balance_whatever_happens(events: list[tuple[str, int, int]]) -> None:
    pinned: set[int] = set()
    policy: S3Fifo[int] = S3Fifo(pinned.__contains__)
    held: dict[int, int] = {}
    for event, key, weight in events:
        if event == "insert":
            policy.insert(key, weight)
            held[key] = weight
        elif event == "hit":
            policy.hit(key)
        elif event == "remove":
            policy.remove(key)
            held.pop(key, None)
        elif event == "pin":
            pinned.add(key)
        elif event == "unpin":
            pinned.discard(key)
        else:
            gone = policy.evict()
            assert (gone is None) == (not held.keys() - pinned)
            assert gone not in pinned
            if gone is not None:
                del held[gone]
        assert policy.weight == sum(held.values())
        assert set(policy) == set(held)
        assert len(policy) == len(held)
