"""An open file of the head as the node holds it: its version, its handle, and what happens when either
changes.

    files = RemoteFiles(session, cache, counters)
    file = files.believed(path, attr, asked_at=..., generation=..., leased=...)   # no round trip: the belief
    is live file, answer = await files.open(path)                 # one round trip: asks the head now
    (close-to-open) ... file.close()                                          # once for each of the two calls
    above

One `RemoteFile` per (device, inode) is shared by all kernel handles. It holds the version all reads are made
in; `Changed` replies and pushes advance it and call its listeners.
"""

from __future__ import annotations

import errno
import fnmatch
import os
from collections import OrderedDict
from collections.abc import Callable

import trio

from dadafs.cached_file import CachedFile
from dadafs.checksum import block_checksums
from dadafs.counters import Counters
from dadafs.data_channel import HotFile
from dadafs.policy.lease import NEVER
from dadafs.ram_cache import RamCache
from dadafs.session import Answer, Session
from dadafs.wire.messages import BLOCK_SIZE, INLINE_LIMIT, Attr, Changes, Entry, LeasesLost, Opened, Version

#: Called as listener(file, old attributes, new attributes) after the file changed in place; must not block or
#: raise.
Listener = Callable[["RemoteFile", Attr, Attr], None]
#: Files that nobody has open keep their handle for some time, but no more than so many of them.
MOST_IDLE = 1024
#: What the head answers for a handle that it does not know (any more).
HANDLE_LOST = {errno.ESTALE, errno.EBADF}


def stale(path: bytes) -> OSError:
    """The error of a handle whose file is gone for good."""
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE), os.fsdecode(path))


