"""Opening the fragment store that the configuration describes."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path

from dadafs.errors import ExitCode, UserError
from dadafs.quantity import format_size
from dadafsd import filesystem
from dadafsd.config import HeadConfig
from dadafsd.store import FragmentStore, TierSettings
from dadafsd.store.settings import KIND_RAM

log = logging.getLogger(__name__)


def open_store(config: HeadConfig, stack: ExitStack) -> FragmentStore | None:
    """The store, closed by `stack`; None without a cache directory. Raises UserError(CACHE) where one is unusable."""
    if not config.tiers:
        return None
    for tier in config.tiers:
        if tier.kind == KIND_RAM:
            _check_memory(tier)
    store = FragmentStore.open(config.tiers)
    stack.callback(store.close)
    return store


def _check_memory(tier: TierSettings) -> None:
    """A RAM tier on a disk would be asked first and answer last. Raises UserError."""
    place = _nearest(tier.directory)
    if filesystem.kind(place) not in (filesystem.TMPFS, filesystem.RAMFS):
        raise UserError(
            f"Tier {tier.name} is of kind ram, but {tier.directory} is not in memory: "
            f"mount a tmpfs there (mount -t tmpfs -o size={tier.size},mode=0700 dadafs {tier.directory}).",
            ExitCode.CACHE,
        )
    found = os.statvfs(place)
    whole = found.f_blocks * found.f_frsize
    if 0 < whole < tier.size:  # 0: without a limit
        log.warning(
            "tier %s may hold %s, but its tmpfs is only %s large: what does not fit passes through",
            tier.name,
            format_size(tier.size),
            format_size(whole),
        )


def _nearest(directory: Path) -> Path:
    """The directory, or that above it which exists: it is made when the tier is opened."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return directory
