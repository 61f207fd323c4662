"""One session with the head: channels, reconnection, retry until a deadline, keepalives and pushes.

    session = Session(options, counters)
    await session.start(nursery)           # raises UserError where a person must act
    ...
    await session.stop()

One control channel carries all metadata, keepalives and pushes in order; reads are spread over the data channels. A
request that loses its connection is sent again on the next one (every request is idempotent) until `retry` seconds
have gone, then it fails with `OSError(EIO)`. All times are trio's clock (`trio.current_time()`), never wall clock.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import trio

from dadafs.counters import Counters
from dadafs.policy.lease import LeaseClock
from dadafs.wire.messages import (
    Attr,
    Blocks,
    Changed,
    Changes,
    Entry,
    Item,
    LeasesLost,
    Opened,
    Read,
    StatfsReply,
    Welcome,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What the head said; a belief made of it is valid while `leases.live(asked_at, generation, leased, now)`.

    `asked_at` is `dadafs.policy.lease.NEVER` where a push about the same path overtook the reply: use the value for
    the call that asked, believe it no longer than that (and do not replace a newer belief with it).
    """

    value: T
    asked_at: float
    generation: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A whole directory, one snapshot."""

    attr: Attr
    items: list[Item]
    leased: bool


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """Where the head is and how patient the node is; times in seconds."""

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


class Session:
    """The node's side of one session. Created once per mount, lives through any number of connections."""

    welcome: Welcome
    generation: int
    leases: LeaseClock

    def __init__(self, options: SessionOptions, counters: Counters) -> None:
        raise NotImplementedError

    async def start(self, nursery: trio.Nursery) -> Welcome:
        """Connect for the first time, then keep the connection in a background task of `nursery`.

        Raises `UserError` (UNREACHABLE, REFUSED, USAGE) where the first connection fails.
        """
        raise NotImplementedError

    async def stop(self) -> None:
        """Close the session; requests still waiting fail with EIO."""
        raise NotImplementedError

    def now(self) -> float:
        """The clock that `asked_at` belongs to."""
        return trio.current_time()

    @property
    def connected(self) -> bool:
        """Whether the control channel stands."""
        raise NotImplementedError

    def on_changes(self, callback: Callable[[Changes | LeasesLost], None]) -> None:
        """Call `callback` (plain function, must not raise) for every push, in order, before later replies are seen."""
        raise NotImplementedError

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        """Call `callback(connected)` when the connection is lost or stands again."""
        raise NotImplementedError

    async def stat(self, path: bytes, *, lease: bool = True) -> Answer[Entry]:
        """What is at `path` (attr None: nothing). Raises OSError."""
        raise NotImplementedError

    async def list_directory(self, path: bytes) -> Answer[Listed]:
        """All of a directory, from one snapshot. Raises OSError (ENOENT, ENOTDIR, EACCES, EIO)."""
        raise NotImplementedError

    async def open(
        self, path: bytes, *, expect: tuple[int, int] | None = None, want_inline: bool = True
    ) -> tuple[Answer[Opened], bytes | None]:
        """Open a regular file; the second value is the whole file where the head sent it (verified)."""
        raise NotImplementedError

    async def release(self, handles: list[int], boot: int) -> None:
        """Give handles back; those of an earlier `boot` of the head are forgotten silently. Never raises OSError."""
        raise NotImplementedError

    async def statfs(self) -> StatfsReply:
        """statvfs of the export."""
        raise NotImplementedError

    async def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """Extended attributes and ACLs of `path`."""
        raise NotImplementedError

    async def resolve(self, handle: int, path: bytes) -> Answer[Entry]:
        """The state now of an open handle (`path` only orders it against pushes)."""
        raise NotImplementedError

    async def read(self, read: Read, sink: memoryview) -> Blocks | Changed:
        """Read blocks into `sink` (decoded, NOT verified)."""
        raise NotImplementedError
