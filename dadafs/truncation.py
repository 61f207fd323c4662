"""Makes the kernel take in that a file was cut, which it must have done before anybody sees the file end there.

A short reply to a read says where a file ends, and the kernel fills what it asked for beyond that with zeros. As long
as it believes in a larger size, readers see those zeros. No size can be pushed to the kernel: it has to ask, and even
then it ignores attributes that were asked for before it was last told to forget some of the file.

It is also not enough that it believes. Whichever process brings the reply writes zeros behind the new end into the
page that it is in, at some time after the size was set: if the file grew again meanwhile, readers see these. So a cut
is told to nobody but a thread of our own, of which we know when it is through; all others wait for that.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import trio

from dadafs.kernel_cache import KernelCache
from dadafs.node import Node
from dadafs.remote_file import RemoteFile
from dadafs.session import Session

#: How long to wait between two looks at what the kernel believes, in s.
_STEP = 0.002
#: How long pages that somebody reads may keep the others from being dropped, in s.
_PAGES_LOCKED = 0.05
#: How long others wait for a cut to be carried out, in s, before they are told of it all the same.
_PATIENCE = 2.0


class Truncation:
    """The files of one mount that were cut, until the kernel is through with that."""

    def __init__(self, session: Session, kernel: KernelCache, path_of: Callable[[int], bytes]) -> None:
        self.session = session
        self.kernel = kernel
        self._path_of = path_of

    def start(self, node: Node) -> trio.Event:
        """Have the kernel ask for `node`, which was cut, until it is through; the event is set then."""
        if node.cut is None:
            node.cut = trio.Event()
            node.cut_taken_in = False
            self.kernel.start(self._carry_out, node, node.cut)
        return node.cut

    async def carried_out(self, node: Node) -> bool:
        """Return True when the kernel is through with the cut of `node`, False when it is taking too long."""
        done = self.start(node)
        with trio.move_on_after(_PATIENCE):
            await done.wait()
        return done.is_set()

    async def taken_in(self, node: Node, file: RemoteFile, end: int) -> None:
        """Return when the kernel believes that the file ends at `end` or before, or when it does so no longer.

        Raises OSError: ESTALE where no name is left to ask about, ETIMEDOUT at the session's deadline.
        """
        give_up = self.session.deadline()
        while file.size <= end and not self.believed(node, end):
            if self.session.now() > give_up:
                raise OSError(errno.ETIMEDOUT, "the kernel did not take in that the file was cut")
            if file.orphaned or not node.links:
                raise OSError(errno.ESTALE, "the file was cut and lost its name while it was read")
            self.start(node)
            await trio.sleep(_STEP)

    def believed(self, node: Node, end: int) -> bool:
        """Whether the kernel surely believes that the file has no more than `end` bytes."""
        return node.told is None or (node.told[0] <= end and (node.cut is None or node.cut_taken_in))

    async def _carry_out(self, node: Node, done: trio.Event) -> None:
        try:
            with trio.move_on_after(_PAGES_LOCKED):  # a reader may be copying from one of them
                await self.kernel.pages_now(node.id)
            give_up = self.session.deadline()
            while self.session.now() < give_up:
                path = self._path(node)
                if path is None:
                    return
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch_size, node)
                    await self.kernel.look(path)
                    nursery.cancel_scope.cancel()
                if node.cut_taken_in or await self._see(node):
                    return
                await trio.sleep(_STEP)
        finally:
            node.cut = None
            done.set()

    async def _watch_size(self, node: Node) -> None:
        """While the kernel looks: it sets the size first, and then waits for reads that wait for nothing but that."""
        while True:
            await self._see(node)
            await trio.sleep(_STEP)

    async def _see(self, node: Node) -> bool:
        """Note whether the kernel now believes in no more than it was told."""
        told, path = node.told, self._path(node)
        size = None if path is None else await self.kernel.size_of(path)
        if node.told == told and (told is None or size is None or size <= told[0]):
            node.cut_taken_in = True
        return node.cut_taken_in

    def _path(self, node: Node) -> bytes | None:
        """Where `node` is; None where nothing leads to it any more, so that nobody can ask about it either."""
        try:
            return self._path_of(node.id) if node.links else None
        except OSError:
            return None
