"""Lists directories before a program asks for them, while it goes through their parent in order.

A walk (find, du, rsync) waits for the head once in each directory, and the head for the walk in between. The listing of
a directory names the directories in it, so the next ones can be on their way. One listed ahead is believed like one
that a program asked for, a moment earlier than it did.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Awaitable, Callable

import trio

from dadafs.listing import Listing
from dadafs.node import Directory
from dadafs.session import Session
from dadafs.tree import Tree

log = logging.getLogger(__name__)

#: Directories listed at a time: at the first proof that a program goes on, and at most.
FIRST = 2
MOST = 8
#: Names behind the last directory that are looked through for the next ones.
REACH = 64
#: Directories whose own size is larger than this are listed when they are asked for: many are never wanted.
LARGE = 256 * 1024


class Walk:
    """How far a program came in the directories of one listing: the positions opened last, and asked for ahead.

    `following` is the position of the directory behind the one that was opened last.
    """

    __slots__ = ("asked", "count", "following", "listing", "position")

    def __init__(self, listing: Listing, position: int) -> None:
        self.listing = listing
        self.position = position
        self.asked = position
        self.following = -1
        self.count = 0

    def goes_on(self, position: int) -> bool:
        """Whether the directory at `position` is the next one, or one that was listed ahead."""
        return position == self.following or self.position < position <= self.asked


class ListedAhead:
    """Lists ahead for one mount, by `ask`. Without `start` it never does."""

    def __init__(self, session: Session, tree: Tree, ask: Callable[[Directory], Awaitable[object]]) -> None:
        self._session = session
        self._tree = tree
        self._ask = ask
        self._nursery: trio.Nursery | None = None
        self._coming: dict[Directory, trio.Event] = {}

    def start(self, nursery: trio.Nursery) -> None:
        """Directories are listed ahead in tasks of `nursery` from now on."""
        self._nursery = nursery

    def coming(self, directory: Directory) -> trio.Event | None:
        """Set once `directory`, which is being listed ahead, was listed, or was not; None where it is not."""
        return self._coming.get(directory)

    def opened(self, directory: Directory) -> None:
        """A program opens `directory`: maybe those behind it are next."""
        if self._nursery is None or not directory.links:
            return
        parent, name = directory.links[-1]
        listing = parent.listing
        position = None if listing is None or not listing.wanted else listing.position(name)
        if listing is None or position is None:
            return
        walk = parent.walk
        goes_on = walk is not None and walk.listing is listing and walk.goes_on(position)
        if walk is None or not goes_on:
            walk = parent.walk = Walk(listing, position)
        walk.position = position
        walk.count = min(max(FIRST, walk.count * 2), MOST) if goes_on else 0
        self._go_on(walk)

    def _go_on(self, walk: Walk) -> None:
        """Find the directories behind the last one, and have as many of them listed as the walk deserves."""
        place = walk.position
        found = 0
        for _, fields in walk.listing.slice(place + 1, place + 1 + REACH):
            place += 1
            if not stat.S_ISDIR(fields[2]):
                continue
            if not found:
                walk.following = place
            found += 1
            if found > walk.count:
                return
            if place > walk.asked:
                walk.asked = place
                if fields[7] <= LARGE:
                    self._begin(self._tree.id_of(fields[0], fields[1]))

    def _begin(self, node_id: int) -> None:
        node = self._tree.node(node_id) if self._tree.known(node_id) else None
        if not isinstance(node, Directory) or node in self._coming or not self._session.connected:
            return
        if self._nursery is None or self._tree.beliefs.believed_listing(node, self._session.now()) is not None:
            return
        self._coming[node] = trio.Event()
        node.opens += 1  # it must not be forgotten meanwhile
        self._nursery.start_soon(self._list, node)

    async def _list(self, directory: Directory) -> None:
        try:
            await self._ask(directory)
        except OSError:
            pass  # whoever lists it by himself is told
        except Exception:
            log.exception("cannot list a directory ahead")
        finally:
            self._coming.pop(directory).set()
            self._tree.closed(directory)
