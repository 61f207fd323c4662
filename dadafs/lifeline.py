"""What a mount process tells its supervisor, a packet a message: that it lives, that it serves, or why it does not."""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import asdict, dataclass

from dadafs.errors import ExitCode

_LONGEST = 4096


@dataclass(frozen=True)
class News:
    """One message; `kind` is `alive`, `serving` (with the `device` of the mount) or `failed` (with the other two)."""

    kind: str
    device: str = ""
    code: int = int(ExitCode.OK)
    message: str = ""


class Lifeline:
    """The mount process's end. A supervisor that is gone is no reason to stop serving: nothing here raises.

    `interval`: how often `alive` is wanted, in seconds; None: never.
    """

    def __init__(self, sock: socket.socket | None = None, interval: float | None = None) -> None:
        self._sock = sock
        self.interval = interval

    def alive(self) -> None:
        """The loop runs."""
        self._send(News("alive"))

    def serving(self, device: str) -> None:
        """The file system answers; the mount is on `device` ("major:minor")."""
        self._send(News("serving", device=device))

    def failed(self, code: int, message: str) -> None:
        """The process ends, and this is why."""
        self._send(News("failed", code=code, message=message[: _LONGEST // 4]))

    def detach(self) -> socket.socket | None:
        """The socket, which is somebody else's from now on."""
        sock, self._sock = self._sock, None
        return sock

    def close(self) -> None:
        """Let go of the socket."""
        if self._sock is not None:
            self._sock.close()

    def _send(self, news: News) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.send(json.dumps(asdict(news)).encode(), socket.MSG_DONTWAIT)


def pair(interval: float | None) -> tuple[socket.socket, Lifeline]:
    """The supervisor's socket, which does not block, and the end that the mount process takes along."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, Lifeline(theirs, interval)


def receive(sock: socket.socket) -> list[News]:
    """Everything that has arrived. Raises EOFError when the other end is closed."""
    news: list[News] = []
    while True:
        try:
            packet = sock.recv(_LONGEST)
        except BlockingIOError:
            return news
        if not packet:
            if news:
                return news
            raise EOFError
        news.append(News(**json.loads(packet)))
