"""Opening the fragment store that the configuration describes."""

from __future__ import annotations

from contextlib import ExitStack

from dadafsd.config import HeadConfig
from dadafsd.store import FragmentStore


def open_store(config: HeadConfig, stack: ExitStack) -> FragmentStore | None:
    """The store, closed by `stack`; None without a cache directory. Raises UserError(CACHE) where one is unusable."""
    if not config.tiers:
        return None
    store = FragmentStore.open(config.tiers)
    stack.callback(store.close)
    return store
