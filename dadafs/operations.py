"""What each file-system call means, in our own types: no pyfuse3 here.

The calls that can be answered from live beliefs have a plain function (`..._known`, None where the head must be
asked) beside the coroutine, so that the common case costs no task switch and no deadline. All coroutines raise
`OSError`; the adapter's guard makes errors of them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import trio

from dadafs.activity import Activity, Process
from dadafs.attributes import Attributes
from dadafs.beliefs import Found
from dadafs.counters import Counters
from dadafs.directories import Directories
from dadafs.hot_reads import HotReads
from dadafs.kernel_cache import KernelCache, Told
from dadafs.node import Belief, Directory, Node, State, state_of
from dadafs.pieces import Data, length_of
from dadafs.policy.prefetch import Streams
from dadafs.reader import Reader
from dadafs.remote_file import RemoteFile, RemoteFiles
from dadafs.session import Session
from dadafs.small_files import SmallFiles
from dadafs.tree import Tree
from dadafs.wire.messages import BLOCK_SIZE, INLINE_LIMIT, Attr, StatfsReply
from dadafs.wire.paths import MAX_COMPONENT, split

#: Open flags that ask for anything but reading.
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND | os.O_CREAT
#: How many names the kernel is asked to forget at a time when metadata has outgrown its share.
_FORGOTTEN_AT_ONCE = 10_000
#: A directory is listed once a name in so many bytes of it was asked for: a small one at the second name.
_BYTES_PER_QUESTION = 4096

_astuple = msgspec.structs.astuple


class Handle:
    """An open file: the node, the remote file that is read, the prefetch state of this handle, and who opened it.

    `first`: the kernel had no page of the file when it was opened. `streams` is None until they are needed. `lone`: so
    many of the latest reads continued no other.
    """

    __slots__ = ("file", "first", "lone", "node", "process", "streams")

    def __init__(self, node: Node, file: RemoteFile, streams: Streams | None, first: bool) -> None:
        self.node = node
        self.file = file
        self.streams = streams
        self.first = first
        self.lone = 0
        self.process: Process | None = None


class Operations(Attributes):
    """The calls of one mount."""

    def __init__(
        self,
        session: Session,
        tree: Tree,
        files: RemoteFiles,
        reader: Reader,
        kernel: KernelCache,
        counters: Counters,
    ) -> None:
        super().__init__(session, tree, files, kernel)
        self.reader = reader
        self.counters = counters
        self.directories = Directories(session, tree, self._new_handle, kernel.askers)
        self.activity = Activity()
        self.small_files = SmallFiles(session, tree, files, counters, kernel, self.activity, self._adopt)
        self.hot = HotReads(session, files.cache, counters, self.activity)
        self._handles: dict[int, Handle] = {}
        #: As that of the reader: what can be done a moment later.
        self.afterwards: Callable[[Callable[[], None]], bool] = lambda _work: False
        self._next_handle = 1
        self._recheck_below = tree.beliefs.leases.freshness / 2

    # --- names -------------------------------------------------------------------------------------------------

    def lookup_known(self, parent: int, name: bytes) -> Told | None:
        """`lookup`, where nothing has to be asked and nothing to be dropped."""
        directory = self.tree.find(parent)
        if not isinstance(directory, Directory) or len(name) > MAX_COMPONENT:
            return None
        now = self.session.now()
        found = self.beliefs.believed(directory, name, now)
        if found is None:
            return None
        attr = found.attr
        timeout = self._timeout(found.until, now)
        if attr is None:
            return Told(0, None, timeout)
        fields = _astuple(attr)
        node_id = self.tree.id_at(directory, name, fields)
        node = self.tree.to_tell(node_id, state_of(attr))
        if node is not None and node.pages is not None and (node.told != state_of(attr) or node.cut is not None):
            return None
        node = self.tree.looked_up(directory, name, attr)
        if node is not None:
            node.told = state_of(attr)
        return Told(node_id, fields, timeout)

    async def lookup(self, parent: int, name: bytes, asker: int = 0) -> Told:
        """What is at `name` in the directory `parent`; id 0 where nothing is. Raises OSError."""
        directory = self.tree.directory(parent)
        if len(name) > MAX_COMPONENT:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        now = self.session.now()
        found = self.beliefs.believed(directory, name, now) or await self._look_up(directory, name)
        if found.attr is None:
            return Told(0, None, self._timeout(found.until, self.session.now()))
        node_id = self.tree.id_at(directory, name, _astuple(found.attr))
        node = self.tree.to_tell(node_id, state_of(found.attr))
        told = found.attr
        if node is not None and node.pages is not None:
            told = await self._before_telling(node, found, found.attr, asker)
        node = self.tree.looked_up(directory, name, found.attr)
        if node is not None:
            node.told = state_of(told)
        timeout = self._timeout(found.until, self.session.now()) if told is found.attr else 0.0
        return Told(node_id, _astuple(told), timeout)

    async def _look_up(self, directory: Directory, name: bytes) -> Found:
        """Ask for `name`, or for the whole directory where more and more of its names are asked for."""
        own = directory.own
        size = own.attr.size if own is not None and own.attr is not None else 0
        listed = self.beliefs.has_listing(directory, self.session.now())
        if listed or directory.asked < max(1, size // _BYTES_PER_QUESTION):
            directory.asked += 1
            return await self._ask(directory, name)
        directory.asked = 0
        try:
            await self.directories.list(directory, wanted=False)
        except OSError:
            directory.asked = float("-inf")  # a name at a time, then
        found = self.beliefs.believed(directory, name, self.session.now())
        return found or await self._ask(directory, name)

    def forget(self, forgotten: Sequence[tuple[int, int]]) -> None:
        """The kernel gives references back: pairs of id and count."""
        for node_id, count in forgotten:
            self.tree.forget(node_id, count)

    async def readlink(self, node_id: int) -> bytes:
        """The text of a symbolic link. Raises OSError."""
        found = self._believed(node_id, self.tree.find(node_id), self.session.now())
        if found is None or found.target is None:
            found = await self._find_again(node_id)
        if found.target is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return found.target

    # --- files -----------------------------------------------------------------------------------------------------

    def _new_handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    def open_known(self, node_id: int, flags: int) -> tuple[int, bool] | None:
        """`open`, where nothing has to be asked and nothing to be dropped."""
        if flags & _WRITING or not self.tree.known(node_id):
            return None
        node = self.tree.node(node_id)
        now = self.session.now()
        ready = self.files.ready_ahead((node.dev, node.ino), now)
        if ready is None and self._take_in(node):
            ready = self.files.ready_ahead((node.dev, node.ino), now)
        if ready is not None and node.told == state_of(ready.attr):
            self._used_ahead(node, ready)
            return self._opened(node, self.files.use(ready))
        found = self._believed(node_id, node, now)
        if found is None or found.attr is None or node.told != state_of(found.attr):
            return None
        if not stat.S_ISREG(found.attr.mode):
            return None
        file = self._believed_file(node, found, found.attr)
        if state_of(file.attr) == node.told and file.has_handle:
            if file.ahead:
                self._used_ahead(node, file)
            return self._opened(node, file)
        file.close()
        return None

    def _take_in(self, node: Node) -> bool:
        """What has arrived of a file that was opened ahead is known from now on; whether anything may have."""
        if not self.small_files.arrived or not node.links:
            return False
        with contextlib.suppress(OSError):
            self.small_files.take_in(self.tree.path_of(node.id))
        return True

    def _believed_file(self, node: Node, found: Found, attr: Attr) -> RemoteFile:
        return self.files.believed(
            self.tree.path_of(node.id),
            attr,
            asked_at=found.asked_at,
            generation=found.generation,
            leased=found.leased,
        )

    async def open(self, node_id: int, flags: int) -> tuple[int, bool]:
        """A handle for reading, and whether the kernel's pages are still good. Raises OSError (EROFS, ...)."""
        if flags & _WRITING:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        node = self.tree.node(node_id)
        if node.links:
            coming = self.small_files.coming(node.links[-1])
            if coming is not None:
                await coming.wait()
            self._take_in(node)
        found = self._believed(node_id, node, self.session.now())
        if found is not None and found.attr is not None and stat.S_ISREG(found.attr.mode):
            file = await self._open_held(node, self._believed_file(node, found, found.attr))
        else:
            file = await self._open_asking(node)
        node.opens += 1  # it must not be forgotten while the kernel is told
        state = state_of(file.attr)
        try:
            await self._before_opening(node, state)
        except BaseException:
            file.close()
            self.tree.closed(node)
            raise
        node.opens -= 1
        if file.ahead or file.size <= INLINE_LIMIT:
            self._used_ahead(node, file)
        return self._opened(node, file, state)

    def _used_ahead(self, node: Node, file: RemoteFile) -> None:
        """A small file is opened, for the first time where that was done ahead: the next ones may be wanted soon."""
        self.counters.ahead_used += file.ahead
        file.ahead = False
        if node.links:
            work = partial(self.small_files.opened, *node.links[-1])
            if not self.afterwards(work):
                work()

    async def _open_held(self, node: Node, file: RemoteFile) -> RemoteFile:
        """`file` once the head holds it open too: from then on it can be read whatever happens to its name."""
        if file.has_handle:
            return file
        try:
            await file.handle(self.session.deadline())
        except OSError as error:
            file.close()
            if error.errno != errno.ESTALE:
                raise
            return await self._open_asking(node)  # the belief was wrong: the name is another file's now
        except BaseException:
            file.close()
            raise
        return file

    async def _before_opening(self, node: Node, state: State) -> None:
        """Opening refreshes neither attributes nor, for readers that are there already, pages: both go first."""
        if node.told is not None and node.pages is not None and (node.cut is not None or state[0] < node.told[0]):
            await self.truncation.carried_out(node)
        if node.pages is not None and node.pages != state:
            await self.kernel.pages_now(node.id)
        elif node.told is not None and node.told != state:
            await self.kernel.attributes_now(node.id)

    async def _open_asking(self, node: Node) -> RemoteFile:
        """Ask the head to open the file under the name it was last seen at."""
        if isinstance(node, Directory):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        while node.links:
            directory, name = node.links[-1]
            file, answer = await self.files.open(self.tree.path(directory, name))
            attr = answer.value.attr
            belief = Belief(attr, None, answer.asked_at, answer.generation, answer.value.leased)
            self._learnt(directory, name, belief)
            if self.tree.id_of(attr.dev, attr.ino) == node.id:
                return file
            file.close()
            self.tree.unlink(node.id, directory, name)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))  # the kernel looks the name up again

    def _opened(self, node: Node, file: RemoteFile, pages: State | None = None) -> tuple[int, bool]:
        """A handle. What the kernel has are pages of the state `pages`, if any: of that of the file, where not given.

        The file may have gone on while pages of older states were dropped. Whoever opens it drops the rest by himself,
        but nobody knows when: they are there until they were dropped for the newer state as well.
        """
        state = state_of(file.attr)
        first = node.pages is None
        keep = node.pages == state and file.settled and not node.doubtful
        if not keep:
            node.doubtful = not file.settled
        node.pages = state if pages is None else pages
        node.opens += 1
        handle = self._new_handle()
        streams = self.reader.open_streams(file) if file.attr.size > INLINE_LIMIT else None
        self._handles[handle] = Handle(node, file, streams, first)
        return handle, keep

    def _adopt(self, node: Node, file: RemoteFile, handles: list[tuple[int, int]]) -> None:
        """These handles, opened by these threads, were the compiled part's."""
        for handle, thread in handles:
            node.opens += 1
            self._handles[handle] = Handle(node, self.files.use(file), None, False)
            self.opened_by(handle, thread)

    def _streams(self, opened: Handle) -> Streams:
        """A small file comes whole with its open: most of their handles need no prefetch state."""
        streams = opened.streams
        if streams is None:
            streams = opened.streams = self.reader.open_streams(opened.file)
        return streams

    def opened_by(self, handle: int, thread: int) -> None:
        """The thread of a process that a handle was just made for."""
        self._handles[handle].process = self.activity.process(thread)

    def content_at_open(self, handle: int) -> memoryview | None:
        """The whole of a small file that was just opened, for the kernel to have before it asks: its first read.

        Only where the kernel has no pages of it, so that none can be locked by somebody who waits for us, and where
        its times prove the state: what is read in doubt must be dropped soon.
        """
        opened = self._handles[handle]
        file, process = opened.file, opened.process
        size = file.attr.size
        if not opened.first or not 0 < size <= INLINE_LIMIT or not file.settled:
            return None
        if opened.node.told != state_of(file.attr):
            return None
        now = self.session.now()
        extent = self.files.cache.lookup(file.cached, 0, 0, -(-size // BLOCK_SIZE), now) if file.live(now) else None
        if extent is None:
            return None
        self.files.cache.used_by_reader(extent, 0, size)
        self.counters.hit += 1
        self.counters.hit_bytes += size
        if process is not None:
            process.reads += 1
            process.bytes += size
        return extent.view()[:size]

    def read_known(self, handle: int, offset: int, length: int) -> Data | None:
        """`read`, where nothing has to be waited for; maybe in pieces."""
        opened = self._handles[handle]
        file = opened.file
        data = self.reader.read_at_once(file, self._streams(opened), offset, length)
        if data is None:
            return None
        size = length_of(data)
        if size != length and not self._ends_there(opened.node, offset + size):
            return None
        if not file.settled:
            opened.node.doubtful = True
        process = opened.process
        if process is not None:
            process.reads += 1
            process.bytes += size
        return data

    def _ends_there(self, node: Node, end: int) -> bool:
        """Whether the kernel surely believes that a file ends at `end`."""
        return node.told is not None and self.truncation.believed(node, end)

    def read_later(self, handle: int, offset: int, length: int, done: Callable[[memoryview | None], None]) -> bool:
        """`read`, where one request will do, without a task; `done` is called later, see `Reader.read_later`."""
        opened = self._handles[handle]
        file, process = opened.file, opened.process
        begun = self.session.now()

        def taken(data: memoryview | None) -> None:
            done(data)
            if data is not None:
                if not file.settled:
                    opened.node.doubtful = True
                if process is not None:
                    self._note_wait(opened, process, offset, length, self.session.now() - begun)

        later = self.reader.read_later(file, self._streams(opened), offset, length, taken)
        if later:
            self.hot.lone_read(handle, opened, length)
        else:
            opened.lone = 0
        return later

    async def read(self, handle: int, offset: int, length: int) -> bytes | memoryview:
        """Bytes of an open file; fewer than asked for only at the size that the kernel believes in."""
        opened = self._handles[handle]
        begun = self.session.now()
        data = await self.reader.read(opened.file, self._streams(opened), offset, length)
        if opened.process is not None:
            self._note_wait(opened, opened.process, offset, len(data), self.session.now() - begun)
        if not opened.file.settled:
            opened.node.doubtful = True
        if len(data) == length:
            return data
        return await self._up_to_the_end(opened, offset, length, data)

    def _note_wait(self, opened: Handle, process: Process, offset: int, size: int, seconds: float) -> None:
        process.reads += 1
        process.bytes += size
        self.activity.waited(process, opened.file.path, offset, size, seconds, opened.file.tier)

    async def _up_to_the_end(
        self, opened: Handle, offset: int, length: int, data: bytes | memoryview
    ) -> bytes | memoryview:
        """A short reply says where the file ends, and what the kernel asked for beyond it becomes zeros.

        That is right at the size it was last told. A file that was cut must be told of first: a size that it
        believes in stays, and readers would see those zeros.
        """
        node, file = opened.node, opened.file
        while len(data) < length:
            end = offset + len(data)
            if self.truncation.believed(node, end):
                return data
            await self.truncation.taken_in(node, file, end)
            data = await self.reader.read(file, self._streams(opened), offset, length)
        return data

    def release(self, handle: int) -> None:
        """The handle is closed."""
        opened = self._handles.pop(handle)
        self.hot.released(handle)
        if opened.streams is not None:
            self.reader.close_streams(opened.file, opened.streams)
        opened.file.close()
        self.tree.closed(opened.node)

    def file_changed(self, file: RemoteFile, old: Attr, new: Attr) -> None:
        """An open file changed in place: its readers, those through mapped pages too, must see it."""
        node = self.tree.find(self.tree.id_of(new.dev, new.ino))
        if node is None:
            return
        if not file.orphaned:
            directory, name = split(file.path)
            parent = self.tree.directory_at(directory)
            if parent is not None:
                self.beliefs.learn(parent, name, Belief(new, None, file.asked_at, file.generation, file.leased))
        if node.pages is not None:
            self.kernel.pages(node.id)
        else:
            self.kernel.attributes(node.id)

    async def watch(self) -> None:
        """Background task: ask about open files that no lease covers, so that mapped pages follow changes too.

        A program that reads through `mmap` makes no call that could ask. And have the kernel forget what there is
        no room for.
        """
        interval = max(self.beliefs.leases.freshness / 4, 0.05)
        while True:
            await trio.sleep(interval)
            for parent, name in self.tree.surplus(_FORGOTTEN_AT_ONCE):
                self.kernel.entry(parent, name)
            for handle in {handle.node.id: handle for handle in self._handles.values()}.values():
                with contextlib.suppress(OSError):  # whoever reads it is told
                    await self.recheck(handle)

    async def recheck(self, handle: Handle) -> None:
        """Ask about an open file that no lease covers. Raises OSError."""
        node, file = handle.node, handle.file
        if node.doubtful and file.settled:
            node.doubtful = False
            self.kernel.pages(node.id)
        now = self.session.now()
        if self.beliefs.until(file.asked_at, file.generation, file.leased, now) - now > self._recheck_below:
            return
        found = await self._find_again(node.id, ask=True)
        if found.attr is not None:
            await self._before_telling(node, found, found.attr)

    # --- the rest ----------------------------------------------------------------------------------------------------

    async def statfs(self) -> StatfsReply:
        """statvfs of the export. Raises OSError."""
        return await self.session.statfs()

    def name_of(self, node_id: int) -> str:
        """What to call an object in a log line."""
        try:
            return "/" + os.fsdecode(self.tree.path_of(node_id))
        except OSError:
            return f"object {node_id}"

    def open_files(self) -> set[Node]:
        """Every file that is open."""
        return {opened.node for opened in self._handles.values()}

    def name_of_handle(self, handle: int) -> str:
        """What to call an open file in a log line."""
        opened = self._handles.get(handle)
        return f"handle {handle}" if opened is None else "/" + os.fsdecode(opened.file.path)

    def counted(self) -> dict[str, int | dict[str, int]]:
        """All counters by name, with what the compiled part has counted so far."""
        self.hot.count()
        return self.counters.snapshot()

    def statistics(self) -> dict[str, int]:
        """How much is open, and how much the tree knows."""
        return {
            "open_files": len(self._handles) + self.small_files.handed.open,
            "open_directories": len(self.directories),
            "handed_files": len(self.small_files.handed),
            **self.tree.statistics(),
        }
