"""Everything that touches pyfuse3: handlers, attribute conversion, notices to the kernel.

The meaning of each call is in `dadafs.operations`; here it is only translated, so that the binding can be replaced.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import trio

from dadafs.native import fuse_session  # isort: skip - in front of pyfuse3, which calls into it
import pyfuse3  # isort: skip

from dadafs.counters import Counters
from dadafs.explain import Explainer
from dadafs.guard import Guard, guarded
from dadafs.identities import READ, SEARCH, Mapping
from dadafs.in_place import ACLS, InPlace
from dadafs.interrupts import Interrupts
from dadafs.kernel_cache import Told
from dadafs.kernel_readahead import KernelReadahead
from dadafs.kernel_size import ask, kernel_size
from dadafs.kernel_tuning import CONGESTION_THRESHOLD, MAX_BACKGROUND
from dadafs.node import ROOT_ID
from dadafs.operations import Operations
from dadafs.pieces import joined
from dadafs.scheduled import Scheduled
from dadafs.squash import Squash
from dadafs.virtual_files import VirtualFiles

log = logging.getLogger(__name__)

_IGNORED = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENOTEMPTY}


class KernelNotices:
    """Tells the kernel to forget, from worker threads: such a notice may wait for a request that we must answer.

    Names and attributes go through one thread and cached pages through another, because dropping pages waits for
    reads that are in progress.
    """

    def __init__(self, mountpoint: str) -> None:
        self._mountpoint = mountpoint
        self.askers: set[int] = set()
        self._nursery: trio.Nursery | None = None
        self._names: dict[tuple[int, bytes | None], None] = {}
        self._pages: dict[int, None] = {}
        self._wake_names = trio.Event()
        self._wake_pages = trio.Event()
        self._threads = trio.CapacityLimiter(8)
        # Of their own, since each of these may have to wait for the next: pages to be dropped, looks, what they saw.
        self._looks = trio.CapacityLimiter(8)
        self._sizes = trio.CapacityLimiter(8)
        self._lists = trio.CapacityLimiter(2)

    def entry(self, parent: int, name: bytes) -> None:
        """Forget what is at `name`, soon."""
        self._names[(parent, name)] = None
        self._wake_names.set()

    def attributes(self, node_id: int) -> None:
        """Forget the attributes of `node_id`, soon."""
        if (node_id, None) not in self._names:
            self._names[(node_id, None)] = None
            self._wake_names.set()

    def pages(self, node_id: int) -> None:
        """Forget the attributes and the cached pages of `node_id`, soon."""
        if node_id not in self._pages:
            self._pages[node_id] = None
            self._wake_pages.set()

    async def attributes_now(self, node_id: int) -> None:
        """Return when the attributes of `node_id` are forgotten."""
        await self._now(_forget_attributes, node_id)

    async def pages_now(self, node_id: int) -> None:
        """Return when the attributes and pages of `node_id` are forgotten."""
        await self._now(_forget_pages, node_id)

    async def _now(self, action: Callable[[int], None], node_id: int) -> None:
        await trio.to_thread.run_sync(action, node_id, abandon_on_cancel=True, limiter=self._threads)

    def start(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run `task` in the background; it ends with the mount."""
        if self._nursery is not None:
            self._nursery.start_soon(task, *arguments)

    async def look(self, path: bytes) -> None:
        """Make the kernel ask for the attributes of the file at `path`; return when it is through with the reply."""
        place = os.path.join(os.fsencode(self._mountpoint), path)
        await trio.to_thread.run_sync(self._asking, ask, place, abandon_on_cancel=True, limiter=self._looks)

    def _asking(self, question: Callable[[bytes], int | None], place: bytes) -> int | None:
        thread = threading.get_native_id()
        self.askers.add(thread)
        try:
            return question(place)
        finally:
            self.askers.discard(thread)

    async def list(self, path: bytes) -> None:
        """Make the kernel list the directory at `path`: it then knows the names and need not ask for each."""
        place = os.path.join(os.fsencode(self._mountpoint), path)
        await trio.to_thread.run_sync(self._listing, place, abandon_on_cancel=True, limiter=self._lists)

    def _listing(self, place: bytes) -> None:
        thread = threading.get_native_id()
        self.askers.add(thread)
        try:
            _list(place)
        finally:
            self.askers.discard(thread)

    async def size_of(self, path: bytes) -> int | None:
        """The size that the kernel has in mind for the file at `path`; None where it does not say."""
        place = os.path.join(os.fsencode(self._mountpoint), path)
        return await trio.to_thread.run_sync(
            self._asking, kernel_size, place, abandon_on_cancel=True, limiter=self._sizes
        )

    async def run(self) -> None:
        """Background task: deliver what is to be forgotten soon. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._run_names)
            nursery.start_soon(self._run_pages)

    async def _run_names(self) -> None:
        while True:
            await self._wake_names.wait()
            self._wake_names = trio.Event()
            batch, self._names = list(self._names), {}
            await trio.to_thread.run_sync(_deliver_names, batch, abandon_on_cancel=True, limiter=self._threads)

    async def _run_pages(self) -> None:
        while True:
            await self._wake_pages.wait()
            self._wake_pages = trio.Event()
            batch, self._pages = list(self._pages), {}
            await trio.to_thread.run_sync(_deliver_pages, batch, abandon_on_cancel=True, limiter=self._threads)


def _list_names(place: bytes) -> None:
    """What an older build of the compiled part, or none, lists by."""
    with contextlib.suppress(OSError):
        os.listdir(place)


_list: Callable[[bytes], object] = getattr(fuse_session, "list", _list_names)


def _deliver_names(batch: Iterable[tuple[int, bytes | None]]) -> None:
    for node_id, name in batch:
        if name is None:
            _forget_attributes(node_id)
        else:
            _notice(pyfuse3.invalidate_entry, node_id, name)


def _deliver_pages(batch: Iterable[int]) -> None:
    for node_id in batch:
        _forget_pages(node_id)


def _forget_attributes(node_id: int) -> None:
    _notice(pyfuse3.invalidate_inode, node_id, True)


def _forget_pages(node_id: int) -> None:
    _notice(pyfuse3.invalidate_inode, node_id, False)


def _notice(action: Callable[..., None], *arguments: object) -> None:
    try:
        action(*arguments)
    except OSError as problem:
        if problem.errno not in _IGNORED:  # what the kernel does not know it need not forget
            log.info("the kernel refused a notice: %s", problem)


class _AbandonedReplies(logging.Filter):
    """Keeps pyfuse3 quiet about replies to requests that were interrupted: the kernel has forgotten those."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not ("fuse_reply_" in message and os.strerror(errno.ENOENT) in message)


