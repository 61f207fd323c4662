"""Back-off, the circuit breaker, and how long silence is tolerated."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dadafs.policy.retry import FIRST_DELAY, GRACE, IMPATIENT, LONGEST_DELAY, Backoff, Circuit, silence_limit
from dadafs.throttle import MEMORY, Throttle


def test_delays_double_up_to_two_seconds() -> None:
    backoff = Backoff(lambda: 1.0)
    delays = [backoff.next_delay() for _ in range(8)]
    assert delays[:3] == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert delays[-1] == LONGEST_DELAY


def test_success_starts_over() -> None:
    backoff = Backoff(lambda: 1.0)
    for _ in range(8):
        backoff.next_delay()
    backoff.succeeded()
    assert backoff.next_delay() == FIRST_DELAY


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20))
def test_jitter_keeps_within_half_and_whole(values: list[float]) -> None:
    source = iter(values)
    backoff = Backoff(lambda: next(source))
    nominal = FIRST_DELAY
    for _ in values:
        assert nominal / 2 <= backoff.next_delay() <= nominal
        nominal = min(2 * nominal, LONGEST_DELAY)


def test_requests_wait_for_retry_while_the_head_is_only_just_away() -> None:
    circuit = Circuit(30.0)
    assert circuit.deadline(100.0) == 130.0
    circuit.lost(105.0)
    circuit.lost(120.0)  # the same outage
    assert circuit.deadline(106.0) == 136.0


def test_an_outage_is_waited_for_once_however_often_the_kernel_asks() -> None:
    """A read(2) whose readahead failed after `retry` is tried again for the page that was wanted."""
    circuit = Circuit(30.0)
    circuit.lost(104.0)  # noticed some time after a request that began at 100
    assert circuit.deadline(130.0) == 134.0 + GRACE
    assert circuit.deadline(134.0 + GRACE) == 134.0 + GRACE + IMPATIENT
    circuit.restored()
    assert circuit.deadline(138.0) == 168.0


def test_without_patience_nothing_is_waited_for() -> None:
    circuit = Circuit(0.0)
    circuit.lost(100.0)
    assert circuit.deadline(110.0) == 110.0


def test_hard_waits_for_ever() -> None:
    circuit = Circuit(30.0, hard=True)
    circuit.lost(0.0)
    assert circuit.deadline(1e6) == math.inf


def test_a_negative_retry_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Circuit(-1.0)


def test_silence_gives_a_busy_head_time_and_leaves_room_for_more_attempts() -> None:
    assert silence_limit(0.25, 30.0) == 5.0
    assert silence_limit(0.25, 3.0) == 1.0
    assert silence_limit(1.0, 300.0) == 10.0


def test_a_throttle_allows_each_subject_once_in_its_interval() -> None:
    throttle = Throttle(60.0)
    assert throttle.allows("a", 0.0)
    assert not throttle.allows("a", 59.0)
    assert throttle.allows("b", 59.0)
    assert throttle.allows("a", 60.0)


def test_a_throttle_forgets_the_oldest_subjects() -> None:
    throttle = Throttle(60.0)
    for subject in range(MEMORY + 1):
        assert throttle.allows(subject, 0.0)
    assert throttle.allows(0, 1.0)
    assert not throttle.allows(MEMORY, 1.0)
