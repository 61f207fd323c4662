"""The connections of one session: one control channel, some data channels, kept up in the background.

`Links` connects, watches for silence, reconnects with back-off and says so through callbacks. It knows
nothing of what the requests mean: `Session` does. A session is over when its control channel is: then
everything is connected anew.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from dadafs.counters import Counters
from dadafs.data_channel import compiled
from dadafs.errors import ExitCode, UserError
from dadafs.policy.retry import Backoff, Circuit, silence_limit
from dadafs.wire.auth import ClientAuth, Refusal
from dadafs.wire.channel import ChannelClosed
from dadafs.wire.client import ConnectFailed, RequestChannel, Target, connect
from dadafs.wire.frame import Kind
from dadafs.wire.messages import Goodbye, Keepalive, Message, RefusalCode, Welcome

log = logging.getLogger(__name__)

#: A data channel that owes a reply and moves no byte for so long is made anew; a hung origin is not its
#: fault, so it gets more time than the control channel.
DATA_SILENCE = 10.0
FIRST_CONNECT_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where the head is, who we are, and what we want there; times in seconds."""

    host: str
    port: int
    export: str
    node: str
    freshness: float
    lease: float

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}:/{self.export}"

    def target(self, session: int) -> Target:
        """What to attach to: session 0 opens one."""
        return Target(self.export, session, int(self.freshness * 1e9), int(self.lease * 1e9))


@dataclass(slots=True)
class Slot:
    """One data channel, or the place for one."""

    number: int
    channel: RequestChannel | None = None
    outstanding: int = 0  # bytes asked for and not yet here
    seen_bytes: int = 0
    quiet_since: float = math.inf  # since when it owes something and moves nothing


@dataclass(slots=True)
class Events:
    """Where `Links` reports; plain functions that must not raise."""

    up: Callable[[Welcome], None]
    down: Callable[[], None]
    push: Callable[[Message], None]
    report: Callable[[], dict[str, int | float | str]] = field(default=dict)


