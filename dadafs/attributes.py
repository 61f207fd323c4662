"""Attributes of objects: asked for, believed, and told to the kernel in an order that keeps its pages true."""

from __future__ import annotations

import errno
import os

import msgspec
import trio

from dadafs.beliefs import Found
from dadafs.kernel_cache import KernelCache, Told, timeout
from dadafs.node import Belief, Directory, Node, State, state_of
from dadafs.policy.lease import NEVER
from dadafs.remote_file import RemoteFile, RemoteFiles
from dadafs.session import Session
from dadafs.tree import Tree
from dadafs.truncation import Truncation
from dadafs.wire.messages import Attr

#: How long readers that got hold of a page before it was dropped are given to be done with it, in s.
_PAGE_IN_HAND = 0.002
#: How long the telling of a new state waits for pages to be dropped, in s.
_PAGES_PATIENCE = 2.0

_astuple = msgspec.structs.astuple


def _as_told(attr: Attr, told: State) -> Attr:
    return msgspec.structs.replace(attr, size=told[0], mtime_ns=told[1], ctime_ns=told[2])


class Attributes:
    """What is known of the objects of one mount, and what the kernel was told of them."""

    def __init__(self, session: Session, tree: Tree, files: RemoteFiles, kernel: KernelCache) -> None:
        self.session = session
        self.tree = tree
        self.beliefs = tree.beliefs
        self.files = files
        self.kernel = kernel
        self.truncation = Truncation(session, kernel, tree.path_of)

    def _timeout(self, until: float, now: float) -> float:
        """How long the kernel may believe what is valid until `until`."""
        return timeout(until, now, self.beliefs.leases.freshness)

    async def _ask(self, directory: Directory, name: bytes) -> Found:
        """What the head says is at `name` now."""
        answer = await self.session.stat(self.tree.path(directory, name))
        entry = answer.value
        belief = Belief(entry.attr, entry.target, answer.asked_at, answer.generation, entry.leased)
        return self._learnt(directory, name, belief)

    def _learnt(self, directory: Directory, name: bytes, belief: Belief) -> Found:
        """Remember an answer of the head; the newest there is about that name, be it this one or not."""
        now = self.session.now()
        if belief.asked_at != NEVER:
            self.beliefs.learn(directory, name, belief)
            found = self.beliefs.believed(directory, name, now)
            if found is not None:
                return found
        return Found(belief.attr, belief.target, now, belief.asked_at, belief.generation, belief.leased)

    async def _ask_directory(self, directory: Directory) -> Found:
        """The attributes of `directory` itself, asked of the head under its present name."""
        if directory.links:
            return await self._ask(*directory.links[-1])
        if directory is not self.tree.root:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        answer = await self.session.stat(b"")
        attr = answer.value.attr
        if answer.asked_at != NEVER and attr is not None:
            self.beliefs.learn_own(
                directory, Belief(attr, None, answer.asked_at, answer.generation, answer.value.leased)
            )
        found = self.beliefs.believed_directory(directory, self.session.now())
        if found is not None:
            return found
        return Found(attr, None, NEVER, answer.asked_at, answer.generation, False)

    async def _tell(self, node: Node | None, node_id: int, found: Found, asker: int) -> Told:
        """The reply for an object that exists; what the kernel has cached of a file is put right before it."""
        attr = found.attr
        assert attr is not None
        told = attr
        if node is not None and node.pages is not None:
            told = await self._before_telling(node, found, attr, asker)
        self.tree.told(node_id, state_of(told))
        return Told(node_id, _astuple(told), self._timeout(found.until, self.session.now()) if told is attr else 0.0)

    async def _before_telling(self, node: Node, found: Found, attr: Attr, asker: int = 0) -> Attr:
        """A file with cached pages: bring its reader to the new state, and drop pages of an old one; what to tell.

        The kernel sets the size before it drops pages. So a reader that has a page in hand would see the zeros that
        fill the last page of the old size when the file grew: no such page may be left when it hears of the new size.
        Cuts are told to one of our own threads (`asker`) only, see `dadafs.truncation`.
        """
        state = state_of(attr)
        file = self.files.find((node.dev, node.ino)) if node.opens else None
        if file is not None and state_of(file.attr) != state and found.asked_at > file.asked_at:
            self._advance(node, file, found, attr)
        told = node.told
        if told is None:
            return attr
        if asker in self.kernel.askers and state[0] > told[0]:
            return _as_told(attr, told)
        if asker in self.kernel.askers:
            node.cut_taken_in = node.cut_taken_in and state[0] == told[0]
            return attr
        if node.cut is not None or state[0] < told[0]:
            if not await self.truncation.carried_out(node):
                node.cut_taken_in = False
                return attr
            told = node.told or state
        if node.cut is None and state[0] >= told[0] and node.pages != state and told != state:
            with trio.move_on_after(_PAGES_PATIENCE):
                await self.kernel.pages_now(node.id)
                await trio.sleep(_PAGE_IN_HAND)  # a reader that got hold of a page just before is done with it by now
            if node.told == told and node.cut is None:
                node.pages = state
        if node.told in (told, state) and node.cut is None:
            return attr
        return _as_told(attr, node.told or state)  # the kernel heard of something newer meanwhile

    def _advance(self, node: Node, file: RemoteFile, found: Found, attr: Attr) -> None:
        """Tell the open remote file what was learnt about it under one of its names."""
        if not node.links or not self.tree.has_path(node.links[-1][0]):
            return
        self.files.believed(
            self.tree.path_of(node.id), attr, asked_at=found.asked_at, generation=found.generation, leased=found.leased
        ).close()

    def getattr_known(self, node_id: int) -> Told | None:
        """`getattr`, where nothing has to be asked and nothing to be dropped."""
        now = self.session.now()
        node = self.tree.find(node_id)
        found = self._believed(node_id, node, now)
        if found is None or found.attr is None:
            return None
        state = state_of(found.attr)
        node = self.tree.to_tell(node_id, state)
        if node is not None and node.pages is not None and (node.told != state or node.cut is not None):
            return None
        self.tree.told(node_id, state)
        return Told(node_id, _astuple(found.attr), self._timeout(found.until, now))

    def _believed(self, node_id: int, node: Node | None, now: float) -> Found | None:
        """The live belief about an object, under one of its names."""
        if isinstance(node, Directory):
            return self.beliefs.believed_directory(node, now)
        place = self.tree.place_of(node_id)
        if place is None:
            return None
        found = self.beliefs.believed(*place, now)
        if found is None or found.attr is None:
            return None
        if self.tree.id_of(found.attr.dev, found.attr.ino) != node_id:
            return None
        return found

    def believed_attr(self, node_id: int) -> Attr | None:
        """The attributes of an object, where they are believed; None where the head must be asked."""
        found = self._believed(node_id, self.tree.find(node_id), self.session.now())
        return None if found is None else found.attr

    async def getattr(self, node_id: int, asker: int = 0) -> Told:
        """The attributes of an object, for the thread `asker`. Raises OSError (ESTALE where it is gone, not open)."""
        node = self.tree.find(node_id)
        if isinstance(node, Directory):
            found = await self._ask_directory(node)
            if found.attr is None or self.tree.id_of(found.attr.dev, found.attr.ino) != node_id:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return await self._tell(node, node_id, found, asker)
        found = await self._find_again(node_id)
        assert found.attr is not None
        return await self._tell(self.tree.to_tell(node_id, state_of(found.attr)), node_id, found, asker)

    async def _find_again(self, node_id: int, *, ask: bool = False) -> Found:
        """What is known of a file, under any of its names, or through an open handle when it has none left.

        With `ask` the head is asked even where something is believed.
        """
        while (place := self.tree.place_of(node_id)) is not None:
            directory, name = place
            now = self.session.now()
            found = None if ask else self.beliefs.believed(directory, name, now)
            if found is None and self.tree.has_path(directory):
                found = await self._ask(directory, name)
            if (
                found is not None
                and found.attr is not None
                and self.tree.id_of(found.attr.dev, found.attr.ino) == node_id
            ):
                return found
            self.tree.unlink(node_id, directory, name)
        return await self._through_handle(self.tree.node(node_id))

    async def _through_handle(self, node: Node) -> Found:
        file = self.files.find((node.dev, node.ino)) if node.opens else None
        if file is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        await file.refresh()
        until = self.beliefs.until(file.asked_at, file.generation, file.leased, self.session.now())
        return Found(file.attr, None, until, file.asked_at, file.generation, file.leased)

    async def attributes_of(self, node_id: int) -> Attr:
        """The attributes of an object, believed or asked for. Raises OSError."""
        node = self.tree.find(node_id)
        found = self._believed(node_id, node, self.session.now())
        if found is None:
            if isinstance(node, Directory):
                found = await self._ask_directory(node)
            else:
                found = await self._find_again(node_id)
        if found.attr is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return found.attr
