"""Nodes live exactly as long as the kernel, a handle or a child needs them; links and ids say what they should."""

from __future__ import annotations

import errno
import stat

import msgspec
import pytest

from dadafs.listing import Fields, Listing, Page
from dadafs.node import OWN_IDS, ROOT_ID, Belief, Directory, Node
from dadafs.policy.lease import LeaseClock
from dadafs.tree import Tree
from dadafs.wire.messages import Attr, Item
from tests.t0_listing import attr

DIR = stat.S_IFDIR | 0o755


class Budget:
    """A metadata account that counts."""

    def __init__(self, limit: int = 1 << 40) -> None:
        self.charged = 0
        self.limit = limit

    def charge_metadata(self, delta: int) -> None:
        self.charged += delta

    @property
    def metadata_room(self) -> int:
        return self.limit - self.charged


def root_attr() -> Attr:
    return attr(100, mode=DIR, nlink=2)


@pytest.fixture
def budget() -> Budget:
    return Budget()


@pytest.fixture
def tree(budget: Budget) -> Tree:
    leases = LeaseClock(1.0)
    leases.connected_again(1)
    return Tree(root_attr(), leases, budget, asked_at=0.0)


def listed(tree: Tree, items: list[Item]) -> Page:
    """A listing of the root that was handed to the kernel."""
    page = Page(items)
    tree.beliefs.learn_listing(tree.root, Listing(root_attr(), [page], asked_at=0.0, generation=1, leased=False))
    for index, item in enumerate(items):
        tree.listed(tree.root, page, index, tree.id_of(item.attr.dev, item.attr.ino))
    return page


def test_the_id_is_the_inode_number(tree: Tree) -> None:
    assert tree.id_of(1, 12345) == 12345
    assert tree.id_of(1, 100) == ROOT_ID


@pytest.mark.parametrize(("dev", "ino"), [(2, 12345), (1, 1), (1, 0), (1, OWN_IDS), (1, OWN_IDS + 5)])
def test_other_devices_and_taken_numbers_get_ids_of_their_own(tree: Tree, dev: int, ino: int) -> None:
    own = tree.id_of(dev, ino)
    assert own >= OWN_IDS
    assert tree.id_of(dev, ino) == own
    assert tree.id_of(3, 12345) != own


def test_a_node_goes_with_its_last_reference(tree: Tree, budget: Budget) -> None:
    before = budget.charged
    tree.looked_up(tree.root, b"a", attr(5))
    tree.looked_up(tree.root, b"a", attr(5))
    tree.forget(5, 1)
    assert tree.known(5)
    tree.forget(5, 1)
    assert not tree.known(5)
    assert budget.charged == before
    assert tree.root.pins == 0


def test_an_open_node_stays(tree: Tree) -> None:
    node = tree.looked_up(tree.root, b"a", attr(5))
    assert node is not None
    node.opens += 1
    tree.forget(5, 1)
    assert tree.known(5)
    tree.closed(node)
    assert not tree.known(5)


def test_a_directory_stays_while_a_child_does(tree: Tree) -> None:
    folder = tree.looked_up(tree.root, b"d", attr(6, mode=DIR))
    assert isinstance(folder, Directory)
    tree.looked_up(folder, b"a", attr(7))
    tree.forget(6, 1)
    assert tree.path_of(7) == b"d/a"
    tree.forget(7, 1)
    assert not tree.known(6)
    assert tree.root.subdirs == {}


def test_a_listed_name_is_no_object_until_it_is_used(tree: Tree, budget: Budget) -> None:
    before = budget.charged
    listed(tree, [Item(b"a", attr(5, size=7)), Item(b"b", attr(6))])
    assert tree.find(5) is None
    assert tree.known(5)
    assert tree.path_of(5) == b"a"
    tree.looked_up(tree.root, b"a", attr(5, size=7))
    assert tree.find(5) is None
    node = tree.node(5)
    assert node.lookups == 2
    assert node.told == (7, 0, 0)
    tree.forget(5, 2)
    tree.forget(6, 1)
    assert not tree.known(5)
    assert not tree.known(6)
    tree.beliefs.disbelieve(tree.root)
    assert budget.charged == before


def test_names_outlive_the_listing_they_came_from(tree: Tree) -> None:
    listed(tree, [Item(b"a", attr(5))])
    tree.beliefs.disbelieve(tree.root)
    assert tree.path_of(5) == b"a"
    listed(tree, [Item(b"a", attr(5))])
    tree.forget(5, 1)
    assert tree.known(5)
    tree.forget(5, 1)
    assert not tree.known(5)
    assert tree.root.places == {}


