"""Open directories: each is served from one snapshot, whatever changes meanwhile."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet

import msgspec

from dadafs.beliefs import lease_covers
from dadafs.kernel_cache import Emit, Pack, Told, timeout
from dadafs.listed_ahead import ListedAhead
from dadafs.listing import Fields, Listing, ListingBuilder, Page
from dadafs.node import Belief, Directory, Node, state_in
from dadafs.policy.lease import NEVER
from dadafs.session import Session
from dadafs.tree import Tree

#: So many names are packed at a time.
_AT_ONCE = 256

_astuple = msgspec.structs.astuple


def _chunks(page: Page, patched: Iterable[bytes], begin: int) -> Iterator[range]:
    """The names of a page from `begin` on that are not `patched`, in ranges to be emitted at once."""
    changed = sorted(at for at in map(page.find, patched) if at >= begin)
    for end in (*changed, page.count):
        for at in range(begin, end, _AT_ONCE):
            yield range(at, min(end, at + _AT_ONCE))
        begin = end + 1


class DirectoryHandle:
    """An open directory: one snapshot of its names.

    `patched` are the names that changed since the listing, `added` those of them that the listing does not have.
    """

    __slots__ = ("added", "directory", "listing", "patched", "started")

    def __init__(self, directory: Directory, listing: Listing) -> None:
        self.directory = directory
        self.listing = listing
        self.patched = {name: belief for name, belief in directory.names.items() if belief.asked_at > listing.asked_at}
        self.added = [
            (name, belief)
            for name, belief in self.patched.items()
            if belief.attr is not None and listing.find(name) is None
        ]
        self.started = False


class Directories:
    """The open directories of one mount. `new_handle` numbers them.

    `askers` are threads of ours that list a directory so that the kernel knows its names: see `SmallFiles`.
    """

    def __init__(self, session: Session, tree: Tree, new_handle: Callable[[], int], askers: AbstractSet[int]) -> None:
        self.session = session
        self.ahead = ListedAhead(session, tree, self.list)
        self._askers = askers
        self.tree = tree
        self.beliefs = tree.beliefs
        self._new_handle = new_handle
        self._directories: dict[int, DirectoryHandle] = {}

    def __len__(self) -> int:
        return len(self._directories)

    def _timeout(self, until: float, now: float) -> float:
        return timeout(until, now, self.beliefs.leases.freshness)

    def opendir_known(self, node_id: int, asker: int = 0) -> int | None:
        """`opendir`, where nothing has to be asked."""
        if not self.tree.known(node_id):
            return None
        directory = self.tree.node(node_id)
        if not isinstance(directory, Directory):
            return None
        listing = self._believed(directory, asker)
        return None if listing is None else self._opened(directory, listing, asker)

    async def opendir(self, node_id: int, asker: int = 0) -> int:
        """A handle on one snapshot of a directory, for the thread `asker`. Raises OSError."""
        directory = self.tree.directory(node_id)
        coming = self.ahead.coming(directory)
        if coming is not None:
            await coming.wait()
        return self._opened(directory, await self._listing(directory, asker), asker)

    def _opened(self, directory: Directory, listing: Listing, asker: int) -> int:
        handle = self._new_handle()
        self._directories[handle] = DirectoryHandle(directory, listing)
        directory.opens += 1
        if asker not in self._askers:
            self.ahead.opened(directory)
        return handle

    async def _listing(self, directory: Directory, asker: int = 0) -> Listing:
        listing = self._believed(directory, asker)
        if listing is not None:
            return listing
        return await self.list(directory, wanted=asker not in self._askers)

    def _believed(self, directory: Directory, asker: int) -> Listing | None:
        """The listing that may be shown to the thread `asker`; one of ours takes any that is believed."""
        now = self.session.now()
        listing = self.beliefs.believed_listing(directory, now)
        if listing is None and asker in self._askers and self.beliefs.has_listing(directory, now):
            return directory.listing
        return listing

    async def list(self, directory: Directory, *, wanted: bool = True) -> Listing:
        """All of `directory`, asked of the head now; `wanted` by a program, or to save look-ups. Raises OSError."""
        builder = ListingBuilder()
        answer = await self.session.list_directory(self.tree.path(directory), builder.take)
        listed = answer.value
        listing = Listing(
            listed.attr,
            builder.pages,
            asked_at=answer.asked_at,
            generation=answer.generation,
            leased=listed.leased and wanted,
            wanted=wanted,
        )
        if answer.asked_at != NEVER:
            self.beliefs.learn_listing(directory, listing)
        return listing

    async def readdir(self, handle: int, start: int, emit: Emit) -> None:
        """Emit the entries from cookie `start` on, until `emit` says that the reply is full."""
        opened = self._directories[handle]
        if start == 0 and opened.started:  # rewinddir: POSIX wants the directory as it is now
            opened = DirectoryHandle(opened.directory, await self._listing(opened.directory))
            self._directories[handle] = opened
        self._readdir(opened, start, emit, None)

    def readdir_known(self, handle: int, start: int, emit: Emit, pack: Pack | None) -> bool:
        """`readdir`, where nothing has to be asked; False where the head must be. `pack` takes many names at once."""
        opened = self._directories[handle]
        if start == 0 and opened.started:
            return False
        self._readdir(opened, start, emit, pack)
        return True

    def _readdir(self, opened: DirectoryHandle, start: int, emit: Emit, pack: Pack | None) -> None:
        opened.started = True
        if self._emit_dots(opened, start, emit) and self._emit_listed(opened, start, emit, pack):
            self._emit_added(opened, start, emit)

    def _emit_dots(self, opened: DirectoryHandle, start: int, emit: Emit) -> bool:
        """`.` and `..`: the kernel takes no reference for them."""
        here = opened.directory
        above = here.links[-1][0] if here.links else here
        for cookie, name, node in ((0, b".", here), (1, b"..", above)):
            if start <= cookie:
                attr = opened.listing.attr
                fields = (attr.dev, node.ino, *_astuple(attr)[2:])
                number = node.ino if node is self.tree.root else node.id
                if not emit(name, Told(number, fields, 0.0), cookie + 1):
                    return False
        return True

    def _emit_listed(self, opened: DirectoryHandle, start: int, emit: Emit, pack: Pack | None) -> bool:
        now = self.session.now()
        listing = opened.listing
        lasting = self._timeout(self.beliefs.until(listing.asked_at, listing.generation, listing.leased, now), now)
        passing = self._timeout(self.beliefs.until(listing.asked_at, listing.generation, False, now), now)
        first = 2
        for page in listing.pages:
            index = max(0, start - first)
            chunks = [] if pack is None else list(_chunks(page, opened.patched, index))[::-1]
            while index < page.count:
                if pack is not None and chunks and index == chunks[-1].start:
                    index += self._pack(opened.directory, page, chunks.pop(), first, pack, lasting, passing)
                    if index == page.count or (chunks and index == chunks[-1].start):
                        continue
                if not self._emit_at(opened, page, index, first + index + 1, emit, lasting, passing):
                    return False
                index += 1
            first += page.count
        return True

    def _emit_at(
        self, opened: DirectoryHandle, page: Page, index: int, cookie: int, emit: Emit, lasting: float, passing: float
    ) -> bool:
        """Emit one name of a page, as it is now; whether there was room."""
        name = page.name(index)
        if name in opened.patched:
            belief = opened.patched[name]
            return belief.attr is None or self._emit_one(opened.directory, name, belief, cookie, emit)
        fields = page.fields(index)
        timeout = passing if stat.S_ISDIR(fields[2]) or fields[3] > 1 else lasting
        node_id = self.tree.id_at(opened.directory, name, fields)
        node = self.tree.to_tell(node_id, state_in(fields))
        if node is not None:
            fields, timeout = self._tellable(node, fields, timeout)
        if not emit(name, Told(node_id, fields, timeout), cookie):
            return False
        node = self.tree.listed(opened.directory, page, index, node_id)
        if node is not None:
            node.told = state_in(fields)
        return True

    def _pack(
        self, directory: Directory, page: Page, chunk: range, first: int, pack: Pack, lasting: float, passing: float
    ) -> int:
        """Emit the names `chunk` of a page at once, where the kernel knows none of them; how many went in."""
        ids = self.tree.new_to_kernel(page, chunk.start, chunk.stop)
        if ids is None:
            return 0
        count = pack(page, chunk.start, chunk.stop, first + chunk.start + 1, lasting, passing)
        self.tree.all_listed(directory, page, chunk.start, ids[:count])
        return count

    def _emit_added(self, opened: DirectoryHandle, start: int, emit: Emit) -> None:
        first = 2 + opened.listing.count
        for index in range(max(0, start - first), len(opened.added)):
            name, belief = opened.added[index]
            if not self._emit_one(opened.directory, name, belief, first + index + 1, emit):
                return

    def _emit_one(self, directory: Directory, name: bytes, belief: Belief, cookie: int, emit: Emit) -> bool:
        """An entry that changed since the listing."""
        attr = belief.attr
        assert attr is not None
        now = self.session.now()
        leased = belief.leased and lease_covers(attr)
        timeout = self._timeout(self.beliefs.until(belief.asked_at, belief.generation, leased, now), now)
        fields: Fields = _astuple(attr)
        node_id = self.tree.id_at(directory, name, fields)
        node = self.tree.to_tell(node_id, state_in(fields))
        if node is not None:
            fields, timeout = self._tellable(node, fields, timeout)
        if not emit(name, Told(node_id, fields, timeout), cookie):
            return False
        node = self.tree.looked_up(directory, name, attr)
        if node is not None:
            node.told = state_in(fields)
        return True

    def _tellable(self, node: Node, fields: Fields, timeout: float) -> tuple[Fields, float]:
        """What a listing may tell of a node: of a file with cached pages only the state the kernel has.

        A new one has to wait for `getattr`, which drops the pages first (see `_before_telling`).
        """
        state = state_in(fields)
        if node.pages is None or node.told is None or node.told == state:
            node.told = state
            return fields, timeout
        size, mtime, ctime = node.told
        return (*fields[:7], size, *fields[8:11], mtime, ctime), 0.0

    def name_of_handle(self, handle: int) -> str:
        """What to call an open directory in a log line."""
        opened = self._directories.get(handle)
        return f"handle {handle}" if opened is None else "/" + os.fsdecode(self.tree.path(opened.directory))

    def releasedir(self, handle: int) -> None:
        """The handle is closed."""
        opened = self._directories.pop(handle)
        self.tree.closed(opened.directory)
