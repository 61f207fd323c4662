"""One session with the head: what to ask it, with retry until a deadline; pushes and the leases they bear on.

    session = Session(options, counters)
    await session.start(nursery)           # raises UserError where a person must act
    ...
    await session.stop()

One control channel carries all metadata, keepalives and pushes in order; reads are spread over the data
channels. A request that loses its connection is sent again on the next one (every request is idempotent)
until `retry` seconds have gone, then it fails with `OSError(EIO)`. All times are trio's clock
(`trio.current_time()`), never wall clock.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import trio

from dadafs.block_reads import BlockReads
from dadafs.checksum import checksum
from dadafs.counters import Counters
from dadafs.head_errors import SessionLost, failed, nonsense
from dadafs.identities import Mapping
from dadafs.links import Address, Events, Links
from dadafs.policy.lease import NEVER, LeaseClock
from dadafs.policy.overtaken import Overtaken
from dadafs.policy.retry import Circuit
from dadafs.wire.auth import ClientAuth
from dadafs.wire.channel import ChannelClosed
from dadafs.wire.client import RequestChannel
from dadafs.wire.keys import load_key_file
from dadafs.wire.messages import (
    AHEAD_BYTES,
    INLINE_LIMIT,
    Attr,
    Changes,
    Entry,
    Failed,
    Item,
    LeasesLost,
    List,
    Listing,
    Message,
    Open,
    OpenAhead,
    Opened,
    OpenedAhead,
    OriginTrouble,
    Pass,
    Release,
    Resolve,
    Stat,
    Statfs,
    StatfsReply,
    Welcome,
    Xattrs,
    XattrsReply,
)
from dadafs.wire.tls import TlsFiles, client_context

T = TypeVar("T")
M = TypeVar("M", bound=Message)
#: A listing that expires while its pages are fetched is begun again so many times.
LISTING_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What the head said; believe it while `leases.live(asked_at, generation, leased, now)`.

    `asked_at` is `dadafs.policy.lease.NEVER` where a push about the same path overtook the reply: use the
    value for the call that asked, believe it no longer than that (and do not replace a newer belief with it).
    """

    value: T
    asked_at: float
    generation: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A whole directory, one snapshot; `items` stay empty where the pages were handed over as they came."""

    attr: Attr
    items: list[Item]
    leased: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """What was opened ahead: for each name an `Opened` or None, and what came of the contents, one after the other.

    Believe it as an `Answer`, but those in `overtaken`: a push about them is newer than the reply.
    """

    files: Sequence[Opened | None]
    content: memoryview
    asked_at: float
    generation: int
    overtaken: AbstractSet[bytes]


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """Where the head is and how patient the node is; times in seconds.

    `auth` is how to authenticate; without it, with the certificates of `tls`, or the keys in `key_file`, or not
    at all. These files are read again for every connection, so that they can be renewed under a living mount.
    """

    host: str
    port: int
    export: str
    key_file: Path | None = None
    node: str = field(default_factory=socket.gethostname)
    freshness: float = 1.0
    lease: float = 30.0
    retry: float = 30.0
    hard: bool = False
    stale_if_offline: bool = False
    data_channels: int = 3
    auth: ClientAuth | None = None
    tls: TlsFiles | None = None


class Session:
    """The node's side of one session. Created once per mount, lives through any number of connections."""

    def __init__(self, options: SessionOptions, counters: Counters) -> None:
        self.options = options
        self.counters = counters
        self.leases = LeaseClock(options.freshness, stale_if_offline=options.stale_if_offline)
        self.circuit = Circuit(options.retry, hard=options.hard)
        address = Address(options.host, options.port, options.export, options.node, options.freshness, options.lease)
        self._links = Links(
            address,
            self._credentials,
            self.circuit,
            Events(self._up, self._down, self._pushed, lambda: counters.report() | self.report_more()),
            counters,
            data_channels=options.data_channels,
            keepalive_interval=self.leases.keepalive_interval(),
        )
        self.blocks = BlockReads(self, self._links, counters)
        self.clock_ahead: float | None = None  # of the head's, in s, when it last said; the way here is counted in
        self.clock_told = trio.Event()
        self.origin: list[OriginTrouble] = []  # what the head says to be wrong with the mount of its origin
        self._overtaken = Overtaken()
        self._welcome: Welcome | None = None
        self.mapping: Mapping | None = None  # of users and groups; None: they are what they are
        self.report_more: Callable[[], dict[str, int | float | str]] = dict  # what the head is told beside counters
        self._on_changes: list[Callable[[Changes | LeasesLost], None]] = []
        self._on_connection: list[Callable[[bool], None]] = []

    # --- life
    # ------------------------------------------------------------------------------------------------------

    async def start(self, nursery: trio.Nursery) -> Welcome:
        """Connect for the first time, then keep the connection in a background task of `nursery`.

        Raises `UserError` (UNREACHABLE, REFUSED, USAGE) where the first connection fails.
        """
        await self._links.start(nursery)
        return self.welcome

    async def stop(self) -> None:
        """Close the session; requests still waiting fail with EIO."""
        self._links.stop()
        await trio.lowlevel.checkpoint()

    @property
    def welcome(self) -> Welcome:
        """What the head said when the present session, or the last one, began."""
        if self._welcome is None:
            raise RuntimeError("the session was never started")
        return self._welcome

    @property
    def generation(self) -> int:
        """Grows with each new session; handles and leases of earlier ones are void."""
        return self._links.generation

    def now(self) -> float:
        """The clock that `asked_at` belongs to."""
        return trio.current_time()

    @property
    def connected(self) -> bool:
        """Whether the control channel stands."""
        return self._links.control is not None

    @property
    def trouble(self) -> str:
        """Why there is no session, as the last attempt to open one found; empty while there is one."""
        return self._links.trouble

    def deadline(self) -> float:
        """When a request that begins now gives up."""
        return self.circuit.deadline(trio.current_time())

    def on_changes(self, callback: Callable[[Changes | LeasesLost], None], *, first: bool = False) -> None:
        """Call `callback` (plain function, must not raise) for every push, in order, before later replies are
        seen; with `first` before those that are there already.
        """
        self._on_changes.insert(0 if first else len(self._on_changes), callback)

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        """Call `callback(connected)` when the connection is lost or stands again."""
        self._on_connection.append(callback)

    def _credentials(self) -> ClientAuth:
        if self.options.auth is not None:
            return self.options.auth
        if self.options.tls is not None:
            return ClientAuth(tls=client_context(*self.options.tls))
        if self.options.key_file is not None:
            return ClientAuth(keys=load_key_file(self.options.key_file))
        return ClientAuth()

    # --- what Links reports
    # ----------------------------------------------------------------------------------------

    def _up(self, welcome: Welcome) -> None:
        self._welcome = welcome
        self.mapping = None if welcome.identities is None else Mapping(welcome.identities)
        self.leases.freshness = welcome.freshness_ns / 1e9 or self.options.freshness
        self._links.set_pace(self.leases.keepalive_interval())
        self.leases.connected_again(self._links.generation)
        self._overtaken.everything()
        for callback in self._on_connection:
            callback(True)

    def _down(self) -> None:
        self.leases.disconnected()
        for callback in self._on_connection:
            callback(False)

    def _pushed(self, message: Message) -> None:
        if isinstance(message, Pass):
            self.leases.passed(message.sent_ns / 1e9)
            if message.origin is not None:
                self.origin = message.origin
            if message.wall_ns:
                self.clock_ahead = (time.time_ns() - message.wall_ns) / 1e9
                self.clock_told.set()
            return
        if isinstance(message, Changes):
            for change in message.changes:
                self._overtaken.pushed(change.path, subtree=change.subtree)
        elif isinstance(message, LeasesLost):
            self.counters.leases_lost += len(message.paths)
            for path in message.paths:
                self._overtaken.pushed(path, subtree=True)
        else:
            return
        for callback in self._on_changes:
            callback(message)

    # --- requests on the control channel
    # ---------------------------------------------------------------------------

    async def stat(self, path: bytes, *, lease: bool = True, deadline: float | None = None) -> Answer[Entry]:
        """What is at `path` (attr None: nothing). Raises OSError."""
        return await self._ask(Stat(path, lease), Entry, path, deadline=deadline)

    async def list_directory(
        self, path: bytes, take: Callable[[int, Sequence[Item]], None] | None = None
    ) -> Answer[Listed]:
        """All of a directory, from one snapshot. Raises OSError (ENOENT, ENOTDIR, EACCES, EIO).

        With `take`, each page is handed to it as `take(page number, items)` when it arrives, and the answer
        has no items; page 0 again means that the snapshot had expired: begin anew.
        """
        items: list[Item] = []

        def keep(page: int, page_items: Sequence[Item]) -> None:
            if page == 0:
                items.clear()
            items.extend(page_items)

        deadline = self.deadline()
        for attempt in range(LISTING_ATTEMPTS):
            try:
                return await self._list_once(path, take or keep, items, deadline)
            except (OSError, SessionLost) as error:
                expired = isinstance(error, SessionLost) or error.errno == errno.ESTALE
                if not expired or attempt == LISTING_ATTEMPTS - 1:
                    raise
        raise self.no_answer(path)

    async def _list_once(
        self, path: bytes, take: Callable[[int, Sequence[Item]], None], items: list[Item], deadline: float
    ) -> Answer[Listed]:
        first = await self._ask(List(path), Listing, path, children=True, deadline=deadline)
        page, listing = 0, first.value
        take(page, listing.items)
        mark = self._overtaken.mark()
        while listing.more:
            page += 1
            request = List(path, listing.listing, page)
            reply, _, generation = await self._call(request, path, deadline=deadline)
            if generation != first.generation or not isinstance(reply, Listing):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), os.fsdecode(path))
            listing = reply
            take(page, listing.items)
        overtaken = self._overtaken.since(mark, path, children=True)
        asked_at = NEVER if overtaken else first.asked_at
        return Answer(Listed(first.value.attr, items, first.value.leased), asked_at, first.generation)

    async def open(
        self,
        path: bytes,
        *,
        expect: tuple[int, int] | None = None,
        want_inline: bool = True,
        deadline: float | None = None,
    ) -> tuple[Answer[Opened], bytes | None]:
        """Open a regular file; the second value is the whole file where the head sent it (verified)."""
        content = bytearray()

        def sink(_: Message, length: int) -> memoryview | None:
            nonlocal content
            content = bytearray(length) if length <= INLINE_LIMIT else bytearray()
            return memoryview(content) if length <= INLINE_LIMIT else None

        answer = await self._ask(Open(path, expect, want_inline), Opened, path, sink=sink, deadline=deadline)
        return answer, self.whole(answer.value, content)

    async def open_ahead(self, directory: bytes, names: list[bytes], limit: int) -> Batch:
        """Open small files of `directory`, of `limit` bytes in all. Raises OSError.

        What came of the content is for `whole`, which looks whether it is all and intact.
        """
        content = memoryview(b"")

        def sink(_: Message, length: int) -> memoryview | None:
            nonlocal content
            content = memoryview(bytearray(length if length <= AHEAD_BYTES else 0))
            return content if length <= AHEAD_BYTES else None

        mark = self._overtaken.mark()
        request = OpenAhead(directory, names, min(limit, AHEAD_BYTES))
        reply, asked_at, generation = await self._call(request, directory, sink=sink)
        if not isinstance(reply, OpenedAhead) or len(reply.files) > len(names):
            raise nonsense(reply, directory)
        prefix = directory + b"/" if directory else b""
        pushed = self._overtaken.mark() != mark
        overtaken = {name for name in names if pushed and self._overtaken.since(mark, prefix + name)}
        return Batch(reply.files, content, asked_at, generation, overtaken)

    def whole(self, opened: Opened, content: memoryview | bytearray | bytes) -> bytes | None:
        """The content of a small file that came with its open; None where it did not, or is damaged."""
        if not opened.inline or len(content) != opened.attr.size:
            return None
        if len(content) and checksum(content) != opened.checksum:
            self.counters.checksum_errors += 1
            return None  # it is read again, block by block
        return bytes(content)

    async def release(self, handles: list[int]) -> None:
        """Give handles of the present session back. What fails is dropped: they die with the session."""
        control = self._links.control
        if control is None:
            return
        try:
            await control.call(Release(handles))
        except ChannelClosed:
            return

    async def statfs(self) -> StatfsReply:
        """statvfs of the export. Raises OSError."""
        return (await self._ask(Statfs(), StatfsReply, b"")).value

    async def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """Extended attributes and ACLs of `path`. Raises OSError."""
        return (await self._ask(Xattrs(path), XattrsReply, path)).value.values

    async def child_xattrs(self, path: bytes) -> dict[bytes, dict[bytes, bytes]]:
        """The same of everything in the directory `path`, by name; what has none is left out. Raises OSError."""
        return (await self._ask(Xattrs(path, children=True), XattrsReply, path)).value.children

    async def resolve(self, handle: int, path: bytes, *, deadline: float | None = None) -> Answer[Entry]:
        """The state now of an open handle (`path` only orders it against pushes). Raises OSError.

        A handle of an earlier session is answered with ESTALE.
        """
        return await self._ask(Resolve(handle), Entry, path, deadline=deadline)

    async def _ask(
        self,
        request: Message,
        kind: type[M],
        path: bytes,
        *,
        children: bool = False,
        sink: Callable[[Message, int], memoryview | None] | None = None,
        deadline: float | None = None,
    ) -> Answer[M]:
        """The reply to `request`, which must be of type `kind`, as an `Answer`."""
        mark = self._overtaken.mark()
        reply, asked_at, generation = await self._call(request, path, sink=sink, deadline=deadline)
        if not isinstance(reply, kind):
            raise nonsense(reply, path)
        if self._overtaken.since(mark, path, children=children):
            asked_at = NEVER
        return Answer(reply, asked_at, generation)

    async def _call(
        self,
        request: Message,
        path: bytes,
        *,
        sink: Callable[[Message, int], memoryview | None] | None = None,
        deadline: float | None = None,
    ) -> tuple[Message, float, int]:
        """Send `request` until it is answered; the reply, when it was asked, and in which session."""
        self.counters.requests += 1
        deadline = self.deadline() if deadline is None else deadline
        with trio.move_on_at(deadline):
            while True:
                control = await self._control()
                asked_at, generation = trio.current_time(), self._links.generation
                try:
                    reply = await control.call(request, sink=sink)
                except ChannelClosed:
                    self.counters.retried_requests += 1
                    if control is self._links.control:
                        await self._links.changed()
                    continue
                if isinstance(reply, Failed):
                    raise failed(reply, path)
                return reply, asked_at, generation
        raise self.no_answer(path)

    async def _control(self) -> RequestChannel:
        while True:
            if self._links.stopped:
                raise OSError(errno.EIO, "the mount is ending")
            if self._links.control is not None:
                return self._links.control
            await self._links.changed()

    # --- errors
    # ----------------------------------------------------------------------------------------------------

    def no_answer(self, path: bytes) -> OSError:
        """The head does not answer, or is not there: what to tell."""
        self.counters.failed_requests += 1
        trouble = f": {self._links.trouble}" if self._links.trouble else ""
        why = "does not answer" if self.connected else f"is not reachable{trouble}"
        return OSError(errno.EIO, f"the head {self._links.address} {why}", os.fsdecode(path))
