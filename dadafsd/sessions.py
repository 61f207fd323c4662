"""Sessions: one a mount, opened by its control channel and over when that is gone; its handles and listings."""

from __future__ import annotations

import errno
import math
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dadafs.wire.channel import Channel
from dadafs.wire.messages import LISTING_PAGE, Attr, Item, OriginTrouble, Pass
from dadafsd.open_files import OpenFile
from dadafsd.outbox import Outbox
from dadafsd.sites import Failure, Site

if TYPE_CHECKING:
    from dadafsd.exported import Exported
    from dadafsd.leases import Claim

#: Handles one session may hold.
MAX_HANDLES = 65536
#: Directory snapshots one session may be paging through at a time.
MAX_LISTINGS = 8


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A directory as it was when its first page was asked for."""

    attr: Attr
    items: list[Item]
    claim: Claim | None = None

    @property
    def leased(self) -> bool:
        """Whether a page may say so now."""
        return self.claim is not None and self.claim.holds()

    def page(self, number: int) -> tuple[list[Item], bool]:
        """The items of one page, and whether more follow."""
        start = number * LISTING_PAGE
        return self.items[start : start + LISTING_PAGE], start + LISTING_PAGE < len(self.items)


@dataclass(eq=False)
class Session:
    """One mount's session with this head."""

    id: int
    node: str
    key_id: str
    exported: Exported
    freshness: float
    lease: float
    peer: str = ""
    opened_at: float = 0.0
    last_seen: float = 0.0
    outbox: Outbox = field(default_factory=Outbox)
    report: dict[str, int | float | str] = field(default_factory=dict)
    handles: dict[int, OpenFile] = field(default_factory=dict)
    closed: bool = False
    data_channels: set[Channel] = field(default_factory=set)
    origin_looked_at: float = -math.inf  # when it was last seen how the origin is mounted (monotonic seconds)
    origin: list[OriginTrouble] | None = None  # what was wrong with that
    _untold: list[OriginTrouble] | None = None  # the same, where the node does not know it yet
    _listings: OrderedDict[int, Snapshot] = field(default_factory=OrderedDict)
    _next_listing: int = 0

    def tell_of_origin(self, found: list[OriginTrouble]) -> None:
        """This is wrong with the mount of the origin; the next pass says so, where it is news."""
        if found != self.origin:
            self.origin = self._untold = found

    def passed(self, sent_ns: int) -> Pass:
        """What answers a keepalive."""
        untold, self._untold = self._untold, None
        return Pass(sent_ns, time.time_ns(), untold)

    def file(self, handle: int) -> OpenFile:
        """The open file of `handle`; `Failure(ESTALE)` where there is none (the node opens it again)."""
        try:
            return self.handles[handle]
        except KeyError:
            raise Failure(errno.ESTALE, Site.HANDLE_UNKNOWN) from None

    def release(self, handles: list[int]) -> None:
        """The node uses these no more; unknown ones are ignored (they died with an earlier session)."""
        for handle in handles:
            file = self.handles.pop(handle, None)
            if file is not None:
                self.exported.files.detach(file)

    def keep_listing(self, snapshot: Snapshot) -> int:
        """Number a snapshot that has more pages; the oldest kept one goes when there are too many."""
        self._next_listing += 1
        self._listings[self._next_listing] = snapshot
        if len(self._listings) > MAX_LISTINGS:
            self._listings.popitem(last=False)
        return self._next_listing

    def listing_page(self, listing: int, page: int) -> tuple[Snapshot, list[Item], bool]:
        """A later page; the snapshot is forgotten with its last one. `Failure(ESTALE)` where it is gone."""
        snapshot = self._listings.get(listing)
        if snapshot is None or page <= 0:
            raise Failure(errno.ESTALE, Site.LISTING_EXPIRED)
        items, more = snapshot.page(page)
        if not more:
            del self._listings[listing]
        return snapshot, items, more

    def close(self) -> None:
        """Give everything back, and cut the data channels: nothing can be opened for a session that is over."""
        self.closed = True
        for channel in list(self.data_channels):
            channel.close("its session is over")
        self.release(list(self.handles))
        self._listings.clear()


class Sessions:
    """All sessions of the head, by id."""

    def __init__(self) -> None:
        self.boot = secrets.randbits(62) | 1
        self._sessions: dict[int, Session] = {}
        self._next_handle = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def all(self) -> list[Session]:
        """Every open session."""
        return list(self._sessions.values())

    def get(self, session_id: int) -> Session | None:
        """The session of that id."""
        return self._sessions.get(session_id)

    def add(self, session: Session) -> None:
        """A control channel opened `session`."""
        self._sessions[session.id] = session

    def remove(self, session: Session) -> None:
        """Its control channel is gone."""
        self._sessions.pop(session.id, None)
        session.close()

    def new_id(self) -> int:
        """An id that nobody can guess."""
        return secrets.randbits(62) | 1

    def new_handle(self, session: Session, file: OpenFile) -> int:
        """A handle on `file` for `session`. `Failure(EMFILE)` where it holds too many.

        Handles of two starts of the head never coincide.
        """
        if session.closed:
            session.exported.files.detach(file)
            raise Failure(errno.ESTALE, Site.HANDLE_UNKNOWN, "the session is over")
        if len(session.handles) >= MAX_HANDLES:
            session.exported.files.detach(file)
            raise Failure(errno.EMFILE, Site.REQUEST_INVALID, f"more than {MAX_HANDLES} open files")
        self._next_handle += 1
        handle = (self.boot & 0x7FFFFFFF) << 32 | (self._next_handle & 0xFFFFFFFF)
        session.handles[handle] = file
        return handle
