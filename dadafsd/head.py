"""One head: wires exports, store, sessions and sockets together, and lives until SIGTERM."""

from __future__ import annotations

import errno
import gc
import logging
import os
import signal
import time
from contextlib import ExitStack

import trio

from dadafs.errors import ExitCode, UserError
from dadafs.quantity import format_size
from dadafs.report import RecentLog
from dadafs.stack_dump import on_usr1
from dadafs.wire.channel import ChannelClosed
from dadafs.wire.frame import FrameError
from dadafs.wire.server import Doorkeeper, TurnedAway, authenticate
from dadafs.wire.socket_options import unpace
from dadafsd import admin_socket, origin_mount
from dadafsd.admin import Admin
from dadafsd.config import HeadConfig, open_exports
from dadafsd.connections import NodeConnection
from dadafsd.counters import Counters
from dadafsd.exported import Exported, assemble
from dadafsd.hot_reads import HotReads, Memory
from dadafsd.jobs import Jobs
from dadafsd.live import LiveSettings
from dadafsd.notify import Notifier
from dadafsd.open_files import raise_descriptor_limit
from dadafsd.packing import Packing
from dadafsd.service import Service
from dadafsd.sessions import Sessions
from dadafsd.store.record import FragmentKey
from dadafsd.store_access import StoreAccess, hot_records
from dadafsd.tiers import open_store
from dadafsd.who_may_come import authentication, say_who_cannot_come

log = logging.getLogger(__name__)
#: How long a node waits before it reconnects to a head that said goodbye, in seconds.
GOODBYE_RETRY = 1.0
#: A control channel that says nothing for so long is cut.
SILENCE = 120.0
BACKLOG = 1024


