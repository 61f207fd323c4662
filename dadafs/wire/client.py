"""The node's end of a connection: connect, authenticate, attach; then many calls at once on one channel."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import trio

from dadafs.wire.auth import ClientAuth, NodeHandshake, Refusal
from dadafs.wire.channel import Channel, ChannelClosed, Frame
from dadafs.wire.frame import FROM_HEAD, MAX_REQUEST_ID, FrameError, Kind
from dadafs.wire.messages import BLOCK_SIZE, Attach, Challenge, Confirm, Message, RefusalCode, Refused, Welcome
from dadafs.wire.socket_options import open_stream
from dadafs.wire.tls import TlsChannel, TlsError, client_channel

logger = logging.getLogger(__name__)

Sink = Callable[[Message, int], memoryview | None]
PushHandler = Callable[[Message], None]


class ConnectFailed(Exception):
    """There is no head at that address, or what is there does not answer as one; the text says which."""


class _Waiting:
    """One call that waits for its reply."""

    __slots__ = ("error", "reply", "sink", "task")

    def __init__(self, sink: Sink | None) -> None:
        self.sink = sink
        self.reply: Message | None = None
        self.error: Exception | None = None
        self.task: trio.lowlevel.Task | None = None

    def settle(self) -> None:
        if self.task is not None:
            task, self.task = self.task, None
            trio.lowlevel.reschedule(task)


#: Called as answered(reply, error): one of the two is None.
Answered = Callable[[Message | None, Exception | None], None]


class _Called(_Waiting):
    """One call that nobody waits for: a function is called with its reply."""

    __slots__ = ("_answered",)

    def __init__(self, sink: Sink, answered: Answered) -> None:
        super().__init__(sink)
        self._answered = answered

    def settle(self) -> None:
        self._answered(self.reply, self.error)


class RequestChannel:
    """Calls and pushes over one authenticated channel. `run` must be running for calls to be answered.

    `on_push` is called for every push, in order, before anything that arrived later is looked at; it must
    not block.
    """

    #: The numbers of requests begun here are 1 to this.
    MOST_IDS = MAX_REQUEST_ID

    def __init__(self, channel: Channel, welcome: Welcome, on_push: PushHandler | None = None) -> None:
        self.channel = channel
        self.welcome = welcome
        self._on_push = on_push
        self._waiting: dict[int, _Waiting] = {}
        self._abandoned: set[int] = set()
        self._receiving: int | None = None
        self._last_id = 0

    @property
    def closed(self) -> str | None:
        """Why the connection is closed, or None while it is open."""
        return self.channel.closed

    @property
    def pending(self) -> int:
        """How many calls wait for their reply."""
        return len(self._waiting)

    @property
    def received(self) -> int:
        """Bytes received so far."""
        return self.channel.bytes_received

    async def call(self, request: Message, *, sink: Sink | None = None) -> Message:
        """Send `request`, return the reply (which may be `Failed`). Raises ChannelClosed when the connection ends.

        A reply with a payload is handed to `sink(reply, length)`, which returns the buffer (writable, at
        least `length` bytes) that the payload is received into before the call returns; None drops the
        payload, as does a missing sink. Cancelling the call leaves the channel whole; its buffer is not
        written to afterwards.
        """
        request_id = self._next_id()
        waiting = _Waiting(sink)
        self._waiting[request_id] = waiting
        try:
            await self._send(request_id, request)
        except BaseException:
            self._waiting.pop(request_id, None)
            raise
        if waiting.reply is None and waiting.error is None:
            await self._park(request_id, waiting)
        if waiting.error is not None:
            raise waiting.error
        assert waiting.reply is not None
        return waiting.reply

    async def _send(self, request_id: int, request: Message) -> None:
        await self.channel.send(Kind.REQUEST, request_id, request)

    def call_now(self, request: Message, sink: Sink, answered: Answered) -> int | None:
        """`call` without a task: send `request` if that needs no waiting; its id, or None where nothing was sent.

        `answered`, which must not raise, is called once, later, by whoever receives or closes: with the reply, its
        payload received, or with what `call` would raise.
        """
        request_id = self._next_id()
        if not self.channel.send_now(Kind.REQUEST, request_id, request):
            return None
        self._waiting[request_id] = _Called(sink, answered)
        return request_id

    def abandon(self, request_id: int) -> bool:
        """Give up a call begun with `call_now`: `answered` will not be called. False where it was already."""
        if self._waiting.pop(request_id, None) is None:
            return False
        self._abandoned.add(request_id)
        if self._receiving == request_id:
            self._divert(request_id)
        return True

    def _divert(self, _request_id: int) -> None:
        """The payload that is just received is not wanted any more."""
        self.channel.divert()

    async def _park(self, request_id: int, waiting: _Waiting) -> None:
        def abandon(_: object) -> trio.lowlevel.Abort:
            waiting.task = None
            self.abandon(request_id)
            return trio.lowlevel.Abort.SUCCEEDED

        waiting.task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abandon)

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % self.MOST_IDS + 1
            if self._last_id not in self._waiting and self._last_id not in self._abandoned:
                return self._last_id

    async def run(self) -> str:
        """Receive until the connection ends; returns the reason. All calls that still wait raise
        ChannelClosed.
        """
        try:
            while True:
                frame = await self.channel.receive()
                if frame.kind is Kind.REPLY:
                    await self._take_reply(frame)
                elif frame.kind is Kind.PUSH:
                    await self._take_push(frame)
                else:
                    raise FrameError(f"a head does not send frames of kind {frame.kind.name}")
        except ChannelClosed as error:
            return str(error)
        except FrameError as error:
            logger.warning("connection to %s closed: %s", self.channel.peer, error)
            return str(error)
        finally:
            self.close(self.channel.closed or "closed on this side")

    async def _take_reply(self, frame: Frame) -> None:
        request_id = frame.request_id
        waiting = self._waiting.get(request_id)
        if waiting is None:
            if request_id not in self._abandoned:
                self.channel.close("a reply to no request")
                raise FrameError(f"a reply to no request: id {request_id}")
            await self.channel.skip_payload()
            self._abandoned.discard(request_id)
            return
        if frame.payload_length:
            await self._take_payload(frame, waiting)
        if self._waiting.pop(request_id, None) is None:  # abandoned while its payload ran
            self._abandoned.discard(request_id)
            return
        waiting.reply = frame.message
        waiting.settle()

    def _buffer_for(self, message: Message, length: int, waiting: _Waiting) -> memoryview | None:
        """Where a payload of `length` bytes goes; None where nobody wants it, or it does not fit."""
        try:
            buffer = waiting.sink(message, length) if waiting.sink else None
            if buffer is not None and len(buffer) < length:
                raise ValueError(f"a buffer of {len(buffer)} bytes for a payload of {length}")
        except Exception as error:
            waiting.error = error
            return None
        return buffer

    async def _take_payload(self, frame: Frame, waiting: _Waiting) -> None:
        buffer = self._buffer_for(frame.message, frame.payload_length, waiting)
        if buffer is None:
            await self.channel.skip_payload()
            return
        self._receiving = frame.request_id
        try:
            await self.channel.receive_payload(buffer)
        finally:
            self._receiving = None

    async def _take_push(self, frame: Frame) -> None:
        if frame.payload_length or frame.request_id:
            self.channel.close("a malformed push")
            raise FrameError("a push with a payload or a request id")
        if self._on_push is None:
            return
        try:
            self._on_push(frame.message)
        except Exception:
            # A lost push would leave stale beliefs; a new session begins without any.
            logger.exception("the handler of pushes failed; reconnecting")
            raise self._fatal("the handler of pushes failed") from None

    def _fatal(self, reason: str) -> ChannelClosed:
        self.channel.close(reason)
        return ChannelClosed(reason)

    def close(self, reason: str = "closed on this side") -> None:
        """Close at once; all calls that wait raise ChannelClosed."""
        self.channel.close(reason)
        self._abandoned.clear()
        while self._waiting:
            _, waiting = self._waiting.popitem()
            waiting.error = ChannelClosed(self.channel.closed)
            waiting.settle()

    async def aclose(self) -> None:
        """Close; for use where an asynchronous resource is expected."""
        self.close()
        await trio.lowlevel.checkpoint()


@dataclass(frozen=True)
class Target:
    """What to attach to at a head. `session` is 0 on a control channel, else the session that a data
    channel joins.
    """

    export: str
    session: int = 0
    freshness_ns: int = 1_000_000_000
    lease_ns: int = 30_000_000_000


async def connect(
    host: str,
    port: int,
    *,
    node: str,
    role: str,
    auth: ClientAuth,
    target: Target,
    timeout: float = 10.0,
    on_push: PushHandler | None = None,
) -> RequestChannel:
    """Connect to the head at `host`:`port`, authenticate as `node` and attach to `target`, within `timeout` seconds.

    Raises ConnectFailed where nothing (or no head) answers there, Refusal where one side refuses the other.
    """
    peer = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with trio.move_on_after(timeout):
        channel = await _open(host, port, peer, auth)
        authenticated = False
        try:
            await _authenticate(channel, NodeHandshake(auth, node, role))
            authenticated = True
            welcome = await _attach(channel, target)
        except (ChannelClosed, FrameError) as error:
            channel.close(str(error))
            if isinstance(channel, TlsChannel) and not authenticated:
                # With TLS 1.3 our side is done before the head has looked at our certificate; its alert may be lost
                # with the connection, so an end at this point is taken for the refusal that it nearly always is.
                message = f"the head refuses this node's certificate: {error}"
                raise Refusal(RefusalCode.WRONG_KEY, message) from None
            raise ConnectFailed(f"{peer} does not answer as a head: {error}") from None
        except BaseException:
            channel.close("the handshake failed")
            raise
        return RequestChannel(channel, welcome, on_push)
    raise ConnectFailed(f"{peer} did not answer within {timeout:g} s")


async def _open(host: str, port: int, peer: str, auth: ClientAuth) -> Channel:
    try:
        stream = await open_stream(host, port)
    except OSError as error:
        raise ConnectFailed(f"cannot connect to {peer}: {_why(error)}") from None
    if auth.tls is None:
        return Channel(stream.socket, peer=peer)
    try:
        return await client_channel(stream.socket, auth.tls, host, peer=peer)
    except TlsError as error:
        raise Refusal(RefusalCode.WRONG_KEY, str(error)) from None


def _why(error: OSError) -> str:
    """The reason in `error`, which for a name with several addresses is hidden in a group."""
    causes = error.__cause__.exceptions if isinstance(error.__cause__, BaseExceptionGroup) else ()
    inner = next((cause for cause in causes if isinstance(cause, OSError)), error)
    if inner.errno is not None and inner.errno > 0:
        return os.strerror(inner.errno)
    return inner.strerror or str(inner)


async def _authenticate(channel: Channel, handshake: NodeHandshake) -> None:
    await channel.send(Kind.HANDSHAKE, 0, handshake.hello())
    frame = await _expect(channel, Challenge)
    assert isinstance(frame.message, Challenge)
    await channel.send(Kind.HANDSHAKE, 0, handshake.proof(frame.message, frame.raw))
    frame = await _expect(channel, Confirm)
    assert isinstance(frame.message, Confirm)
    handshake.check(frame.message)
    channel.authenticated(FROM_HEAD)


async def _attach(channel: Channel, target: Target) -> Welcome:
    attach = Attach(target.export, target.session, target.freshness_ns, target.lease_ns)
    await channel.send(Kind.HANDSHAKE, 0, attach)
    message = (await _expect(channel, Welcome)).message
    assert isinstance(message, Welcome)
    if message.block_size != BLOCK_SIZE:
        sizes = f"the head's blocks are {message.block_size} bytes, the node's {BLOCK_SIZE}"
        raise Refusal(RefusalCode.VERSION, sizes)
    return message


def _printable(text: str) -> str:
    """What a head that is not authenticated says, fit for a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text[:500])


async def _expect(channel: Channel, wanted: type[Message]) -> Frame:
    """The next handshake message, which must be of type `wanted`. Raises Refusal where the head refuses."""
    frame = await channel.receive()
    if isinstance(frame.message, Refused):
        raise Refusal(_printable(frame.message.code), _printable(frame.message.message))
    if frame.kind is not Kind.HANDSHAKE or not isinstance(frame.message, wanted) or frame.payload_length:
        raise FrameError(f"expected {wanted.__name__}, got {type(frame.message).__name__}")
    return frame
