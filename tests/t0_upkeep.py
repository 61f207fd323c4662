"""When a mount process counts as stuck, and how soon the next one is tried."""

from __future__ import annotations

from dadafs.policy.upkeep import FIRST_DELAY, LONGEST_DELAY, PROVEN, START_PATIENCE, Pulse, Restarts


def test_silence_longer_than_the_deadline_is_being_stuck() -> None:
    pulse = Pulse(10.0, now=0.0)
    pulse.beat(100.0)
    assert pulse.left(104.0) == 6.0
    assert pulse.left(111.0) == 0.0


def test_a_process_that_still_starts_is_given_more_time() -> None:
    assert Pulse(1.0, now=0.0).left(0.0) == START_PATIENCE
    assert Pulse(1000.0, now=0.0).left(0.0) == 1000.0


def test_without_a_deadline_nothing_is_ever_stuck() -> None:
    pulse = Pulse(0.0, now=0.0)
    pulse.beat(1.0)
    assert pulse.left(1e9) is None


def test_the_first_replacement_comes_at_once_and_later_ones_ever_later() -> None:
    restarts = Restarts()
    delays = [restarts.next_delay(served=0.0) for _ in range(10)]
    assert delays[:4] == [0.0, FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert delays[-1] == LONGEST_DELAY


def test_after_a_process_that_served_well_it_begins_anew() -> None:
    restarts = Restarts()
    for _ in range(5):
        restarts.next_delay(served=0.0)
    assert restarts.next_delay(served=PROVEN) == 0.0
    assert restarts.next_delay(served=0.0) == FIRST_DELAY
