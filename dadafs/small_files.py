"""Opens small files before a program asks for them, while it goes through a directory in order.

A file that was opened ahead is like one that was used a moment ago: the head holds it open for this node, its content
is in the RAM cache, its attributes are believed for `freshness`. Opening, reading and closing it then needs no round
trip. Only what a program asked for by name is believed by its lease for longer.
"""

from __future__ import annotations

import logging
import stat

import trio

from dadafs.beliefs import Beliefs
from dadafs.counters import Counters
from dadafs.listing import Listing
from dadafs.node import Belief, Directory
from dadafs.policy.ahead import InOrder
from dadafs.remote_file import RemoteFiles
from dadafs.session import Answer, Session
from dadafs.tree import Tree
from dadafs.wire.messages import AHEAD_BYTES, INLINE_LIMIT, Opened
from dadafs.wire.paths import split

log = logging.getLogger(__name__)

#: One request carries at most this share of the RAM budget.
SHARE = 16


class Ahead:
    """What is opened ahead in one directory, by the positions of one listing."""

    __slots__ = ("listing", "order")

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.order = InOrder()


class SmallFiles:
    """Opens ahead for one mount. Without `start` it never does."""

    def __init__(self, session: Session, tree: Tree, files: RemoteFiles, counters: Counters) -> None:
        self._session = session
        self._tree = tree
        self._beliefs: Beliefs = tree.beliefs
        self._files = files
        self._counters = counters
        self._nursery: trio.Nursery | None = None
        self._coming: dict[tuple[Directory, bytes], trio.Event] = {}

    def start(self, nursery: trio.Nursery) -> None:
        """Files are opened ahead in tasks of `nursery` from now on."""
        self._nursery = nursery

    def coming(self, place: tuple[Directory, bytes]) -> trio.Event | None:
        """Set once the file at `place`, which is being opened ahead, was opened, or was not; None where it is not."""
        return self._coming.get(place)

    def opened(self, directory: Directory, name: bytes) -> None:
        """A program opens a file, or one that was opened ahead for the first time: maybe others are next."""
        listing = directory.listing
        if listing is None or self._nursery is None:
            return
        position = listing.position(name)
        if position is None:
            return
        ahead = directory.ahead
        if ahead is None or ahead.listing is not listing:
            ahead = directory.ahead = Ahead(listing)
        wanted = ahead.order.opened(position)
        if wanted:
            self._open(directory, listing, wanted)

    def _open(self, directory: Directory, listing: Listing, wanted: range) -> None:
        names = []
        room = limit = min(AHEAD_BYTES, self._files.cache.budget // SHARE)
        for name, fields in listing.slice(wanted.start, wanted.stop):
            size = fields[7]
            if not stat.S_ISREG(fields[2]) or size > INLINE_LIMIT or (directory, name) in self._coming:
                continue
            known = self._files.find((fields[0], fields[1]))
            if known is not None and known.has_handle:
                continue
            room -= size
            if room < 0:
                break
            names.append(name)
        if names and self._session.connected and self._nursery is not None:
            done = trio.Event()
            for name in names:
                self._coming[directory, name] = done
            self._nursery.start_soon(self._ask, directory, names, limit, done)

    async def _ask(self, directory: Directory, names: list[bytes], limit: int, done: trio.Event) -> None:
        try:
            path = self._tree.path(directory)
            for file_path, answer, content in await self._session.open_ahead(path, names, limit):
                self._counters.opened_ahead += 1
                if self._files.opened_ahead(file_path, answer, content) and self._tree.directory_at(path) is directory:
                    self._learn(directory, split(file_path)[1], answer)
        except OSError:
            pass  # whoever opens these files by himself is told
        except Exception:
            log.exception("cannot open files ahead")
        finally:
            done.set()
            for name in names:
                self._coming.pop((directory, name), None)

    def _learn(self, directory: Directory, name: bytes, answer: Answer[Opened]) -> None:
        """Believe the attributes that came with an open, for `freshness`, unless the same is believed for longer."""
        attr = answer.value.attr
        found = self._beliefs.believed(directory, name, self._session.now())
        if found is None or found.attr != attr or not found.leased:
            self._beliefs.learn(directory, name, Belief(attr, None, answer.asked_at, answer.generation, False))
