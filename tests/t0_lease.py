"""When a belief may be used, and which replies a push overtook."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dadafs.policy.lease import NEVER, LeaseClock
from dadafs.policy.overtaken import MEMORY, Overtaken


@pytest.fixture
def clock() -> LeaseClock:
    leases = LeaseClock(1.0)
    leases.connected_again(1)
    return leases


def test_a_fresh_belief_needs_no_lease(clock: LeaseClock) -> None:
    assert clock.live(10.0, 1, False, 10.999)
    assert not clock.live(10.0, 1, False, 11.0)


def test_a_lease_lives_as_long_as_passes_come(clock: LeaseClock) -> None:
    assert not clock.live(10.0, 1, True, 50.0)
    clock.passed(49.5)
    assert clock.live(10.0, 1, True, 50.4)
    assert not clock.live(10.0, 1, True, 50.5)
    assert not clock.live(10.0, 1, False, 50.4)


def test_the_horizon_is_when_the_keepalive_was_sent_and_never_goes_back(clock: LeaseClock) -> None:
    clock.passed(20.0)
    clock.passed(19.0)
    assert clock.horizon == 20.0


def test_a_new_session_voids_leases_but_not_freshness(clock: LeaseClock) -> None:
    clock.passed(50.0)
    clock.disconnected()
    clock.connected_again(2)
    clock.passed(50.2)
    assert not clock.live(10.0, 1, True, 50.3)
    assert clock.live(50.0, 1, False, 50.3)
    assert clock.live(10.0, 2, True, 50.3)


def test_a_new_session_has_no_horizon_yet(clock: LeaseClock) -> None:
    clock.passed(50.0)
    clock.connected_again(2)
    assert not clock.live(10.0, 2, True, 50.1)


def test_generations_only_grow(clock: LeaseClock) -> None:
    with pytest.raises(ValueError, match="does not follow"):
        clock.connected_again(1)


def test_what_was_overtaken_is_never_believed() -> None:
    clock = LeaseClock(1.0, stale_if_offline=True)
    clock.connected_again(1)
    clock.passed(10.0)
    assert not clock.live(NEVER, 1, False, 10.0)
    clock.disconnected()
    assert not clock.live(NEVER, 1, False, 10.0)


def test_stale_if_offline_believes_everything_while_disconnected_only() -> None:
    clock = LeaseClock(1.0, stale_if_offline=True)
    clock.connected_again(1)
    assert not clock.live(10.0, 1, False, 100.0)
    clock.disconnected()
    assert clock.live(10.0, 1, False, 100.0)
    clock.connected_again(2)
    assert not clock.live(10.0, 1, False, 100.0)


def test_freshness_zero_believes_nothing_without_asking() -> None:
    clock = LeaseClock(0.0)
    clock.connected_again(1)
    clock.passed(10.0)
    assert not clock.live(10.0, 1, True, 10.0)


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 100), st.booleans(), st.integers(1, 3))
def test_never_staler_than_freshness(asked: float, horizon: float, now: float, leased: bool, generation: int) -> None:
    """Whatever is live was true at the head less than `freshness` ago: when asked, or at the horizon."""
    clock = LeaseClock(1.0)
    clock.connected_again(2)
    clock.passed(horizon)
    if clock.live(asked, generation, leased, now):
        proved = max(asked, horizon) if leased and generation == 2 else asked
        assert now - proved < 1.0


def test_keepalives_come_four_times_per_freshness_within_reason() -> None:
    assert LeaseClock(1.0).keepalive_interval() == 0.25
    assert LeaseClock(0.01).keepalive_interval() == 0.02
    assert LeaseClock(600.0).keepalive_interval() == 5.0


# --- overtaken replies --------------------------------------------------------------------------------------------


def test_a_push_about_the_same_path_overtakes() -> None:
    pushes = Overtaken()
    mark = pushes.mark()
    assert not pushes.since(mark, b"a/b")
    pushes.pushed(b"a/b", subtree=False)
    assert pushes.since(mark, b"a/b")
    assert not pushes.since(mark, b"a/c")
    assert not pushes.since(pushes.mark(), b"a/b")


def test_a_subtree_push_overtakes_everything_below() -> None:
    pushes = Overtaken()
    mark = pushes.mark()
    pushes.pushed(b"a", subtree=True)
    assert pushes.since(mark, b"a/b/c")
    assert not pushes.since(mark, b"ab/c")
    pushes.pushed(b"", subtree=True)
    assert pushes.since(mark, b"ab/c")


def test_a_listing_is_overtaken_by_its_names() -> None:
    pushes = Overtaken()
    mark = pushes.mark()
    pushes.pushed(b"a/b", subtree=False)
    assert pushes.since(mark, b"a", children=True)
    assert not pushes.since(mark, b"a")
    assert not pushes.since(mark, b"", children=True)
    pushes.pushed(b"top", subtree=False)
    assert pushes.since(mark, b"", children=True)


def test_too_many_pushes_to_remember_overtake_everything() -> None:
    pushes = Overtaken()
    mark = pushes.mark()
    for i in range(MEMORY + 1):
        pushes.pushed(b"x%d" % i, subtree=False)
    assert pushes.since(mark, b"anything")
