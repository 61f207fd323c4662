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
from dadafs.kernel_cache import KernelCache
from dadafs.listing import Listing
from dadafs.node import Belief, Directory
from dadafs.policy.ahead import InOrder
from dadafs.remote_file import RemoteFiles
from dadafs.session import Answer, Session
from dadafs.tree import Tree
from dadafs.wire.messages import AHEAD_BYTES, INLINE_LIMIT, Changes, LeasesLost, Opened
from dadafs.wire.paths import split

log = logging.getLogger(__name__)

#: One request carries at most this share of the RAM budget.
SHARE = 64
#: Directories with more names are not shown to the kernel: it would forget most of them before they are asked for.
MOST_SHOWN = 1000
#: Files that arrived and that nobody made time for within so many seconds are taken in, so many at a time.
SOON = 0.02
PIECE = 8
#: Names behind a directory that are looked through for the next one, and how large that may be itself, in bytes.
REACH = 64
LARGE = 64 * 1024


class Ahead:
    """What is opened ahead in one directory, by the positions of one listing."""

    __slots__ = ("ended", "listing", "order", "shown")

    def __init__(self, listing: Listing, *, proven: bool = False) -> None:
        self.listing = listing
        self.shown = proven  # to the kernel
        self.ended = False  # all names were asked for: the next directory was thought of
        self.order = InOrder(proven=proven)


class SmallFiles:
    """Opens ahead for one mount. Without `start` it never does."""

    def __init__(
        self, session: Session, tree: Tree, files: RemoteFiles, counters: Counters, kernel: KernelCache
    ) -> None:
        self._kernel = kernel
        self._session = session
        self._tree = tree
        self._beliefs: Beliefs = tree.beliefs
        self._files = files
        self._counters = counters
        self._nursery: trio.Nursery | None = None
        self._coming: dict[tuple[Directory, bytes], trio.Event] = {}
        #: By path: what was opened ahead and is not taken in yet.
        self.arrived: dict[bytes, tuple[Directory, Answer[Opened], memoryview]] = {}
        session.on_changes(self._pushed)

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
            if not ahead.shown:
                ahead.shown = True
                self._show(directory, listing)
            self._open(directory, listing, wanted)
        if ahead.order.asked >= listing.count and not ahead.ended:
            ahead.ended = True
            self._end(directory)

    def _end(self, directory: Directory) -> None:
        """A program comes to the end of `directory`. If it came there from the one before, the next one is prepared."""
        if not directory.links or self._nursery is None:
            return
        parent, name = directory.links[-1]
        before, parent.gone_through = parent.gone_through, name
        listing = parent.listing
        position = None if listing is None else listing.position(name)
        last = None if listing is None or before is None else listing.position(before)
        if listing is None or position is None or last is None or not last < position <= last + REACH:
            return
        if any(stat.S_ISDIR(fields[2]) for _, fields in listing.slice(last + 1, position)):
            return
        for following, fields in listing.slice(position + 1, position + 1 + REACH):
            if stat.S_ISDIR(fields[2]):
                if fields[7] <= LARGE:
                    self._nursery.start_soon(self._prepare, self._tree.path(parent, following))
                return

    async def _prepare(self, path: bytes) -> None:
        """Do in the directory at `path` what a program is about to do: look at it, and open the first files."""
        try:
            await self._kernel.list(path)
            directory = self._tree.directory_at(path)
            if directory is None or directory.listing is None:
                return
            listing, ahead = directory.listing, directory.ahead
            if ahead is None or ahead.listing is not listing:
                ahead = directory.ahead = Ahead(listing, proven=True)
                self._open(directory, listing, ahead.order.go_on())
        except Exception:
            log.exception("cannot prepare a directory")

    def _show(self, directory: Directory, listing: Listing) -> None:
        """Have the kernel list a directory that no program listed: it then knows the names that are asked for next.

        One reply has all of them, where each look-up would be a request that the program waits for.
        """
        if not listing.wanted and listing.count <= MOST_SHOWN:
            self._kernel.start(self._kernel.list, self._tree.path(directory))

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
                self._drop(file_path)
                self.arrived[file_path] = directory, answer, content
        except OSError:
            pass  # whoever opens these files by himself is told
        except Exception:
            log.exception("cannot open files ahead")
        finally:
            done.set()
            for name in names:
                self._coming.pop((directory, name), None)
        await trio.sleep(SOON)  # a program that is quick leaves time for each while it uses the one before
        while self.arrived:
            for _ in range(PIECE):
                self.take_one()
            await trio.lowlevel.checkpoint()

    def take_one(self) -> bool:
        """Take in one of the files that have arrived; False where there is none.

        Each costs some 30 us, which a program need not wait for: most are taken in while it is busy with the last one.
        """
        if not self.arrived:
            return False
        self.take_in(next(iter(self.arrived)))
        return True

    def take_in(self, path: bytes) -> None:
        """The file at `path`, if it has arrived, is known from now on."""
        arrived = self.arrived.pop(path, None)
        if arrived is None:
            return
        directory, answer, content = arrived
        above, name = split(path)
        try:
            data = self._session.whole(answer.value, content)
            if self._files.opened_ahead(path, answer, data) and self._tree.directory_at(above) is directory:
                self._learn(directory, name, answer)
        except Exception:
            log.exception("cannot take in a file that was opened ahead")

    def _drop(self, path: bytes) -> None:
        """What has arrived of the file at `path` is of no use."""
        arrived = self.arrived.pop(path, None)
        if arrived is not None:
            self._files.give_back(arrived[1].value.handle, arrived[1].generation)

    def _pushed(self, push: Changes | LeasesLost) -> None:
        """What has arrived and was not taken in yet is older than a push."""
        if isinstance(push, Changes) and not any(change.subtree for change in push.changes):
            for change in push.changes:
                self._drop(change.path)
        else:
            for path in list(self.arrived):
                self._drop(path)

    def _learn(self, directory: Directory, name: bytes, answer: Answer[Opened]) -> None:
        """Believe the attributes that came with an open, for `freshness`, unless the same is believed for longer."""
        attr = answer.value.attr
        found = None
        listing = directory.listing
        if name in directory.names or listing is None or listing.leased:
            found = self._beliefs.believed(directory, name, self._session.now())
        if found is None or found.attr != attr or not found.leased:
            self._beliefs.learn(directory, name, Belief(attr, None, answer.asked_at, answer.generation, False))
