"""Prepares the directories that a program comes to next, while it goes through their siblings in order.

A directory is prepared by doing in it what the program is about to do: the kernel lists it, so that it knows the names
and need not ask for each, and its first small files are opened ahead. The first directory that a program goes through
proves nothing yet: the next one is listed, no more.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable

import trio

from dadafs.ahead import Ahead
from dadafs.kernel_cache import KernelCache
from dadafs.listing import Listing
from dadafs.node import Directory
from dadafs.session import Session
from dadafs.tree import Tree

log = logging.getLogger(__name__)

#: Names behind a directory that are looked through for the next one, and how large that may be itself, in bytes.
REACH = 64
LARGE = 64 * 1024
#: So many directories are prepared for a program that goes through one in less than this share of `freshness`.
DEPTH = 2
QUICK = 4


class NextDirectories:
    """The preparing of one mount. `begin(ahead)` opens the first files of a directory."""

    def __init__(self, session: Session, tree: Tree, kernel: KernelCache, begin: Callable[[Ahead], None]) -> None:
        self._session = session
        self._tree = tree
        self._kernel = kernel
        self._begin = begin
        self._nursery: trio.Nursery | None = None
        self._preparing: set[tuple[Directory, bytes]] = set()

    def start(self, nursery: trio.Nursery) -> None:
        """Directories are prepared in tasks of `nursery` from now on."""
        self._nursery = nursery

    def comes_here(self, directory: Directory) -> bool:
        """Whether a program went through the directory before this one last."""
        parent, name = directory.links[-1] if directory.links else (directory, b"")
        listing, before = parent.listing, parent.gone_through
        return listing is not None and before is not None and self._follows(listing, before[0], name)

    def ended(self, directory: Directory) -> None:
        """A program comes to the end of `directory`, so the next one is thought of.

        It is listed. If the program came here from the one before, files in it are opened ahead, too, and maybe the one
        after it is prepared.
        """
        if not directory.links:
            return
        parent, name = directory.links[-1]
        before, parent.gone_through = parent.gone_through, (name, self._session.now())
        listing = parent.listing
        position = None if listing is None else listing.position(name)
        if listing is None and before is None and self._nursery is not None:
            self._nursery.start_soon(self._look_around, directory, parent)
        if listing is None or position is None:
            return
        proven = before is not None and self._follows(listing, before[0], name)
        quick = before is not None and parent.gone_through[1] - before[1] < self._session.leases.freshness / QUICK
        self._prepare_behind(parent, listing, position, 0 if not proven else DEPTH if quick else 1)

    async def _look_around(self, directory: Directory, parent: Directory) -> None:
        """Nobody has listed what `directory` is in: do so, to see what is behind it."""
        attr = parent.own.attr if parent.own is not None else None
        if attr is None and parent.links:
            _, attr = self._tree.beliefs.remembered(*parent.links[-1])
        if attr is None or attr.size > LARGE:
            return
        try:
            await self._kernel.list(self._tree.path(parent))
            if parent.listing is not None:
                self.ended(directory)
        except OSError:
            pass  # it has lost its name
        except Exception:
            log.exception("cannot look around a directory")

    def _follows(self, listing: Listing, before: bytes, name: bytes) -> bool:
        """Whether the directory `name` is the next one behind the directory `before`."""
        position, last = listing.position(name), listing.position(before)
        if position is None or last is None or not last < position <= last + REACH:
            return False
        return not any(stat.S_ISDIR(fields[2]) for _, fields in listing.slice(last + 1, position))

    def _prepare_behind(self, parent: Directory, listing: Listing, position: int, depth: int) -> None:
        """Prepare so many directories of `parent` behind the one at `position`, in their order; with 0 list one."""
        for place, (name, fields) in enumerate(listing.slice(position + 1, position + 1 + REACH), position + 1):
            if stat.S_ISDIR(fields[2]):
                if fields[7] <= LARGE and self._nursery is not None:
                    self._nursery.start_soon(self._prepare, parent, name, listing, place, depth)
                return

    async def _prepare(self, parent: Directory, name: bytes, listing: Listing, position: int, depth: int) -> None:
        """Do in a directory what a program is about to do: look at it, and open the first files."""
        try:
            if not self._is_prepared(parent.subdirs.get(name)):
                await self._prepare_one(parent, name, proven=depth > 0)
            if depth > 1 and parent.listing is listing:
                self._prepare_behind(parent, listing, position, depth - 1)
        except OSError:
            pass  # it has lost its name
        except Exception:
            log.exception("cannot prepare a directory")

    def _is_prepared(self, directory: Directory | None) -> bool:
        """Whether files of the directory, as it is listed now, are opened ahead, and there are some to come."""
        ahead = None if directory is None else directory.ahead
        if directory is None or ahead is None or ahead.listing is not directory.listing:
            return False
        is_through = ahead.order.is_through(ahead.listing.count)
        return ahead.order.begun and not is_through and self._tree.beliefs.has_listing(directory, self._session.now())

    async def _prepare_one(self, parent: Directory, name: bytes, *, proven: bool) -> None:
        place = parent, name
        if place in self._preparing:
            return
        self._preparing.add(place)
        try:
            path = self._tree.path(parent, name)
            await self._kernel.list(path)
            directory = self._tree.directory_at(path)
            if directory is None or directory.listing is None or self._is_prepared(directory):
                return
            directory.ahead = Ahead(directory, directory.listing, shown=True, proven=proven)
            if proven:
                self._begin(directory.ahead)
        finally:
            self._preparing.discard(place)
