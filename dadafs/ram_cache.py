"""The node's byte budget: blocks of files, buffers in flight, prefetch windows and metadata together."""

from __future__ import annotations


class RamCache:
    """One byte budget for everything the node remembers."""

    budget: int

    def __init__(self, budget: int, *, fragment_size: int = 1024 * 1024) -> None:
        raise NotImplementedError

    def charge_metadata(self, delta: int) -> None:
        """The tree remembers `delta` bytes more (or fewer): data gives way to it, up to half of the budget."""
        raise NotImplementedError

    @property
    def metadata_room(self) -> int:
        """Bytes the metadata may still grow by before the tree must forget something."""
        raise NotImplementedError