def _refuse(number: int) -> Callable[..., Any]:
    async def handler(self: FuseAdapter, *arguments: object) -> NoReturn:
        raise pyfuse3.FUSEError(number)

    return handler


class FuseAdapter(pyfuse3.Operations):
    """The handlers. `flush`, `fsync` and `access` are left out on purpose: the kernel then stops asking."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False  # unless the export has any

    def __init__(
        self, operations: Operations, virtual: VirtualFiles, explainer: Explainer, counters: Counters, patience: float
    ) -> None:
        super().__init__()
        self._operations = operations
        self._virtual = virtual
        self._explainer = explainer
        self._session = operations.session
        self._squash = Squash(operations, explainer)
        interrupts = Interrupts(_current)
        self.in_place = InPlace(operations, virtual, explainer, self.read, interrupts)
        self.guard = Guard(
            counters,
            patience=patience,
            error=pyfuse3.FUSEError,
            describe=self._describe,
            interrupts=interrupts,
        )
        self.readahead: KernelReadahead | None = None  #: where the kernel's own readahead could not be raised
        self._listed = pyfuse3.EntryAttributes()
        logging.getLogger("pyfuse3").addFilter(_AbandonedReplies())

    def _describe(self, call: str, arguments: tuple[Any, ...]) -> str:
        """What a call was about, for the log."""
        if call == "read":
            handle, offset, length = arguments
            return f"{self._operations.name_of_handle(handle)} ({length} bytes at {offset})"
        if call == "release":
            return self._operations.name_of_handle(arguments[0])
        if call in ("readdir", "releasedir"):
            return self._operations.directories.name_of_handle(arguments[0])
        if call == "lookup":
            return self._operations.name_of(arguments[0]).rstrip("/") + "/" + os.fsdecode(arguments[1])
        if call == "forget":
            return ", ".join(self._operations.name_of(node_id) for node_id, _ in arguments[0][:3])
        return self._operations.name_of(arguments[0]) if call != "statfs" else "/"

    async def _check_root(self, node_id: int, want: int) -> None:
        """Root is the anonymous user here. Raises OSError(EACCES) where that one has no right to this."""
        if not self._virtual.owns(node_id):
            await self.guard.within(self._squash.check(node_id, want))

    # --- names and attributes ----------------------------------------------------------------------------------

    @guarded("N01")
    async def lookup(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if self._squash.concerns(ctx.uid, ctx.pid):
            await self._check_root(parent, SEARCH)
        told = self._operations.lookup_known(parent, name)
        if told is None or parent == ROOT_ID:
            virtual = self._virtual.lookup(parent, name)
            if virtual is not None:
                return _entry(pyfuse3.EntryAttributes(), virtual)
        if told is None:
            told = await self.guard.within(self._operations.lookup(parent, name, ctx.pid))
        return _entry(pyfuse3.EntryAttributes(), told, self._session.mapping)

    @guarded("N02")
    async def getattr(self, node_id: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        virtual = self._virtual.getattr(node_id)
        if virtual is not None:
            return _entry(pyfuse3.EntryAttributes(), virtual)
        told = self._operations.getattr_known(node_id)
        if told is None:
            told = await self.guard.within(self._operations.getattr(node_id, ctx.pid))
        entry = _entry(pyfuse3.EntryAttributes(), told, self._session.mapping)
        if node_id == ROOT_ID and told.fields is not None:
            entry.st_ino = told.fields[1]
        return entry

    @guarded("N11")
    async def forget(self, forgotten: Sequence[tuple[int, int]]) -> None:
        self._operations.forget(forgotten)

    @guarded("N03")
    async def readlink(self, node_id: int, ctx: object = None) -> bytes:
        return await self.guard.within(self._operations.readlink(node_id))

    # --- directories -------------------------------------------------------------------------------------------

    @guarded("N06")
    async def opendir(self, node_id: int, ctx: pyfuse3.RequestContext) -> int:
        if self._virtual.owns(node_id):
            return self._virtual.opendir(node_id)
        if self._squash.concerns(ctx.uid, ctx.pid):
            await self._check_root(node_id, READ)
        return await self.guard.within(self._operations.directories.opendir(node_id, ctx.pid))

    @guarded("N07")
    async def readdir(self, handle: int, start: int, token: pyfuse3.ReaddirToken) -> None:
        mapping = self._session.mapping

        def emit(name: bytes, told: Told, following: int) -> bool:
            return bool(pyfuse3.readdir_reply(token, name, _entry(self._listed, told, mapping), following))

        if self._virtual.is_handle(handle):
            self._virtual.readdir(handle, start, emit)
        else:
            await self.guard.within(self._operations.directories.readdir(handle, start, emit))

    @guarded("N12")
    async def releasedir(self, handle: int) -> None:
        if not self._virtual.is_handle(handle):
            self._operations.directories.releasedir(handle)

    # --- files -------------------------------------------------------------------------------------------------

    @guarded("N04")
    async def open(self, node_id: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if self._virtual.owns(node_id):
            return pyfuse3.FileInfo(fh=self._virtual.open(node_id, flags), direct_io=True, keep_cache=False)
        if self._squash.concerns(ctx.uid, ctx.pid):
            await self._check_root(node_id, READ)
        opened = self._operations.open_known(node_id, flags)
        if opened is None:
            opened = await self.guard.within(self._operations.open(node_id, flags))
        self._operations.opened_by(opened[0], ctx.pid)
        if self.readahead is not None:
            self.readahead.opened(opened[0], node_id, ctx.pid)
        return pyfuse3.FileInfo(fh=opened[0], keep_cache=opened[1])

    @guarded("N05")
    async def read(  # type: ignore[override]  # any buffer will do
        self, handle: int, offset: int, length: int
    ) -> bytes | memoryview:
        if self._virtual.is_handle(handle):
            return self._virtual.read(handle, offset, length)
        if self.readahead is not None:
            self.readahead.read(handle, offset, length)
        data = self._operations.read_known(handle, offset, length)
        if data is not None:
            return joined(data)
        return await self.guard.within(self._operations.read(handle, offset, length))

    @guarded("N10")
    async def release(self, handle: int) -> None:
        if self._virtual.is_handle(handle):
            self._virtual.release(handle)
        else:
            if self.readahead is not None:
                self.readahead.closed(handle)
            self._operations.release(handle)

    # --- the rest ----------------------------------------------------------------------------------------------

    @guarded("N08")
    async def statfs(self, ctx: object = None) -> pyfuse3.StatvfsData:
        reply = await self.guard.within(self._operations.statfs())
        data = pyfuse3.StatvfsData()
        for field in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "namemax"):
            setattr(data, "f_" + field, getattr(reply, field))
        return data

    @guarded("N09")
    async def getxattr(self, node_id: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        if self._virtual.owns(node_id):
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        if name not in ACLS and self._squash.concerns(ctx.uid, ctx.pid):  # the kernel decides by the ACLs
            await self._check_root(node_id, 0)
        value = self._explainer.getxattr_known(node_id, name)
        if value is None:
            return await self.guard.within(self._explainer.getxattr(node_id, name))
        return value

    @guarded("N13")
    async def listxattr(self, node_id: int, ctx: object = None) -> list[bytes]:
        if self._virtual.owns(node_id):
            return []
        return await self.guard.within(self._explainer.listxattr(node_id))

    # --- writing: never (P1). A read-only mount answers most of this itself; nothing may depend on that ----------

    setattr = _refuse(errno.EROFS)
    mknod = _refuse(errno.EROFS)
    mkdir = _refuse(errno.EROFS)
    unlink = _refuse(errno.EROFS)
    rmdir = _refuse(errno.EROFS)
    symlink = _refuse(errno.EROFS)
    rename = _refuse(errno.EROFS)
    link = _refuse(errno.EROFS)
    create = _refuse(errno.EROFS)
    write = _refuse(errno.EROFS)
    setxattr = _refuse(errno.EROFS)
    removexattr = _refuse(errno.EROFS)


def _entry(entry: pyfuse3.EntryAttributes, told: Told, mapping: Mapping | None = None) -> pyfuse3.EntryAttributes:
    """Fill `entry` with what the kernel is to be told."""
    entry.st_ino = told.id
    entry.entry_timeout = entry.attr_timeout = told.timeout
    fields = told.fields
    if fields is not None:
        (
            _,
            _,
            entry.st_mode,
            entry.st_nlink,
            entry.st_uid,
            entry.st_gid,
            entry.st_rdev,
            entry.st_size,
            entry.st_blocks,
            entry.st_blksize,
            entry.st_atime_ns,
            entry.st_mtime_ns,
            entry.st_ctime_ns,
        ) = fields
        if mapping is not None:
            entry.st_mode, entry.st_uid, entry.st_gid = mapping.owner(fields[2], fields[4], fields[5])
    return entry


def mount(adapter: FuseAdapter, mountpoint: str, options: Iterable[str], *, acls: bool) -> None:
    """Mount; from now on the kernel sends requests, and with `acls` decides by POSIX ACLs, too.

    Raises RuntimeError where it cannot.
    """
    adapter.enable_acl = acls
    if fuse_session is not None:
        fuse_session.configure(MAX_BACKGROUND, CONGESTION_THRESHOLD)
        if hasattr(fuse_session, "answer"):  # it was built from a checkout that has it
            fuse_session.answer(**adapter.in_place.functions())
    pyfuse3.init(adapter, mountpoint, set(options))


def negotiated() -> dict[str, object]:
    """What was agreed with the kernel beyond pyfuse3's own; empty where the compiled part had no say."""
    return dict((fuse_session and fuse_session.negotiated()) or {})