class Links:
    """Keeps the connections of a session. `generation` counts the sessions this mount has had."""

    def __init__(
        self,
        address: Address,
        auth: Callable[[], ClientAuth],
        circuit: Circuit,
        events: Events,
        counters: Counters,
        *,
        data_channels: int,
        keepalive_interval: float,
    ) -> None:
        self.address = address
        self.control: RequestChannel | None = None
        self.slots = [Slot(number) for number in range(max(1, data_channels))]
        self.generation = 0
        self.stopped = False
        self.trouble = ""  # why there is no control channel, as the last attempt found
        self._auth = auth
        self._circuit = circuit
        self._events = events
        self._counters = counters
        self.set_pace(keepalive_interval)
        self._changed = trio.Event()
        self._scope: trio.CancelScope | None = None
        self._pause = 0.0  # what the head asked for in its Goodbye

    def set_pace(self, keepalive_interval: float) -> None:
        """Send keepalives every so many seconds; what counts as silence follows from that."""
        circuit = self._circuit
        patience = circuit.retry if not circuit.hard else max(circuit.retry, 30.0)
        self._interval = keepalive_interval
        self._silence = silence_limit(keepalive_interval, patience)
        self._data_silence = max(self._silence, min(DATA_SILENCE, patience / 2))

    # --- life
    # ------------------------------------------------------------------------------------------------------

    async def start(self, nursery: trio.Nursery) -> None:
        """Connect, then keep connected in a task of `nursery`. Raises UserError where the first attempt
        fails.
        """
        try:
            control = await self._connect("control", 0, FIRST_CONNECT_TIMEOUT)
        except ConnectFailed as error:
            text = f"No head answers for {self.address}: {error}. Is dadafsd running there, and is the port right?"
            raise UserError(text, ExitCode.UNREACHABLE) from None
        except Refusal as error:
            raise refused(self.address, error) from None
        self._stands(control)
        nursery.start_soon(self._run, control)

    def stop(self) -> None:
        """Close everything; nothing is reconnected any more."""
        self.stopped = True
        if self._scope is not None:
            self._scope.cancel()
        self._close_all("the mount ends")
        self._wake()

    async def changed(self) -> None:
        """Wait until some channel is up or down that was not."""
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _run(self, control: RequestChannel) -> None:
        with trio.CancelScope() as self._scope:
            while not self.stopped:
                reason = await self._serve(control)
                self._fell(reason)
                control = await self._connect_again()
                self._stands(control)

    def _stands(self, control: RequestChannel) -> None:
        self.control = control
        self.generation += 1
        self._pause = 0.0
        self.trouble = ""
        self._counters.connects += 1
        self._circuit.restored()
        self._events.up(control.welcome)
        self._wake()

    def _fell(self, reason: str) -> None:
        self._close_all(reason)
        self._counters.disconnects += 1
        self._circuit.lost(trio.current_time())
        log.warning("lost the head %s: %s; reconnecting", self.address, reason)
        self._events.down()
        self._wake()

    def _close_all(self, reason: str) -> None:
        control, self.control = self.control, None
        if control is not None:
            control.close(reason)
        for slot in self.slots:
            channel, slot.channel = slot.channel, None
            if channel is not None:
                channel.close(reason)

    # --- connecting
    # ------------------------------------------------------------------------------------------------

    async def _connect(self, role: str, session: int, timeout: float) -> RequestChannel:
        return await connect(
            self.address.host,
            self.address.port,
            node=self.address.node,
            role=role,
            auth=self._auth(),
            target=self.address.target(session),
            timeout=timeout,
            on_push=self._pushed if role == "control" else None,
        )

    async def _connect_again(self) -> RequestChannel:
        """Try until a control channel stands; each different reason why it does not is logged once."""
        backoff = Backoff(random.random)
        told = ""
        await trio.sleep(self._pause)
        while True:
            try:
                control = await self._connect("control", 0, max(self._silence, 1.0))
            except (ConnectFailed, Refusal, UserError) as error:
                self._counters.connect_failures += 1
                self.trouble = str(refused(self.address, error) if isinstance(error, Refusal) else error)
                if isinstance(error, Refusal | UserError) and str(error) != told:
                    told = str(error)
                    log.error("cannot reconnect to %s: %s; trying on", self.address, told)
            except Exception:
                self._counters.connect_failures += 1
                log.exception("cannot reconnect to %s; trying on", self.address)
            else:
                log.info("connected to %s again", self.address)
                return control
            await trio.sleep(backoff.next_delay())

    # --- a standing session
    # ----------------------------------------------------------------------------------------

    async def _serve(self, control: RequestChannel) -> str:
        """Run the session until its control channel ends; the reason."""
        reason = ""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_alive, control)
            for slot in self.slots:
                nursery.start_soon(self._keep_slot, slot, control)
            reason = await control.run()
            nursery.cancel_scope.cancel()
        return reason

    def _pushed(self, message: Message) -> None:
        self._counters.pushes += 1
        if isinstance(message, Goodbye):
            self._pause = min(max(message.retry_ns / 1e9, 0.0), 5.0)
            log.info("the head %s is about to stop", self.address)
        else:
            self._events.push(message)

    async def _keep_alive(self, control: RequestChannel) -> None:
        """Send keepalives; close the channels that have gone silent."""
        received, heard_at = -1, trio.current_time()
        while control.closed is None:
            now = trio.current_time()
            if control.channel.bytes_received != received:
                received, heard_at = control.channel.bytes_received, now
            elif now - heard_at > self._silence:
                self._counters.silent_heads += 1
                control.close(f"it has been silent for {now - heard_at:.1f} s")
                return
            keepalive = Keepalive(int(now * 1e9), self._events.report())
            with trio.move_on_after(self._silence):
                try:
                    # No reply comes, but a push: request id 0 stands for no request.
                    await control.channel.send(Kind.REQUEST, 0, keepalive)
                except ChannelClosed:
                    return
            for slot in self.slots:
                self._watch(slot, now)
            await trio.sleep(self._interval)

    def _watch(self, slot: Slot, now: float) -> None:
        """Close a data channel that owes a reply and has not moved a byte for too long."""
        channel = slot.channel
        if channel is None or not channel.pending or channel.received != slot.seen_bytes:
            slot.quiet_since = math.inf
            slot.seen_bytes = channel.received if channel is not None else 0
        elif slot.quiet_since == math.inf:
            slot.quiet_since = now
        elif now - slot.quiet_since > self._data_silence:
            self._counters.silent_heads += 1
            channel.close(f"a data channel has been silent for {now - slot.quiet_since:.1f} s")

    async def _keep_slot(self, slot: Slot, control: RequestChannel) -> None:
        """Keep one data channel of the session up."""
        backoff = Backoff(random.random)
        while control.closed is None:
            try:
                channel = compiled(await self._connect("data", control.welcome.session, max(self._silence, 1.0)))
            except (ConnectFailed, Refusal, UserError):
                self._counters.connect_failures += 1
            except Exception:
                self._counters.connect_failures += 1
                log.exception("cannot open a data channel to %s; trying on", self.address)
            else:
                backoff.succeeded()
                await self._run_slot(slot, channel)
            await trio.sleep(backoff.next_delay())

    async def _run_slot(self, slot: Slot, channel: RequestChannel) -> None:
        slot.channel = channel
        slot.outstanding = 0
        slot.quiet_since = math.inf
        self._wake()
        try:
            reason = await channel.run()
            log.info("a data channel to %s ended: %s", self.address, reason)
        finally:
            channel.close()
            if slot.channel is channel:
                slot.channel = None
            self._wake()


def refused(address: Address, error: Refusal) -> UserError:
    """What a person can do about a head that does not want us."""
    hints = {
        RefusalCode.WRONG_KEY: "give the mount the key file of the head (--key-file)",
        RefusalCode.METHOD: "give the mount a key file (--key-file), the head insists on one",
        RefusalCode.UNKNOWN_EXPORT: "check the name of the export",
        RefusalCode.VERSION: "install the same version of dadafs on node and head",
        RefusalCode.NOT_ALLOWED: "ask the administrator of the head to admit this node",
        RefusalCode.DRAINING: "try again in a moment",
        RefusalCode.BUSY: "try again in a moment",
    }
    codes: dict[str, str] = {str(code): hint for code, hint in hints.items()}
    hint = codes.get(str(error.code), "ask the administrator of the head")
    message = str(error).rstrip(".")
    code = ExitCode.REFUSED
    if error.code in {RefusalCode.DRAINING, RefusalCode.BUSY}:
        code = ExitCode.UNREACHABLE
    return UserError(f"The head refuses {address}: {message}; {hint}.", code)
