"""When LZ4 pays: the faster the network, the more a fragment must shrink; a fast or unknown one gets it raw."""

from __future__ import annotations

import pytest

from dadafsd.policy.packing import (
    ENOUGH,
    MEASURED_EACH,
    PACKING_RATE,
    REMEMBERED,
    TRIED_AGAIN,
    WORTH_IT,
    Link,
    Speed,
    most,
)

GBIT = 125e6


@pytest.mark.parametrize(
    ("rate", "part"),
    [(None, 0.0), (10 * GBIT, 0.0), (PACKING_RATE, 0.0), (PACKING_RATE / 2, 0.5), (GBIT, 0.75), (GBIT / 10, WORTH_IT)],
)
def test_the_faster_the_network_the_more_it_must_shrink(rate: float | None, part: float) -> None:
    assert most(rate) == pytest.approx(part)
    assert most(rate, always=True) == WORTH_IT


def measured(link: Link, *rates: float, idle: bool = False) -> float | None:
    for rate in rates:
        link.measured(rate, idle=idle)
    return link.rate


def test_a_network_is_known_after_a_few_replies_and_outliers_say_nothing() -> None:
    link = Link()
    assert measured(link, *[GBIT] * (ENOUGH - 1)) is None
    assert measured(link, 20 * GBIT) == GBIT
    assert measured(link, GBIT / 50) == GBIT
    assert measured(link, *[2 * GBIT] * REMEMBERED) == 2 * GBIT, "what is long ago is forgotten"
    assert measured(link, *[GBIT / 2] * REMEMBERED) == GBIT / 2


def test_what_this_side_did_not_send_says_nothing_about_the_network() -> None:
    link = Link()
    assert measured(link, *[GBIT / 10] * REMEMBERED, idle=True) is None
    assert measured(link, *[GBIT] * ENOUGH) == GBIT
    assert measured(link, *[GBIT / 10] * REMEMBERED, idle=True) == GBIT
    assert measured(link, *[GBIT * 2] * REMEMBERED, idle=True) == GBIT * 2


def test_a_busy_head_packs_less_and_tries_again_later() -> None:
    speed = Speed()
    for second in range(ENOUGH):
        assert speed.at(second) == PACKING_RATE
        speed.packed(1_000_000, 0.01, second)
    assert speed.at(ENOUGH) == pytest.approx(100e6)
    assert most(GBIT, speed.at(ENOUGH)) == 0
    speed.packed(1_000_000, 1e-9, ENOUGH)
    assert speed.at(ENOUGH) == pytest.approx(100e6)
    assert speed.at(ENOUGH + TRIED_AGAIN) == PACKING_RATE


def test_small_replies_are_not_each_measured() -> None:
    link = Link()
    assert link.due(1), "the first one is"
    assert [link.due(MEASURED_EACH // 4) for _ in range(9)] == [False, False, False, True] * 2 + [False]
    assert all(link.due(MEASURED_EACH) for _ in range(3))
