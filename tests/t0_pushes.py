"""What a push has the kernel forget."""

from __future__ import annotations

import stat

import pytest

from dadafs.node import Belief, Directory
from dadafs.policy.lease import LeaseClock
from dadafs.pushes import Pushes
from dadafs.tree import Tree
from dadafs.wire.messages import Attr, Change, Changes
from tests.t0_listing import attr
from tests.t0_tree import Budget, root_attr

DIR = stat.S_IFDIR | 0o755


class Kernel:
    """Notes what is to be forgotten."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, bytes]] = []

    def entry(self, parent: int, name: bytes) -> None:
        self.entries.append((parent, name))

    def attributes(self, node_id: int) -> None:
        """Of no interest here."""

    pages = attributes


def pushed(tree: Tree, path: bytes, found: Attr | None, *, subtree: bool = False) -> list[tuple[int, bytes]]:
    kernel = Kernel()
    node = tree.find(9)
    assert node is not None
    pushes = Pushes(tree, kernel, lambda: 1.0, lambda: 1, lambda: [node])  # type: ignore[arg-type]  # what a push needs of it
    pushes.received(Changes([Change(path, found, None, subtree)]))
    return kernel.entries


@pytest.fixture
def tree() -> Tree:
    """`d` has an open file and a directory; one more file in it is not open."""
    leases = LeaseClock(1.0)
    leases.connected_again(1)
    tree = Tree(root_attr(), leases, Budget(), asked_at=0.0)
    folder = tree.looked_up(tree.root, b"d", attr(6, mode=DIR))
    assert isinstance(folder, Directory)
    tree.beliefs.learn(tree.root, b"d", Belief(attr(6, mode=DIR), None, 0.0, 1, True))
    tree.looked_up(folder, b"deep", attr(7, mode=DIR))
    tree.looked_up(folder, b"closed", attr(8))
    tree.looked_up(folder, b"open", attr(9))
    return tree


def test_a_directory_that_goes_takes_the_names_with_it_that_the_kernel_would_keep(tree: Tree) -> None:
    assert pushed(tree, b"d", None) == [(6, b"deep"), (6, b"open"), (1, b"d")]


def test_another_directory_may_have_the_same_number(tree: Tree) -> None:
    found = attr(6, mode=DIR, mtime_ns=5)
    assert pushed(tree, b"d", found, subtree=True) == [(6, b"deep"), (6, b"open"), (1, b"d")]


def test_a_directory_that_changed_keeps_its_name(tree: Tree) -> None:
    assert pushed(tree, b"d", attr(6, mode=DIR, mtime_ns=5)) == []
