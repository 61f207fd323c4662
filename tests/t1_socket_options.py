"""What the sockets between head and nodes are told before they are connected."""

from __future__ import annotations

import socket

import pytest
import trio

from dadafs.wire import socket_options
from dadafs.wire.socket_options import open_stream, unpace
from tests.harness.wire import run

UNPACED = (b"cubic", b"reno")


def congestion_control(sock: socket.socket | trio.socket.SocketType) -> bytes:
    """The name that the kernel gives it."""
    name: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return name.rstrip(b"\0")


def under(sock: socket.socket, name: bytes) -> socket.socket:
    """The socket with that congestion control, where we are allowed to use it."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
    except OSError:
        sock.close()
        pytest.skip(f"this kernel does not let us use {name.decode()}")
    return sock


@pytest.mark.parametrize("name", [b"bbr", b"reno"])
def test_a_congestion_control_that_paces_is_not_used(name: bytes) -> None:
    """BBR's timer fires 40 ms late now and then on a link of microseconds; what does not pace is the admin's choice."""
    with under(socket.socket(), name) as sock:
        unpace(sock)
        assert congestion_control(sock) in (UNPACED if name == b"bbr" else (name,))


def test_connections_inherit_it_from_the_listening_socket() -> None:
    """Told later, a connection would keep the pacing that it began with."""
    with under(socket.create_server(("127.0.0.1", 0)), b"bbr") as server:
        unpace(server)
        with socket.create_connection(server.getsockname()), server.accept()[0] as accepted:
            assert congestion_control(accepted) in UNPACED


def test_a_node_s_socket_has_it_before_it_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []

    def spy(sock: trio.socket.SocketType) -> None:
        try:
            sock.getpeername()
        except OSError:
            told.append(True)
        under(sock, b"bbr")  # type: ignore[arg-type]
        unpace(sock)

    monkeypatch.setattr(socket_options, "unpace", spy)

    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            async with await open_stream(*server.getsockname()) as stream:
                assert congestion_control(stream.socket) in UNPACED
        assert told == [True]

    run(test)
