"""The head's end of a connection: who may come in, how long a stranger may take, and what is said to those
refused.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from dadafs.wire.auth import PSK, TLS, HeadHandshake, Refusal, ServerAuth
from dadafs.wire.channel import Channel, ChannelClosed, plain_socket
from dadafs.wire.frame import FROM_NODE, FrameError, Kind
from dadafs.wire.messages import Hello, Proof, Refused
from dadafs.wire.tls import TLS_FIRST_BYTE, TlsChannel, TlsError, server_channel

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 10.0
MAX_STRANGERS = 512
MAX_STRANGERS_PER_ADDRESS = 64
LOG_INTERVAL = 10.0


@dataclass(frozen=True)
class Peer:
    """An authenticated node; `node` is what it calls itself.

    `key_id` is what it has proved: the name of its key, or the first of the `names` in its certificate.
    """

    node: str
    role: str
    address: str
    version: int
    method: str
    key_id: str = ""
    names: tuple[str, ...] = ()


class TurnedAway(Exception):
    """The connection was refused or broke off before it was authenticated; it is closed, and logged where
    due.
    """


class Stranger:
    """A connection that is not authenticated yet; `reason` says why, if it is turned away."""

    def __init__(self, timeout: float) -> None:
        self.scope = trio.CancelScope(deadline=trio.current_time() + timeout)
        self.reason = f"not authenticated within {timeout:g} s"


class Doorkeeper:
    """Counts the strangers at the door, and keeps what is logged about them within bounds.

    At most `max_strangers` connections may be unauthenticated at a time, `per_address` of them from one address.
    Beyond that whoever waits longest has to go, from the address that most wait from: a node needs but a moment, so
    that a crowd of idle connections never keeps it out. At most one line in `LOG_INTERVAL` seconds is logged.
    """

    def __init__(self, max_strangers: int = MAX_STRANGERS, per_address: int = MAX_STRANGERS_PER_ADDRESS) -> None:
        self.max_strangers = max_strangers
        self.per_address = per_address
        self.turned_away = 0
        self.strangers = 0
        self._at_door: dict[str, dict[Stranger, None]] = {}  # by address, who waits longest first
        self._silent_until = float("-inf")
        self._unlogged = 0

    @contextmanager
    def admit(self, address: str, timeout: float) -> Iterator[Stranger]:
        """Count a stranger for as long as the block runs, which is cancelled after `timeout` s or in a crowd."""
        if len(self._at_door.get(address, ())) >= self.per_address:
            self._crowd_out(address)
        elif self.strangers >= self.max_strangers:
            self._crowd_out(max(self._at_door, key=lambda each: len(self._at_door[each])))
        stranger = Stranger(timeout)
        self._at_door.setdefault(address, {})[stranger] = None
        self.strangers += 1
        try:
            with stranger.scope:
                yield stranger
        finally:
            self._leave(address, stranger)

    def _crowd_out(self, address: str) -> None:
        stranger = next(iter(self._at_door[address]))
        self._leave(address, stranger)
        stranger.reason = "too many connections that are not authenticated yet"
        stranger.scope.cancel()

    def _leave(self, address: str, stranger: Stranger) -> None:
        waiting = self._at_door.get(address, {})
        if stranger in waiting:
            del waiting[stranger]
            self.strangers -= 1
            if not waiting:
                del self._at_door[address]

    def turn_away(self, address: str, reason: str) -> TurnedAway:
        """Count and log a refused stranger; returns the exception to raise."""
        self.turned_away += 1
        now = trio.current_time()
        if now < self._silent_until:
            self._unlogged += 1
        else:
            more = f" (and {self._unlogged} more before)" if self._unlogged else ""
            logger.info("turned away %s: %s%s", address, reason, more)
            self._silent_until, self._unlogged = now + LOG_INTERVAL, 0
        return TurnedAway(f"{address}: {reason}")


def peer_address(sock: socket.socket) -> str:
    """The address of the other end without its port, `local` for a Unix socket; mapped IPv4 as IPv4."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return "local"
    address = ipaddress.ip_address(str(sock.getpeername()[0]).partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def is_loopback(address: str) -> bool:
    """Whether `address`, from `peer_address`, is on this host."""
    return address == "local" or ipaddress.ip_address(address).is_loopback


async def authenticate(
    sock: trio.socket.SocketType | socket.socket,
    auth: ServerAuth,
    *,
    door: Doorkeeper,
    timeout: float = HANDSHAKE_TIMEOUT,
    send_timeout: float = 60.0,
) -> tuple[Channel, Peer]:
    """Authenticate the node on `sock`, which is taken over, within `timeout` seconds.

    The next frame from the node is its `Attach`: answer with `Welcome`, or with `refuse`. Raises
    TurnedAway; the socket is closed then.
    """
    plain = plain_socket(sock)
    try:
        address = peer_address(plain)
    except OSError:
        plain.close()
        raise TurnedAway("gone before it said anything") from None
    try:
        with door.admit(address, timeout) as stranger:
            return await _authenticate(plain, auth, address, send_timeout)
        raise door.turn_away(address, stranger.reason)
    except (ChannelClosed, FrameError, TlsError, Refusal) as error:
        raise door.turn_away(address, str(error)) from None


async def _authenticate(
    plain: socket.socket, auth: ServerAuth, address: str, send_timeout: float
) -> tuple[Channel, Peer]:
    channel = await _open(plain, auth, address)
    try:
        peer = await _handshake(channel, auth, address)
    except Refusal as refusal:
        await refuse(channel, refusal.code, refusal.message)
        raise
    except BaseException:
        channel.close("the handshake failed")
        raise
    channel.send_timeout = send_timeout
    channel.authenticated(FROM_NODE)
    return channel, peer


async def _open(plain: socket.socket, auth: ServerAuth, address: str) -> Channel:
    """A plain channel, or a TLS one where the head has certificates and the first byte asks for it."""
    if auth.tls is None:
        return Channel(plain, peer=address)
    try:
        await trio.lowlevel.wait_readable(plain)
        first = plain.recv(1, socket.MSG_PEEK)
    except BaseException as error:
        plain.close()
        if isinstance(error, OSError):
            raise ChannelClosed(f"the connection was lost: {error.strerror}") from None
        raise
    if first and first[0] == TLS_FIRST_BYTE:
        return await server_channel(plain, auth.tls, peer=address)
    return Channel(plain, peer=address)


async def _handshake(channel: Channel, auth: ServerAuth, address: str) -> Peer:
    encrypted = isinstance(channel, TlsChannel)
    handshake = HeadHandshake(auth, auth.methods(encrypted=encrypted, loopback=is_loopback(address)))
    frame = await channel.receive()
    hello = frame.message
    if frame.kind is not Kind.HANDSHAKE or not isinstance(hello, Hello):
        raise FrameError("it did not begin with Hello")
    await channel.send(Kind.HANDSHAKE, 0, handshake.challenge(hello, frame.raw))
    frame = await channel.receive()
    if frame.kind is not Kind.HANDSHAKE or not isinstance(frame.message, Proof):
        raise FrameError("it did not answer with Proof")
    confirm = handshake.confirm(frame.message)
    await channel.send(Kind.HANDSHAKE, 0, confirm)
    names = tuple(channel.certificate_names()) if isinstance(channel, TlsChannel) else ()
    key_id = {PSK: frame.message.key_id, TLS: next(iter(names), "")}.get(handshake.method, "")
    return Peer(hello.node, hello.role, address, handshake.version, handshake.method, key_id, names)


async def refuse(channel: Channel, code: str, message: str) -> None:
    """Tell the node why not, and close so that it can read it."""
    try:
        await channel.send(Kind.HANDSHAKE, 0, Refused(code, message))
        await channel.finish("refused")
    except ChannelClosed:
        pass
    finally:
        channel.close("refused")