def _current() -> tuple[int, int]:
    """Number and thread of the request that is being processed; (0, 0) where the compiled part does not say."""
    return (0, 0) if fuse_session is None else fuse_session.current()


def answered_in_place() -> int:
    """How many requests needed no handler of pyfuse3."""
    return int(fuse_session.answered()) if fuse_session is not None and hasattr(fuse_session, "answered") else 0


@contextlib.contextmanager
def _watched_loop(handling: set[trio.lowlevel.Task]) -> Iterator[None]:
    """Tell the compiled part how to see that the loop has something else to do; without that it waits for nothing.

    `handling`: the tasks that answer a request. Others of pyfuse3's do nothing but wait for the next one.
    """
    if fuse_session is None or not hasattr(fuse_session, "watch"):
        yield
        return
    scheduled = Scheduled()
    trio.lowlevel.add_instrument(scheduled)
    try:
        runner = trio._core._run.GLOBAL_RUN_CONTEXT.runner  # there is no public way to ask for its descriptor
        fuse_session.watch(runner.io_manager._epoll.fileno(), scheduled.tasks, handling)
    except AttributeError:
        fuse_session.watch(-1, scheduled.tasks, handling)
    try:
        yield
    finally:
        fuse_session.watch(-1, scheduled.tasks, handling)
        trio.lowlevel.remove_instrument(scheduled)


async def serve(handling: set[trio.lowlevel.Task]) -> None:
    """Answer requests until the file system is unmounted or `stop` is called; `handling` as the interrupts have it."""
    with _watched_loop(handling):
        await pyfuse3.main(min_tasks=2, max_tasks=256)


def stop() -> None:
    """Make `serve` return."""
    pyfuse3.terminate()


def close(*, unmount: bool) -> None:
    """Let go of the kernel's connection; without `unmount` the path gives errors from now on."""
    if fuse_session is not None and hasattr(fuse_session, "answer"):
        fuse_session.answer()  # nothing may answer a request of a session that is gone
    pyfuse3.close(unmount=unmount)