class RemoteFile:
    """One file of the head that is, or was recently, open on this node.

    `orphaned`: its path names another file or nothing now; it goes on being read through its handle while the
    head can. The belief that `attr` is its state is `asked_at`, `generation`, `leased` (see
    `LeaseClock.live`). `settled` False: the version cannot be proved by its timestamps yet, keep nothing
    longer than `freshness`. `ahead`: it was opened before anybody asked for it, and nobody has yet.
    """

    __slots__ = (
        "_files",
        "_handle",
        "_handle_generation",
        "_lock",
        "_session",
        "ahead",
        "asked_at",
        "attr",
        "cached",
        "generation",
        "hot",
        "idle_since",
        "leased",
        "orphaned",
        "path",
        "settled",
        "tier",
        "users",
    )

    def __init__(self, files: RemoteFiles, path: bytes, attr: Attr) -> None:
        self.path = path
        self.attr = attr
        self.settled = True
        self.tier = "origin"  # of the head, that answered last
        self.orphaned = False
        self.ahead = False
        self.asked_at = NEVER
        self.generation = 0
        self.leased = False
        self.cached: CachedFile = files.cache.file(attr.version)
        self.users = 0
        self.idle_since = 0.0
        self._files = files
        self._session = files.session
        self._handle = 0
        self._handle_generation = 0
        self.hot: HotFile | None = None  # as the compiled part reads it
        self._lock: trio.Lock | None = None  # of whoever asks the head, made when somebody does: most never do

    @property
    def _opening(self) -> trio.Lock:
        lock = self._lock
        if lock is None:
            lock = self._lock = trio.Lock()
        return lock

    @property
    def version(self) -> Version:
        """The state all reads are made in. Compare versions, not epochs, to decide whether pages are still
        good.
        """
        return self.cached.version

    @property
    def epoch(self) -> int:
        """Grows with every change in place while the file is known."""
        return self.cached.epoch

    @property
    def identity(self) -> tuple[int, int]:
        """(device, inode)."""
        return self.attr.dev, self.attr.ino

    @property
    def size(self) -> int:
        """Bytes, in the current version."""
        return self.attr.size

    def close(self) -> None:
        """The caller uses it no more. The head's handle is given back some time after the last close."""
        self._files.closed(self)

    # --- read by the compiled part
    # ----------------------------------------------------------------------------------------------------

    def heat(self, hot: HotFile) -> None:
        """The compiled part reads the file in its present state, through its present handle, until `cool`."""
        self.cool()
        self.hot = self.cached.hot = hot
        for row in self.cached.fragments.values():
            for extent in row:
                hot.hold(extent.fragment, extent.first, extent.count, True)

    def cool(self) -> None:
        """What the compiled part was told of the file is not so any more."""
        if self.hot is not None:
            self.hot.cool()
            self.hot = self.cached.hot = None

    # --- belief
    # ----------------------------------------------------------------------------------------------------

    def live(self, now: float) -> bool:
        """Whether `attr` may be believed at `now`."""
        return self._session.leases.live(self.asked_at, self.generation, self.leased, now)

    async def refresh(self, deadline: float | None = None) -> None:
        """Return when `version` may be believed: at once while a lease or freshness holds, else ask the head.

        Raises `OSError(ESTALE)` where the file is gone for good, `OSError(EIO)` at the deadline.
        """
        if self.live(trio.current_time()):
            return
        deadline = self._session.deadline() if deadline is None else deadline
        async with self._opening:
            if self.live(trio.current_time()):
                return
            if not self.orphaned and await self._found_at_its_path(deadline):
                return
            if self.has_handle and await self._resolved(deadline):
                return
            await self._reopen(deadline)

    async def _found_at_its_path(self, deadline: float) -> bool:
        """Ask what is at the path, which comes with a lease; False where that is another file, or nothing."""
        answer = await self._session.stat(self.path, deadline=deadline)
        attr = answer.value.attr
        if attr is None or (attr.dev, attr.ino) != self.identity:
            self.orphan()
            return False
        self.believe(attr, answer, answer.value.leased)
        return True

    async def _resolved(self, deadline: float) -> bool:
        """Ask for the state of the handle; False where the head does not know the handle."""
        try:
            answer = await self._session.resolve(self._handle, self.path, deadline=deadline)
        except OSError as error:
            if error.errno not in HANDLE_LOST:
                raise
            self.forget_handle(self._handle)
            return False
        attr = answer.value.attr
        if attr is None or (attr.dev, attr.ino) != self.identity:
            self.forget_handle(self._handle)
            return False
        self.believe(attr, answer, answer.value.leased)
        return True

    def believe(self, attr: Attr, answer: Answer[Entry] | Answer[Opened], leased: bool) -> None:
        """The head says that the file is in the state `attr`."""
        self.become(attr)
        self.asked_at = answer.asked_at
        self.generation = answer.generation
        self.leased = leased and not self.orphaned

    def learned(self, attr: Attr, read_in: Version, asked_at: float) -> None:
        """A read made in version `read_in` at `asked_at` found `attr` instead.

        Ignored when the file has gone on since: replies on data channels are not ordered against pushes.
        """
        if read_in != self.version:
            return
        self.leased = False  # the notice of this change is still on its way, or there is none
        self.cool()
        if (attr.dev, attr.ino) != self.identity:
            raise stale(self.path)
        self.become(attr)
        self.asked_at = asked_at
        self.generation = self._session.generation

    def become(self, attr: Attr) -> None:
        """The file is in the state `attr` now; tell the listeners when that is another version."""
        before, self.attr = self.attr, attr
        if attr is before or attr.version == before.version:
            return
        self.cool()
        self._files.cache.advance(self.cached, attr.version, append=self._files.appends(self.path))
        self._files.tell(self, before, attr)

    def orphan(self) -> None:
        """The path names another file or nothing now."""
        self.orphaned = True
        self.doubt()

    def doubt(self) -> None:
        """What is believed of the file must be asked for again before it is used."""
        self.leased = False
        self.asked_at = NEVER
        self.cool()

    # --- the handle
    # ------------------------------------------------------------------------------------------------

    @property
    def has_handle(self) -> bool:
        """Whether the head holds the file open for this session."""
        return self._handle_generation == self._session.generation

    @property
    def held_handle(self) -> tuple[int, int]:
        """The head's handle and the generation it is good in; only where `has_handle`."""
        return self._handle, self._handle_generation

    async def handle(self, deadline: float) -> tuple[int, int]:
        """The head's handle and the generation it is good in; opens the file where there is none."""
        if self._handle_generation != self._session.generation:
            async with self._opening:
                if self._handle_generation != self._session.generation:
                    await self._reopen(deadline)
        return self._handle, self._handle_generation

    async def _reopen(self, deadline: float) -> None:
        """Open by path, insisting on the same file."""
        if self.orphaned:
            raise stale(self.path)
        try:
            answer, content = await self._session.open(
                self.path, expect=self.identity, want_inline=self.size <= INLINE_LIMIT, deadline=deadline
            )
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}:
                self.orphan()
                raise stale(self.path) from None
            raise
        self.opened(answer, content)

    def opened(self, answer: Answer[Opened], content: bytes | None) -> None:
        """The head opened the file: take the handle, the belief and the content of a small file."""
        reply = answer.value
        if self.has_handle:
            self._files.give_back(reply.handle, answer.generation)
        else:
            self._handle, self._handle_generation = reply.handle, answer.generation
        self.settled = reply.settled
        self.believe(reply.attr, answer, reply.leased)
        if content is not None:
            expires = None if reply.settled else answer.asked_at + self._session.leases.freshness
            # What a reply carries whole is one block at most, and was verified.
            checksums = [reply.checksum] if len(content) <= BLOCK_SIZE else block_checksums(content)
            self._files.cache.hold_small(self.cached, content, checksums, expires)

    def forget_handle(self, handle: int) -> None:
        """The head does not know `handle`; the next use opens the file again."""
        if handle == self._handle:
            self._handle_generation = 0
            self.cool()

    def take_handle(self) -> tuple[int, int]:
        """The handle and its generation, no longer this file's."""
        self.cool()
        taken = self._handle, self._handle_generation
        self._handle_generation = 0
        return taken


