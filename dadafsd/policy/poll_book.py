"""Leases on an origin that cannot be watched: every leased path is looked at again and again and compared.

At most `capacity` paths are kept, so that the origin sees a bounded rate of looks; the ones asked for longest ago make
room, and whoever holds them is told. No I/O here: `dadafsd.poll_watch` looks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dadafs.wire.messages import Attr

Holder = TypeVar("Holder", bound=Hashable)


@dataclass(slots=True)
class Polled(Generic[Holder]):
    """One leased path: who holds it, and what they were last told (where they were told something)."""

    holders: dict[Holder, None] = field(default_factory=dict)
    told: bool = False
    attr: Attr | None = None


class PollBook(Generic[Holder]):
    """All leases of one polled export."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._paths: OrderedDict[bytes, Polled[Holder]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._paths)

    def paths(self) -> list[bytes]:
        """Every leased path."""
        return list(self._paths)

    def lease(self, holder: Holder, path: bytes) -> list[tuple[bytes, list[Holder]]]:
        """`holder` relies on `path` from now on; returns what had to make room: (path, who must be told)."""
        self._paths.setdefault(path, Polled()).holders[holder] = None
        self._paths.move_to_end(path)
        return self.make_room()

    def make_room(self) -> list[tuple[bytes, list[Holder]]]:
        """What is beyond the capacity, which is forgotten: (path, who must be told)."""
        lost = []
        while len(self._paths) > self.capacity:
            path, polled = self._paths.popitem(last=False)
            lost.append((path, list(polled.holders)))
        return lost

    def held(self, holder: Holder, path: bytes) -> bool:
        """Whether `holder` has a lease on `path`."""
        polled = self._paths.get(path)
        return polled is not None and holder in polled.holders

    def saw(self, path: bytes, attr: Attr | None, *, by: Holder | None = None) -> list[Holder]:
        """`path` was found as `attr`, in a reply to `by` or in a round; returns who must be told of a change."""
        polled = self._paths.get(path)
        if polled is None:
            return []
        changed = polled.told and not _same(polled.attr, attr)
        polled.told, polled.attr = True, attr
        return [holder for holder in polled.holders if holder is not by] if changed else []

    def lose(self, path: bytes) -> list[Holder]:
        """Forget `path`; returns who must be told."""
        polled = self._paths.pop(path, None)
        return list(polled.holders) if polled is not None else []

    def give_back(self, holder: Holder, path: bytes) -> None:
        """`holder` no longer relies on `path` and what is below it."""
        for leased in [one for one in self._paths if one == path or one.startswith(path + b"/") or not path]:
            self._paths[leased].holders.pop(holder, None)
            if not self._paths[leased].holders:
                del self._paths[leased]

    def forget(self, holder: Holder) -> None:
        """A session is over."""
        self.give_back(holder, b"")


def _same(one: Attr | None, other: Attr | None) -> bool:
    """Whether nobody needs to be told: everything but the access time is as it was."""
    if one is None or other is None:
        return one is other
    return (one.version, one.mode, one.nlink, one.uid, one.gid) == (
        other.version,
        other.mode,
        other.nlink,
        other.uid,
        other.gid,
    )
