"""Requests of a channel that somebody else answers for it, without its task being woken for each."""

from __future__ import annotations

import enum
from typing import Protocol

#: What of a frame is still to be sent: its head; then, of the buffer or else of the file, from where on how many bytes;
#: and whoever holds that open.
Rest = tuple[bytes, bytes | None, int, int, int, object]
#: State; start and end of what is left in the receive buffer; bytes received and sent; what is still to be sent.
Moved = tuple[int, int, int, int, int, Rest | None]


class InPlace(Protocol):
    """Answers requests of one channel by itself, see `Channel.answer_in_place`.

    `answer` and `take_back` raise OSError where the connection is lost.
    """

    def answer(self, sock: int, buffer: memoryview, start: int, end: int) -> Moved:
        """Those that lie between `start` and `end` of the receive buffer and in the socket, without waiting."""

    def park(self, sock: int, buffer: memoryview, start: int, end: int) -> bool:
        """Answer them as they come until `take_back`, and reschedule this task when it has to go on itself.

        False where that cannot be.
        """

    def leave(self) -> None:
        """The socket is about to be closed: answer no more, and reschedule the task."""

    def take_back(self) -> Moved:
        """What was done since `park`."""


class Ended(enum.IntEnum):
    """Why answering in place ended."""

    LEFT = 0  # the next frame is for others, or there will be none
    WAIT = 1  # nothing more is there
    TURN = 2  # it took long enough
    REST = 3  # the socket took only a part
