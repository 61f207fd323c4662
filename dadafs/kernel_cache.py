"""What the kernel is told, and how it is made to forget: the words between operations and the FUSE binding."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from dadafs.listing import Fields, Page

#: Share of `freshness` that the kernel's timeouts stay below it: clocks tick, replies travel.
_MARGIN = 0.1


class Told(NamedTuple):
    """What the kernel is told about an object: its id (0: nothing is there), attributes, and for how long."""

    id: int
    fields: Fields | None
    timeout: float


class KernelCache(Protocol):
    """The kernel's caches of this mount, as `dadafs.fuse_adapter` reaches them. Unknown ids are no error.

    `askers`: the threads of ours that are in `size_of`, `look` and `list`, by the id that the kernel names in requests.
    """

    askers: set[int]

    def entry(self, parent: int, name: bytes) -> None:
        """Forget what is at `name`, soon."""

    def attributes(self, node_id: int) -> None:
        """Forget the attributes of `node_id`, soon."""

    def pages(self, node_id: int) -> None:
        """Forget the attributes and the cached pages of `node_id`, soon."""

    async def attributes_now(self, node_id: int) -> None:
        """Return when the attributes of `node_id` are forgotten."""

    async def pages_now(self, node_id: int) -> None:
        """Return when the attributes and pages of `node_id` are forgotten."""

    async def size_of(self, path: bytes) -> int | None:
        """The size that the kernel has in mind for the file at `path`; None where it does not say."""

    async def list(self, path: bytes) -> None:
        """Make the kernel list the directory at `path`: it then knows the names and need not ask for each."""

    async def look(self, path: bytes) -> None:
        """Make the kernel ask for the attributes of the file at `path`; return when it is through with the reply."""

    def start(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run `task` in the background; it ends with the mount."""


#: Called as pack(page, first, stop, cookie of the second, timeout, timeout of what no lease covers); how many went in.
Pack = Callable[[Page, int, int, int, float, float], int]
#: Called as emit(name, told, cookie of the next entry); False when the reply is full.
Emit = Callable[[bytes, Told, int], bool]


def timeout(until: float, now: float, freshness: float) -> float:
    """Seconds for which the kernel may believe what is valid until `until`."""
    return max(0.0, until - now - freshness * _MARGIN)