class RemoteFiles:
    """All remote files of a mount, by identity."""

    def __init__(self, session: Session, cache: RamCache, counters: Counters) -> None:
        self.session = session
        self.cache = cache
        self.counters = counters
        self._by_identity: dict[tuple[int, int], RemoteFile] = {}
        self._by_path: dict[bytes, RemoteFile] = {}
        self._idle: OrderedDict[RemoteFile, None] = OrderedDict()  # least recently closed first
        self._surplus: list[tuple[int, int]] = []  # (handle, generation) to give back
        self._listeners: list[Listener] = []
        self._on_retire: list[Callable[[float], None]] = []
        self._work = trio.Event()
        session.on_changes(self._pushed)

    def believed(self, path: bytes, attr: Attr, *, asked_at: float, generation: int, leased: bool) -> RemoteFile:
        """The file at `path` as the caller believes it (the belief must be live). No round trip."""
        file = self._use(path, attr)
        if asked_at >= file.asked_at or generation > file.generation:
            file.become(attr)
            file.asked_at, file.generation, file.leased = asked_at, generation, leased
        return file

    async def open(self, path: bytes) -> tuple[RemoteFile, Answer[Opened]]:
        """Ask the head to open `path` now; a small file's content is in the cache afterwards. Raises OSError."""
        answer, content = await self.session.open(path)
        file = self._use(path, answer.value.attr)
        file.opened(answer, content)
        return file, answer

    def opened_ahead(self, path: bytes, answer: Answer[Opened], content: bytes | None) -> bool:
        """The head opened a small file that nobody asked for yet; whether that is of any use.

        It is not where more is known of the file already, or where a push overtook the answer.
        """
        attr = answer.value.attr
        known = self._by_identity.get((attr.dev, attr.ino))
        useless = answer.asked_at == NEVER or (
            known is not None and (known.has_handle or known.asked_at > answer.asked_at)
        )
        if useless:
            self.give_back(answer.value.handle, answer.generation)
            return False
        file = self._at(path, attr)
        file.opened(answer, content)
        file.leased = False  # nobody asked for it: it is believed for `freshness`
        file.ahead = True
        if not file.users:
            self._rests(file)
        return True

    def ready_ahead(self, identity: tuple[int, int], now: float) -> RemoteFile | None:
        """A file that was opened ahead less than `freshness` ago, for `use`: it had one name then, and has a handle."""
        file = self._by_identity.get(identity)
        if file is None or not file.ahead or file.orphaned or file.attr.nlink != 1 or not file.has_handle:
            return None
        return file if now - file.asked_at < self.session.leases.freshness else None

    def use(self, file: RemoteFile) -> RemoteFile:
        """`file`, which is known, with one user more."""
        self._idle.pop(file, None)
        file.users += 1
        return file

    def find(self, identity: tuple[int, int]) -> RemoteFile | None:
        """The file with this (device, inode), if it is known; not counted as a use."""
        return self._by_identity.get(identity)

    def on_change(self, listener: Listener) -> None:
        """Call `listener` for every change in place of any file."""
        self._listeners.append(listener)

    def on_retire(self, callback: Callable[[float], None]) -> None:
        """Call `callback(time)` now and then: what nobody has had open since is not needed any more."""
        self._on_retire.append(callback)

    async def run(self) -> None:
        """Background task: gives unused handles back in batches. Runs until cancelled."""
        while True:
            with trio.move_on_after(max(1.0, self.session.options.lease / 4)):
                await self._work.wait()
            self._work = trio.Event()
            self._retire(trio.current_time())
            surplus, self._surplus = self._surplus, []
            handles = [handle for handle, generation in surplus if generation == self.session.generation]
            if handles:
                await self.session.release(handles)

    # --- for RemoteFile
    # --------------------------------------------------------------------------------------------

    def closed(self, file: RemoteFile) -> None:
        """One user of `file` less."""
        file.users -= 1
        if not file.users:
            self._rests(file)

    def _rests(self, file: RemoteFile) -> None:
        file.idle_since = trio.current_time()
        idle = self._idle
        idle[file] = None
        idle.move_to_end(file)
        if len(idle) > MOST_IDLE:
            self._work.set()

    def give_back(self, handle: int, generation: int) -> None:
        """`handle` is not needed; it goes with the next batch."""
        self._surplus.append((handle, generation))
        if len(self._surplus) > MOST_IDLE:
            self._work.set()

    def appends(self, path: bytes) -> bool:
        """Whether the head's configuration says that writers of `path` only append."""
        patterns = self.session.welcome.append_patterns
        name = os.fsdecode(path)
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    def tell(self, file: RemoteFile, before: Attr, after: Attr) -> None:
        """Tell the listeners of a change in place."""
        self.counters.version_changes += 1
        for listener in self._listeners:
            listener(file, before, after)

    # --- inside
    # ----------------------------------------------------------------------------------------------------

    def _use(self, path: bytes, attr: Attr) -> RemoteFile:
        return self.use(self._at(path, attr))

    def _at(self, path: bytes, attr: Attr) -> RemoteFile:
        """The file that is at `path` now; not counted as a use."""
        identity = attr.dev, attr.ino
        file = self._by_identity.get(identity)
        if file is None:
            file = self._by_identity[identity] = RemoteFile(self, path, attr)
        if file.path != path or file.orphaned or path not in self._by_path:
            self._move(file, path)
        return file

    def _move(self, file: RemoteFile, path: bytes) -> None:
        """`file` is now found at `path`; whatever was there before is not."""
        there = self._by_path.get(path)
        if there is not None and there is not file:
            there.orphan()
        if self._by_path.get(file.path) is file:
            del self._by_path[file.path]
        self._by_path[path] = file
        file.path = path
        file.orphaned = False

    def _retire(self, now: float) -> None:
        """Forget files that nobody has had open for `lease` seconds.

        Where there are more than `MOST_IDLE`, the oldest are forgotten until a quarter of that is free again, so that
        a program that goes through many files costs one message in some hundred files.
        """
        old = now - self.session.options.lease
        for callback in self._on_retire:
            callback(old)
        most = MOST_IDLE if len(self._idle) <= MOST_IDLE else MOST_IDLE * 3 // 4
        while self._idle:
            file = next(iter(self._idle))
            if file.idle_since > old and len(self._idle) <= most:
                return
            del self._idle[file]
            self._forget(file)

    def _forget(self, file: RemoteFile) -> None:
        file.cool()
        del self._by_identity[file.identity]
        if self._by_path.get(file.path) is file:
            del self._by_path[file.path]
        if file.has_handle:
            self._surplus.append(file.take_handle())
        self.cache.leave(file.cached)

    def _pushed(self, push: Changes | LeasesLost) -> None:
        if isinstance(push, LeasesLost):
            for path in push.paths:
                for file in self._at_or_below(path):
                    file.leased = False
                    file.cool()
            return
        for change in push.changes:
            self._changed(change.path, change.attr)
            if change.subtree:
                for file in self._at_or_below(change.path):
                    if file.path != change.path:
                        file.doubt()

    def _changed(self, path: bytes, attr: Attr | None) -> None:
        """`path` is now `attr`: the file there changed in place, or was replaced or removed."""
        now, generation = self.session.now(), self.session.generation
        there = self._by_path.get(path)
        identity = None if attr is None else (attr.dev, attr.ino)
        if there is not None and there.identity != identity:
            del self._by_path[path]
            there.orphan()
        known = None if identity is None else self._by_identity.get(identity)
        if known is not None and attr is not None:
            known.become(attr)
            known.asked_at, known.generation = now, generation
            if attr.nlink > 1:
                known.leased = False  # a write through another name may be seen by no watch
                known.cool()

    def _at_or_below(self, path: bytes) -> list[RemoteFile]:
        if not path:
            return list(self._by_path.values())
        below = path + b"/"
        return [file for key, file in self._by_path.items() if key == path or key.startswith(below)]
