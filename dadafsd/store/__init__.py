"""The head's fragment store on disk: self-describing, checksummed records, a compact index, eviction, tiers, pins."""

from dadafsd.store.record import FragmentKey, Stored
from dadafsd.store.settings import TierSettings
from dadafsd.store.store import FragmentStore

__all__ = ["FragmentKey", "FragmentStore", "Stored", "TierSettings"]
