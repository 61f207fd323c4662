"""Watching an origin that tells nothing (NFS and the like): every leased path is looked at in rounds.

A `Pass` vouches for everything that happened before its keepalive was received, so it is queued only after a whole
round that began later than that. With rounds every quarter of the shortest `freshness`, and keepalives as often,
a node's newest answered keepalive is at most three quarters of `freshness` old.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from dadafs.wire.messages import Attr, Change, LeasesLost
from dadafsd.counters import Counters
from dadafsd.export import Export
from dadafsd.leases import Look, look_again
from dadafsd.origin_pool import OriginPool
from dadafsd.policy.poll_book import PollBook
from dadafsd.sessions import Session

#: Paths looked at in one call, and calls at a time.
BATCH = 16
PARALLEL = 8
#: A round takes no longer than this, in seconds; leases it did not get to are given back. Nodes take a head that passes
#: nothing on for longer for dead.
ROUND_SECONDS = 0.75
#: No more rounds than this, in seconds, however small `freshness` is.
SHORTEST = 0.02
DEFAULT_FRESHNESS = 1.0


@dataclass(frozen=True, slots=True)
class PollClaim:
    """A claim on a polled path."""

    book: PollBook[Session]
    session: Session
    path: bytes

    def holds(self) -> bool:
        return self.book.held(self.session, self.path)


class PollWatch:
    """The leases of one polled export; at most `stats_per_second` looks at the origin for them."""

    def __init__(self, export: Export, pool: OriginPool, counters: Counters, *, stats_per_second: int = 2000) -> None:
        self.stats_per_second = stats_per_second
        self.rounds = 0
        self._share = 1.0  # of the capacity that the rates allow, what the origin keeps up with
        self._export = export
        self._pool = pool
        self._counters = counters
        self._sessions: dict[Session, None] = {}
        self._awaiting: list[tuple[Session, int]] = []

        self.book: PollBook[Session] = PollBook(self._capacity(DEFAULT_FRESHNESS / 4))

    @property
    def interval(self) -> float:
        """Seconds from one round to the next."""
        shortest = min((session.freshness for session in self._sessions), default=DEFAULT_FRESHNESS)
        return max(SHORTEST, shortest / 4)

    def _capacity(self, interval: float) -> int:
        return max(1, int(self.stats_per_second * interval * self._share))

    # --- claims ---------------------------------------------------------------------------------------------

    async def claim(self, session: Session, path: bytes, *, own: bool = False, whole: bool = False) -> PollClaim | None:
        """See `dadafsd.leases.Leases`. A whole directory is never leased: it would have to be listed every round."""
        self._sessions[session] = None
        if whole:
            return None
        for lost, holders in self.book.lease(session, path):
            self._tell_lost(lost, holders)
        return PollClaim(self.book, session, path)

    def claim_at_once(self, session: Session, path: bytes, *, own: bool = False) -> PollClaim | None:
        """See `dadafsd.leases.Leases`."""
        return None

    async def cover(self, paths: Sequence[bytes]) -> bool:
        """See `dadafsd.leases.Leases`."""
        return False

    def covers(self, path: bytes) -> bool:
        """Comparing sees every change, wherever it was made from."""
        return True

    def answered(self, session: Session, path: bytes, attr: Attr | None) -> None:
        """See `dadafsd.leases.Leases`."""
        self._tell(Change(path, attr), self.book.saw(path, attr, by=session))

    def give_back(self, session: Session, paths: Sequence[bytes]) -> None:
        """See `dadafsd.leases.Leases`."""
        for path in paths:
            self.book.give_back(session, path)

    def forget(self, session: Session) -> None:
        """See `dadafsd.leases.Leases`."""
        self.book.forget(session)
        self._sessions.pop(session, None)
        self._awaiting = [waiting for waiting in self._awaiting if waiting[0] is not session]

    async def keepalive(self, session: Session, sent_ns: int) -> None:
        """See `dadafsd.leases.Leases`: passed on after the next whole round."""
        self._sessions[session] = None
        self._awaiting.append((session, sent_ns))

    def status(self) -> dict[str, object]:
        """See `dadafsd.leases.Leases`."""
        return {
            "method": "poll",
            "watches": len(self.book),
            "limit": self.book.capacity,
            "interval": self.interval,
            "rounds": self.rounds,
        }

    # --- rounds ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """See `dadafsd.leases.Leases`."""
        while True:
            begun = trio.current_time()
            await self._round()
            await trio.sleep_until(begun + self.interval)

    async def _round(self) -> None:
        self.book.capacity = self._capacity(self.interval)
        for path, holders in self.book.make_room():
            self._tell_lost(path, holders)
        awaiting, self._awaiting = self._awaiting, []
        left = dict.fromkeys(self.book.paths())
        paths = list(left)
        batches = [paths[begin : begin + BATCH] for begin in range(0, len(paths), BATCH)]
        with trio.move_on_after(ROUND_SECONDS):
            async with trio.open_nursery() as nursery:
                for worker in range(min(PARALLEL, len(batches))):
                    nursery.start_soon(self._look_at, batches[worker::PARALLEL], left)
        self._share = max(self._share / 2, 0.01) if left else min(self._share * 1.1, 1.0)
        for path in left:
            self._tell_lost(path, self.book.lose(path))
        self.rounds += 1
        for session, sent_ns in awaiting:
            session.outbox.post(session.passed(sent_ns))

    async def _look_at(self, batches: list[list[bytes]], left: dict[bytes, None]) -> None:
        for batch in batches:
            try:
                looks = await self._pool.run(look_again, self._export, batch)
            except OSError:
                looks = [Look(path, None, unknown=True) for path in batch]
            self._counters.origin[self._export.name, "polls"] += len(looks)
            for look in looks:
                left.pop(look.path, None)
                self._found(look)

    def _found(self, look: Look) -> None:
        if look.unknown:
            self._tell_lost(look.path, self.book.lose(look.path))
            return
        # The names below a directory that was replaced are polled one by one; but what is not leased is void.
        change = Change(look.path, look.attr, look.target, subtree=look.attr is None)
        self._tell(change, self.book.saw(look.path, look.attr))

    def _tell(self, change: Change, holders: list[Session]) -> None:
        for session in holders:
            self._counters.events["changes_pushed"] += 1
            if not session.outbox.post_changes([change]):
                self.book.forget(session)

    def _tell_lost(self, path: bytes, holders: list[Session]) -> None:
        for session in holders:
            self._counters.events["leases_given_back"] += 1
            session.outbox.post(LeasesLost([path]))
