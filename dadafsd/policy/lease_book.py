"""Which session relies on which names, which directories are watched for that, and what an event means for it.

The tree of watched directories mirrors the part of the export that sessions hold leases on. A lease on a path needs a
watch on its directory and on all directories above (a rename up there moves the path), put in place *before* the path
is looked at. A `Claim` remembers when that was; it holds as long as no event for any of these names was seen since, so
a reply may say `leased` only when its claim still holds at the moment it is queued: later events are pushed after it.

Some objects must be watched themselves, because changes to them raise no event in their directory: directories
(their times change with their entries) and files with several names (they may be written under another one).

Time is counted in events, not in seconds. No I/O here: `dadafsd.watch` places watches and feeds events.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Holder = TypeVar("Holder", bound=Hashable)
#: A session that asked for more names of a directory than this is told of all of them.
MANY_NAMES = 1024
#: Remembered event times of a directory; beyond it, claims begun before are void.
MANY_EVENTS = 4096


class Watched(Generic[Holder]):
    """A watched object: a directory, or a file with several names. Its own path, not its inode, is what it means."""

    __slots__ = ("children", "last", "last_any", "last_own", "mark", "names", "parent", "path")

    def __init__(self, path: bytes, parent: Watched[Holder] | None, mark: int) -> None:
        self.path = path
        self.parent = parent
        self.mark = mark  # what the source of events calls it
        self.children: dict[bytes, Watched[Holder]] = {}
        self.names: dict[Holder, set[bytes] | None] = {}  # None: every name
        self.last: dict[bytes, int] = {}  # when an event for a name was seen
        self.last_any = 0
        self.last_own = 0

    def holds(self, name: bytes) -> list[Holder]:
        """Who relies on `name` in this directory."""
        return [holder for holder, names in self.names.items() if names is None or name in names]


@dataclass(frozen=True, slots=True)
class Claim(Generic[Holder]):
    """What one reply wants to be covered: `path`; `own`: by a watch on itself; `whole`: all its entries too.

    `depth` watches led to it when it began; with fewer it is not covered any more.
    """

    holder: Holder
    path: bytes
    start: int
    depth: int
    own: bool = False
    whole: bool = False


class LeaseBook(Generic[Holder]):
    """All leases of one export."""

    def __init__(self) -> None:
        self.root: Watched[Holder] | None = None
        self.clock = 1
        self.dirty: dict[bytes, bool] = {}  # paths to look at again; True: with everything below
        self._floor = 0  # claims begun before this are void
        self._used: OrderedDict[Watched[Holder], None] = OrderedDict()
        self._dropped: list[Watched[Holder]] = []

    def __len__(self) -> int:
        return len(self._used)

    # --- claims ---------------------------------------------------------------------------------------------

    def missing(self, path: bytes, *, own: bool) -> list[bytes]:
        """What must be watched before `path` is covered, from the top down."""
        wanted = list(_ancestors(path))
        if own:
            wanted.append(path)
        node, missing = self.root, []
        for place in wanted:
            if place:
                node = node.children.get(place.rpartition(b"/")[2]) if node is not None else None
            if node is None:
                missing.append(place)
        return missing

    def watch(self, path: bytes, mark: int, start: int) -> bool:
        """`path` was watched under `mark`, found by name after event `start`; parents first.

        False where its name saw an event since: what was watched may not be what has this path now.
        """
        if not path:
            if self.root is None:
                self.root = Watched(b"", None, mark)
                self._used[self.root] = None
            return True
        directory, _, name = path.rpartition(b"/")
        parent = self.find(directory)
        if parent is None or _seen(parent, name) > start or start < self._floor:
            return False
        if name not in parent.children:
            child = parent.children[name] = Watched(path, parent, mark)
            self._used[child] = None
        return True

    def doubt(self, path: bytes) -> None:
        """Events for `path` came before it was in the book: claims begun before now do not cover it."""
        node = self.find(path)
        if node is not None:
            self.clock += 1
            node.last_any = node.last_own = self.clock

    def claim(self, holder: Holder, path: bytes, *, own: bool = False, whole: bool = False) -> Claim[Holder]:
        """Begin a claim, after watching what was `missing` and before looking at `path`."""
        depth = self._rely(holder, path, whole=whole)
        return Claim(holder, path, self.clock, depth, own, whole)

    def _rely(self, holder: Holder, path: bytes, *, whole: bool) -> int:
        """From now on `holder` is told of events for `path` and its directories; how many of these are watched."""
        node, depth = self.root, 0
        if node is None:
            return 0
        names = path.split(b"/") if path else []
        for name in names:
            self._add_names(node, holder, name)
            depth += 1
            below = node.children.get(name)
            if below is None:
                break
            node = below
        else:
            depth += 1
            if whole or not path:
                self._add_names(node, holder, None if whole else b"")
        self._used.move_to_end(node)
        return depth

    def holds(self, claim: Claim[Holder]) -> bool:
        """Whether nothing was seen since the claim began that could make its reply wrong."""
        start, node, depth = claim.start, self.root, 1
        if node is None or start < self._floor:
            return False
        for name in claim.path.split(b"/") if claim.path else ():
            if claim.holder not in node.names or _seen(node, name) > start:
                return False
            below = node.children.get(name)
            if below is None:
                return depth >= claim.depth and not claim.own
            node = below
            depth += 1
        if claim.whole:
            if node.last_any > start or claim.holder not in node.names:
                return False
            if any(below.last_own > start for below in node.children.values()):
                return False
        return node.last_own <= start

    def covers(self, path: bytes) -> bool:
        """Whether `path` is watched itself."""
        return self.find(path) is not None

    # --- events ---------------------------------------------------------------------------------------------

    def changed(self, node: Watched[Holder], name: bytes) -> None:
        """The object `name` in the directory was written or its attributes changed."""
        self._note(node, name)
        if node.holds(name):
            self.dirty.setdefault(_join(node.path, name), False)

    def entry(self, node: Watched[Holder], name: bytes, *, directory: bool) -> None:
        """`name` appeared in or went from the directory, which is changed by it as well."""
        self._note(node, name)
        node.last_own = self.clock
        path = _join(node.path, name)
        below = node.children.get(name)
        if node.holds(name):
            self.dirty[path] = directory or below is not None or self.dirty.get(path, False)
        if below is not None:
            self._drop(below)
        self.own(node)

    def own(self, node: Watched[Holder]) -> None:
        """The watched object itself was written or its attributes changed."""
        self.clock += 1
        node.last_own = self.clock
        if self.holders(node.path):
            self.dirty.setdefault(node.path, False)

    def overflow(self) -> list[Holder]:
        """Events were lost: nobody may rely on anything any more. Returns who did."""
        self.clock += 1
        self._floor = self.clock
        holders: dict[Holder, None] = {}
        for node in self._used:
            holders.update(dict.fromkeys(node.names))
            node.names.clear()
        self.dirty.clear()
        return list(holders)

    def holders(self, path: bytes) -> list[Holder]:
        """Who must be told of a change of `path`: who relies on its name, or on what is in it."""
        found: dict[Holder, None] = {}
        node = self.find(path)
        if node is not None:
            found.update(dict.fromkeys(node.names))
        if path:
            directory, _, name = path.rpartition(b"/")
            parent = self.find(directory)
            if parent is not None:
                found.update(dict.fromkeys(parent.holds(name)))
        return list(found)

    def take_dirty(self) -> list[tuple[bytes, bool]]:
        """What to look at again: (path, with everything below)."""
        taken, self.dirty = self.dirty, {}
        return list(taken.items())

    # --- giving back ----------------------------------------------------------------------------------------

    def forget(self, holder: Holder) -> None:
        """A session is over."""
        for node in self._used:
            node.names.pop(holder, None)

    def give_back(self, holder: Holder, path: bytes) -> None:
        """`holder` no longer relies on `path` and what is below it."""
        node = self.find(path)
        for below in _with_all_below(node) if node is not None else ():
            below.names.pop(holder, None)
        directory, _, name = path.rpartition(b"/")
        parent = self.find(directory) if path else None
        names = parent.names.get(holder) if parent is not None else None
        if names is not None:
            names.discard(name)

    def lose(self, path: bytes) -> list[Holder]:
        """Stop watching `path` and what is below; returns who relied on that and must be told."""
        self.clock += 1
        holders = dict.fromkeys(self.holders(path))
        node = self.find(path)
        if node is not None:
            holders.update(dict.fromkeys(holder for below in _with_all_below(node) for holder in below.names))
            self._drop(node)
        return list(holders)

    def oldest(self) -> Watched[Holder] | None:
        """The watch whose leases were asked for longest ago and that no other watch needs."""
        for _ in range(len(self._used)):
            node = next(iter(self._used))
            if not node.children and node.parent is not None:
                return node
            self._used.move_to_end(node)
        return None

    def find(self, path: bytes) -> Watched[Holder] | None:
        """The watch on `path` itself."""
        node = self.root
        for name in path.split(b"/") if path else ():
            if node is None:
                return None
            node = node.children.get(name)
        return node

    def take_dropped(self) -> list[Watched[Holder]]:
        """Watches that are not needed any more, to be removed at the source; once each."""
        taken, self._dropped = self._dropped, []
        return taken

    # --- inside ---------------------------------------------------------------------------------------------

    def _add_names(self, node: Watched[Holder], holder: Holder, name: bytes | None) -> None:
        names = node.names.setdefault(holder, set())
        if names is None:
            return
        if name is None or len(names) >= MANY_NAMES:
            node.names[holder] = None
        else:
            names.add(name)

    def _note(self, node: Watched[Holder], name: bytes) -> None:
        self.clock += 1
        if len(node.last) >= MANY_EVENTS:
            node.last.clear()
            self._floor = self.clock
        node.last[name] = node.last_any = self.clock

    def _drop(self, node: Watched[Holder]) -> None:
        """Forget a watch and all below it; they are handed out by `take_dropped`."""
        if node.parent is not None:
            node.parent.children.pop(node.path.rpartition(b"/")[2], None)
        else:
            self.root = None
        for below in _with_all_below(node):
            self._used.pop(below, None)
            self._dropped.append(below)


def _seen(node: Watched[Holder], name: bytes) -> int:
    return node.last.get(name, 0)


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def _ancestors(path: bytes) -> Iterator[bytes]:
    """The directories above `path`, the root first; the root is above itself, so that it can be watched."""
    yield b""
    position = path.find(b"/")
    while position >= 0:
        yield path[:position]
        position = path.find(b"/", position + 1)


def _with_all_below(node: Watched[Holder]) -> Iterable[Watched[Holder]]:
    found = [node]
    for one in found:
        found.extend(one.children.values())
    return found
