"""What each request means: one method a request, on one session. Knows no socket."""

from __future__ import annotations

import errno
import stat
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from dadafs.checksum import checksum
from dadafs.wire.messages import (
    AHEAD_BYTES,
    AHEAD_FILES,
    INLINE_LIMIT,
    Attr,
    Changed,
    Done,
    Entry,
    Failed,
    GiveBack,
    Item,
    Keepalive,
    List,
    Listing,
    Message,
    Open,
    OpenAhead,
    Opened,
    OpenedAhead,
    Read,
    Release,
    Resolve,
    Stat,
    Statfs,
    Version,
    Xattrs,
    XattrsReply,
)
from dadafs.wire.paths import BadPath, check, join
from dadafsd import origin_mount
from dadafsd.confine import Descriptor
from dadafsd.counters import Counters
from dadafsd.export import fstat
from dadafsd.exported import Exported
from dadafsd.fragments import Found, Wanted
from dadafsd.leases import ABSENT, Claim, look_again
from dadafsd.open_files import OpenFile
from dadafsd.opening import open_all, open_and_read
from dadafsd.origin_read import Clock, Piece
from dadafsd.recent_reads import RecentReads
from dadafsd.replies import Reply, blocks_reply
from dadafsd.sessions import MAX_HANDLES, Session, Sessions, Snapshot
from dadafsd.sites import ErrorLog, Failure, Site, at_site
from dadafsd.store.record import FragmentKey

#: Blocks that one read may ask for.
MAX_BLOCKS = 1024
MAX_RELEASES = 65536
#: Objects of one directory that are watched themselves for a leased listing of it.
MAX_OWN_WATCHES = 2048


