"""What is to be pushed to one session, in order and bounded: a node that does not keep up loses its leases."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import trio

from dadafs.wire.messages import Change, Changes, LeasesLost, Message, Pass

#: Changes that may wait for one session.
LIMIT = 20_000
#: Changes in one message.
BATCH = 1000


class Outbox:
    """Filled without waiting by whoever has something to push, emptied by the session's control connection."""

    def __init__(self) -> None:
        self.overflows = 0
        self._waiting: deque[Message] = deque()
        self._changes = 0
        self._wake = trio.Event()

    def post_changes(self, changes: list[Change]) -> bool:
        """Queue changes; False where there were too many: everything waiting was replaced by the loss of all leases."""
        self._changes += len(changes)
        if self._changes > LIMIT:
            self.overflows += 1
            passes = [message for message in self._waiting if isinstance(message, Pass)]
            self._waiting.clear()
            self._changes = 0
            self.post(LeasesLost([b""]))
            self._waiting.extend(passes)
            return False
        for start in range(0, len(changes), BATCH):
            self._waiting.append(Changes(changes[start : start + BATCH]))
        self._wake.set()
        return True

    def post(self, message: Message) -> None:
        """Queue anything else."""
        self._waiting.append(message)
        self._wake.set()

    async def empty_into(self, push: Callable[[Message], Awaitable[None]]) -> None:
        """Push what is queued, for ever."""
        while True:
            while self._waiting:
                message = self._waiting.popleft()
                if isinstance(message, Changes):
                    self._changes -= len(message.changes)
                await push(message)
            self._wake = trio.Event()
            await self._wake.wait()
