"""Watching a local origin with inotify: leases for paths, changes pushed to those who hold them.

Directories are watched, and the objects whose changes their directory does not see. An event only says where to look:
what is pushed is a fresh lstat, taken a few milliseconds later so that a burst of writes becomes one change. Writes
through a shared mapping raise no event at all; the files that nodes hold open are therefore looked at now and then.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import trio

from dadafs.wire.messages import Attr, Change, LeasesLost, Version
from dadafsd import inotify, long_writes
from dadafsd.confine import Descriptor
from dadafsd.counters import Counters
from dadafsd.export import Export, fstat
from dadafsd.file_watch import FileWatch
from dadafsd.leases import ABSENT, Look, look_again
from dadafsd.open_files import OpenFile, OpenFiles
from dadafsd.origin_pool import OriginPool
from dadafsd.policy import lease_book
from dadafsd.policy.lease_book import LeaseBook, Watched
from dadafsd.sessions import Session

log = logging.getLogger(__name__)
#: Events are gathered for so long before the first look, and looks at busy paths are so far apart, in seconds.
GATHER = 0.005
APART = 0.02
#: Paths looked at in one call, and how long that may take, in seconds: leases on what cannot be looked at are lost.
BATCH = 500
LOOK_SECONDS = 0.75
#: Open files looked at for writes through mappings: so many a tick, in seconds.
MAPPED_TICK = 0.25
MAPPED_BATCH = 500
#: One watch in so many may be on a file that was opened.
OPENED_SHARE = 5


@dataclass(frozen=True, slots=True)
class LocalClaim:
    """A claim in the book."""

    book: LeaseBook[Session]
    claim: lease_book.Claim[Session]

    def holds(self) -> bool:
        return self.book.holds(self.claim)


class LocalWatch:
    """The leases of one local export. Must be made where inotify is to be read, in a running loop."""

    def __init__(self, export: Export, pool: OriginPool, files: OpenFiles, counters: Counters, *, limit: int) -> None:
        self.book: LeaseBook[Session] = LeaseBook()
        self.limit = limit
        self._export = export
        self._pool = pool
        self._files = files
        self._counters = counters
        self._watches = inotify.Watches()
        self._nodes: dict[int, list[Watched[Session]]] = {}
        self._opened = FileWatch(self._watches, limit // OPENED_SHARE, self._nodes)
        self._written: dict[tuple[int, int], tuple[OpenFile, Version]] = {}  # what had been read of files written since
        self.on_overtaken: Callable[[tuple[int, int]], None] = _nobody
        self._placing = trio.Lock()
        self._strays: dict[int, int] | None = None  # events for watches that are just being placed
        self._looking = trio.Lock()
        self._dirty = trio.Event()
        self._exhausted = False

    # --- claims ---------------------------------------------------------------------------------------------

    async def claim(
        self, session: Session, path: bytes, *, own: bool = False, whole: bool = False
    ) -> LocalClaim | None:
        """See `dadafsd.leases.Leases`."""
        if self.book.missing(path, own=own) and not await self._place(path, own=own):
            return None
        return LocalClaim(self.book, self.book.claim(session, path, own=own, whole=whole))

    def claim_at_once(self, session: Session, path: bytes, *, own: bool = False) -> LocalClaim | None:
        """See `dadafsd.leases.Leases`. Events that are there are read first, or they would be pushed as news."""
        self._read_events()
        if self.book.missing(path, own=own):
            return None
        return LocalClaim(self.book, self.book.claim(session, path, own=own))

    async def cover(self, paths: Sequence[bytes]) -> bool:
        """See `dadafsd.leases.Leases`."""
        missing = [path for path in paths if not self.book.covers(path)]
        if not missing:
            return True
        if len(self.book) + len(missing) > self.limit:
            self._counters.events["leases_refused"] += 1
            return False
        async with self._placing:
            return await self._place_all(missing)

    def covers(self, path: bytes) -> bool:
        """See `dadafsd.leases.Leases`."""
        return self.book.covers(path)

    def answered(self, session: Session, path: bytes, attr: Attr | None) -> None:
        """Nothing to remember: events say what changes."""

    def give_back(self, session: Session, paths: Sequence[bytes]) -> None:
        """See `dadafsd.leases.Leases`."""
        for path in paths:
            self.book.give_back(session, path)

    def forget(self, session: Session) -> None:
        """See `dadafsd.leases.Leases`."""
        self.book.forget(session)

    def status(self) -> dict[str, object]:
        """See `dadafsd.leases.Leases`."""
        return {"method": "inotify", "watches": len(self.book), "limit": self.limit, "files": len(self._opened)}

    # --- placing watches ------------------------------------------------------------------------------------

    async def _place(self, path: bytes, *, own: bool) -> bool:
        """Watch what `path` still needs, as far down as there is something; one caller at a time."""
        async with self._placing:
            missing = self.book.missing(path, own=own)
            self._make_room(len(missing))
            return not missing or await self._place_all(missing)

    async def _place_all(self, paths: list[bytes]) -> bool:
        start = self.book.clock
        self._strays = {}
        try:
            placed = await self._pool.run(_place_watches, self._export, self._watches, paths)
            self._read_events()
            strays = self._strays
        except OSError as error:
            self._refused(error)
            return False
        finally:
            self._strays = None
        return all([self._placed(path, number, start, strays) for path, number in placed])

    def _placed(self, path: bytes, number: int, start: int, strays: dict[int, int]) -> bool:
        stray = strays.get(number, 0)
        accepted = not stray & inotify.GONE and self.book.watch(path, number, start)
        node = self.book.find(path)
        if not accepted or node is None or node.mark != number:
            self._unwatch(number)
            return False
        known = self._nodes.setdefault(number, [])
        if node not in known:
            known.append(node)
        if stray:
            self.book.doubt(path)
        return True

    def _unwatch(self, number: int) -> None:
        if number not in self._nodes and number not in self._opened:
            self._watches.remove(number)

    def opened(self, file: OpenFile) -> None:
        """A node opened this file: from now on it is watched itself."""
        self._opened.watch(file)

    def _make_room(self, count: int) -> None:
        """Give the leases asked for longest ago back where more than `limit` objects would be watched."""
        while len(self.book) + count > self.limit:
            oldest = self.book.oldest()
            if oldest is None:
                return
            self._counters.events["leases_given_back"] += 1
            self._lose(oldest.path)

    def _refused(self, error: OSError) -> None:
        self._counters.events["leases_refused"] += 1
        if error.errno == errno.ENOSPC and not self._exhausted:
            self._exhausted = True
            log.warning("no more inotify watches: raise fs.inotify.max_user_watches; until then nodes ask more often")

    # --- events ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """See `dadafsd.leases.Leases`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            nursery.start_soon(self._look_when_dirty)
            nursery.start_soon(self._look_at_open_files)

    async def _listen(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._watches)
            self._read_events()
            await trio.sleep(GATHER)

    def _read_events(self) -> None:
        for number, mask, name in self._watches.read():
            if mask & inotify.OVERFLOW:
                self._overflow()
                continue
            file = self._opened.event(number, mask)
            if file is not None:
                self._event_of_file(file, mask)
            if number in self._nodes:
                for node in list(self._nodes[number]):
                    self._event(node, mask, name)
            elif self._strays is not None:
                self._strays[number] = self._strays.get(number, 0) | mask
        self._remove_dropped()
        if self.book.dirty or self._written:
            self._dirty.set()

    def _event(self, node: Watched[Session], mask: int, name: bytes) -> None:
        if mask & inotify.GONE:
            self._lose(node.path)
        elif mask & inotify.ENTRY:
            self.book.entry(node, name, directory=bool(mask & inotify.ISDIR))
        elif name:
            self.book.changed(node, name)
        else:
            self.book.own(node)

    def _event_of_file(self, file: OpenFile, mask: int) -> None:
        if mask & inotify.ATTRIB:  # it may have another name now, under which writes are not seen
            self._changed(file.path)
        if mask & inotify.MODIFY and file.read_as is not None:
            self._written[file.identity] = file, file.read_as

    def _changed(self, path: bytes) -> None:
        directory, _, name = path.rpartition(b"/")
        parent = self.book.find(directory)
        if parent is not None:
            self.book.changed(parent, name)

    def _overflow(self) -> None:
        self._counters.events["watch_overflows"] += 1
        for session in self.book.overflow():
            session.outbox.post(LeasesLost([b""]))

    def _lose(self, path: bytes) -> None:
        """Nobody watches `path` any more; whoever relied on it is told."""
        for session in self.book.lose(path):
            session.outbox.post(LeasesLost([path]))
        self._remove_dropped()

    def _remove_dropped(self) -> None:
        for node in self.book.take_dropped():
            nodes = self._nodes.get(node.mark, [])
            if node in nodes:
                nodes.remove(node)
            if not nodes and self._nodes.pop(node.mark, None) is not None:
                self._unwatch(node.mark)

    # --- looking again --------------------------------------------------------------------------------------

    async def _look_when_dirty(self) -> None:
        while True:
            await self._dirty.wait()
            await self._look()
            await trio.sleep(APART)

    async def _look(self) -> None:
        """Look at everything that events named, and push what is found."""
        async with self._looking:
            self._dirty = trio.Event()
            await self._look_at_written()
            dirty = self.book.take_dirty()
            for begin in range(0, len(dirty), BATCH):
                await self._look_at(dict(dirty[begin : begin + BATCH]))

    async def _look_at_written(self) -> None:
        """Where a file is as it was when it was read, though a write ended after that, the write began before."""
        written, self._written = list(self._written.values()), {}
        if not written:
            return
        found: list[Attr | None] = [None] * len(written)
        with contextlib.suppress(OSError):
            found = await self._pool.run(
                _attributes, self._export, [file for file, _ in written], deadline=LOOK_SECONDS
            )
        for (file, version), attr in zip(written, found, strict=True):
            if attr is None or attr.version == version or long_writes.overtaken(version):
                self._counters.events["long_writes"] += 1
                long_writes.overtake(version)
                self.on_overtaken(file.identity)
                self._changed(file.path)

    async def _look_at(self, paths: dict[bytes, bool]) -> None:
        try:
            looks = await self._pool.run(look_again, self._export, list(paths), deadline=LOOK_SECONDS)
        except OSError:
            looks = [Look(path, None, unknown=True) for path in paths]
        changes: dict[Session, list[Change]] = {}
        for look in looks:
            if look.unknown:
                self._lose(look.path)
                continue
            change = Change(look.path, look.attr, look.target, paths[look.path])
            for session in self.book.holders(look.path):
                changes.setdefault(session, []).append(change)
        for session, mine in changes.items():
            self._counters.events["changes_pushed"] += len(mine)
            if not session.outbox.post_changes(mine):
                self.book.forget(session)

    async def keepalive(self, session: Session, sent_ns: int) -> None:
        """See `dadafsd.leases.Leases`."""
        self._read_events()
        if self.book.dirty or self._written or self._looking.locked():
            await self._look()
        session.outbox.post(session.passed(sent_ns))

    async def _look_at_open_files(self) -> None:
        """Find writes through shared mappings, which raise no event, in the files that nodes hold open."""
        position = 0
        while True:
            await trio.sleep(MAPPED_TICK)
            files = [file for file in self._files.files() if file.descriptor is not None]
            position = position if position < len(files) else 0
            batch = files[position : position + MAPPED_BATCH]
            position += MAPPED_BATCH
            held = [file.descriptor for file in batch if file.descriptor is not None]
            if not held:
                continue
            try:
                found = await self._pool.run(_fstat_all, held, prefetch=True)
            except OSError:
                continue
            for file, attr in zip(batch, found, strict=True):
                if attr is not None and attr.version != file.attr.version:
                    file.attr = attr
                    if self.book.holders(file.path):
                        self.book.dirty.setdefault(file.path, False)
                        self._dirty.set()


def _place_watches(export: Export, watches: inotify.Watches, paths: Iterable[bytes]) -> list[tuple[bytes, int]]:
    """Watch each path, and stop at the first that is not there; blocking, for a thread."""
    placed = []
    for path in paths:
        try:
            placed.append((path, watches.add(export.locate(path))))
        except OSError as error:
            if error.errno not in ABSENT:
                raise
            break
    return placed


def _nobody(identity: tuple[int, int]) -> None:
    """Nobody keeps anything."""


def _attributes(export: Export, files: Sequence[OpenFile]) -> list[Attr | None]:
    """What each file is like now, None where it cannot be found any more; blocking, for a thread."""
    found: list[Attr | None] = []
    for file in files:
        held = file.descriptor
        try:
            attr = fstat(held) if held is not None else export.lstat(file.path)[0]
        except OSError:
            found.append(None)
        else:
            found.append(attr if (attr.dev, attr.ino) == file.identity else None)
    return found


def _fstat_all(held: Sequence[Descriptor]) -> list[Attr | None]:
    found: list[Attr | None] = []
    for descriptor in held:
        try:
            found.append(fstat(descriptor))
        except OSError:
            found.append(None)
    return found
