"""Which small reads the compiled part answers by itself (`native/hot_reads.c`), and what it has counted.

    hot = HotReads(session, cache, counters, activity)
    hot.start(nursery)
    hot.lone_read(handle, opened, length)     # after each read that needed one request of its own

A handle that was read here and there a few times in a row is *attached*: the compiled part is told the state of the
file, until when that may be believed, and which blocks the RAM cache holds. Whatever changes the belief takes it back
(`cool`): the next read is Python's, which attaches again what is still good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from dadafs.activity import Activity, Process
from dadafs.counters import Counters
from dadafs.data_channel import HotFile
from dadafs.histogram import BOUNDS
from dadafs.native import fuse_session
from dadafs.policy.prefetch import SHORTEST_STRIDDEN
from dadafs.ram_cache import RamCache
from dadafs.remote_file import RemoteFile
from dadafs.wire.messages import BLOCK_SIZE

if TYPE_CHECKING:
    from dadafs.session import Session

#: So many reads here and there in a row, and the next ones are expected to be of that kind.
PROOFS = 4
#: The blocks that are kept take this share of the RAM cache while there are such reads, and are so many.
SHARE = 1 / 4
FEWEST, MOST = 8, 4096
#: What is remembered of the RAM cache: so many bits for each block that fits into it.
BITS = 16
#: Their memory is given back when nothing was read there for so many seconds.
IDLE = 10.0
#: A read that was not answered within this time is done by a task, which has the deadline of any other, in seconds.
PATIENCE = 1.0
TICK = 0.25
TIERS = ("origin", "ssd", "memory")


class Opened(Protocol):
    """An open file, as `Operations` has it."""

    file: RemoteFile
    process: Process | None
    lone: int


class HotReads:
    """The attached handles of one mount. Without the compiled part nothing is ever attached."""

    def __init__(self, session: Session, cache: RamCache, counters: Counters, activity: Activity) -> None:
        self._session = session
        self._cache = cache
        self._counters = counters
        self._activity = activity
        self._blocks = 0
        self._attached: dict[int, Opened] = {}
        self._running = False
        self._aside = False  # room for its blocks is taken
        self._active_at = 0.0

    def start(self, nursery: trio.Nursery) -> None:
        """Handles are attached from now on."""
        if fuse_session is not None and hasattr(fuse_session, "hot_start"):
            nursery.start_soon(self._run)

    async def _run(self) -> None:
        assert fuse_session is not None
        self._running = True
        try:
            while True:
                self._fit()
                await trio.sleep(TICK)
                fuse_session.hot_expire(PATIENCE)
                self.count()
                self._give_back(trio.current_time())
        finally:
            self._running = False

    def _fit(self) -> None:
        """The ring follows the budget, once nothing is on its way to it."""
        assert fuse_session is not None
        blocks = max(FEWEST, min(MOST, int(self._cache.budget * SHARE) // BLOCK_SIZE))
        if blocks != self._blocks and fuse_session.hot_give_back():
            self._blocks = blocks
            self._aside = False
            self._cache.set_aside("hot reads", 0)
            fuse_session.hot_start(blocks, BOUNDS)  # every handle is attached anew

    def _give_back(self, now: float) -> None:
        assert fuse_session is not None
        if self._aside and now - self._active_at > IDLE and fuse_session.hot_give_back():
            self._aside = False
            self._cache.set_aside("hot reads", 0)
            for opened in self._attached.values():
                opened.file.cool()  # the next read takes the room anew

    # --- attaching -------------------------------------------------------------------------------------------------

    def lone_read(self, handle: int, opened: Opened, length: int) -> None:
        """A read that continued no other was begun: attach its handle once that is what happens there."""
        opened.lone = opened.lone + 1 if length < SHORTEST_STRIDDEN else 0
        if opened.lone >= PROOFS and self._running:
            self._attach(handle, opened)

    def _attach(self, handle: int, opened: Opened) -> None:
        assert fuse_session is not None
        file = opened.file
        now = trio.current_time()
        until = self._session.leases.until(file.asked_at, file.generation, file.leased)
        if until <= now or not file.settled or file.orphaned or not file.has_handle:
            return
        hot = file.hot
        if hot is None or not hot.usable:
            hot = self._hot_file(file)
        if hot is None:
            return
        hot.believe(until - now)
        if not fuse_session.hot_attach(handle, hot):
            return
        self._attached[handle] = opened
        if not self._aside:
            self._aside = True
            self._active_at = now
            self._cache.set_aside("hot reads", self._blocks * BLOCK_SIZE)

    def _hot_file(self, file: RemoteFile) -> HotFile | None:
        channel = self._session.blocks.quiet_channel()
        if channel is None:
            return None
        bits = BITS * self._cache.budget // BLOCK_SIZE
        hot = channel.hot_file(file.held_handle[0], file.version, self._cache.fragment_size, bits)
        file.heat(hot)
        return hot

    def released(self, handle: int) -> None:
        """The handle is closed."""
        if handle in self._attached and fuse_session is not None:
            self.count()
            fuse_session.hot_attach(handle, None)
            file = self._attached.pop(handle).file
            if all(opened.file is not file for opened in self._attached.values()):
                file.cool()

    # --- counting ---------------------------------------------------------------------------------------------------

    def count(self) -> None:
        """Bring what the compiled part has counted to the counters."""
        if not self._attached or fuse_session is None:
            return
        tallies, replies, latest = fuse_session.hot_drain()
        if tallies:
            self._active_at = trio.current_time()
        for tally in tallies:
            self._count_handle(*tally)
        for tier, (seconds, counts) in zip(TIERS, replies, strict=True):
            self._counters.fetched_many(tier, seconds, counts)
        for handle, offset, size, seconds, ago, tier in latest:
            opened = self._attached.get(handle)
            if opened is not None and opened.process is not None:
                self._activity.remember(opened.process, opened.file.path, offset, size, seconds, ago, TIERS[tier])

    def _count_handle(
        self,
        handle: int,
        hits: int,
        hit_bytes: int,
        misses: int,
        miss_bytes: int,
        wire_bytes: int,
        requests: int,
        waited_ns: int,
        damaged: int,
        tiers: tuple[int, int, int],
    ) -> None:
        counters = self._counters
        counters.hot_reads += hits + misses
        counters.hit += hits
        counters.hit_bytes += hit_bytes
        counters.miss += misses
        counters.miss_bytes += miss_bytes
        counters.wire_bytes += wire_bytes
        counters.requests += requests
        counters.checksum_errors += damaged
        opened = self._attached.get(handle)
        process = opened.process if opened is not None else None
        if process is not None:
            process.reads += hits + misses
            process.bytes += hit_bytes + miss_bytes
            process.waited(waited_ns / 1e9, dict(zip(TIERS, tiers, strict=True)))