class Service:
    """Answers requests. Every method may raise `OSError`, which `answer` turns into `Failed`."""

    def __init__(self, sessions: Sessions, counters: Counters) -> None:
        self.sessions = sessions
        self.counters = counters
        self.errors = ErrorLog(time.monotonic)
        self.recent = RecentReads()
        self._methods: dict[type[Message], Callable[[Session, Any], Awaitable[Reply | None]]] = {
            Stat: self.stat,
            List: self.list_directory,
            Open: self.open,
            OpenAhead: self.open_ahead,
            Release: self.release,
            Statfs: self.statfs,
            Xattrs: self.xattrs,
            GiveBack: self.give_back,
            Keepalive: self.keepalive,
            Resolve: self.resolve,
            Read: self.read,
        }
        self._at_once: dict[type[Message], Callable[[Session, Any], Reply | None]] = {
            Stat: self.stat_at_once,
            Open: self.open_at_once,
            Release: self.release_at_once,
            Read: self.read_at_once,
        }

    def open_session(self, session: Session) -> None:
        """A control channel is attached."""
        self.sessions.add(session)
        self.counters.events["sessions_opened"] += 1

    def close_session(self, session: Session) -> None:
        """A control channel is gone: so are the session's handles and leases."""
        session.exported.leases.forget(session)
        self.sessions.remove(session)
        self.counters.events["sessions_closed"] += 1

    def at_hand(self, session: Session, request: Message) -> Reply | None:
        """The reply to a request that needs no waiting; None where it needs some, or has an error to report.

        What is here never waits, so that it may run in the loop: it looks at memory, and at what the kernel has of
        local file systems in memory.
        """
        method = self._at_once.get(type(request))
        if method is None:
            return None
        try:
            reply = method(session, request)
        except (OSError, BadPath):  # BlockingIOError among them
            return None
        if reply is not None:
            self.counters.requests[session.exported.name, type(request).__name__] += 1
        return reply

    async def answer(self, session: Session, request: Message) -> Reply | None:
        """The reply to any request; None where it is answered by a push."""
        exported = session.exported
        self.counters.requests[exported.name, type(request).__name__] += 1
        method = self._methods.get(type(request))
        if method is None:
            return Reply(Failed(errno.EINVAL, "no such request", Site.REQUEST_INVALID))
        try:
            return await method(session, request)
        except BadPath as error:
            return Reply(Failed(errno.EINVAL, str(error), Site.REQUEST_INVALID))
        except OSError as error:
            return Reply(self._failed(session, request, at_site(error)))
        except Exception as error:
            self.errors.failed(Site.INTERNAL, exported.name, _path(session, request), repr(error))
            return Reply(Failed(errno.EIO, "internal error of the head", Site.INTERNAL))

    def _failed(self, session: Session, request: Message, failure: Failure) -> Failed:
        code = failure.errno or errno.EIO
        if code not in (errno.ESTALE, errno.EINVAL) and failure.site is not Site.NONE:
            self.errors.failed(failure.site, session.exported.name, _path(session, request), failure)
        return Failed(code, failure.strerror or "", int(failure.site))

    # --- metadata -------------------------------------------------------------------------------------------

    async def stat(self, session: Session, request: Stat) -> Reply:
        """lstat; what is not there is an answer too."""
        leases = session.exported.leases
        path = check(request.path)
        claim = await leases.claim(session, path) if request.lease else None
        attr, target = await self._look(session, path)
        if claim is not None and attr is not None and needs_own_watch(attr) and not leases.covers(path):
            claim = await leases.claim(session, path, own=True)
            attr, target = await self._look(session, path)
        return Reply(Entry(attr, target, self._leased(session, claim, path, attr)))

    def stat_at_once(self, session: Session, request: Stat) -> Reply | None:
        """`stat` where the kernel has the object in memory and its directory is watched."""
        exported = session.exported
        path = check(request.path)
        claim = None
        if request.lease and (claim := exported.leases.claim_at_once(session, path)) is None:
            return None
        try:
            attr, _ = exported.export.lstat(path, wait=False)
        except FileNotFoundError:
            attr = None
        if claim is not None and attr is not None and needs_own_watch(attr) and not exported.leases.covers(path):
            return None
        return Reply(Entry(attr, None, self._leased(session, claim, path, attr)))

    async def _look(self, session: Session, path: bytes) -> tuple[Attr | None, bytes | None]:
        exported = session.exported
        try:
            return await exported.pool.run(exported.export.lstat, path)
        except OSError as error:
            if error.errno not in ABSENT:
                raise
            return None, None

    def _leased(self, session: Session, claim: Claim | None, path: bytes, attr: Attr | None) -> bool:
        """Whether a reply that says `attr` may say `leased`. Nothing may yield from here until it is queued."""
        leases = session.exported.leases
        if claim is None or (attr is not None and needs_own_watch(attr) and not leases.covers(path)):
            return False
        if not claim.holds():
            return False
        leases.answered(session, path, attr)
        return True

    async def list_directory(self, session: Session, request: List) -> Reply:
        """A page of a directory; the first one takes the snapshot."""
        exported = session.exported
        path = check(request.path)
        if request.listing:
            snapshot, items, more = session.listing_page(request.listing, request.page)
            return Reply(Listing(snapshot.attr, items, request.listing, more, snapshot.leased))
        claim = None
        if request.lease:
            claim = await exported.leases.claim(session, path, own=True, whole=True)
        attr, items = await exported.pool.run(exported.export.list_directory, path)
        if claim is not None and not await self._cover_items(session, path, items):
            claim = None
        snapshot = Snapshot(attr, items, claim)
        items, more = snapshot.page(0)
        listing = session.keep_listing(snapshot) if more else 0
        return Reply(Listing(snapshot.attr, items, listing, more, snapshot.leased))

    async def _cover_items(self, session: Session, directory: bytes, items: list[Item]) -> bool:
        """Watch those items whose changes the directory does not see, and look at them again; False where not."""
        exported = session.exported
        leases = exported.leases
        own = {i: _join(directory, item.name) for i, item in enumerate(items) if needs_own_watch(item.attr)}
        new = {i: path for i, path in own.items() if not leases.covers(path)}
        if len(own) > MAX_OWN_WATCHES or not await leases.cover(list(new.values())):
            return False
        if new:
            looks = await exported.pool.run(look_again, exported.export, list(new.values()))
            for i, look in zip(new, looks, strict=True):
                if look.attr is None or needs_own_watch(look.attr) > leases.covers(look.path):
                    return False
                items[i] = Item(items[i].name, look.attr, look.target)
        return True

    async def statfs(self, session: Session, request: Statfs) -> Reply:
        """statvfs of the export's root."""
        exported = session.exported
        return Reply(await exported.pool.run(exported.export.statfs))

    async def xattrs(self, session: Session, request: Xattrs) -> Reply:
        """User attributes and POSIX ACLs."""
        exported, path = session.exported, check(request.path)
        if request.children:
            return Reply(XattrsReply({}, await exported.pool.run(exported.export.child_xattrs, path)))
        return Reply(XattrsReply(await exported.pool.run(exported.export.xattrs, path)))

    # --- open files -----------------------------------------------------------------------------------------

    async def open(self, session: Session, request: Open) -> Reply:
        """Open a regular file; a small one comes whole with the reply."""
        exported = session.exported
        path = check(request.path)
        claim = await exported.leases.claim(session, path)
        limit = INLINE_LIMIT if request.want_inline else 0
        found = await exported.pool.run(
            open_and_read, exported.export, path, limit, exported.clock, _in_memory(exported)
        )
        return self._open_reply(session, request, claim, found)

    def open_at_once(self, session: Session, request: Open) -> Reply | None:
        """`open` where the kernel has the file in memory, with its content where the reply carries that."""
        exported = session.exported
        path = check(request.path)
        claim = exported.leases.claim_at_once(session, path)
        if claim is None:
            return None
        limit = INLINE_LIMIT if request.want_inline else 0
        found = open_and_read(exported.export, path, limit, exported.clock, _in_memory(exported), wait=False)
        return self._open_reply(session, request, claim, found)

    def _open_reply(
        self, session: Session, request: Open, claim: Claim | None, found: tuple[Descriptor, Attr, Piece | None]
    ) -> Reply:
        path, attr = request.path, found[1]
        if request.expect is not None and (attr.dev, attr.ino) != tuple(request.expect):
            raise Failure(errno.ESTALE, Site.HANDLE_OTHER_FILE)
        handle, piece = self._attached(session, path, INLINE_LIMIT if request.want_inline else 0, found)
        leased = self._leased(session, claim, path, attr)
        return Reply(*_opened(handle, attr, piece, session.exported.clock, leased))

    def _attached(
        self, session: Session, path: bytes, limit: int, found: tuple[Descriptor, Attr, Piece | None]
    ) -> tuple[int, Piece | None]:
        """A handle of `session` on the file that was found at `path`, and its content where that is at hand."""
        exported = session.exported
        fragments = exported.fragments
        opened, attr, piece = found
        version = attr.version
        if piece is not None:
            fragments.keep_small(_first_fragment(exported, version), piece)
        elif 0 < attr.size <= limit:
            piece = fragments.memory.get(_first_fragment(exported, version), trio.current_time())
        file = exported.files.attach(path, opened, attr)
        if piece is not None:
            file.note_read(version)
        file.scan = self.counters.scan(exported.name, path)
        handle = self.sessions.new_handle(session, file)
        fragments.opened(path, file.identity)
        return handle, piece

    async def open_ahead(self, session: Session, request: OpenAhead) -> Reply:
        """Open small files of one directory, of which a reader has opened those before."""
        exported = session.exported
        directory = check(request.path)
        paths = [join(directory, name) for name in request.names[:AHEAD_FILES]]
        if len(session.handles) + len(paths) > MAX_HANDLES:
            raise Failure(errno.EMFILE, Site.REQUEST_INVALID, f"more than {MAX_HANDLES} open files")
        claim = await exported.leases.claim(session, directory, own=True, whole=True)
        limit = min(max(request.limit, 0), AHEAD_BYTES)
        found = await exported.pool.run(
            open_all, exported.export, paths, limit, exported.clock, _in_memory(exported), prefetch=True
        )
        replies: list[Opened | None] = []
        buffers: list[memoryview] = []
        covered = claim is not None and claim.holds()
        for path, one in zip(paths, found, strict=True):
            if one is None:
                replies.append(None)
                continue
            handle, piece = self._attached(session, path, INLINE_LIMIT, one)
            leased = covered and not needs_own_watch(one[1])
            opened, content = _opened(handle, one[1], piece, exported.clock, leased)
            replies.append(opened)
            buffers += content
        return Reply(OpenedAhead(replies), buffers)

    async def release(self, session: Session, request: Release) -> Reply:
        """The node is done with these handles."""
        return self.release_at_once(session, request)

    def release_at_once(self, session: Session, request: Release) -> Reply:
        """The same; there is never anything to wait for."""
        session.release(request.handles[:MAX_RELEASES])
        return Reply(Done())

    async def resolve(self, session: Session, request: Resolve) -> Reply:
        """The version now current of an open file."""
        exported = session.exported
        file = session.file(request.handle)
        held = await exported.files.descriptor(file)
        file.attr = await exported.pool.run(fstat, held)
        return Reply(Entry(file.attr))

    def read_at_once(self, session: Session, request: Read) -> Reply | None:
        """Blocks that are in memory, or in a record whose pages are."""
        file, want = self._wanted(session, request)
        found = session.exported.fragments.at_hand(want)
        return None if found is None else self._served(session, found, want, request, file)

    async def read(self, session: Session, request: Read) -> Reply:
        """Blocks of a fragment, or the news that the file has changed."""
        file, want = self._wanted(session, request)
        begun = trio.current_time()
        found = await session.exported.fragments.find(file, want)
        if isinstance(found, Attr):
            self.counters.events["changed"] += 1
            return Reply(Changed(found))
        reply = self._served(session, found, want, request, file)
        seconds = trio.current_time() - begun
        self.counters.wait(session.exported.name, session.node, found.tier, seconds)
        if file.scan is not None:
            file.scan.waits += 1
            file.scan.seconds += seconds
        self.recent.note(
            session.node,
            session.exported.name,
            file.path,
            request.fragment,
            found.tier,
            reply.size,
            seconds,
            prefetch=request.prefetch,
        )
        return reply

    def _wanted(self, session: Session, request: Read) -> tuple[OpenFile, Wanted]:
        file = session.file(request.handle)
        if request.version.identity != file.identity:
            raise Failure(errno.ESTALE, Site.HANDLE_WRONG_VERSION)
        if request.count > MAX_BLOCKS or len(request.known) > MAX_BLOCKS:
            raise Failure(errno.EINVAL, Site.REQUEST_INVALID, "too many blocks")
        file.note_read(request.version)
        verify = bool(request.known) and not any(request.known)
        want = session.exported.fragments.wanted(
            request.version,
            request.fragment,
            request.first,
            request.count,
            prefetch=request.prefetch,
            verify=verify,
        )
        return file, want

    def _served(self, session: Session, found: Found, want: Wanted, request: Read, file: OpenFile) -> Reply:
        reply = blocks_reply(found, want, request.known)
        size = reply.size
        self.counters.serve(session.exported.name, session.node, found.tier, size)
        if file.scan is not None:
            file.scan.reads += 1
            file.scan.bytes += size
            file.scan.tiers[found.tier] = file.scan.tiers.get(found.tier, 0) + size
        return reply

    # --- leases ---------------------------------------------------------------------------------------------

    async def give_back(self, session: Session, request: GiveBack) -> Reply:
        """The node no longer relies on these leases."""
        session.exported.leases.give_back(session, [check(path) for path in request.paths[:MAX_RELEASES]])
        return Reply(Done())

    async def keepalive(self, session: Session, request: Keepalive) -> None:
        """Answered by a `Pass`, after everything known was pushed."""
        session.report = dict(list(request.report.items())[:256])
        origin_mount.look_for(session, trio.current_time())
        await session.exported.leases.keepalive(session, request.sent_ns)


