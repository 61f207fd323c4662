"""Requests answered in place: what the compiled part (`native/answers.c`) asks before pyfuse3's handlers.

Plain functions that return the reply, or None where something has to be waited for, is not there, or is one of the
virtual files; the guarded handlers of `dadafs.fuse_adapter` then answer. What a function raises is dropped for the same
reason: the handler meets it again and tells of it.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable

import trio

from dadafs.explain import Explainer
from dadafs.handed_files import Use
from dadafs.identities import ACCESS_ACL, DEFAULT_ACL, Mapping
from dadafs.interrupts import Interrupts
from dadafs.kernel_cache import Told
from dadafs.kernel_readahead import KernelReadahead
from dadafs.listing import Page
from dadafs.native import fuse_session
from dadafs.node import ROOT_ID
from dadafs.operations import Operations
from dadafs.pieces import Data
from dadafs.virtual_files import FOLDER, VirtualFiles

log = logging.getLogger(__name__)

NAMES = (
    "lookup",
    "getattr",
    "open",
    "read",
    "release",
    "forget",
    "getxattr",
    "opendir",
    "readdir",
    "releasedir",
    "idle",
    "number",
    "interrupt",
    "retry",
    "noticed",
    "reclaim",
)
ACLS = {ACCESS_ACL, DEFAULT_ACL}
_NO_VALUE = {errno.ENODATA, errno.ENOTSUP}


def _nothing(*_: object) -> None:
    """What an older build of the compiled part has for answers that come later: it asks for none."""


class InPlace:
    """The functions of one mount. `read` is the guarded handler."""

    def __init__(
        self,
        operations: Operations,
        virtual: VirtualFiles,
        explainer: Explainer,
        read: Callable[[int, int, int], Awaitable[Data]],
        interrupts: Interrupts,
    ) -> None:
        self._operations = operations
        self._explainer = explainer
        self._virtual = virtual
        self._session = operations.session
        self.readahead: KernelReadahead | None = None  #: as in the adapter
        self._read = read
        self._interrupts = interrupts
        self._nursery: trio.Nursery | None = None
        self._reply: Callable[[object, Data], object] = getattr(fuse_session, "reply", _nothing)
        self._fail: Callable[[object, int], object] = getattr(fuse_session, "fail", _nothing)
        if fuse_session is not None and hasattr(fuse_session, "afterwards"):
            operations.afterwards = operations.reader.afterwards = fuse_session.afterwards
        self._packs = hasattr(fuse_session, "entries")  # and takes the content of a file with an open

    def start(self, nursery: trio.Nursery) -> None:
        """Reads are answered later from now on; those that need a task after all get one in `nursery`."""
        self._nursery = nursery
        self._interrupts.start(nursery)

    def functions(self) -> dict[str, Callable[..., object]]:
        """By the names that the compiled part gives them."""
        return {name: getattr(self, name) for name in NAMES}

    def lookup(self, parent: int, name: bytes) -> Told | None:
        """What is at `name`; the kernel has one more reference to it where the answer is not None."""
        mapping = self._session.mapping
        if (mapping is not None and mapping.squashes_root) or (parent == ROOT_ID and name == FOLDER):
            return None  # who asks matters, or it is ours
        told = self._operations.lookup_known(parent, name)
        return told if mapping is None or told is None else _mapped(told, mapping)

    def getattr(self, node_id: int) -> Told | None:
        """The attributes of an object; of the root with the inode number that it has on the head."""
        told = self._operations.getattr_known(node_id)
        mapping = self._session.mapping
        if told is not None and mapping is not None:
            told = _mapped(told, mapping)
        if node_id == ROOT_ID and told is not None and told.fields is not None:
            return Told(told.fields[1], told.fields, told.timeout)
        return told

    def open(self, node_id: int, flags: int, thread: int) -> tuple[int, bool] | tuple[int, bool, memoryview] | None:
        """A handle for the process that a thread belongs to, and whether the kernel's pages are still good.

        The content as well, where the kernel is to have it without asking.
        """
        mapping = self._session.mapping
        if mapping is not None and mapping.squashes_root:
            return None
        opened = self._operations.open_known(node_id, flags)
        if opened is not None:
            self._operations.opened_by(opened[0], thread)
            content = self._operations.content_at_open(opened[0]) if self._packs else None
            if content is not None:
                return (*opened, content)  # there is nothing to read ahead
            if self.readahead is not None:
                self.readahead.opened(opened[0], node_id, thread)
        return opened

    def read(self, handle: int, offset: int, length: int, request: object) -> Data | bool | None:
        """Bytes of an open file, or True where `request` will be answered later."""
        if self._virtual.is_handle(handle):
            return None
        data = self._operations.read_known(handle, offset, length)
        nursery = self._nursery
        if data is not None and self.readahead is not None:
            self.readahead.read(handle, offset, length)
        if data is not None or nursery is None:
            return data

        asked = self._interrupts.later()

        def done(data: memoryview | None) -> None:
            if data is not None:
                self._interrupts.done(asked)
                self._reply(request, data)
                if self.readahead is not None:
                    self.readahead.read(handle, offset, length)
            else:
                nursery.start_soon(self._by_task, request, asked, handle, offset, length)

        later = self._operations.read_later(handle, offset, length, done)
        if not later:
            self._interrupts.done(asked)
        return later or None

    async def _by_task(self, request: object, asked: tuple[int, int], handle: int, offset: int, length: int) -> None:
        """Answer a read that could not be answered without a task after all."""
        if not self._interrupts.claim(asked):
            self._fail(request, errno.EINTR)
            return
        try:
            data = await self._read(handle, offset, length)
        except Exception as error:  # what the guarded handler raises: it has told of it
            self._fail(request, getattr(error, "errno", None) or errno.EIO)
        else:
            self._reply(request, data)

    def retry(
        self, request: object, number: int, thread: int, interrupted: bool, handle: int, offset: int, length: int
    ) -> bool:
        """The compiled part could not answer a read that it had kept: a task does it, from the beginning."""
        asked = (number, thread)
        self._interrupts.taken_over(asked, interrupted=bool(interrupted))
        if self._nursery is None:
            self._fail(request, errno.EIO)
        else:
            self._nursery.start_soon(self._by_task, request, asked, handle, offset, length)
        return True

    def release(self, handle: int) -> bool | None:
        """The handle is closed."""
        if self._virtual.is_handle(handle):
            return None
        if self.readahead is not None:
            self.readahead.closed(handle)
        self._operations.release(handle)
        return True

    def opendir(self, node_id: int, thread: int) -> int | None:
        """A handle on one snapshot of a directory."""
        mapping = self._session.mapping
        if self._virtual.owns(node_id) or (mapping is not None and mapping.squashes_root):
            return None
        return self._operations.directories.opendir_known(node_id, thread)

    def readdir(self, handle: int, start: int, size: int) -> bytes | None:
        """A reply to READDIRPLUS of at most `size` bytes: the names from cookie `start` on."""
        if not self._packs or fuse_session is None or self._virtual.is_handle(handle):
            return None
        mapping = self._session.mapping
        reply = _Names(size, mapping)
        pack = reply.pack if mapping is None else None
        return reply.joined() if self._operations.directories.readdir_known(handle, start, reply.emit, pack) else None

    def releasedir(self, handle: int) -> bool | None:
        """The handle on a directory is closed."""
        if self._virtual.is_handle(handle):
            return None
        self._operations.directories.releasedir(handle)
        return True

    def idle(self) -> bool | None:
        """A program is busy with what it was just given: do a piece of work that is due, and return whether it was."""
        return self._operations.small_files.take_one() or None

    def noticed(self, news: list[Use | int]) -> bool:
        """Who opened which small files: see `SmallFiles.noticed`."""
        try:
            self._operations.small_files.noticed(news)
        except Exception:  # nobody else would tell of it
            log.exception("what was opened could not be noted")
        return True

    def reclaim(self, node_id: int) -> bool:
        """A small file that was handed over is read later than it may be believed."""
        try:
            self._operations.small_files.handed.come_back(node_id, unused=True, closed=True)
        except Exception:
            log.exception("a small file could not be taken back")
        return True

    def number(self, node_id: int) -> int:
        """The inode number to show for an object whose id is not that number."""
        return self._operations.tree.number_of(node_id)

    def interrupt(self, number: int) -> None:
        """A signal reached whoever waits for this request."""
        self._interrupts.interrupted(number)

    def forget(self, node_id: int, count: int) -> bool:
        """The kernel gives `count` references back."""
        self._operations.forget([(node_id, count)])
        return True

    def getxattr(self, node_id: int, name: bytes) -> bytes | int | None:
        """The value of an attribute, or the number of the error that says that there is none.

        The kernel asks for ACLs before it lets somebody open a file, and again whenever the name was looked up anew.
        """
        mapping = self._session.mapping
        if self._virtual.owns(node_id) or (mapping is not None and mapping.squashes_root and name not in ACLS):
            return None
        try:
            return self._explainer.getxattr_known(node_id, name)
        except OSError as answer:
            return answer.errno if answer.errno in _NO_VALUE else None


class _Names:
    """A reply to READDIRPLUS in the making."""

    def __init__(self, size: int, mapping: Mapping | None) -> None:
        self._room = size
        self._mapping = mapping
        self._parts: list[bytes] = []

    def emit(self, name: bytes, told: Told, following: int) -> bool:
        """See `Emit`."""
        assert fuse_session is not None
        mapping = self._mapping
        part: bytes = fuse_session.entry(name, told if mapping is None else _mapped(told, mapping), following)
        if len(part) > self._room:
            return False
        self._take(part)
        return True

    def pack(self, page: Page, first: int, stop: int, following: int, lasting: float, passing: float) -> int:
        """See `Pack`."""
        assert fuse_session is not None
        part, count = fuse_session.entries(*page.packed(), first, stop, following, self._room, lasting, passing)
        self._take(part)
        return int(count)

    def _take(self, part: bytes) -> None:
        self._parts.append(part)
        self._room -= len(part)

    def joined(self) -> bytes:
        """The reply."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)


def _mapped(told: Told, mapping: Mapping) -> Told:
    """With the owner that the kernel is to see."""
    fields = told.fields
    if fields is None:
        return told
    mode, uid, gid = mapping.owner(fields[2], fields[4], fields[5])
    return Told(told.id, (*fields[:2], mode, fields[3], uid, gid, *fields[6:]), told.timeout)
