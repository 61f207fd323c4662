"""What the compiled part may send at once: fragments in memory and open records, from the second read of each on.

It knows what Python keeps, and no more: an entry is made when a read was answered from there, and goes when the record
is closed or the fragment leaves memory. What was used there only is asked for before the oldest is let go (`idle`,
`used`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from dadafs.scheduled import Scheduled
from dadafs.wire.in_place import Moved
from dadafs.wire.messages import Version
from dadafsd.native import load
from dadafsd.origin_read import Piece
from dadafsd.policy.recent import Recent
from dadafsd.sessions import Session
from dadafsd.store.record import FragmentKey
from dadafsd.store.settings import KIND_RAM

if TYPE_CHECKING:
    from dadafsd.store_access import Record

compiled: Any = load()
#: After so many seconds the rest of a reply that nobody takes is sent by the channel, which has a deadline.
STUCK_SECONDS = 4.0
_NO_VERSION = Version(0, 0, 0, 0, 0)


class HotReads:
    """All that one head may send at once, by the packed key of the fragment. Empty where nothing is compiled."""

    def __init__(self) -> None:
        self._entries: dict[bytes, Any] = {}
        self._loop: Any = None
        self._serving = False
        self._waiting: dict[Any, trio.lowlevel.Task] = {}  # by their `Answers`, those whose connection is parked

    def __len__(self) -> int:
        return len(self._entries)

    def keep_piece(self, key: FragmentKey, piece: Piece, tier: str) -> None:
        """A settled fragment in memory was read, which is counted for `tier`."""
        if compiled is None or self._has(key, piece):
            return
        version = key.version
        self._entries[key.packed] = compiled.Entry(
            piece, version, version.identity, tier, tier, piece.checksums, len(piece.data), data=piece.data
        )

    def keep_record(self, key: FragmentKey, record: Record, asks_after: float) -> None:
        """A record that is kept open was read; after `asks_after` seconds Python looks again (negative: never)."""
        if compiled is None or self._has(key, record):
            return
        version, stored = key.version, record.stored
        self._entries[key.packed] = compiled.Entry(
            record,
            version,
            version.identity,
            stored.tier,
            told(stored.kind),
            record.checksums,
            record.length,
            fd=record.fd,
            offset=record.offset,
            in_memory=stored.kind == KIND_RAM,
            asks_after=asks_after,
        )

    def drop(self, key: FragmentKey, owner: Piece | Record) -> None:
        """`owner` holds this fragment no more."""
        entry = self._entries.get(key.packed) if self._entries else None
        if entry is not None and entry.owner is owner:
            del self._entries[key.packed]

    def idle(self, key: FragmentKey, owner: Piece | Record) -> float:
        """For how many seconds it was not used by the compiled part; inf where it never was."""
        entry = self._entries.get(key.packed)
        return float(entry.idle()) if entry is not None and entry.owner is owner else float("inf")

    def used(self, key: FragmentKey, owner: Piece | Record) -> bool:
        """Whether the compiled part used it since it was last asked."""
        entry = self._entries.get(key.packed) if self._entries else None
        return entry is not None and entry.owner is owner and bool(entry.used())

    def never_shrinks(self, key: FragmentKey) -> None:
        """Bytes of this fragment were found not to shrink: they go raw to everybody."""
        entry = self._entries.get(key.packed)
        if entry is not None:
            entry.dense = True

    def answers(
        self, session: Session, fragment_size: int, goes_raw: Callable[[int], bool], alone: Callable[[], bool]
    ) -> HotConnection | None:
        """What answers reads on one connection of `session`; None where nothing is compiled.

        `goes_raw` tells whether payloads of so many bytes together go as they are; the answer holds for a while.
        `alone` tells whether nobody else will send on this connection before a request is left to others.
        """
        if compiled is None:
            return None
        exported, node = session.exported, session.node
        counters = exported.counters
        answers = compiled.Answers(
            self._entries,
            FragmentKey(exported.name, _NO_VERSION, 0, fragment_size).packed,
            session.handles,
            counters.requests,
            (exported.name, "Read"),
            lambda tier: counters.tally(exported.name, node, tier),
            goes_raw,
        )
        return HotConnection(self, session, answers, alone)

    # --- connections that wait for a request --------------------------------------------------------------------

    async def run(self) -> None:
        """The task that answers for all of them; never returns."""
        if compiled is None:
            return
        loop = self._loop = compiled.Loop()
        scheduled = Scheduled()
        trio.lowlevel.add_instrument(scheduled)
        waker = _waker()
        self._serving = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._give_up_stuck)
                while True:
                    await trio.lowlevel.wait_readable(loop.fileno())
                    self._wake(loop.serve(waker, scheduled.tasks))
        finally:
            self._serving = False
            trio.lowlevel.remove_instrument(scheduled)

    async def _give_up_stuck(self) -> None:
        """Peers that take no more data are left to their channel, which knows how long that may last."""
        while True:
            await trio.sleep(STUCK_SECONDS / 2)
            self._wake(self._loop.stuck(STUCK_SECONDS))

    def _wake(self, connections: list[Any]) -> None:
        for answers in connections:
            trio.lowlevel.reschedule(self._waiting.pop(answers))

    def park(self, answers: Any, sock: int, buffer: memoryview, start: int, end: int) -> bool:
        """Answer on this connection until `take_back`; the task that calls this is rescheduled before."""
        if not self._serving:
            return False
        self._loop.park(answers, sock, buffer, start, end)
        self._waiting[answers] = trio.lowlevel.current_task()
        return True

    def leave(self, answers: Any) -> None:
        """Answer on this connection no more, and reschedule its task."""
        task = self._waiting.pop(answers, None)
        if task is not None:
            self._loop.leave(answers)
            trio.lowlevel.reschedule(task)

    def take_back(self, answers: Any) -> Moved:
        """What was done on it."""
        self._waiting.pop(answers, None)
        moved: Moved = self._loop.take_back(answers)
        return moved

    def _has(self, key: FragmentKey, owner: Piece | Record) -> bool:
        entry = self._entries.get(key.packed)
        return entry is not None and entry.owner is owner and not entry.asks()


class HotConnection:
    """Answers the hot reads of one connection (`dadafs.wire.channel.InPlace`)."""

    def __init__(self, hot: HotReads, session: Session, answers: Any, alone: Callable[[], bool]) -> None:
        self._hot = hot
        self._session = session
        self._answers = answers
        self._run = answers.run
        self._alone = alone

    def answer(self, sock: int, buffer: memoryview, start: int, end: int) -> Moved:
        """What is there."""
        self._session.last_seen = trio.current_time()
        moved: Moved = self._run(sock, buffer, start, end)
        return moved

    def park(self, sock: int, buffer: memoryview, start: int, end: int) -> bool:
        """What comes; not while somebody works on a request of this connection, whose reply would come in between."""
        return self._alone() and self._hot.park(self._answers, sock, buffer, start, end)

    def leave(self) -> None:
        """The end."""
        self._hot.leave(self._answers)

    def take_back(self) -> Moved:
        """What came."""
        return self._hot.take_back(self._answers)


class Memory(Recent[Piece]):
    """The head's memory for fragments; what it lets go of is not sent any more, what was sent lately it keeps."""

    def __init__(self, limit: int, hot: HotReads) -> None:
        super().__init__(limit)
        self._hot = hot

    def _gone(self, key: Any, value: Piece) -> None:
        self._hot.drop(key, value)

    def _in_use(self, key: Any, value: Piece) -> bool:
        return self._hot.used(key, value)


def told(kind: str) -> str:
    """What a node is told of blocks from a tier of this kind, whatever the tier is called."""
    return "memory" if kind == KIND_RAM else "ssd"


def _waker() -> int:
    """What can be read when the loop has to look at its own sockets; -1 where it is not found.

    It is not a part of trio's interface; without it nobody waits outside of the loop.
    """
    try:
        return int(trio._core._run.GLOBAL_RUN_CONTEXT.runner.io_manager._epoll.fileno())
    except AttributeError:
        return -1
