"""Small files that were opened ahead, in the hands of the compiled part (`native/handed.c`) until more is wanted of
them.

A program that goes through many small files opens, reads and closes each once. All of that is answered without Python,
which would spend some 150 us on each. What is handed over are files that the kernel knows from a listing only, in the
state in which they were opened; whatever else concerns them takes them back first:

* the kernel is told or asks more of a file, so that it becomes a node (`Tree.lent`), or forgets it;
* the head pushes a change, or the connection is lost;
* half of `freshness` is over: what is open is from then on looked at like every open file, what was not opened is
  taken in.

What was opened and closed stays for `lease`, as files do that were open a moment ago, so that it can be opened again
without a round trip: so many, the latest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dadafs.listing import Fields
from dadafs.native import fuse_session
from dadafs.node import Directory, Node, state_of
from dadafs.policy.lease import NEVER
from dadafs.policy.overtaken import bears_on
from dadafs.ram_cache import RamCache
from dadafs.remote_file import RemoteFile, RemoteFiles
from dadafs.session import Session
from dadafs.tree import Tree
from dadafs.wire.messages import BLOCK_SIZE, Changes, LeasesLost, Opened

if TYPE_CHECKING:
    from dadafs.ahead import Ahead

#: So many files at most are in hand, and their content takes at most this share of the RAM cache.
MOST = 1024
SHARE = 8


class Expected(NamedTuple):
    """A file that is being opened ahead, as it was listed, and the way it was found on."""

    name: bytes
    fields: Fields
    use: Use


#: What is told of a use: (the way through a directory that the file was found on, its position there, its size).
Use = tuple["Ahead", int, int]


class Arrived:
    """A small file that was opened ahead: what the head said, and what came of its content, not verified yet."""

    __slots__ = ("asked_at", "content", "directory", "generation", "name", "opened", "path")

    def __init__(
        self,
        path: bytes,
        directory: Directory,
        name: bytes,
        opened: Opened,
        content: memoryview | bytes,
        asked_at: float,
        generation: int,
    ) -> None:
        self.path = path
        self.directory = directory
        self.name = name
        self.opened = opened
        self.content = content
        self.asked_at = asked_at
        self.generation = generation


#: Called as adopt(node, file, open handles with the threads that opened them): they are answered in Python from now on.
Adopt = Callable[[Node, RemoteFile, list[tuple[int, int]]], None]


class HandedFiles:
    """The files of one mount that are in hand. `take_in(file)` makes a remote file of one that comes back."""

    def __init__(
        self, session: Session, tree: Tree, files: RemoteFiles, take_in: Callable[[Arrived], None], adopt: Adopt
    ) -> None:
        self._session = session
        self._tree = tree
        self._files = files
        self._cache: RamCache = files.cache
        self._take_in = take_in
        self._adopt = adopt
        self._here: dict[int, Arrived] = {}  # by the kernel's id, oldest first
        self._ids: dict[bytes, int] = {}  # by path
        self._bytes = 0
        self._able = fuse_session is not None and hasattr(fuse_session, "hand_over")

    def __len__(self) -> int:
        return len(self._here)

    def __contains__(self, node_id: int) -> bool:
        return node_id in self._here

    def files(self) -> list[Arrived]:
        """All of them, oldest first."""
        return list(self._here.values())

    @property
    def open(self) -> int:
        """How many files are open."""
        return len(fuse_session.handed_open()) if self._here and fuse_session is not None else 0

    def hand_over(self, arrived: Sequence[tuple[Arrived, Expected]], *, soon: bool) -> list[Arrived]:
        """Have the compiled part answer for these, with `soon` tell of each use at once; returns those it may not."""
        mapping = self._session.mapping
        if not self._able or (mapping is not None and mapping.squashes_root):  # who asks matters
            return [file for file, _ in arrived]
        most = self._cache.budget // SHARE
        size = sum(len(file.content) for file, _ in arrived)
        self._make_room(len(arrived), most - size)
        declined = []
        for file, expected in arrived:
            if (
                len(self._here) >= MOST
                or self._bytes + len(file.content) > most
                or not self._taken(file, expected, soon)
            ):
                declined.append(file)
        self._cache.set_aside("handed", self._bytes)
        return declined

    def _taken(self, file: Arrived, expected: Expected, soon: bool) -> bool:
        """Whether the compiled part has `file` now: it is whole, and the kernel knows just this state from listings."""
        opened, fields = file.opened, expected.fields
        attr = opened.attr
        size = attr.size
        if not (opened.inline and opened.settled and 0 < size == len(file.content) <= BLOCK_SIZE) or attr.nlink != 1:
            return False
        if (size, attr.mtime_ns, attr.ctime_ns, attr.ino, attr.dev) != (fields[7], *fields[11:], fields[1], fields[0]):
            return False
        node_id = self._tree.id_of(attr.dev, attr.ino)
        if node_id in self._here or not self._tree.only_listed(node_id, file.directory, file.name, fields):
            return False
        left = file.asked_at + self._session.leases.freshness - self._session.now()
        if self._files.find((attr.dev, attr.ino)) is not None or left <= 0:
            return False
        assert fuse_session is not None
        file.content = bytes(file.content)  # of its own: the others of the batch may go long before it
        if not fuse_session.hand_over(node_id, file.content, opened.checksum, left, soon, expected.use):
            return False
        self._here[node_id] = file
        self._ids[file.path] = node_id
        self._tree.lent[node_id] = self._wanted
        self._bytes += size
        return True

    def _make_room(self, count: int, most: int) -> None:
        """The oldest come back, until `count` more fit, and the others have `most` bytes at most."""
        while self._here and (len(self._here) + count > MOST or self._bytes > most):
            self.come_back(next(iter(self._here)), unused=False, closed=False)

    # --- back
    # ----------------------------------------------------------------------------------------------------

    def come_back(self, node_id: int, *, unused: bool, closed: bool) -> None:
        """The file is Python's again.

        Its open handles are taken over in any case; one that was never opened is kept with `unused`, and one that was
        opened and closed with `closed`, else they are given back to the head.
        """
        file = self._here.pop(node_id, None)
        if file is None or fuse_session is None:
            return
        handles, used = fuse_session.take_back(node_id) or ([], False)
        self._tree.lent.pop(node_id, None)
        del self._ids[file.path]
        self._bytes -= len(file.content)
        if not (handles or (closed if used else unused)):
            self._files.give_back(file.opened.handle, file.generation)
            if used:
                self._tree.note_pages(node_id)
            return
        self._cache.set_aside("handed", self._bytes)
        self._take_in(file)
        if used and self._tree.known(node_id):
            self._belongs(self._tree.node(node_id), file, handles)

    def _belongs(self, node: Node, file: Arrived, handles: list[tuple[int, int]]) -> None:
        """The kernel has the pages of a file that came back, and maybe has it open."""
        attr = file.opened.attr
        node.pages = state_of(attr)
        remote = self._files.find((attr.dev, attr.ino))
        if remote is None and handles:  # it could not be taken in: the handles are good all the same
            remote = self._files.believed(file.path, attr, asked_at=NEVER, generation=0, leased=False)
            remote.close()
        if remote is not None:
            remote.ahead = False
            self._adopt(node, remote, handles)

    def _wanted(self, node_id: int, node: Node | None) -> None:
        """The file became a node: more is wanted of it. Or the kernel has forgotten it."""
        self.come_back(node_id, unused=node is not None, closed=node is not None)

    def aged(self, files: Iterable[Arrived]) -> None:
        """Half of `freshness` is over since these were asked for: those that were opened and closed stay."""
        if fuse_session is None:
            return
        rests = fuse_session.rests
        for file in files:
            node_id = self._ids.get(file.path)
            if node_id is not None and self._here[node_id] is file and not rests(node_id):
                self.come_back(node_id, unused=True, closed=True)

    def expire(self, asked_before: float) -> None:
        """Those that were opened and closed, and were asked for before this, are given back to the head."""
        for node_id, file in list(self._here.items()):
            if file.asked_at >= asked_before:
                return
            self.come_back(node_id, unused=False, closed=False)

    def pushed(self, push: Changes | LeasesLost) -> None:
        """The head tells of changes, and nothing was done about them yet."""
        if not self._here or fuse_session is None:
            return
        back = set(fuse_session.handed_open())  # what is open may be below a directory that is gone
        if isinstance(push, Changes):
            named = [(change.path, change.subtree) for change in push.changes]
            attrs = [change.attr for change in push.changes if change.attr is not None]
            back.update(self._tree.id_of(attr.dev, attr.ino) for attr in attrs)
        else:
            named = [(path, True) for path in push.paths]
        for path, subtree in named:
            if subtree:
                back.update(node_id for each, node_id in self._ids.items() if bears_on(path, True, each, False))
            elif path in self._ids:
                back.add(self._ids[path])
        for node_id in back:
            self.come_back(node_id, unused=False, closed=True)
        self._cache.set_aside("handed", self._bytes)

    def everything(self) -> None:
        """All come back: the connection that their handles are of is lost."""
        for node_id in list(self._here):
            self.come_back(node_id, unused=True, closed=True)