def test_a_listed_name_that_moved_becomes_an_object(tree: Tree) -> None:
    listed(tree, [Item(b"a", attr(5))])
    node = tree.looked_up(tree.root, b"z", attr(5))
    assert node is not None
    assert node.lookups == 2
    assert tree.path_of(5) == b"z"


def test_hard_links_are_one_node_with_several_names(tree: Tree) -> None:
    tree.looked_up(tree.root, b"a", attr(5, nlink=2))
    tree.looked_up(tree.root, b"b", attr(5, nlink=2))
    node = tree.node(5)
    assert node.lookups == 2
    assert [name for _, name in node.links] == [b"a", b"b"]
    tree.unlink(5, tree.root, b"b")
    assert tree.path_of(5) == b"a"
    tree.unlink(5, tree.root, b"a")
    with pytest.raises(OSError) as gone:
        tree.path_of(5)
    assert gone.value.errno == errno.ESTALE


def test_a_directory_moves_with_everything_below(tree: Tree) -> None:
    one = tree.looked_up(tree.root, b"one", attr(6, mode=DIR))
    two = tree.looked_up(tree.root, b"two", attr(7, mode=DIR))
    assert isinstance(one, Directory)
    assert isinstance(two, Directory)
    tree.looked_up(one, b"a", attr(8))
    tree.looked_up(two, b"moved", attr(6, mode=DIR))
    assert tree.path_of(8) == b"two/moved/a"
    assert tree.directory_at(b"one") is None
    assert tree.directory_at(b"two/moved") is one


def test_a_number_used_again_for_another_type_is_another_node(tree: Tree) -> None:
    folder = tree.looked_up(tree.root, b"x", attr(6, mode=DIR))
    file = tree.looked_up(tree.root, b"y", attr(6))
    assert file is not folder
    assert tree.node(6) is file
    assert file is not None
    assert file.lookups == 2
    tree.forget(6, 2)
    assert not tree.known(6)


def test_an_unknown_id_is_stale(tree: Tree) -> None:
    with pytest.raises(OSError) as stale:
        tree.node(4711)
    assert stale.value.errno == errno.ESTALE
    tree.forget(4711, 1)


def test_a_file_is_no_directory(tree: Tree) -> None:
    tree.looked_up(tree.root, b"a", attr(5))
    with pytest.raises(NotADirectoryError):
        tree.directory(5)


def test_own_ids_are_given_up_with_the_node(tree: Tree) -> None:
    own = tree.id_of(2, 5)
    tree.looked_up(tree.root, b"a", attr(5, dev=2))
    tree.forget(own, 1)
    assert tree.id_of(2, 5) != own


def test_going_round_in_circles_is_stale(tree: Tree) -> None:
    one = tree.looked_up(tree.root, b"one", attr(6, mode=DIR))
    assert isinstance(one, Directory)
    two = tree.looked_up(one, b"two", attr(7, mode=DIR))
    assert isinstance(two, Directory)
    tree.looked_up(two, b"one", attr(6, mode=DIR))
    with pytest.raises(OSError) as stale:
        tree.path(one)
    assert stale.value.errno == errno.ESTALE


def test_the_longest_known_are_forgotten_when_there_is_no_room(tree: Tree, budget: Budget) -> None:
    folder = tree.looked_up(tree.root, b"d", attr(6, mode=DIR))
    assert isinstance(folder, Directory)
    opened = tree.looked_up(folder, b"open", attr(7))
    assert opened is not None
    opened.opens += 1
    for number in range(10):
        tree.looked_up(folder, b"%d" % number, attr(20 + number))
    assert tree.surplus(100) == []
    budget.limit = 0
    assert tree.surplus(6) == [(6, b"0"), (6, b"1"), (6, b"2")], "neither the root nor what is open or in use"
    assert tree.surplus(7) == [(6, b"%d" % number) for number in range(3, 10)]
    listed(tree, [Item(b"a", attr(50)), Item(b"b", attr(51))])
    assert {(1, b"a"), (1, b"b")} <= set(tree.surplus(100))


