"""Fetching one run of blocks from the head: handle, request, revalidation, checksums, another try."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable

import trio

from dadafs.cached_file import Extent
from dadafs.checksum import damaged_blocks
from dadafs.counters import Counters
from dadafs.head_errors import SessionLost
from dadafs.ram_cache import RamCache
from dadafs.remote_file import HANDLE_LOST, RemoteFile, stale
from dadafs.revalidation import Damaged, Known, assemble
from dadafs.session import Session
from dadafs.throttle import Throttle
from dadafs.wire.messages import Blocks, Changed, Read, all_sent

log = logging.getLogger(__name__)

#: How often damaged blocks are fetched before the reader is told.
CHECKSUM_ATTEMPTS = 3
#: How often a handle that the head does not know is opened again for one run.
HANDLE_ATTEMPTS = 3


class VersionChanged(Exception):
    """The file is in another version now; what was to be read must be read in that."""


class Fetcher:
    """Fills extents. Knows neither readers nor prefetch windows."""

    def __init__(self, session: Session, cache: RamCache, counters: Counters) -> None:
        self._session = session
        self._cache = cache
        self._counters = counters
        self._throttle = Throttle(60.0)

    async def fill(self, file: RemoteFile, extent: Extent, deadline: float) -> bool:
        """Fetch `extent` and hold it in the cache; False where it could not be kept there.

        Raises VersionChanged, `OSError` (EIO: deadline, or damaged again and again; ESTALE; what the head
        answered). The extent is still FILLING then, and its room is the caller's to give back.
        """
        known = Known(extent.file, extent)
        tried: set[int] = set()
        for attempt in range(CHECKSUM_ATTEMPTS):
            asked_at = trio.current_time()
            reply = await self._ask(file, extent, known, tried, deadline)
            try:
                self._verify(extent, reply, known)
            except Damaged as damage:
                self._damaged(file, extent, damage, attempt)
                known.forget()
                continue
            if extent.key[1] != extent.file.epoch:
                raise VersionChanged
            return self._hold(file, extent, reply, asked_at)
        raise OSError(errno.EIO, "damaged data, time and again", os.fsdecode(file.path))

    def fill_now(
        self, file: RemoteFile, extent: Extent, filled: Callable[[bool | None], None], asked_at: float
    ) -> Callable[[], bool] | None:
        """`fill` without a task, now (`asked_at`), where the file has a handle and a data channel takes it; else None.

        `filled` is called once, later, with what `fill` would return, or with None where it has to be filled by `fill`
        for whatever reason. The function returned gives it up; False where `filled` was called already.
        """
        known = Known(extent.file, extent)
        if known.checksums or not file.has_handle:
            return None
        handle, generation = file.held_handle

        def answered(reply: Blocks | None, verified: bool) -> None:
            if reply is None or reply.sent != all_sent(extent.count):
                filled(None)
            elif verified:
                filled(self._hold(file, extent, reply, asked_at) if extent.key[1] == extent.file.epoch else None)
            else:
                filled(self._take(file, extent, reply, known, asked_at))

        ahead = extent.prefetched and extent.unread
        request = Read(handle, extent.file.version, extent.fragment, extent.first, extent.count, prefetch=ahead)
        return self._session.blocks.read_now(request, extent.view(), generation, answered, asked_at)

    def _take(self, file: RemoteFile, extent: Extent, reply: Blocks, known: Known, asked_at: float) -> bool | None:
        """Hold what came, as `fill` does; None where it is damaged, or of another version."""
        try:
            self._verify(extent, reply, known)
        except Damaged as damage:
            self._damaged(file, extent, damage, 0)
            return None
        return self._hold(file, extent, reply, asked_at) if extent.key[1] == extent.file.epoch else None

    def _hold(self, file: RemoteFile, extent: Extent, reply: Blocks, asked_at: float) -> bool:
        file.settled, file.tier = reply.settled, reply.tier
        expires = None if reply.settled else asked_at + self._session.leases.freshness
        return self._cache.finish(extent, reply.checksums, expires)

    async def _ask(self, file: RemoteFile, extent: Extent, known: Known, tried: set[int], deadline: float) -> Blocks:
        """The head's blocks, not verified yet; the file is opened (again) where that is needed."""
        version = extent.file.version
        for _ in range(HANDLE_ATTEMPTS):
            handle, generation = await file.handle(deadline)
            if extent.key[1] != extent.file.epoch:
                raise VersionChanged
            asked_at = trio.current_time()
            ahead = extent.prefetched and extent.unread
            request = Read(handle, version, extent.fragment, extent.first, extent.count, known.checksums, ahead)
            try:
                reply = await self._session.blocks.read(
                    request, extent.view(), generation=generation, deadline=deadline, tried=tried
                )
            except SessionLost:
                continue
            except OSError as error:
                if error.errno not in HANDLE_LOST:
                    raise
                file.forget_handle(handle)
                continue
            if isinstance(reply, Changed):
                file.learned(reply.attr, version, asked_at)
                raise VersionChanged
            return reply
        raise stale(file.path)

    def _verify(self, extent: Extent, reply: Blocks, known: Known) -> None:
        self._counters.blocks_unchanged += assemble(extent, reply, known)
        damaged = damaged_blocks(extent.view(), reply.checksums)
        if damaged:
            raise Damaged(f"block {extent.first + damaged[0]} of fragment {extent.fragment} has another checksum")

    def _damaged(self, file: RemoteFile, extent: Extent, damage: Damaged, attempt: int) -> None:
        self._counters.checksum_errors += 1
        if self._throttle.allows(file.path, trio.current_time()):
            path = os.fsdecode(file.path)
            log.warning("damaged data of %s from the head: %s; attempt %d", path, damage, attempt + 1)
