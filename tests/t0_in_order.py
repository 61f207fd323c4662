"""Who goes through a directory in order gets a lead that grows; who opens names here and there gets nothing."""

from __future__ import annotations

from dadafs.policy.ahead import AT_ONCE, FIRST, MOST, NEAR, InOrder


def test_in_order_every_name_is_asked_for_once_and_in_time() -> None:
    order = InOrder()
    asked: list[int] = []
    for position in range(1000):
        wanted = order.opened(position)
        assert len(wanted) <= AT_ONCE
        assert not wanted or wanted.start > position
        asked += wanted
    assert asked == list(range(2, asked[-1] + 1))
    assert len(order.opened(1000)) <= AT_ONCE


def test_the_lead_grows_with_proof_and_no_further() -> None:
    order = InOrder()
    assert not order.opened(10)
    assert order.opened(11) == range(12, 12 + FIRST)
    for position in range(12, 2000):
        order.opened(position)
        assert order.asked - position <= MOST + 1
    assert order.asked - 2000 > MOST // 2  # asked for long before they are used


def test_here_and_there_nothing_is_opened_ahead() -> None:
    order = InOrder()
    assert not any(order.opened(position) for position in (500, 3, 200, 40, 700))


def test_a_jump_begins_anew() -> None:
    order = InOrder()
    for position in range(100):
        order.opened(position)
    assert not order.opened(100 + NEAR)
    assert order.opened(101 + NEAR) == range(102 + NEAR, 102 + NEAR + FIRST)


def test_what_is_proven_begins_with_the_first_name() -> None:
    order = InOrder(proven=True)
    asked = list(order.go_on())
    assert asked == list(range(AT_ONCE))
    for position in range(1000):
        asked += order.opened(position)
    assert asked == list(range(len(asked)))
    assert len(asked) > 1000