def test_many_names_listed_at_once_are_as_good_as_one_after_the_other(tree: Tree, budget: Budget) -> None:
    items = [Item(b"%03d" % number, attr(200 + number), None) for number in range(100)]
    page = Page(items)
    before = budget.charged
    ids = tree.new_to_kernel(page, 10, 100)
    assert ids == list(range(210, 300))
    tree.all_listed(tree.root, page, 10, ids[:40])
    assert tree.statistics()["listed_nodes"] == 40
    assert tree.path_of(249) == b"049"
    assert tree.new_to_kernel(page, 40, 60) is None  # some are known
    assert tree.new_to_kernel(page, 50, 60) == list(range(250, 260))
    node = tree.node(230)
    assert (node.lookups, node.links) == (1, [(tree.root, b"030")])
    assert tree.new_to_kernel(page, 30, 31) is None  # as an object as well
    for node_id in ids[:40]:
        tree.forget(node_id, 1)
    assert not any(tree.known(node_id) for node_id in ids)
    assert budget.charged == before


@pytest.mark.parametrize("odd", [attr(100), attr(1), attr(OWN_IDS + 5), attr(205), attr(207, dev=9)])
def test_objects_that_need_a_look_are_not_listed_at_once(tree: Tree, odd: Attr) -> None:
    items = [Item(b"%03d" % number, attr(200 + number), None) for number in range(10)]
    items[7] = Item(b"odd", odd, None)
    page = Page(items)
    assert tree.new_to_kernel(page, 0, 10) is None
    assert tree.new_to_kernel(page, 0, 7) == list(range(200, 207))
    assert tree.statistics()["listed_nodes"] == 0


def fields(item: Attr) -> Fields:
    return msgspec.structs.astuple(item)


def test_a_number_that_was_given_to_another_file(tree: Tree, budget: Budget) -> None:
    before = budget.charged
    old = tree.looked_up(tree.root, b"old", attr(5, size=1))
    assert old is not None
    old.told = (1, 0, 0)
    assert tree.id_at(tree.root, b"old", fields(attr(5, size=2))) == 5  # changed in place
    assert tree.id_at(tree.root, b"new", fields(attr(5, size=1))) == 5  # moved
    assert tree.id_at(tree.root, b"new", fields(attr(5, size=2, nlink=2))) == 5  # linked
    assert tree.path_of(5) == b"old"
    own = tree.id_at(tree.root, b"new", fields(attr(5, size=2)))
    assert own >= OWN_IDS
    assert tree.number_of(own) == 5
    assert tree.id_of(1, 5) == own
    new = tree.looked_up(tree.root, b"new", attr(5, size=2))
    assert new is not None
    assert (new.id, new.ino) == (own, 5)
    assert tree.place_of(5) is None  # nothing that the old names lead to
    tree.forget(5, 1)
    tree.forget(own, 1)
    assert tree.id_of(1, 5) == 5
    assert tree.number_of(own) == own
    assert budget.charged == before
    assert tree.root.pins == 0


def test_a_number_that_was_given_away_keeps_its_open_file(tree: Tree) -> None:
    node = tree.looked_up(tree.root, b"old", attr(5, size=1))
    assert node is not None
    node.told = (1, 0, 0)
    node.opens += 1
    assert tree.id_at(tree.root, b"new", fields(attr(5, size=2))) == 5


def test_a_listed_number_that_was_given_to_another_file(tree: Tree) -> None:
    page = listed(tree, [Item(b"old", attr(5, size=1)), Item(b"other", attr(6))])
    assert tree.id_at(tree.root, b"old", fields(attr(5, size=2))) == 5
    assert tree.find(5) is None
    own = tree.id_at(tree.root, b"new", fields(attr(5, size=2)))
    assert own >= OWN_IDS
    assert tree.place_of(5) is None
    assert tree.new_to_kernel(page, 0, 1) is None  # its plain number is not its id now
    tree.looked_up(tree.root, b"new", attr(5, size=2))
    again = tree.id_at(tree.root, b"newer", fields(attr(5, size=3)))
    assert again > own


