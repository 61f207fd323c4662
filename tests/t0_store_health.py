"""When a tier is used and when not: normal, unstable, down, and back."""

from __future__ import annotations

from itertools import pairwise

from dadafsd.store.admission import Admission
from dadafsd.store.health import (
    ERROR_WINDOW,
    ERRORS_TO_DOWN,
    ERRORS_TO_UNSTABLE,
    LONGEST_PROBE_INTERVAL,
    SUCCESSES_TO_NORMAL,
    TRIAL_INTERVAL,
    Health,
    State,
)


def unstable(now: float = 0.0) -> Health:
    health = Health()
    for _ in range(ERRORS_TO_UNSTABLE):
        health.failed(now)
    assert health.state is State.UNSTABLE
    return health


def down(now: float = 0.0) -> Health:
    health = unstable(now)
    for _ in range(ERRORS_TO_DOWN):
        health.failed(now)
    assert health.state is State.DOWN
    return health


def test_errors_far_apart_are_forgiven() -> None:
    health = Health()
    for number in range(20):
        health.failed(number * ERROR_WINDOW)
    assert health.state is State.NORMAL


def test_an_unstable_tier_is_tried_now_and_then() -> None:
    health = unstable()
    tried = sum(health.allowed(now / 100) for now in range(200))
    assert tried == round(2.0 / TRIAL_INTERVAL)


def test_it_comes_back_after_enough_successes_in_a_row() -> None:
    health = unstable()
    for _ in range(SUCCESSES_TO_NORMAL - 1):
        health.succeeded()
    health.failed(1.0)
    for _ in range(SUCCESSES_TO_NORMAL - 1):
        health.succeeded()
    assert health.state is State.UNSTABLE
    health.succeeded()
    assert health.state is State.NORMAL
    health.failed(2.0)
    assert health.state is State.NORMAL


def test_nothing_is_tried_on_a_tier_that_is_down_but_probes_further_and_further_apart() -> None:
    health = down()
    probes = []
    for tenth in range(3000):
        now = tenth / 10
        assert not health.allowed(now)
        if health.probe_due(now):
            probes.append(now)
            health.failed(now)
    gaps = [later - sooner for sooner, later in pairwise(probes)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == LONGEST_PROBE_INTERVAL


def test_a_probe_that_succeeds_leads_back_by_way_of_unstable() -> None:
    health = down()
    health.succeeded()
    assert health.state is State.UNSTABLE
    assert health.probe_due(0.0)
    for _ in range(SUCCESSES_TO_NORMAL):
        health.succeeded()
    assert health.state is State.NORMAL
    assert not health.probe_due(1e9)


def test_admission_counts_offers_of_each_fragment() -> None:
    admission = Admission(1 << 12)
    keys = [number * 0x9E3779B97F4A7C15 % 2**64 for number in range(1, 50)]
    assert not any(admission.admit(key, 2) for key in keys)
    assert sum(admission.admit(key, 2) for key in keys) > 45
    assert all(admission.admit(key, 1) for key in keys)
