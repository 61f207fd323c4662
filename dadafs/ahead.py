"""How far a program has come in one directory, and what was opened ahead of it there."""

from __future__ import annotations

from dadafs.listing import Listing
from dadafs.node import Directory
from dadafs.policy.ahead import InOrder


class Ahead:
    """What is opened ahead in one directory, by the positions of one listing."""

    __slots__ = ("directory", "ended", "listing", "order", "shown")

    def __init__(self, directory: Directory, listing: Listing, *, shown: bool = False, proven: bool = False) -> None:
        self.directory = directory
        self.listing = listing
        self.shown = shown  # to the kernel
        self.ended = False  # the lead goes beyond the last name: the next directory was thought of
        self.order = InOrder(proven=proven)