def test_names_that_the_kernel_keeps_below_a_directory(tree: Tree) -> None:
    folder = tree.looked_up(tree.root, b"d", attr(6, mode=DIR))
    assert isinstance(folder, Directory)
    deep = tree.looked_up(folder, b"deep", attr(7, mode=DIR))
    assert isinstance(deep, Directory)
    tree.looked_up(folder, b"closed", attr(8))
    open_files = []
    for place, name, ino in ((deep, b"open", 9), (tree.root, b"elsewhere", 10)):
        node = tree.looked_up(place, name, attr(ino))
        assert node is not None
        open_files.append(node)
    assert tree.held_below(folder, open_files) == [(6, b"deep"), (7, b"open")]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_nothing_is_believed_of_names_in_a_directory_that_lost_its_name(tree: Tree, elsewhere: bool) -> None:
    folder = tree.looked_up(tree.root, b"d", attr(6, mode=DIR))
    assert isinstance(folder, Directory)
    deep = tree.looked_up(folder, b"deep", attr(7, mode=DIR))
    assert isinstance(deep, Directory)
    for each in (folder, deep):
        tree.beliefs.learn(each, b"a", Belief(attr(5), None, 0.0, 1, True))
        assert tree.beliefs.believed(each, b"a", 0.5) is not None
    if elsewhere:
        tree.looked_up(tree.root, b"e", attr(6, mode=DIR))
    else:
        tree.beliefs.learn(tree.root, b"d", Belief(None, None, 0.1, 1, True))
        assert tree.looked_up(tree.root, b"d", attr(6, mode=DIR)) is folder
    for each in (folder, deep):
        assert tree.beliefs.believed(each, b"a", 0.5) is None


def test_a_listed_name_that_is_told_in_another_state_is_an_object(tree: Tree) -> None:
    listed(tree, [Item(b"a", attr(5, size=7)), Item(b"b", attr(6, size=7)), Item(b"c", attr(7, size=7))])
    tree.looked_up(tree.root, b"a", attr(5, size=7))
    tree.told(5, (7, 0, 0))
    assert tree.find(5) is None
    node = tree.looked_up(tree.root, b"a", attr(5, size=8))
    assert node is not None
    assert node.lookups == 3
    tree.told(6, (9, 0, 0))
    told = tree.find(6)
    assert told is not None
    assert told.told == (9, 0, 0)
    tree.told(99, (1, 0, 0))  # nobody knows it any more
    assert tree.find(99) is None


def test_who_has_a_listed_file_is_told_when_more_is_wanted_of_it(tree: Tree) -> None:
    told: list[tuple[int, Node | None]] = []
    listed(tree, [Item(bytes([97 + number]), attr(5 + number, size=7)) for number in range(5)])
    for number in range(5, 10):
        tree.lent[number] = lambda node_id, node: told.append((node_id, node))
    tree.looked_up(tree.root, b"a", attr(5, size=7))
    assert tree.to_tell(5, (7, 0, 0)) is None
    assert not told, "the kernel is told nothing new"
    node = tree.to_tell(5, (8, 0, 0))
    assert node is not None
    assert node.told == (7, 0, 0)
    tree.looked_up(tree.root, b"z", attr(6, size=7))
    tree.unlink(7, tree.root, b"c")
    tree.forget(8, 1)
    assert told == [(5, node), (6, tree.find(6)), (7, tree.find(7)), (8, None)]
    assert list(tree.lent) == [9], "each is told once"


def test_what_is_listed_again_stays_no_object(tree: Tree) -> None:
    items = [Item(b"a", attr(5, size=7)), Item(b"b", attr(6, size=7))]
    listed(tree, items)
    fields = Page(items).fields(0)
    assert tree.only_listed(5, tree.root, b"a", fields)
    assert not tree.only_listed(5, tree.root, b"b", fields)
    assert not tree.only_listed(5, tree.root, b"a", (*fields[:7], 8, *fields[8:]))
    assert not tree.only_listed(99, tree.root, b"a", fields)
    listed(tree, items)
    assert tree.only_listed(5, tree.root, b"a", fields)
    assert tree.node(5).lookups == 2
    assert not tree.only_listed(5, tree.root, b"a", fields)


def test_pages_of_a_file_that_is_only_listed_are_not_forgotten(tree: Tree, budget: Budget) -> None:
    listed(tree, [Item(bytes([97 + number]), attr(5 + number, size=7)) for number in range(4)])
    before = budget.charged
    for number in (5, 6, 7, 99):
        tree.note_pages(number)
        tree.note_pages(number)
    assert budget.charged > before
    assert tree.to_tell(5, (7, 0, 0)) is None, "the kernel is told nothing new"
    told = tree.to_tell(5, (8, 0, 0))
    assert told is not None
    assert told.pages == (7, 0, 0)
    changes = tree.to_change(6)
    assert changes is not None
    assert changes.pages == (7, 0, 0)
    tree.forget(7, 1)
    assert tree.to_change(8) is None, "there are none"
    tree.forget(8, 1)
    listed(tree, [Item(b"z", attr(7, size=7))])
    assert tree.node(7).pages is None, "another object has the number"
