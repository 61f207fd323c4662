"""The objects and names that the kernel and the node know, what is believed of them, and for how long.

Three kinds of knowledge are kept apart:

* **Nodes**: what the kernel holds references to (lookup counts). They are facts and stay until the kernel forgets. A
  node that came from a listing and was never used is one entry in `_compact`, not an object.
* **Beliefs** (`dadafs.beliefs`): what the head said about a name or a whole directory, and until when that counts.
* **Links**: the name under which a node was last seen. A hint: it counts only while a belief confirms the identity.

Everything here is synchronous: no method awaits, so each leaves the tree consistent.
"""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from dadafs.beliefs import Beliefs, MetadataBudget
from dadafs.listing import Fields, Page
from dadafs.node import OWN_IDS, ROOT_ID, Belief, Directory, Node, Place, State, state_in, state_of
from dadafs.policy.lease import LeaseClock
from dadafs.wire.messages import Attr

_MAX_DEPTH = 2048
_NODE_SIZE = 500
_COMPACT_SIZE = 130
_PAGED_SIZE = 70


class Tree:
    """All nodes, links and beliefs of one mount."""

    def __init__(self, root: Attr, leases: LeaseClock, budget: MetadataBudget, *, asked_at: float) -> None:
        self.root = Directory(ROOT_ID, root.dev, root.ino)
        self.root.own = Belief(root, None, asked_at, 0, False)
        self._budget = budget
        self._nodes: dict[int, Node] = {ROOT_ID: self.root}
        self._compact: dict[int, int] = {}
        self._places: dict[int, Place] = {}
        self._next_place = 1
        self._own_ids: dict[tuple[int, int], int] = {}
        self._numbers: dict[int, int] = {}
        self._next_own_id = OWN_IDS
        #: Who is told when a file that is known from a listing only becomes a node, or is forgotten (None): by id.
        self.lent: dict[int, Callable[[int, Node | None], None]] = {}
        self._paged: set[int] = set()  # known from a listing only, and the kernel has pages of it
        self.beliefs = Beliefs(leases, budget, self.unlink)

    # --- identities ------------------------------------------------------------------------------------------------

    def id_of(self, dev: int, ino: int) -> int:
        """The kernel's id of the object `(dev, ino)`: its inode number wherever that is unambiguous."""
        own = self._own_ids.get((dev, ino)) if self._own_ids else None
        if own is not None:
            return own
        if dev == self.root.dev and ROOT_ID < ino < OWN_IDS and ino != self.root.ino:
            return ino
        if ino == self.root.ino and dev == self.root.dev:
            return ROOT_ID
        return self._own_id(dev, ino)

    def _own_id(self, dev: int, ino: int) -> int:
        own = self._own_ids[(dev, ino)] = self._next_own_id
        self._next_own_id += 1
        if dev == self.root.dev and ROOT_ID < ino < OWN_IDS:
            self._numbers[own] = ino
        return own

    def id_at(self, directory: Directory, name: bytes, fields: Fields) -> int:
        """The kernel's id of the object that was found at `name`, before the kernel is told of it.

        A new one where the number belongs to a file that the kernel knows in another state under other names: that
        file is gone and the number was given away, or it was moved and written. The kernel may believe in the old
        names for a while, and they must not lead to what they never had. A file that is open keeps its number.
        """
        dev, ino = fields[:2]
        node_id = self.id_of(dev, ino)
        if node_id == ROOT_ID or fields[3] > 1 or not self.known(node_id):
            return node_id
        if node_id in self._compact and self.place_of(node_id) == (directory, name):
            return node_id
        node = self.node(node_id)
        if isinstance(node, Directory) or node.opens or (directory, name) in node.links:
            return node_id
        if node.told == state_in(fields):
            return node_id
        for link in list(node.links):
            self.unlink(node_id, *link)
        return self._own_id(dev, ino)

    def number_of(self, node_id: int) -> int:
        """The inode number to show for an object: the origin's, or its id where that number may be taken here."""
        return self._numbers.get(node_id, node_id)

    def known(self, node_id: int) -> bool:
        """Whether the kernel holds references to `node_id`."""
        return node_id in self._nodes or node_id in self._compact

    def find(self, node_id: int) -> Node | None:
        """The node object, if there is one."""
        return self._nodes.get(node_id)

    def note_pages(self, node_id: int) -> None:
        """The kernel has pages of a file that it was only told of in a listing, of that state."""
        if node_id in self._compact and node_id not in self._paged:
            self._paged.add(node_id)
            self._budget.charge_metadata(_PAGED_SIZE)

    def _forget_pages(self, node_id: int) -> bool:
        if node_id not in self._paged:
            return False
        self._paged.discard(node_id)
        self._budget.charge_metadata(-_PAGED_SIZE)
        return True

    def to_change(self, node_id: int) -> Node | None:
        """The node object, where there is one, or where the kernel may have pages of an object that changes."""
        may_have = node_id in self.lent or node_id in self._paged
        return self.node(node_id) if may_have else self._nodes.get(node_id)

    def to_tell(self, node_id: int, state: State) -> Node | None:
        """The same for an object that the kernel is to be told of, where that is another state than it was told."""
        packed = self._compact.get(node_id) if node_id in self.lent or node_id in self._paged else None
        if packed is None or state_in(self._places[packed >> 16].page.fields(packed & 0xFFFF)) == state:
            return self._nodes.get(node_id)
        return self.node(node_id)

    def only_listed(self, node_id: int, directory: Directory, name: bytes, fields: Fields) -> bool:
        """Whether the kernel knows `node_id` from listings only, at this name, in the state that `fields` describe."""
        packed = self._compact.get(node_id)
        if packed is None:
            return False
        place, index = self._places[packed >> 16], packed & 0xFFFF
        page = place.page
        return (
            place.directory is directory
            and page.name(index) == name
            and state_in(page.fields(index)) == state_in(fields)
        )

    def node(self, node_id: int) -> Node:
        """The node, as an object. Raises OSError(ESTALE) for an id that was never handed out or was forgotten."""
        node = self._nodes.get(node_id)
        if node is not None:
            return node
        packed = self._compact.get(node_id)
        if packed is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        place = self._places[packed >> 16]
        index = packed & 0xFFFF
        fields = place.page.fields(index)
        node = self._new_node(node_id, fields[0], fields[1], fields[2], in_place_of=_COMPACT_SIZE)
        node.told = state_in(fields)
        node.lookups, place.counts[index] = place.counts[index], 0
        self._link(place.directory, place.page.name(index), node)
        del self._compact[node_id]
        self._leave(place)
        if self._forget_pages(node_id):
            node.pages = node.told
        if node_id in self.lent:
            self.lent.pop(node_id)(node_id, node)
        return node

    def directory(self, node_id: int) -> Directory:
        """The directory `node_id`. Raises OSError (ESTALE, ENOTDIR)."""
        node = self.node(node_id)
        if not isinstance(node, Directory):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return node

    def _new_node(self, node_id: int, dev: int, ino: int, mode: int, in_place_of: int = 0) -> Node:
        """A node object; `in_place_of` bytes were charged for what it takes the place of."""
        node = Directory(node_id, dev, ino) if stat.S_ISDIR(mode) else Node(node_id, dev, ino)
        self._nodes[node_id] = node
        self._budget.charge_metadata(_NODE_SIZE - in_place_of)
        return node

    # --- names -----------------------------------------------------------------------------------------------------

    def place_of(self, node_id: int) -> tuple[Directory, bytes] | None:
        """The directory and name under which `node_id` was last seen; None for the root and for orphans."""
        node = self._nodes.get(node_id)
        if node is not None:
            return node.links[-1] if node.links else None
        packed = self._compact.get(node_id)
        if packed is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        place = self._places[packed >> 16]
        return place.directory, place.page.name(packed & 0xFFFF)

    def path(self, directory: Directory, name: bytes | None = None) -> bytes:
        """The path of `name` in `directory` (of the directory itself without name). Raises OSError(ESTALE)."""
        parts = [] if name is None else [name]
        node = directory
        while node is not self.root:
            if not node.links or len(parts) > _MAX_DEPTH:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            node, part = node.links[-1]
            parts.append(part)
        parts.reverse()
        return b"/".join(parts)

    def has_path(self, directory: Directory) -> bool:
        """Whether a path leads to `directory`: it and those above it have not lost their names."""
        try:
            self.path(directory)
        except OSError:
            return False
        return True

    def path_of(self, node_id: int) -> bytes:
        """A path of `node_id`. Raises OSError(ESTALE) for orphans."""
        if node_id == ROOT_ID:
            return b""
        place = self.place_of(node_id)
        if place is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return self.path(*place)

    def path_of_object(self, dev: int, ino: int) -> bytes | None:
        """Where the object `(dev, ino)` was last seen; None where the kernel does not know it (any more)."""
        node_id = self._own_ids.get((dev, ino), ino if dev == self.root.dev else 0)
        try:
            return self.path_of(node_id)
        except OSError:
            return None

    def _link(self, directory: Directory, name: bytes, node: Node) -> None:
        """Remember that `node` was seen at `name`; a directory has one name, a file may have several."""
        link = (directory, name)
        if not node.links and not isinstance(node, Directory):
            node.links.append(link)
            directory.pins += 1
            return
        if node.links and node.links[-1] == link:
            return
        if link in node.links:
            node.links.remove(link)
        elif isinstance(node, Directory):
            for parent, old in node.links:
                self._unpin(parent)
                self._lost_its_name(node, parent, old)
            node.links.clear()
            directory.pins += 1
        else:
            directory.pins += 1
        node.links.append(link)
        if isinstance(node, Directory):
            directory.subdirs[name] = node

    def unlink(self, node_id: int, directory: Directory, name: bytes) -> None:
        """`node_id` is not at `name` any more."""
        node = self._nodes.get(node_id)
        if node is None:
            if node_id not in self._compact:
                return
            node = self.node(node_id)
        link = (directory, name)
        if link in node.links:
            node.links.remove(link)
            if isinstance(node, Directory):
                self._lost_its_name(node, directory, name)
            self._unpin(directory)

    def _lost_its_name(self, node: Directory, directory: Directory, name: bytes) -> None:
        """What is pushed of names below it finds nobody from now on: nothing is believed of them."""
        if directory.subdirs.get(name) is node:
            del directory.subdirs[name]
        self.beliefs.disbelieve_below(node)

    def _unpin(self, directory: Directory) -> None:
        directory.pins -= 1
        self._drop_if_unused(directory)

    # --- the kernel's references -----------------------------------------------------------------------------------

    def looked_up(self, directory: Directory, name: bytes, attr: Attr) -> Node | None:
        """The kernel gets one more reference to the object `attr` at `name`; its node where that is an object."""
        node_id = self.id_of(attr.dev, attr.ino)
        packed = self._compact.get(node_id)
        if packed is not None:
            place = self._places[packed >> 16]
            index = packed & 0xFFFF
            fields = place.page.fields(index)
            same = stat.S_IFMT(fields[2]) == stat.S_IFMT(attr.mode) and state_in(fields) == state_of(attr)
            if same and place.directory is directory and place.page.name(index) == name:
                place.counts[index] += 1
                return None
        node = self._nodes.get(node_id) or (self.node(node_id) if packed is not None else None)
        if node is None:
            node = self._new_node(node_id, attr.dev, attr.ino, attr.mode)
        elif isinstance(node, Directory) != stat.S_ISDIR(attr.mode):
            node = self._replaced(node, attr)
        node.lookups += 1
        if node_id != ROOT_ID:
            self._link(directory, name, node)
        return node

    def _replaced(self, node: Node, attr: Attr) -> Node:
        """The inode number was given to an object of another type: a new node takes over the kernel's references."""
        for directory, name in list(node.links):
            self.unlink(node.id, directory, name)
        fresh = self._new_node(node.id, attr.dev, attr.ino, attr.mode)
        fresh.lookups = node.lookups
        return fresh

    def told(self, node_id: int, state: State) -> None:
        """The kernel is told of `state`: what is known from a listing only, and in another state, is an object then."""
        packed = self._compact.get(node_id)
        if packed is not None and state_in(self._places[packed >> 16].page.fields(packed & 0xFFFF)) == state:
            return
        if self.known(node_id):
            self.node(node_id).told = state

    def listed(self, directory: Directory, page: Page, index: int, node_id: int) -> Node | None:
        """As `looked_up`, for a name that a readdirplus reply hands to the kernel."""
        node = self._nodes.get(node_id)
        if node is None and self.only_listed(node_id, directory, page.name(index), page.fields(index)):
            packed = self._compact[node_id]
            self._places[packed >> 16].counts[packed & 0xFFFF] += 1
            return None
        if node is None and node_id not in self._compact:
            place = self._place_for(directory, page)
            place.counts[index] = 1
            place.holders += 1
            self._compact[node_id] = place.number << 16 | index
            self._budget.charge_metadata(_COMPACT_SIZE)
            return None
        return self.looked_up(directory, page.name(index), page.attr(index))

    def new_to_kernel(self, page: Page, start: int, stop: int) -> list[int] | None:
        """The ids of the objects `start` .. `stop - 1`, where these are plain inode numbers, each of another object
        that the kernel does not know; None otherwise.
        """
        dev, root = self.root.dev, self.root.ino
        ids = [ino for at, ino in page.identities(start, stop) if at == dev and ROOT_ID < ino < OWN_IDS and ino != root]
        if len(ids) != stop - start or len(set(ids)) != len(ids):
            return None
        if self._own_ids and any((dev, ino) in self._own_ids for ino in ids):
            return None
        known = not (self._nodes.keys().isdisjoint(ids) and self._compact.keys().isdisjoint(ids))
        return None if known else ids

    def all_listed(self, directory: Directory, page: Page, start: int, ids: Sequence[int]) -> None:
        """As `listed`, for all of `ids`, the first of what `new_to_kernel` returned for `start`."""
        count = len(ids)
        if count:
            place = self._place_for(directory, page)
            place.counts[start : start + count] = array("I", [1]) * count
            place.holders += count
            first = place.number << 16 | start
            self._compact.update(zip(ids, range(first, first + count), strict=True))
            self._budget.charge_metadata(count * _COMPACT_SIZE)

    def _place_for(self, directory: Directory, page: Page) -> Place:
        place = directory.places.get(page)
        if place is None:
            place = Place(self._next_place, directory, page)
            self._next_place += 1
            directory.places[page] = self._places[place.number] = place
            directory.pins += 1
            self._budget.charge_metadata(4 * page.count)
            self.beliefs.hold(page)
        return place

    def forget(self, node_id: int, count: int) -> None:
        """The kernel gives back `count` references."""
        node = self._nodes.get(node_id)
        if node is not None:
            node.lookups -= count
            self._drop_if_unused(node)
        elif node_id in self._compact:
            self._drop_compact(node_id, count)

    def _drop_compact(self, node_id: int, count: int) -> None:
        packed = self._compact[node_id]
        place = self._places[packed >> 16]
        index = packed & 0xFFFF
        left = place.counts[index] - count
        place.counts[index] = max(left, 0)
        if left > 0:
            return
        del self._compact[node_id]
        self._forget_pages(node_id)
        if node_id in self.lent:
            self.lent.pop(node_id)(node_id, None)
        self._budget.charge_metadata(-_COMPACT_SIZE)
        self._forget_own_id(node_id, place.page.fields(index)[:2])
        self._leave(place)

    def _leave(self, place: Place) -> None:
        """The kernel holds one name less of a page."""
        place.holders -= 1
        if place.holders == 0:
            del self._places[place.number], place.directory.places[place.page]
            self._budget.charge_metadata(-4 * place.page.count)
            self.beliefs.let_go(place.page)
            self._unpin(place.directory)

    def _drop_if_unused(self, node: Node) -> None:
        """Let a node go that neither the kernel nor an open handle nor a child needs."""
        if node.lookups > 0 or node.opens or node is self.root or self._nodes.get(node.id) is not node:
            return
        if isinstance(node, Directory):
            if node.pins > 0:
                return
            self.beliefs.disbelieve(node)
        del self._nodes[node.id]
        self._budget.charge_metadata(-_NODE_SIZE)
        self._forget_own_id(node.id, (node.dev, node.ino))
        links, node.links = node.links, []
        for directory, name in links:
            if directory.subdirs.get(name) is node:
                del directory.subdirs[name]
            self._unpin(directory)

    def surplus(self, most: int) -> list[tuple[int, bytes]]:
        """Names, as (directory's id, name), that the kernel should forget so that metadata fits into its share.

        Beliefs are ours to drop, nodes are not: the kernel keeps each until it is short of memory itself. The
        longest known come first; at most `most` at a time, and none while there is room.
        """
        if self._budget.metadata_room >= 0:
            return []
        names: list[tuple[int, bytes]] = []
        for node in list(islice(self._nodes.values(), most)):
            self._nodes[node.id] = self._nodes.pop(node.id)  # to the end, in case the kernel keeps it
            if node.links and not node.opens and not (isinstance(node, Directory) and node.pins):
                directory, name = node.links[-1]
                names.append((directory.id, name))
        for node_id, packed in list(islice(self._compact.items(), max(0, most - len(names)))):
            self._compact[node_id] = self._compact.pop(node_id)
            place = self._places[packed >> 16]
            names.append((place.directory.id, place.page.name(packed & 0xFFFF)))
        return names

    def closed(self, node: Node) -> None:
        """One handle of `node` was closed."""
        node.opens -= 1
        self._drop_if_unused(node)

    def _forget_own_id(self, node_id: int, identity: tuple[int, int]) -> None:
        if node_id >= OWN_IDS and not self.known(node_id):
            self._numbers.pop(node_id, None)
            if self._own_ids.get(identity) == node_id:
                del self._own_ids[identity]

    # --- paths, for pushes -------------------------------------------------------------------------------------------

    def directory_at(self, path: bytes) -> Directory | None:
        """The directory node at `path`, if the tree has one."""
        node: Directory | None = self.root
        for part in path.split(b"/") if path else ():
            node = None if node is None else node.subdirs.get(part)
        return node

    def held_below(self, directory: Directory, open_files: Iterable[Node]) -> list[tuple[int, bytes]]:
        """Names below `directory`, as (directory's id, name), that the kernel keeps when it forgets that one's name.

        Those of `open_files`, and of directories, which may be in use: it would find them again below a directory
        that comes back.
        """
        below = {each.id: each for each in self.beliefs.below(directory)}
        names = [(each.links[-1][0].id, each.links[-1][1]) for each in below.values() if each is not directory]
        names += [(parent.id, name) for node in open_files for parent, name in node.links if parent.id in below]
        return names

    def statistics(self) -> dict[str, int]:
        """How much the tree knows."""
        return {
            "nodes": len(self._nodes),
            "listed_nodes": len(self._compact),
            **self.beliefs.statistics(),
        }
