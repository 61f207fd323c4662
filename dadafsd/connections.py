"""Connections of nodes: accepted, authenticated, attached to a session, and then served request by request."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress

import trio

from dadafs.journal import fields
from dadafs.wire.channel import Channel, ChannelClosed
from dadafs.wire.frame import FrameError, Kind
from dadafs.wire.in_place import InPlace
from dadafs.wire.messages import (
    BLOCK_SIZE,
    Attach,
    Goodbye,
    Message,
    RefusalCode,
    Refused,
    Welcome,
)
from dadafs.wire.server import Peer, refuse
from dadafsd.exported import Exported
from dadafsd.packing import Packing
from dadafsd.policy.packing import Link
from dadafsd.replies import Reply
from dadafsd.service import Service
from dadafsd.sessions import Session

log = logging.getLogger(__name__)
#: Requests of one connection that are worked on at a time; more wait in the socket.
CONTROL_REQUESTS = 64
DATA_REQUESTS = 8
ATTACH_SECONDS = 10.0
#: Bounds of what a node may ask for, in seconds.
FRESHNESS = (0.05, 3600.0)


class NodeConnection:
    """One authenticated connection."""

    def __init__(
        self,
        channel: Channel,
        peer: Peer,
        service: Service,
        exports: dict[str, Exported],
        head: str,
        packing: Packing,
    ) -> None:
        self.channel = channel
        self.peer = peer
        self._service = service
        self._exports = exports
        self._head = head
        self._packing = packing
        self._link = Link()
        self._slots = trio.CapacityLimiter(1)
        self.working = 0
        self.session: Session | None = None
        self.is_control = peer.role == "control"

    async def serve(self, *, draining: Callable[[], bool]) -> None:
        """Attach, then answer until the connection ends."""
        with trio.move_on_after(ATTACH_SECONDS) as waiting:
            session = await self._attach(draining())
        if waiting.cancelled_caught or session is None:
            return
        self.session = session
        self._slots = trio.CapacityLimiter(CONTROL_REQUESTS if self.is_control else DATA_REQUESTS)
        if session.closed:
            return
        if not self.is_control:
            session.data_channels.add(self.channel)
        try:
            await self._answer_all(session)
        finally:
            session.data_channels.discard(self.channel)
            if self.is_control:
                self._service.close_session(session)
                log.info(
                    "session of %s on %s is over",
                    session.node,
                    session.exported.name,
                    extra=fields(node=session.node, export=session.exported.name),
                )

    # --- attaching ------------------------------------------------------------------------------------------

    async def _attach(self, draining: bool) -> Session | None:
        frame = await self.channel.receive()
        if frame.kind is not Kind.HANDSHAKE or not isinstance(frame.message, Attach) or frame.payload_length:
            raise FrameError("expected Attach")
        attach = frame.message
        refusal = self._refusal(attach, draining)
        if refusal is not None:
            await refuse(self.channel, refusal.code, refusal.message)
            log.info("refused %s: %s", self.channel.peer, refusal.message)
            return None
        exported = self._exports[attach.export]
        root = await exported.root()
        session = self._open_session(attach, exported) if attach.session == 0 else self._session(attach)
        if session is None:
            return None
        welcome = Welcome(
            session.id,
            self._service.sessions.boot,
            exported.options.fragment_size,
            BLOCK_SIZE,
            root,
            self._head,
            list(exported.options.append_patterns),
            freshness_ns=_granted_ns(exported, attach),
            identities=exported.options.identities,
            acls=exported.acls,
        )
        try:
            await self.channel.send(Kind.HANDSHAKE, 0, welcome)
        except BaseException:
            if self.is_control:  # nobody will ever end a session that was never served
                self._service.close_session(session)
            raise
        return session

    def _refusal(self, attach: Attach, draining: bool) -> Refused | None:
        """Why this node may not attach; None where it may."""
        if draining:
            return Refused(RefusalCode.DRAINING, "this head is about to stop")
        exported = self._exports.get(attach.export)
        if exported is None:
            names = ", ".join(sorted(self._exports))
            return Refused(RefusalCode.UNKNOWN_EXPORT, f"no export {attach.export!r} here; there are: {names}")
        if not exported.admits(self.peer.address, self.peer.names):
            message = (
                f"{' '.join([self.peer.address, *self.peer.names])} is not on the node list of export {attach.export}"
            )
            return Refused(RefusalCode.NOT_ALLOWED, message)
        if self.is_control != (attach.session == 0):
            return Refused(RefusalCode.UNKNOWN_SESSION, "a control channel opens a session, a data channel joins one")
        if attach.session and self._session(attach) is None:
            return Refused(RefusalCode.UNKNOWN_SESSION, "this session is over")
        return None

    def _session(self, attach: Attach) -> Session | None:
        """The session to join: of the same node, key and export."""
        session = self._service.sessions.get(attach.session)
        if session is None or session.exported.name != attach.export:
            return None
        same = (session.node, session.key_id) == (self.peer.node, self.peer.key_id)
        return session if same else None

    def _open_session(self, attach: Attach, exported: Exported) -> Session:
        session = Session(
            self._service.sessions.new_id(),
            self.peer.node,
            self.peer.key_id,
            exported,
            _within(exported.freshness(attach.freshness_ns / 1e9), FRESHNESS),
            _within(attach.lease_ns / 1e9, FRESHNESS),
            peer=self.channel.peer,
            opened_at=trio.current_time(),
            last_seen=trio.current_time(),
        )
        self._service.open_session(session)
        about = fields(node=session.node, peer=str(session.peer), export=exported.name)
        log.info("session of %s (%s) on %s", session.node, session.peer, exported.name, extra=about)
        return session

    # --- serving --------------------------------------------------------------------------------------------

    async def _answer_all(self, session: Session) -> None:
        """Answer requests; raises what ended the connection (ChannelClosed, FrameError)."""
        async with trio.open_nursery() as nursery:
            if self.is_control:
                nursery.start_soon(session.outbox.empty_into, self._push)
            try:
                await self._receive_all(session, nursery)
            except (ChannelClosed, FrameError) as error:
                ended = error
            nursery.cancel_scope.cancel()
        raise ended

    async def _receive_all(self, session: Session, nursery: trio.Nursery) -> None:
        receive, at_hand = self.channel.receive, self._service.at_hand
        answer = self._hot_answers(session)
        while True:
            if answer is not None:
                await self.channel.answer_in_place(answer)
            frame = await receive()
            if frame.kind is not Kind.REQUEST or frame.payload_length:
                self.channel.close("a node sends requests only")
                raise FrameError("a node sends requests only")
            session.last_seen = trio.current_time()
            reply = at_hand(session, frame.message)
            if reply is not None and not self._packing.pays(reply, self.channel, self._link):
                await self._send(frame.request_id, reply)
                continue
            holder = object()
            try:
                self._slots.acquire_on_behalf_of_nowait(holder)
            except trio.WouldBlock:
                await self._slots.acquire_on_behalf_of(holder)
            nursery.start_soon(self._answer, session, frame.request_id, frame.message, holder, reply)

    def _hot_answers(self, session: Session) -> InPlace | None:
        """What answers hot reads before they are received here; None where nothing does."""
        channel, fragments = self.channel, session.exported.fragments
        if self.is_control or not channel.plain:
            return None
        return fragments.hot_reads.answers(
            session,
            fragments.fragment_size,
            goes_raw=lambda size: self._packing.never_pays(size, channel, self._link),
            alone=lambda: not self._slots.borrowed_tokens,
        )

    async def _answer(
        self, session: Session, request_id: int, request: Message, holder: object, reply: Reply | None
    ) -> None:
        """Answer a request that takes waiting: for `reply`, or, where that is at hand, for its packing."""
        self.working += 1
        try:
            pays = reply is not None
            if reply is None:
                reply = await self._service.answer(session, request)
                pays = reply is not None and self._packing.pays(reply, self.channel, self._link)
            if reply is not None:
                await self._send(request_id, await self._packing.pack(reply) if pays else reply)
        except ChannelClosed:
            pass  # the receiving side ends the connection
        finally:
            self.working -= 1
            self._slots.release_on_behalf_of(holder)

    async def _send(self, request_id: int, reply: Reply) -> None:
        """Send a reply. The channel sends in the order in which it was asked to, and nothing yields between a lease's
        last check and here.
        """
        if reply.parts:
            segments = [(part.offset, part.length) for part in reply.parts]
            fd = reply.parts[0].record.fd
            await self.channel.send_file(Kind.REPLY, request_id, reply.message, fd, segments)
        else:
            await self.channel.send(Kind.REPLY, request_id, reply.message, reply.buffers)

    async def _push(self, message: Message) -> None:
        with suppress(ChannelClosed):
            await self.channel.send(Kind.PUSH, 0, message)

    async def goodbye(self, retry: float) -> None:
        """Tell the node that this head stops."""
        if self.is_control:
            await self._push(Goodbye(int(retry * 1e9)))


def _granted_ns(exported: Exported, attach: Attach) -> int:
    """The freshness that the export allows, in ns; 0 where that is what the node asked for."""
    granted = exported.freshness(attach.freshness_ns / 1e9)
    return int(granted * 1e9) if granted != attach.freshness_ns / 1e9 else 0


def _within(value: float, bounds: tuple[float, float]) -> float:
    return bounds[0] if not math.isfinite(value) else min(max(value, bounds[0]), bounds[1])
