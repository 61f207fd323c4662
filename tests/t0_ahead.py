"""Which files of a directory are opened ahead, for which order of opens."""

from __future__ import annotations

import random

from dadafs.policy.ahead import MOST, NEAR, InOrder


def go_through(positions: list[int]) -> list[int]:
    """Everything that is opened ahead while files are opened in this order; each at most once."""
    order = InOrder()
    ahead: list[int] = []
    for position in positions:
        wanted = order.opened(position)
        assert len(wanted) <= MOST
        assert all(at > position for at in wanted)
        ahead += wanted
    return ahead


def test_in_order_everything_but_the_first_two_is_opened_ahead_once_and_in_time() -> None:
    order = InOrder()
    ahead: set[int] = set()
    requests = 0
    for position in range(1000):
        assert position < 2 or position in ahead
        wanted = order.opened(position)
        requests += bool(wanted)
        assert not ahead.intersection(wanted)
        ahead.update(wanted)
    assert requests < 1000 / 16


def test_one_file_proves_nothing() -> None:
    assert go_through([7]) == []


def test_here_and_there_opens_nothing_ahead() -> None:
    shuffled = [position * 5 * NEAR for position in range(100)]
    random.Random(1).shuffle(shuffled)
    assert go_through(shuffled) == []


def test_the_same_file_again_and_again_opens_nothing_ahead() -> None:
    assert go_through([3] * 50) == []


def test_backwards_opens_nothing_ahead() -> None:
    assert go_through(list(range(100, 0, -1))) == []


def test_several_workers_share_the_way() -> None:
    positions = list(range(400))
    for start in range(0, 400, 4):
        block = positions[start : start + 4]
        random.Random(start).shuffle(block)
        positions[start : start + 4] = block
    ahead = go_through(positions)
    assert len(ahead) == len(set(ahead))
    assert set(range(8, 400)) <= set(ahead)


def test_every_other_file_goes_on_too() -> None:
    assert set(range(8, 200, 2)) <= set(go_through(list(range(0, 200, 2))))


def test_a_new_place_begins_anew() -> None:
    order = InOrder()
    for position in range(20):
        order.opened(position)
    assert not order.opened(5000)
    assert order.opened(5001) == range(5002, 5006)
