"""Frames over a connected socket in trio: one task receives, any number of tasks send.

This is the hot path. It works on the plain non-blocking socket: each operation is tried at once and only
waits for the kernel where it would block, so a frame that fits the socket's buffer costs one system call
and no trip through the scheduler. To stay fair, a channel yields after `YIELD_AFTER` bytes moved without
waiting.

Frames never interleave, and no half frame is ever continued: a send that is cancelled, times out or fails
in the middle of a frame closes the channel, and so does a receive that is cancelled in the middle of a
payload.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec
import trio

from dadafs.wire import frame
from dadafs.wire.frame import BEFORE_AUTHENTICATION, HEADER_SIZE, FrameError, Kind, Limits
from dadafs.wire.in_place import Ended, InPlace, Moved, Rest
from dadafs.wire.messages import Message, decode, encode
from dadafs.wire.socket_options import tune

Buffer = bytes | bytearray | memoryview

YIELD_AFTER = 4 * 1024 * 1024
#: What a frame counts for, beside its bytes: so many small frames are a turn, too.
FRAME_COST = 16 * 1024
#: Frames up to this size are joined into one buffer and sent with one plain send.
JOIN_BELOW = 16 * 1024
#: Receive buffer for a stranger, for requests without payload (a head has thousands of connections), for replies.
SMALL_BUFFER = 8 * 1024
MEDIUM_BUFFER = 16 * 1024
LARGE_BUFFER = 64 * 1024
# After a frame with a bulk payload, so much is read ahead for the next header: less to copy out of the
# buffer.
READ_AHEAD = 1024
BULK = 16 * 1024
SCRAP_SIZE = 64 * 1024
#: The kernel takes at most so many pieces in one call (IOV_MAX).
MAX_PIECES = 1024
#: sendfile moves at most so much at a time, so that one channel cannot hold the loop.
SENDFILE_STEP = 1024 * 1024
DEFAULT_SEND_TIMEOUT = 60.0

#: Where struct tcp_info (linux/tcp.h) has `tcpi_delivery_rate_app_limited` (a bit) and `tcpi_delivery_rate`.
_APP_LIMITED_OFFSET = 7
_DELIVERY_RATE_OFFSET = 160
_DELIVERY_RATE = struct.Struct("Q")
_TCP_INFO_SIZE = _DELIVERY_RATE_OFFSET + _DELIVERY_RATE.size

#: Errors of sendfile that speak of the socket; all others speak of the file.
_SOCKET_ERRORS = {
    errno.EPIPE,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.EHOSTDOWN,
    errno.ENOBUFS,
}


class ChannelClosed(Exception):
    """The channel is closed and stays so; the text is the reason."""


class PayloadVanished(ChannelClosed):
    """The file to be sent failed or was shorter than promised, so the frame could not be completed."""


class Delivery(NamedTuple):
    """What TCP has measured while it sent (tcp(7), TCP_INFO)."""

    rate: int  # bytes a second that were delivered of late
    idle: bool  # there was nothing more to send while that was measured, so the network may take more


class Frame(NamedTuple):
    """One received frame; its payload, if any, is still to be taken. `raw` is the metadata, in the
    handshake only.
    """

    kind: Kind
    request_id: int
    message: Message
    payload_length: int
    raw: bytes


class Channel:
    """Frames over one TCP connection. Takes the trio socket over; `peer` names the other side in messages.

    `limits` are what the peer may send; see `authenticated`. `send_timeout` bounds, in seconds, how long
    one frame may take to be sent: a peer that does not read is cut off.
    """

    plain = True  #: what travels is what is sent

    def __init__(
        self,
        sock: trio.socket.SocketType | socket.socket,
        *,
        peer: str = "",
        limits: Limits = BEFORE_AUTHENTICATION,
        send_timeout: float = DEFAULT_SEND_TIMEOUT,
    ) -> None:
        self._socket = plain_socket(sock)
        self.peer = peer
        self.limits = limits
        self.send_timeout = send_timeout
        self.bytes_sent = 0
        self.bytes_received = 0
        self._handshake = limits is BEFORE_AUTHENTICATION
        self._buffer_size = _buffer_size(limits)
        self._buffer = memoryview(bytearray(self._buffer_size))
        self._start = self._end = 0
        self._payload_left = 0
        self._diverted = False
        self._bulk = False
        self._credit = YIELD_AFTER
        self._sending = trio.Lock()
        self._in_place: InPlace | None = None  # while it waits for requests
        self._closed: str | None = None
        self.gate: int | None = None  #: a descriptor that somebody waits for in place of the socket

    # --- life
    # -------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> str | None:
        """Why the channel is closed, or None while it is open."""
        return self._closed

    @property
    def socket(self) -> socket.socket:
        """The socket, for whoever receives in the channel's place."""
        return self._socket

    @property
    def at_rest(self) -> bool:
        """Whether nothing that was received waits to be taken."""
        return self._start == self._end and not self._payload_left

    def authenticated(self, limits: Limits) -> None:
        """The handshake is over: from now on accept all messages, within `limits`."""
        self.limits = limits
        self._handshake = False
        self._buffer_size = _buffer_size(limits)
        larger = memoryview(bytearray(self._buffer_size))
        kept = self._end - self._start
        larger[:kept] = self._buffer[self._start : self._end]
        self._buffer, self._start, self._end = larger, 0, kept

    def delivery(self) -> Delivery | None:
        """How fast the network takes what is sent; None where TCP has not measured it, or this is not TCP."""
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
            rate: int = _DELIVERY_RATE.unpack_from(info, _DELIVERY_RATE_OFFSET)[0]
        except (OSError, struct.error):
            return None
        return Delivery(rate, bool(info[_APP_LIMITED_OFFSET] & 1)) if rate else None

    def close(self, reason: str = "closed on this side") -> None:
        """Close at once; whoever waits on the channel gets ChannelClosed(reason). May be called again."""
        if self._closed is None:
            self._closed = reason
            if self._in_place is not None:
                self._in_place.leave()
            trio.lowlevel.notify_closing(self._socket)
            if self.gate is not None:
                trio.lowlevel.notify_closing(self.gate)
            self._socket.close()

    async def finish(self, reason: str = "closed on this side", timeout: float = 1.0) -> None:
        """Close so that the peer can still read what was sent: shut down, let it close, then close."""
        with trio.move_on_after(timeout), suppress(ChannelClosed, OSError):
            self._socket.shutdown(socket.SHUT_WR)
            for _ in range(64):
                await self._receive_into(memoryview(bytearray(SMALL_BUFFER)))
        self.close(reason)

    def _check_open(self) -> None:
        if self._closed is not None:
            raise ChannelClosed(self._closed)

    def _fail(self, reason: str) -> ChannelClosed:
        self.close(reason)
        return ChannelClosed(self._closed)

    # --- sending
    # ----------------------------------------------------------------------------------------------

    async def send(
        self, kind: Kind, request_id: int, message: Message, payload: Buffer | Sequence[Buffer] = b""
    ) -> None:
        """Send one frame. Returns when the kernel has taken it; may return without having yielded.

        Raises ChannelClosed. The payload must not change until this returns.
        """
        parts = [payload] if isinstance(payload, bytes | bytearray | memoryview) else list(payload)
        length = sum(map(len, parts))
        head = frame.pack(kind, request_id, encode(message), length)
        if length + len(head) <= JOIN_BELOW:
            views = [memoryview(b"".join([head, *parts]) if length else head)]
        else:
            views = [memoryview(head), *(memoryview(part) for part in parts if len(part))]
        await self._enter()
        try:
            await self._send_views(views, 0)
        finally:
            self._sending.release()

    def send_now(self, kind: Kind, request_id: int, message: Message) -> bool:
        """Send a frame without payload where that needs no waiting; False where nothing was sent."""
        if self._closed is not None or self._credit < 0 or self._sending.locked():
            return False
        head = frame.pack(kind, request_id, encode(message), 0)
        try:
            sent = self._try_send([memoryview(head)], 0)
        except ChannelClosed:
            return False
        if 0 < sent < len(head):
            self.close("a send was interrupted in the middle of a frame")
        return sent == len(head)

    async def send_file(
        self, kind: Kind, request_id: int, message: Message, fd: int, segments: Sequence[tuple[int, int]]
    ) -> None:
        """Send one frame whose payload is `segments`, a list of (offset, length), of the open file `fd`.

        The bytes go from the page cache to the socket in the kernel; pages that are not in memory block the
        loop, so the caller makes sure that they are. Raises ChannelClosed, and PayloadVanished (closed,
        too) where the file fails or ends early.
        """
        head = frame.pack(kind, request_id, encode(message), sum(length for _, length in segments))
        await self._enter()
        try:
            await self._send_views([memoryview(head)], socket.MSG_MORE if segments else 0)
            for offset, length in segments:
                await self._send_segment(fd, offset, length)
        finally:
            self._sending.release()

    async def _enter(self) -> None:
        """Take the send lock; cancellation here leaves the stream whole, since nothing is sent yet.

        The lock comes first: frames leave in the order in which sending them was begun, whoever yields here.
        """
        try:
            self._sending.acquire_nowait()
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            if self._credit < 0:
                self._credit = YIELD_AFTER
                await trio.lowlevel.checkpoint()
            self._check_open()
        except BaseException:
            self._sending.release()
            raise

    async def _send_views(self, views: list[memoryview], flags: int) -> None:
        """Send all of `views`; without waiting if the kernel takes them, else with a deadline for the
        whole.
        """
        total = sum(map(len, views))
        sent = self._try_send(views, flags)
        if sent < total:
            untouched = sent == 0
            deadline = trio.current_time() + self.send_timeout
            while sent < total:
                await self._writable(deadline, untouched=untouched)
                views = _rest(views, sent)
                total -= sent
                sent = self._try_send(views, flags)
                untouched = untouched and sent == 0

    def _try_send(self, views: list[memoryview], flags: int) -> int:
        """How many bytes the kernel took at once, maybe 0."""
        try:
            if len(views) == 1:
                sent = self._socket.send(views[0], flags)
            else:
                sent = self._socket.sendmsg(views if len(views) <= MAX_PIECES else views[:MAX_PIECES], (), flags)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._fail(_lost(error)) from None
        self.bytes_sent += sent
        self._credit -= sent
        return sent

    async def _send_segment(self, fd: int, offset: int, length: int) -> None:
        deadline = trio.current_time() + self.send_timeout
        end = offset + length
        while offset < end:
            try:
                sent = os.sendfile(self._socket.fileno(), fd, offset, min(end - offset, SENDFILE_STEP))
            except BlockingIOError:
                await self._writable(deadline)
                continue
            except OSError as error:
                raise self._sendfile_failed(error) from None
            if sent == 0:
                self.close("the file to be sent was shorter than promised")
                raise PayloadVanished(self._closed)
            offset += sent
            self.bytes_sent += sent
            self._credit -= sent

    def _sendfile_failed(self, error: OSError) -> ChannelClosed:
        if self._closed is not None or error.errno in _SOCKET_ERRORS:
            return self._fail(_lost(error))
        self.close(f"the file to be sent could not be read: {error.strerror}")
        return PayloadVanished(self._closed)

    async def _writable(self, deadline: float, *, untouched: bool = False) -> None:
        """Wait until the socket takes more; `untouched`: nothing of the frame is sent, cancelling is
        harmless.
        """
        try:
            with trio.move_on_at(deadline) as scope:
                await trio.lowlevel.wait_writable(self._socket)
        except trio.ClosedResourceError:
            raise ChannelClosed(self._closed) from None
        except BaseException:
            if not untouched:
                self.close("a send was interrupted in the middle of a frame")
            raise
        if scope.cancelled_caught:
            raise self._fail(f"the peer took no data for {self.send_timeout:g} s")

    # --- receiving
    # --------------------------------------------------------------------------------------------

    async def receive(self) -> Frame:
        """The next frame. Its payload must be taken (`receive_payload`, `skip_payload`) before the next call.

        Raises ChannelClosed where the connection ends, and FrameError (closed, too) where the peer breaks the
        protocol. A cancelled call can be repeated.
        """
        self._check_open()
        if self._payload_left:
            raise RuntimeError("the payload of the frame before was not taken")
        self._credit -= FRAME_COST
        if self._credit < 0:
            await self._yield(whole=True)
        try:
            await self._fill(HEADER_SIZE)
            header = frame.unpack(self._buffer, self._start, self.limits)
            size = HEADER_SIZE + header.metadata_length
            await self._fill(size)
            metadata = self._buffer[self._start + HEADER_SIZE : self._start + size]
            frame.verify(header, metadata)
            message = decode(metadata, handshake=self._handshake)
        except FrameError as error:
            self.close(str(error))
            raise
        except msgspec.DecodeError as error:
            self.close(f"not a message of this protocol: {error}")
            raise FrameError(self._closed) from None
        raw = bytes(metadata) if self._handshake else b""
        self._start += size
        self._shrink()
        self._payload_left = header.payload_length
        self._bulk = header.payload_length >= BULK
        return Frame(header.kind, header.request_id, message, header.payload_length, raw)

    async def answer_in_place(self, answers: InPlace) -> None:
        """Have requests answered by `answers` until one is left for `receive`, or somebody else is sending.

        Raises ChannelClosed. A cancelled call can be repeated, unless it was in the middle of a reply.
        """
        while not self._sending.locked():
            self._check_open()
            ended, rest = self._moved(answers.answer, self._socket.fileno(), self._buffer, self._start, self._end)
            if ended == Ended.WAIT:
                ended, rest = await self._parked(answers)
            if rest is not None:
                await self._send_rest(rest)
            elif ended == Ended.LEFT:
                return
            elif ended == Ended.TURN:
                await self._yield(whole=True)

    def _moved(self, answer: Callable[..., Moved], *arguments: object) -> tuple[int, Rest | None]:
        """Note what `answer` did; how it ended, and what is still to be sent."""
        try:
            ended, self._start, self._end, received, sent, rest = answer(*arguments)
        except OSError as error:
            raise self._fail(_lost(error)) from None
        self.bytes_received += received
        self.bytes_sent += sent
        self._credit -= received + sent
        return ended, rest

    async def _parked(self, answers: InPlace) -> tuple[int, Rest | None]:
        """Wait until there is something that `answers` cannot do by itself."""
        self._shrink()
        if not answers.park(self._socket.fileno(), self._buffer, self._start, self._end):
            await self._readable(whole=True)
            return Ended.WAIT, None
        self._in_place = answers
        try:
            await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)
        except BaseException:
            if self._moved(answers.take_back)[1] is not None:
                self.close("a send was interrupted in the middle of a frame")
            raise
        finally:
            self._in_place = None
        self._credit = YIELD_AFTER
        return self._moved(answers.take_back)

    async def _send_rest(self, rest: Rest) -> None:
        """Send what is left of a frame that was begun."""
        head, data, fd, offset, length, _ = rest
        self._sending.acquire_nowait()
        try:
            if data is not None:
                payload = memoryview(data)[offset : offset + length]
                await self._send_views([memoryview(head), payload] if head else [payload], 0)
            else:
                if head:
                    await self._send_views([memoryview(head)], socket.MSG_MORE)
                await self._send_segment(fd, offset, length)
        except BaseException:
            self.close("a send was interrupted in the middle of a frame")
            raise
        finally:
            self._sending.release()

    async def receive_payload(self, into: memoryview) -> None:
        """Receive the payload of the frame just received into the start of `into`, straight from the socket.

        `into` must be writable, of bytes, and at least as long as the payload. Cancelled, it closes the
        channel.
        """
        self._check_open()
        length = self._payload_left
        if len(into) < length:
            raise ValueError(f"a buffer of {len(into)} bytes for a payload of {length}")
        done = min(length, self._end - self._start)
        into[:done] = self._buffer[self._start : self._start + done]
        self._start += done
        self._diverted = False
        while done < length:
            view = self._scrap(length - done) if self._diverted else into[done:length]
            received = self._try_receive(view)
            done += received
            if not received:
                await self._readable(whole=False)
            elif self._credit < 0:
                await self._yield()
        self._payload_left = 0

    async def skip_payload(self) -> None:
        """Receive the payload of the frame just received into nowhere."""
        self._check_open()
        buffered = min(self._payload_left, self._end - self._start)
        self._start += buffered
        left = self._payload_left - buffered
        while left:
            received = self._try_receive(self._scrap(left))
            left -= received
            if not received:
                await self._readable(whole=False)
            elif self._credit < 0:
                await self._yield()
        self._payload_left = 0

    def divert(self) -> None:
        """The buffer given to the running `receive_payload` must not be written any more: drop the rest."""
        self._diverted = True

    def _scrap(self, length: int) -> memoryview:
        """A place for bytes nobody wants: the receive buffer, which is empty while a payload runs."""
        self._start = self._end = 0
        return self._buffer[: min(length, len(self._buffer))]

    async def _fill(self, size: int) -> None:
        """Have at least `size` bytes in the buffer."""
        if self._start + size > len(self._buffer):
            self._make_room(size)
        while self._end - self._start < size:
            end = len(self._buffer)
            if self._bulk:
                end = min(end, max(self._start + size, self._end + READ_AHEAD))
            self._end += await self._receive_into(self._buffer[self._end : end])

    def _make_room(self, size: int) -> None:
        kept = self._end - self._start
        target = self._buffer
        if size > len(target):
            target = memoryview(bytearray(size))
        target[:kept] = bytes(self._buffer[self._start : self._end])
        self._buffer, self._start, self._end = target, 0, kept

    def _shrink(self) -> None:
        """Begin at the front again where the buffer is empty, and give an extra large one back."""
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._buffer) > self._buffer_size:
                self._buffer = memoryview(bytearray(self._buffer_size))

    async def _receive_into(self, view: memoryview) -> int:
        if self._credit < 0:
            await self._yield(whole=True)
        while True:
            received = self._try_receive(view)
            if received:
                return received
            await self._readable(whole=True)

    def _try_receive(self, view: memoryview) -> int:
        """How many bytes were there at once, maybe 0. Raises ChannelClosed at the end of the stream."""
        self._check_open()
        try:
            received = self._socket.recv_into(view)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._fail(_lost(error)) from None
        if not received:
            raise self._fail("the peer closed the connection")
        self.bytes_received += received
        self._credit -= received
        return received

    async def _readable(self, *, whole: bool) -> None:
        """Wait for data; `whole`: the state survives cancellation, so the channel need not be closed."""
        self._credit = YIELD_AFTER
        try:
            await trio.lowlevel.wait_readable(self._socket)
        except trio.ClosedResourceError:
            raise ChannelClosed(self._closed) from None
        except BaseException:
            if not whole:
                self.close("a receive was interrupted in the middle of a payload")
            raise

    async def _yield(self, *, whole: bool = False) -> None:
        self._credit = YIELD_AFTER
        try:
            await trio.lowlevel.checkpoint()
        except BaseException:
            if not whole:
                self.close("a receive was interrupted in the middle of a payload")
            raise


def plain_socket(sock: trio.socket.SocketType | socket.socket) -> socket.socket:
    """The standard library's non-blocking socket for `sock`, tuned; a trio socket is taken over."""
    if not isinstance(sock, socket.socket):
        sock = socket.socket(fileno=sock.detach())
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        tune(sock)
    return sock


def _buffer_size(limits: Limits) -> int:
    if limits is BEFORE_AUTHENTICATION:
        return SMALL_BUFFER
    return LARGE_BUFFER if limits.payload else MEDIUM_BUFFER


def _rest(views: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of `views` after their first `sent` bytes."""
    for index, view in enumerate(views):
        if sent < len(view):
            return [view[sent:], *views[index + 1 :]]
        sent -= len(view)
    return []


def _lost(error: OSError) -> str:
    return f"the connection was lost: {error.strerror or error}"
