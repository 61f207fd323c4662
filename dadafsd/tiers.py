"""Opening the fragment store that the configuration describes."""

from __future__ import annotations

from contextlib import ExitStack

from dadafsd.config import HeadConfig
from dadafsd.store import FragmentStore, TierSettings


def open_store(config: HeadConfig, stack: ExitStack) -> FragmentStore | None:
    """The store, closed by `stack`; None without a cache directory. Raises UserError(CACHE) where it is unusable."""
    if config.cache_dir is None:
        return None
    settings = TierSettings(config.cache_dir, config.cache_size)
    store = FragmentStore.open([settings])
    stack.callback(store.close)
    return store
