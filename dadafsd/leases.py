"""What the service needs of whatever watches an export: claims before a look, news after it."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dadafs.wire.messages import Attr
from dadafsd.export import Export
from dadafsd.sessions import Session

#: Errors that say: nothing has this path.
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Claim(Protocol):
    """Begun before an object is looked at."""

    def holds(self) -> bool:
        """Whether the reply may say `leased`; asked when it is queued, with nothing in between that yields."""
        ...


class Leases(Protocol):
    """The leases of one export."""

    async def claim(self, session: Session, path: bytes, *, own: bool = False, whole: bool = False) -> Claim | None:
        """Watch over `path` for `session`, before it is looked at; None where that is not possible.

        `own`: also over the object itself (directories, files with several names). `whole`: over all names in it.
        """
        ...

    def claim_at_once(self, session: Session, path: bytes, *, own: bool = False) -> Claim | None:
        """`claim` where no watch has to be placed for it; None where one has to, or this origin is not local."""
        ...

    async def cover(self, paths: Sequence[bytes]) -> bool:
        """Watch these objects themselves, too; False where that is not possible."""
        ...

    def covers(self, path: bytes) -> bool:
        """Whether the object itself is watched."""
        ...

    def answered(self, session: Session, path: bytes, attr: Attr | None) -> None:
        """What a leased reply said, for whoever watches by comparing."""
        ...

    def give_back(self, session: Session, paths: Sequence[bytes]) -> None:
        """The session no longer relies on these."""
        ...

    def forget(self, session: Session) -> None:
        """The session is over."""
        ...

    async def keepalive(self, session: Session, sent_ns: int) -> None:
        """Queue a `Pass` behind everything that is known now."""
        ...

    async def run(self) -> None:
        """Watch; never returns."""
        ...

    def status(self) -> dict[str, object]:
        """Numbers for an admin."""
        ...


@dataclass(frozen=True, slots=True)
class Look:
    """What is at a path: nothing, something, or an error that left it unknown."""

    path: bytes
    attr: Attr | None
    target: bytes | None = None
    unknown: bool = False


def look_again(export: Export, paths: Sequence[bytes]) -> list[Look]:
    """lstat of each path; blocking, for a thread."""
    looks = []
    for path in paths:
        try:
            looks.append(Look(path, *export.lstat(path)))
        except OSError as error:
            looks.append(Look(path, None, unknown=error.errno not in ABSENT))
    return looks
