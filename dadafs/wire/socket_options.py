"""Options of the TCP sockets between head and nodes, from before they are connected.

Some of them cannot be set later: a socket that was ever under a congestion control that paces keeps the pacing, with a
timer for each packet, whatever is chosen for it afterwards. So the listening socket gets them, from which those of
its connections inherit, and the connecting one before it connects.
"""

from __future__ import annotations

import socket
from contextlib import suppress

import trio

#: Congestion controls that space packets by timers: on a link of microseconds one late timer is a read of 40 ms.
PACING = b"bbr"
#: What is used in their place, the first that the kernel allows us.
UNPACED = (b"cubic", b"reno")
_NAME_SIZE = 16  # TCP_CA_NAME_MAX


def tune(sock: socket.socket) -> None:
    """No Nagle, dead peers noticed within a minute. Buffer sizes stay with the kernel: setting them would switch its
    automatic sizing off, and `net.core.wmem_max` allows less than that reaches by itself.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)


def unpace(sock: socket.socket | trio.socket.SocketType) -> None:
    """No congestion control that paces (docs/decisions-head.md has what it costs); any other stays as it is.

    For sockets that listen, or are not connected yet.
    """
    with suppress(OSError):
        if not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME_SIZE).startswith(PACING):
            return
    for name in UNPACED:
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
            return


class _Unpaced(trio.abc.SocketFactory):
    """Makes the sockets that `open_stream` connects."""

    def socket(
        self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0
    ) -> trio.socket.SocketType:
        made = trio.socket.from_stdlib_socket(socket.socket(family, type, proto))
        unpace(made)
        return made


async def open_stream(host: str, port: int) -> trio.SocketStream:
    """A connection to `host`, to whichever of its addresses answers first. Raises OSError."""
    before = trio.socket.set_custom_socket_factory(_Unpaced())
    try:
        return await trio.open_tcp_stream(host, port)
    finally:
        trio.socket.set_custom_socket_factory(before)
