"""Fragments on their way to the store: a queue bounded in bytes, and threads that write it without a turn of the loop.

An insert takes a thread some milliseconds, and a busy loop three times as long to notice that it is done and to hand
out the next one. So the threads take what waits by themselves, and only tell the loop afterwards.

Who is about to read a fragment of the origin sets a place in the queue aside first (`Place`). Where there is none it
waits for one, a short while (`dadafsd.policy.patience`), so that a burst goes as fast as the disk and is kept. What
finds no place in the end is dropped: of one reader before of several. As long as it stays in the head's memory it is
offered again once there is room.

The queue and all counts belong to the loop. A thread touches `_shared`, `_single` and `_done`, one item at a time.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

import trio

from dadafsd import long_writes
from dadafsd.counters import Counters
from dadafsd.policy.patience import Patience
from dadafsd.store.record import FragmentKey
from dadafsd.store.store import FragmentStore

log = logging.getLogger(__name__)
#: Threads that write.
WRITERS = 2
#: A place set aside for longer than this, in seconds, is given to others: its origin is slow.
PLACE_SECONDS = 1.0
#: Dropped fragments of which is remembered that they are not kept, at most.
OWED = 4096


class Waiting(NamedTuple):
    """A fragment to be written if it is offered for the `after_reads`-th time by then."""

    key: FragmentKey
    data: bytes
    checksums: list[int]
    after_reads: int = 1


class WriteBehind:
    """The queue of one store. `in_memory` gives data and checksums of a fragment that the head has in memory."""

    def __init__(
        self,
        store: FragmentStore,
        counters: Counters,
        *,
        limit: int,
        in_memory: Callable[[FragmentKey], tuple[bytes, list[int]] | None],
    ) -> None:
        self.queued = 0  #: bytes that wait or are being written
        self._limit = limit
        self._store = store
        self.counters = counters
        self._in_memory = in_memory
        self._patience = Patience()
        self._shared: deque[Waiting] = deque()  # several readers wanted it
        self._single: deque[Waiting] = deque()
        self._work: queue.SimpleQueue[bool] = queue.SimpleQueue()  # one True for each that was queued; False: end
        self._done: deque[tuple[int, str]] = deque()
        self._places: OrderedDict[Place, float] = OrderedDict()  # set aside, and since when
        self._reserved = 0
        self._lines: tuple[OrderedDict[Place, None], ...] = (OrderedDict(), OrderedDict())  # demand, prefetch
        self._owed: OrderedDict[FragmentKey, int] = OrderedDict()
        self._token = trio.lowlevel.current_trio_token()

    async def run(self) -> None:
        """The threads' life; never returns."""
        for number in range(WRITERS):
            threading.Thread(target=self._serve, name=f"the cache directory (writes)-{number}", daemon=True).start()
        try:
            await trio.sleep_forever()
        finally:
            for _ in range(WRITERS):
                self._work.put(False)

    @property
    def limit(self) -> int:
        """Bytes that may wait at most."""
        return self._limit

    @limit.setter
    def limit(self, value: int) -> None:
        self._limit = value
        self.admit()

    @property
    def presses(self) -> bool:
        """Whether it is the disk that there is no room for: more than half is taken by what only has to be written."""
        return 2 * self.queued > self._limit

    def place(self, size: int) -> Place:
        """A context in which `size` bytes can be set aside and then offered."""
        return Place(self, size)

    def offer(self, waiting: Waiting, *, shared: bool = False) -> bool:
        """Queue a fragment; where the queue is full it is dropped and counted. Whether it was queued.

        `shared`, which several readers wanted, takes the place of those that one did.
        """
        size = len(waiting.data)
        while shared and not self._fits(size) and self._single and size <= self._limit:
            self._displace()
        if not self._fits(size):
            self._drop(waiting)
            return False
        self.queued += size
        (self._shared if shared else self._single).append(waiting)
        self._owed.pop(waiting.key, None)
        self._work.put(True)
        return True

    async def room(self, size: int) -> None:
        """Wait until the queue would take `size` more bytes, for whoever would rather wait than lose them."""
        while self.queued and not self._fits(size):  # noqa: ASYNC110
            await trio.sleep(0.01)

    async def flush(self) -> None:
        """Wait until everything queued was written or dropped."""
        while self.queued:  # noqa: ASYNC110  (only at the end of the process)
            await trio.sleep(0.01)

    # --- room ------------------------------------------------------------------------------------------------------

    def _fits(self, size: int) -> bool:
        """Whether there is room for `size` bytes, if need be that of places that their owners do not come to use."""
        while self.queued + self._reserved + size > self._limit:
            place = next(iter(self._places), None)
            if place is None or trio.current_time() - self._places[place] < PLACE_SECONDS:
                return False
            self.leave(place)
        return True

    def leave(self, place: Place) -> bool:
        """Give back what was set aside for `place`; whether it still was."""
        if self._places.pop(place, None) is None:
            return False
        self._reserved -= place.size
        return True

    def patience(self, place: Place, *, prefetch: bool) -> float:
        """Let a place wait in line, or come to the front of it; how long it may, in seconds."""
        demand, ahead = self._lines
        ahead.pop(place, None)
        (ahead if prefetch else demand)[place] = None
        self.admit()
        if place.admitted.is_set():
            return 0.0
        if place.size > self._limit or not self._store.takes_writes:
            return 0.0
        return self._patience.allows(trio.current_time(), prefetch=prefetch)

    def give_up(self, place: Place) -> None:
        """A place does not wait any more."""
        for line in self._lines:
            line.pop(place, None)

    def waits_ahead(self, place: Place) -> bool:
        """Whether a place waits as one that nobody waits for."""
        return place in self._lines[1]

    def admit(self) -> None:
        """Hand out what room there is: to demand, then prefetch; then to what was dropped and is still in memory."""
        if not self.presses:
            self._patience.relieved()
        for line in self._lines:
            while line:
                place = next(iter(line))
                if not self._fits(place.size):
                    return
                del line[place]
                self._places[place] = trio.current_time()
                self._reserved += place.size
                place.admitted.set()
        while self._owed and 2 * (self.queued + self._reserved) <= self._limit:
            key, after_reads = self._owed.popitem(last=False)
            found = self._in_memory(key)
            if found is not None and self.offer(Waiting(key, *found, after_reads)):
                self.counters.events["store_writes_late"] += 1

    def _displace(self) -> None:
        """Drop the fragment of a single reader that came last."""
        try:
            victim = self._single.pop()
        except IndexError:  # a thread took it
            return
        self.queued -= len(victim.data)
        self._drop(victim)

    def _drop(self, waiting: Waiting) -> None:
        self.counters.events["store_writes_dropped"] += 1
        self._owed[waiting.key] = waiting.after_reads
        if len(self._owed) > OWED:
            self._owed.popitem(last=False)

    # --- writing ---------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """A thread that writes."""
        while self._work.get():
            waiting = self._next()
            if waiting is None:
                continue
            self._done.append((len(waiting.data), self._insert(waiting)))
            del waiting  # its data must not live until the next one
            try:
                self._token.run_sync_soon(self._settle, idempotent=True)
            except trio.RunFinishedError:
                return

    def _next(self) -> Waiting | None:
        """What to write next; None where that was displaced."""
        for line in (self._shared, self._single):
            try:
                return line.popleft()
            except IndexError:
                continue
        return None

    def _insert(self, waiting: Waiting) -> str:
        """Write one fragment; blocking. The event to be counted."""
        try:
            kept = self._store.insert(waiting.key, waiting.data, waiting.checksums, after_reads=waiting.after_reads)
            if long_writes.overtaken(waiting.key.version):  # meanwhile, or before: nobody else drops it now
                self._store.evict(waiting.key.export, waiting.key.version.identity)
                kept = False
        except Exception:
            log.exception("a fragment could not be given to the store")
            return "store_errors"
        return "store_writes" if kept else "store_writes_refused"

    def _settle(self) -> None:
        """Back in the loop: what the threads have done."""
        while self._done:
            size, event = self._done.popleft()
            self.queued -= size
            self.counters.events[event] += 1
        self.admit()


class Place:
    """Room for a fragment that is still to be read; given back at the end of the context, unless used by then."""

    def __init__(self, behind: WriteBehind, size: int) -> None:
        self.size = size
        self.admitted = trio.Event()
        self._behind = behind
        self._scope = trio.CancelScope()

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        if self._behind.leave(self):
            self._behind.admit()

    async def wait(self, *, prefetch: bool) -> None:
        """Set the room aside, waiting for it where the queue is full and patience allows."""
        try:
            patience = self._behind.patience(self, prefetch=prefetch)
            if patience:
                if self._behind.presses:
                    self._behind.counters.events["store_writes_waited"] += 1
                self._scope.deadline = trio.current_time() + patience
                with self._scope:
                    await self.admitted.wait()
        finally:
            self._behind.give_up(self)

    def hurry(self) -> None:
        """Somebody waits for what was to be read ahead."""
        if self._behind.waits_ahead(self):
            patience = self._behind.patience(self, prefetch=False)
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + patience)

    def offer(self, waiting: Waiting, *, shared: bool) -> bool:
        """Use the room, or what there is beside it; whether the fragment is queued."""
        self._behind.leave(self)
        return self._behind.offer(waiting, shared=shared)