class Head:
    """A running head. `run` returns when it has drained."""

    def __init__(self, config: HeadConfig) -> None:
        self.config = config
        self.recent_log = RecentLog()  # for a bug report; whoever sets up logging adds it
        self.auth = authentication(config)
        self.counters = Counters()
        self.sessions = Sessions()
        self.service = Service(self.sessions, self.counters)
        self.hot_reads = HotReads()
        self.memory = Memory(config.settings["memory"], self.hot_reads)
        self.exports: dict[str, Exported] = {}
        self.store: StoreAccess | None = None
        self.packing: Packing | None = None
        self.started_at = time.time()
        self.draining = False
        self.notifier = Notifier()
        self.door = Doorkeeper()
        self._connections: set[NodeConnection] = set()
        self._listeners: list[trio.SocketListener] = []

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises UserError where it cannot start."""
        descriptors = raise_descriptor_limit()
        opened = open_exports(self.config)
        say_who_cannot_come(self.config)
        with ExitStack() as stack:
            store = open_store(self.config, stack)
            async with trio.open_nursery() as nursery:
                if store is not None:
                    limit = self.config.settings["write_queue"]
                    hot = hot_records(descriptors, sum(tier.settings.size for tier in store.tiers))
                    self.store = StoreAccess(
                        store,
                        self.counters,
                        queue_limit=limit,
                        in_memory=self._in_memory,
                        hot_records=hot,
                        hot_reads=self.hot_reads,
                    )
                    descriptors -= hot
                    nursery.start_soon(self.store.run)
                self.packing = Packing(
                    self.counters, lambda: str(self.config.settings["compression"]), self.hot_reads.never_shrinks
                )
                nursery.start_soon(self.packing.run)
                nursery.start_soon(self.hot_reads.run)
                for export, options in opened:
                    self.exports[export.name] = assemble(
                        export,
                        options,
                        self.memory,
                        self.store,
                        self.counters,
                        nursery,
                        descriptors // len(opened),
                        self.hot_reads,
                    )
                await self._listen(nursery)
                live = LiveSettings(self, nursery)
                self._open_admin_socket(nursery, live)
                if self.config.metrics is not None:
                    from dadafsd import metrics  # slow to import; only where it is wanted

                    stack.callback(metrics.start(self, *self.config.metrics))
                nursery.start_soon(self._cut_silent)
                nursery.start_soon(self.notifier.watchdog)
                _collect_rarely()
                await self._signals(live)
                await self._drain()
                nursery.cancel_scope.cancel()

    # --- starting -------------------------------------------------------------------------------------------

    async def _listen(self, nursery: trio.Nursery) -> None:
        host, port = self.config.host, self.config.port
        try:
            self._listeners = await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
            for listener in self._listeners:
                unpace(listener.socket)
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            advice = "another process uses that port" if in_use else error.strerror or str(error)
            raise UserError(f"Cannot listen on {host}:{port}: {advice}.", ExitCode.FAILED) from None
        for listener in self._listeners:
            nursery.start_soon(self._accept, listener, nursery)

    def _open_admin_socket(self, nursery: trio.Nursery, live: LiveSettings) -> None:
        path = self.config.path("admin_socket")
        if path is not None:
            admin = Admin(self, Jobs(nursery), live)
            nursery.start_soon(admin_socket.serve, admin_socket.bind(path), path, admin.answer)

    @property
    def address(self) -> str:
        """HOST:PORT where this head listens, IPv6 in brackets."""
        address = self._listeners[0].socket.getsockname()
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"{host}:{address[1]}"

    @property
    def connections(self) -> int:
        """Authenticated connections."""
        return len(self._connections)

    def stop(self) -> None:
        """Drain and end, as on SIGTERM."""
        os.kill(os.getpid(), signal.SIGTERM)

    def _say_ready(self) -> None:
        for exported in self.exports.values():
            kind = exported.export.remote or "local"
            log.info("export %s: %s (%s)", exported.name, exported.export.directory, kind)
            origin_mount.say(exported)
        if self.store is None:
            log.info("no cache directory: fragments are kept in %s of memory only", format_size(self.memory.limit))
        print(f"ready on {self.address}", flush=True)
        self.notifier.send("READY=1", f"STATUS=Serving {', '.join(sorted(self.exports))} on {self.address}")

    # --- connections ----------------------------------------------------------------------------------------

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    continue  # the connection was gone before it was accepted
                self.counters.events["accept_failed"] += 1
                if self.store is not None:
                    self.store.forget_hot()
                await trio.sleep(0.1)
                continue
            except trio.ClosedResourceError:
                return
            nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            channel, peer = await authenticate(stream.socket, self.auth, door=self.door)
        except TurnedAway:
            return
        packing = self.packing
        assert packing is not None  # made before anybody can come
        connection = NodeConnection(channel, peer, self.service, self.exports, self.config.name, packing)
        self._connections.add(connection)
        try:
            await connection.serve(draining=lambda: self.draining)
        except (ChannelClosed, OSError) as error:
            log.debug("connection of %s ended: %s", peer.node, error)
        except FrameError as error:
            log.info("connection of %s (%s) closed: %s", peer.node, peer.address, error)
        finally:
            self._connections.discard(connection)
            channel.close()

    def turn_out(self, exported: Exported) -> None:
        """Cut the connections of nodes that an export admits no more."""
        for connection in list(self._connections):
            session, peer = connection.session, connection.peer
            if session is not None and session.exported is exported and not exported.admits(peer.address, peer.names):
                log.info("%s is not on the node list of export %s any more", peer.node, exported.name)
                connection.channel.close("not admitted any more")

    async def _cut_silent(self) -> None:
        """Nodes that vanished without a word are found by their silence."""
        while True:
            await trio.sleep(SILENCE / 8)
            limit = trio.current_time() - SILENCE
            for connection in self._connections:
                session = connection.session
                if session is not None and connection.is_control and session.last_seen < limit:
                    connection.channel.close("nothing was heard for too long")

    # --- ending ---------------------------------------------------------------------------------------------

    async def _signals(self, live: LiveSettings) -> None:
        wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        with trio.open_signal_receiver(*wanted) as signals, on_usr1():
            self._say_ready()  # not before: whoever waits for it may send a signal at once
            async for number in signals:
                if number == signal.SIGHUP:
                    self.reload(live)
                else:
                    log.info("%s: draining", signal.Signals(number).name)
                    return

    def reload(self, live: LiveSettings) -> None:
        """SIGHUP: read configuration and keys again, and take the directories that are now at the exports' paths."""
        try:
            self.auth = authentication(self.config)
            fixed = live.adopt(self.config.read_again())
            for exported in self.exports.values():
                exported.export.reopen()
                origin_mount.say(exported)
        except (UserError, OSError) as error:
            log.error("reload failed, going on as before: %s", error)
            return
        if fixed:
            log.warning("reloaded; a restart is needed for %s", ", ".join(fixed))
        else:
            log.info("reloaded")

    def _in_memory(self, key: FragmentKey) -> tuple[bytes, list[int]] | None:
        """Data and checksums of a fragment that is still in memory and may be kept."""
        piece = self.memory.get(key, trio.current_time())
        return (piece.data, piece.checksums) if piece is not None and piece.settled else None

    async def _drain(self) -> None:
        """Say goodbye, finish what is under way, write what is queued; all within `drain` seconds."""
        self.draining = True
        self.notifier.send("STOPPING=1", "STATUS=Draining")
        for listener in self._listeners:
            await listener.aclose()
        with trio.move_on_after(self.config.settings["drain"]):
            async with trio.open_nursery() as nursery:
                for connection in list(self._connections):
                    nursery.start_soon(connection.goodbye, GOODBYE_RETRY)
            while any(connection.working for connection in self._connections):  # noqa: ASYNC110
                await trio.sleep(0.02)
            if self.store is not None:
                await self.store.writes.flush()
        for connection in list(self._connections):
            connection.channel.close("this head stops")


def _collect_rarely() -> None:
    """What was made at the start stays, and a request makes some twenty objects of which hardly one is in a cycle:
    looking through all of them every thirty requests, as Python would, costs more than they weigh.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
