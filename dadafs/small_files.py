"""Opens small files before a program asks for them, while it goes through a directory in order.

A file that was opened ahead is like one that was used a moment ago: the head holds it open for this node, its content
is in the RAM cache, its attributes are believed for `freshness`. Opening, reading and closing it then needs no round
trip. Only what a program asked for by name is believed by its lease for longer.

What has arrived is handed over to the compiled part where that can answer for it (`dadafs.handed_files`); the rest is
taken in.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Sequence
from typing import cast

import trio

from dadafs.activity import Activity
from dadafs.ahead import Ahead
from dadafs.beliefs import Beliefs
from dadafs.counters import Counters
from dadafs.handed_files import Adopt, Arrived, Expected, HandedFiles, Use
from dadafs.kernel_cache import KernelCache
from dadafs.listing import Listing
from dadafs.next_directories import NextDirectories
from dadafs.node import Belief, Directory
from dadafs.policy.ahead import NEAR, InOrder
from dadafs.policy.lease import NEVER
from dadafs.remote_file import RemoteFiles
from dadafs.session import Answer, Batch, Session
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


class SmallFiles:
    """Opens ahead for one mount. Without `start` it never does."""

    def __init__(
        self,
        session: Session,
        tree: Tree,
        files: RemoteFiles,
        counters: Counters,
        kernel: KernelCache,
        activity: Activity,
        adopt: Adopt,
    ) -> None:
        self._kernel = kernel
        self._session = session
        self._tree = tree
        self._beliefs: Beliefs = tree.beliefs
        self._files = files
        self._counters = counters
        self._nursery: trio.Nursery | None = None
        self._coming: dict[tuple[Directory, bytes], trio.Event] = {}
        self._next = NextDirectories(session, tree, kernel, self._begin)
        #: By path: what was opened ahead and is not taken in yet.
        self.arrived: dict[bytes, Arrived] = {}
        self.handed = HandedFiles(session, tree, files, self._take_in, adopt)
        self._activity = activity
        session.on_changes(self._pushed, first=True)  # what is older than a push must be known when it is taken in
        session.on_connection(lambda _connected: self.handed.everything())
        files.on_retire(self.handed.expire)

    def start(self, nursery: trio.Nursery) -> None:
        """Files are opened ahead in tasks of `nursery` from now on."""
        self._nursery = nursery
        self._next.start(nursery)

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
            ahead = directory.ahead = Ahead(directory, listing)
        if position <= NEAR and not ahead.order.begun and self._next.comes_here(directory):
            ahead.order = InOrder(proven=True)
        self._went(ahead, position)

    def _went(self, ahead: Ahead, position: int) -> None:
        """A program opens the file at `position`."""
        order = ahead.order
        wanted = order.opened(position)
        if wanted:
            if not ahead.shown:
                ahead.shown = True
                self._show(ahead.directory, ahead.listing)
            self._open(ahead, wanted)
        if not ahead.ended and order.reach >= ahead.listing.count:
            ahead.ended = True
            self._next.ended(ahead.directory)

    def _begin(self, ahead: Ahead) -> None:
        while wanted := ahead.order.go_on():
            self._open(ahead, wanted)

    def _show(self, directory: Directory, listing: Listing) -> None:
        """Have the kernel list a directory that no program listed: it then knows the names that are asked for next.

        One reply has all of them, where each look-up would be a request that the program waits for.
        """
        if not listing.wanted and listing.count <= MOST_SHOWN:
            self._kernel.start(self._kernel.list, self._tree.path(directory))

    def _open(self, ahead: Ahead, wanted: range) -> None:
        directory, files, coming = ahead.directory, self._files, self._coming
        expected = []
        room = limit = min(AHEAD_BYTES, files.cache.budget // SHARE)
        for position, (name, fields) in enumerate(ahead.listing.slice(wanted.start, wanted.stop), wanted.start):
            size = fields[7]
            if size > INLINE_LIMIT or not stat.S_ISREG(fields[2]):
                continue
            known = files.find(fields[:2])
            if known is not None and known.has_handle:
                continue
            if (directory, name) in coming or self._tree.id_of(*fields[:2]) in self.handed:
                continue
            room -= size
            if room < 0:
                break
            expected.append(Expected(name, fields, (ahead, position, size)))
        if expected and self._session.connected and self._nursery is not None:
            done = trio.Event()
            for one in expected:
                coming[directory, one.name] = done
            self._nursery.start_soon(self._ask, ahead, expected, limit, done)

    async def _ask(self, ahead: Ahead, expected: list[Expected], limit: int, done: trio.Event) -> None:
        arrived: list[Arrived] = []
        asked_at = self._session.now()
        try:
            path = self._tree.path(ahead.directory)
            batch = await self._session.open_ahead(path, [one.name for one in expected], limit)
            arrived = self._arrive(ahead, path, expected, batch)
        except OSError:
            pass  # whoever opens these files by himself is told
        except Exception:
            log.exception("cannot open files ahead")
        finally:
            done.set()
            for one in expected:
                self._coming.pop((ahead.directory, one.name), None)
        if self.arrived:
            await trio.sleep(SOON)  # a program that is quick leaves time for each while it uses the one before
            while self.arrived:
                for _ in range(PIECE):
                    self.take_one()
                await trio.lowlevel.checkpoint()
        await trio.sleep_until(asked_at + self._session.leases.freshness / 2)
        self.handed.aged(arrived)

    def _arrive(self, ahead: Ahead, path: bytes, expected: list[Expected], batch: Batch) -> list[Arrived]:
        """What was opened ahead has arrived: the compiled part has it, or it is to be taken in. Returns all of it."""
        prefix = path + b"/" if path else b""
        arrived = []
        position = 0
        for one, opened in zip(expected, batch.files, strict=False):
            if opened is None:
                continue
            asked_at = NEVER if one.name in batch.overtaken else batch.asked_at
            size = opened.attr.size if opened.inline else 0
            content = batch.content[position : position + size]
            position += size
            self._drop(prefix + one.name)
            file = Arrived(prefix + one.name, ahead.directory, one.name, opened, content, asked_at, batch.generation)
            arrived.append((file, one))
        self._counters.opened_ahead += len(arrived)
        for file in self.handed.hand_over(arrived, soon=not ahead.order.far):
            self.arrived[file.path] = file
        return [file for file, _ in arrived]

    def noticed(self, news: Sequence[Use | int]) -> None:
        """What the compiled part tells of files in its hands: use, thread, use, thread, ... in their order."""
        counters = self._counters
        uses = cast("Sequence[Use]", news[::2])
        for (ahead, position, size), thread in zip(uses, cast("Sequence[int]", news[1::2]), strict=True):
            process = self._activity.process(thread)
            process.reads += 1
            process.bytes += size
            counters.hit_bytes += size
            directory = ahead.directory
            if directory.ahead is ahead and directory.listing is ahead.listing:
                self._went(ahead, position)
        counters.ahead_used += len(uses)
        counters.hit += len(uses)

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
        if arrived is not None:
            self._take_in(arrived)

    def _take_in(self, file: Arrived) -> None:
        above, name = split(file.path)
        try:
            data = self._session.whole(file.opened, file.content)
            answer = Answer(file.opened, file.asked_at, file.generation)
            known = self._files.opened_ahead(file.path, answer, data)
            if known and self._tree.directory_at(above) is file.directory:
                self._learn(file.directory, name, answer)
        except Exception:
            log.exception("cannot take in a file that was opened ahead")

    def _drop(self, path: bytes) -> None:
        """What has arrived of the file at `path` is of no use."""
        arrived = self.arrived.pop(path, None)
        if arrived is not None:
            self._files.give_back(arrived.opened.handle, arrived.generation)

    def _pushed(self, push: Changes | LeasesLost) -> None:
        """What has arrived and was not taken in yet is older than a push."""
        self.handed.pushed(push)
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