def _first_fragment(exported: Exported, version: Version) -> FragmentKey:
    return FragmentKey(exported.name, version, 0, exported.options.fragment_size)


def _in_memory(exported: Exported) -> Callable[[Version], bool]:
    """Whether a small file in some state is in memory; may be asked from any thread."""
    memory = exported.fragments.memory
    return lambda version: _first_fragment(exported, version) in memory


def needs_own_watch(attr: Attr) -> bool:
    """Whether changes of this object can escape a watch on its directory.

    A directory's times change with its entries; a file with several names can be written under another one.
    """
    return stat.S_ISDIR(attr.mode) or attr.nlink > 1


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def _opened(
    handle: int, attr: Attr, piece: Piece | None, clock: Clock, leased: bool
) -> tuple[Opened, list[memoryview]]:
    """The reply to an open, and its payload: `piece`, the whole of a small file."""
    if piece is not None:
        sums = piece.checksums[0] if len(piece.checksums) == 1 else checksum(piece.data)
        message = Opened(handle, attr, leased, inline=True, checksum=sums, settled=piece.settled)
        return message, [memoryview(piece.data)]
    settled = clock.settled(attr.mtime_ns, attr.ctime_ns, clock.now_ns())
    return Opened(handle, attr, leased, inline=attr.size == 0, settled=settled), []


def _path(session: Session, request: Message) -> bytes:
    path = getattr(request, "path", None)
    if isinstance(path, bytes):
        return path
    file = session.handles.get(getattr(request, "handle", 0))
    return file.path if file is not None else b""
