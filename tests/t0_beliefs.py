"""The newest belief about a name counts, for as long as the lease clock says, and memory stays within its share."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dadafs.beliefs import lease_covers
from dadafs.listing import Listing, Page
from dadafs.node import Belief, Directory
from dadafs.policy.lease import NEVER, LeaseClock
from dadafs.tree import Tree
from dadafs.wire.messages import Item
from tests.t0_listing import attr
from tests.t0_tree import DIR, Budget, root_attr


def make(limit: int = 1 << 40, freshness: float = 1.0) -> Tree:
    leases = LeaseClock(freshness)
    leases.connected_again(1)
    return Tree(root_attr(), leases, Budget(limit), asked_at=0.0)


def belief(ino: int | None, asked_at: float, *, leased: bool = False, size: int = 0) -> Belief:
    return Belief(None if ino is None else attr(ino, size=size), None, asked_at, 1, leased)


def listing(asked_at: float, *items: Item, leased: bool = False) -> Listing:
    return Listing(root_attr(), [Page(items)], asked_at=asked_at, generation=1, leased=leased)


TIMES = st.floats(-10, 10)


@given(
    st.floats(0, 3), TIMES | st.just(NEVER), st.integers(0, 2), st.booleans(), TIMES,
    st.booleans(), st.booleans(), TIMES | st.just(NEVER),
)  # fmt: skip
def test_until_agrees_with_the_lease_clock(
    freshness: float, asked_at: float, generation: int, leased: bool, now: float, stale: bool, on: bool, horizon: float
) -> None:
    leases = LeaseClock(freshness, stale_if_offline=stale)
    leases.connected_again(1)
    leases.passed(horizon)
    if not on:
        leases.disconnected()
    tree = Tree(root_attr(), leases, Budget(), asked_at=0.0)
    until = tree.beliefs.until(asked_at, generation, leased, now)
    live = leases.live(asked_at, generation, leased, now)
    if abs(until - now) > 1e-9:
        assert (until > now) == live


def test_a_name_is_believed_while_it_is_fresh() -> None:
    tree = make()
    tree.beliefs.learn(tree.root, b"a", belief(5, 10.0))
    found = tree.beliefs.believed(tree.root, b"a", 10.9)
    assert found is not None
    assert found.attr == attr(5)
    assert found.until == pytest.approx(11.0)
    assert tree.beliefs.believed(tree.root, b"a", 11.1) is None


def test_nothing_there_is_a_belief_too() -> None:
    tree = make()
    tree.beliefs.learn(tree.root, b"a", belief(None, 10.0))
    found = tree.beliefs.believed(tree.root, b"a", 10.5)
    assert found is not None
    assert found.attr is None


def test_a_leased_belief_is_as_fresh_as_the_last_pass() -> None:
    tree = make()
    tree.beliefs.learn(tree.root, b"a", belief(5, 10.0, leased=True))
    tree.beliefs.leases.passed(50.0)
    found = tree.beliefs.believed(tree.root, b"a", 50.5)
    assert found is not None
    assert found.until == pytest.approx(51.0)
    tree.beliefs.leases.connected_again(2)
    tree.beliefs.leases.passed(51.0)
    assert tree.beliefs.believed(tree.root, b"a", 51.1) is None


def test_a_listing_answers_for_names_and_for_their_absence() -> None:
    tree = make()
    tree.beliefs.learn_listing(tree.root, listing(10.0, Item(b"a", attr(5, size=3))))
    found = tree.beliefs.believed(tree.root, b"a", 10.5)
    assert found is not None
    assert found.attr == attr(5, size=3)
    absent = tree.beliefs.believed(tree.root, b"b", 10.5)
    assert absent is not None
    assert absent.attr is None


def test_the_newer_of_name_and_listing_counts() -> None:
    tree = make()
    tree.beliefs.learn(tree.root, b"a", belief(5, 9.8, size=1))
    tree.beliefs.learn(tree.root, b"b", belief(6, 10.2, size=2))
    tree.beliefs.learn_listing(tree.root, listing(10.0, Item(b"a", attr(5, size=10)), Item(b"b", attr(6, size=20))))
    sizes = {}
    for name in (b"a", b"b"):
        found = tree.beliefs.believed(tree.root, name, 10.3)
        assert found is not None
        assert found.attr is not None
        sizes[name] = found.attr.size
    assert sizes == {b"a": 10, b"b": 2}


def test_an_expired_newer_belief_does_not_bring_the_older_one_back() -> None:
    tree = make()
    tree.beliefs.learn_listing(tree.root, listing(10.0, Item(b"a", attr(5)), leased=True))
    tree.beliefs.learn(tree.root, b"a", belief(None, 10.5))
    tree.beliefs.leases.passed(20.0)
    assert tree.beliefs.believed(tree.root, b"a", 20.1) is None
    other = tree.beliefs.believed(tree.root, b"z", 20.1)
    assert other is not None


def test_an_older_answer_does_not_replace_a_push() -> None:
    tree = make()
    tree.beliefs.learn(tree.root, b"a", belief(5, 10.5, size=2))
    tree.beliefs.learn(tree.root, b"a", belief(5, 10.0, size=1))
    found = tree.beliefs.believed(tree.root, b"a", 10.6)
    assert found is not None
    assert found.attr is not None
    assert found.attr.size == 2


def test_a_watch_on_a_directory_does_not_cover_subdirectories_and_other_names() -> None:
    assert lease_covers(attr(5))
    assert not lease_covers(attr(5, nlink=2))
    assert not lease_covers(attr(5, mode=DIR))
    tree = make()
    tree.beliefs.learn_listing(
        tree.root, listing(10.0, Item(b"d", attr(5, mode=DIR)), Item(b"f", attr(6)), leased=True)
    )
    tree.beliefs.leases.passed(20.0)
    assert tree.beliefs.believed(tree.root, b"d", 20.1) is None
    assert tree.beliefs.believed(tree.root, b"f", 20.1) is not None


def test_what_happens_inside_a_directory_voids_its_own_attributes() -> None:
    tree = make()
    folder = tree.looked_up(tree.root, b"d", attr(6, mode=DIR))
    assert isinstance(folder, Directory)
    tree.beliefs.learn(tree.root, b"d", Belief(attr(6, mode=DIR), None, 10.0, 1, True))
    assert tree.beliefs.believed(tree.root, b"d", 10.1) is not None
    folder.void_at = 10.2
    assert tree.beliefs.believed(tree.root, b"d", 10.3) is None
    tree.beliefs.learn(tree.root, b"d", Belief(attr(6, mode=DIR), None, 10.4, 1, True))
    assert tree.beliefs.believed(tree.root, b"d", 10.5) is not None


def test_a_directory_that_is_gone_is_taken_from_its_name() -> None:
    tree = make()
    folder = tree.looked_up(tree.root, b"d", attr(6, mode=DIR))
    assert isinstance(folder, Directory)
    tree.beliefs.learn(tree.root, b"d", belief(None, 10.0))
    assert tree.directory_at(b"d") is None
    assert folder.links == []


def test_a_file_that_was_seen_with_several_names_has_no_name_of_its_own() -> None:
    tree = make()
    tree.beliefs.learn_listing(tree.root, listing(10.0, Item(b"a", attr(5)), Item(b"b", attr(6)), leased=True))
    tree.beliefs.leases.passed(30.0)
    for name in (b"a", b"b"):
        assert tree.beliefs.believed(tree.root, name, 30.5) is not None
    folder = tree.looked_up(tree.root, b"d", attr(9, mode=DIR))
    assert isinstance(folder, Directory)
    tree.beliefs.learn(folder, b"link", Belief(attr(5, nlink=2), None, 30.5, 1, False))
    assert tree.beliefs.believed(tree.root, b"a", 30.6) is None
    assert tree.beliefs.believed(tree.root, b"b", 30.6) is not None
    tree.beliefs.learn(tree.root, b"a", Belief(attr(5), None, 31.0, 1, True))  # the other name is gone
    assert tree.beliefs.believed(tree.root, b"a", 31.1) is not None


def test_so_many_links_are_remembered() -> None:
    beliefs = make().beliefs
    for number in range(10_000):
        beliefs.note_links(attr(number, nlink=2), 10.0)
    assert beliefs.links_remembered < 10_000


def test_the_oldest_directory_is_forgotten_first() -> None:
    tree = make(limit=25_000)
    folders = []
    for number in range(30):
        folder = tree.looked_up(tree.root, b"d%d" % number, attr(10 + number, mode=stat.S_IFDIR))
        assert isinstance(folder, Directory)
        tree.beliefs.learn(folder, b"name", belief(200 + number, 10.0))
        folders.append(folder)
    believed = [bool(folder.names) for folder in folders]
    assert believed == sorted(believed)
    assert True in believed
    assert False in believed


def test_a_listing_patched_too_often_is_dropped() -> None:
    tree = make()
    tree.beliefs.learn_listing(tree.root, listing(10.0, Item(b"a", attr(5)), leased=True))
    for number in range(5000):
        tree.beliefs.learn(tree.root, b"%d" % number, belief(6 + number, 11.0))
        tree.beliefs.drop_patches(tree.root)
    assert tree.root.listing is None
    assert len(tree.root.names) < 5000
