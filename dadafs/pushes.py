"""What a pushed change means: for the beliefs in the tree, and for what the kernel has cached.

The kernel's own caches time out within `freshness` in any case; telling it at once makes changes visible at once, and
is the only way to reach pages that are mapped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from dadafs.beliefs import lease_covers
from dadafs.kernel_cache import KernelCache
from dadafs.node import ROOT_ID, Belief, Directory, Node
from dadafs.tree import Tree
from dadafs.wire.messages import Attr, Change, Changes, LeasesLost
from dadafs.wire.paths import split

log = logging.getLogger(__name__)


class Pushes:
    """Applies the head's pushes to one mount."""

    def __init__(
        self,
        tree: Tree,
        kernel: KernelCache,
        now: Callable[[], float],
        generation: Callable[[], int],
        open_files: Callable[[], Iterable[Node]],
    ) -> None:
        self._tree = tree
        self._beliefs = tree.beliefs
        self._kernel = kernel
        self._now = now
        self._generation = generation
        self._open_files = open_files

    def received(self, push: Changes | LeasesLost) -> None:
        """Take a push in. Never raises: a push that makes no sense is logged and costs the beliefs, not the mount."""
        try:
            if isinstance(push, Changes):
                for change in push.changes:
                    self._change(change)
            else:
                for path in push.paths:
                    self._lost(path)
        except Exception:
            log.exception("a push could not be taken in; everything believed is forgotten")
            self._beliefs.disbelieve_below(self._tree.root)

    def _change(self, change: Change) -> None:
        if not change.path:
            self._root_changed(change, self._belief(change, self._tree.root))
            return
        parent_path, name = split(change.path)
        parent = self._tree.directory_at(parent_path)
        if parent is None:
            return
        child = parent.subdirs.get(name)
        belief = self._belief(change, child)
        if change.subtree and child is not None:
            self._beliefs.disbelieve_below(child)
        if change.attr is not None:
            self._beliefs.note_links(change.attr, belief.asked_at)
        self._tell_kernel(parent, name, change)
        listing = parent.listing
        listed = listing is not None and (listing.wanted or listing.find(name) is not None)
        if child is None and listed and listing is not None and not listing.wanted:
            old = parent.names.get(name)
            belief.leased = belief.leased and old is not None and old.leased
        if listed or name in parent.names or child is not None:
            self._beliefs.learn(parent, name, belief)
            self._beliefs.drop_patches(parent)

    def _belief(self, change: Change, directory: Directory | None) -> Belief:
        """What a push says, leased where the watch that saw it sees everything: see `lease_covers`.

        A directory that is watched itself stays leased; a file that got a second name does not.
        """
        leased = change.attr is None or lease_covers(change.attr)
        if not leased and directory is not None and directory.own is not None:
            leased = directory.own.leased and directory.own.generation == self._generation()
        return Belief(change.attr, change.target, self._now(), self._generation(), leased)

    def _root_changed(self, change: Change, belief: Belief) -> None:
        root = self._tree.root
        if change.subtree:
            self._beliefs.disbelieve_below(root)
        if change.attr is not None:
            self._beliefs.learn_own(root, belief)
        self._kernel.attributes(ROOT_ID)

    def _tell_kernel(self, parent: Directory, name: bytes, change: Change) -> None:
        """A directory of which no more is known (`subtree`) may be another one with the same number: its name goes."""
        attr = change.attr
        known, old = self._beliefs.remembered(parent, name)
        if known and _same(old, attr) and not change.subtree:
            if attr is not None:
                self._attributes_changed(attr)
            return
        gone = parent.subdirs.get(name)
        if gone is not None:
            for above, held in self._tree.held_below(gone, self._open_files()):
                self._kernel.entry(above, held)
        self._kernel.entry(parent.id, name)
        if not known or (old is None) != (attr is None):
            parent.void_at = self._now()
            self._kernel.attributes(parent.id)
        if attr is not None:
            self._attributes_changed(attr)

    def _attributes_changed(self, attr: Attr) -> None:
        node_id = self._tree.id_of(attr.dev, attr.ino)
        node = self._tree.to_change(node_id)
        if node is None:
            if self._tree.known(node_id):
                self._kernel.attributes(node_id)
        elif node.pages is not None:
            self._kernel.pages(node_id)
        else:
            self._kernel.attributes(node_id)

    def _lost(self, path: bytes) -> None:
        """What is believed of `path` and below was leased; from now on it is only as fresh as it is young."""
        directory = self._tree.directory_at(path)
        if directory is not None:
            for each in self._beliefs.below(directory):
                _unlease(each)
        if path:
            parent_path, name = split(path)
            parent = self._tree.directory_at(parent_path)
            if parent is not None and name in parent.names:
                parent.names[name].leased = False


def _unlease(directory: Directory) -> None:
    if directory.own is not None:
        directory.own.leased = False
    if directory.listing is not None:
        directory.listing.leased = False
    for belief in directory.names.values():
        belief.leased = False


def _same(old: Attr | None, new: Attr | None) -> bool:
    """Whether a name still leads to the same object, or to nothing as before."""
    if old is None or new is None:
        return old is new
    return (old.dev, old.ino) == (new.dev, new.ino)
