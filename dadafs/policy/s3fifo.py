"""S3-FIFO: scan-resistant eviction with three first-in-first-out queues, weighted by bytes (sans-IO).

Source: Yang, Zhang, Qiu, Yue, Rashmi, "FIFO queues are all you need for cache eviction", SOSP 2023. New
keys enter a small queue that holds a tenth of the bytes; only those hit more than once there move on to the
main queue, so that a scan passes through the tenth and leaves the rest alone. A ghost queue remembers what
the small queue dropped: such a key, when it comes back, goes to the main queue at once.

The owner keeps the budget: `insert`, then `evict` until `weight` is small enough again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

SMALL_SHARE = 0.1
MAX_HITS = 3
#: Hits in the small queue after which a key moves to the main queue ("more than one" in the paper).
PROMOTE_HITS = 2


class _Entry:
    __slots__ = ("hits", "small", "weight")

    def __init__(self, weight: int, small: bool) -> None:
        self.weight = weight
        self.hits = 0
        self.small = small


class S3Fifo(Generic[K]):
    """Decides which key to give up next; holds keys and weights only, never the data.

    `pinned(key)` names keys that `evict` must pass over (being read, being filled).
    """

    def __init__(
        self,
        pinned: Callable[[K], bool] | None = None,
        *,
        small_share: float = SMALL_SHARE,
        promote_hits: int = PROMOTE_HITS,
    ) -> None:
        self._pinned = pinned
        self._small_share = small_share
        self._promote_hits = promote_hits
        self._entries: dict[K, _Entry] = {}
        self._small: OrderedDict[K, _Entry] = OrderedDict()
        self._main: OrderedDict[K, _Entry] = OrderedDict()
        self._ghost: OrderedDict[K, int] = OrderedDict()
        self._small_weight = 0
        self._ghost_weight = 0
        self.weight = 0
        """Bytes of all keys held."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def insert(self, key: K, weight: int) -> None:
        """`key` is held from now on and weighs `weight` bytes; if it was held already, this is a hit and a
        new weight.
        """
        entry = self._entries.get(key)
        if entry is not None:
            self._reweigh(entry, weight)
            self.hit(key)
            return
        forgotten = self._ghost.pop(key, None)
        if forgotten is not None:
            self._ghost_weight -= forgotten
        entry = _Entry(weight, small=forgotten is None)
        self._entries[key] = entry
        self.weight += weight
        if entry.small:
            self._small[key] = entry
            self._small_weight += weight
        else:
            self._main[key] = entry

    def hit(self, key: K) -> None:
        """`key` was read. A key that is not held is ignored."""
        entry = self._entries.get(key)
        if entry is not None and entry.hits < MAX_HITS:
            entry.hits += 1

    def remove(self, key: K) -> None:
        """`key` is gone for a reason of its own (its file changed); it leaves no ghost."""
        entry = self._entries.get(key)
        if entry is not None:
            self._drop(key, entry)

    def evict(self) -> K | None:
        """Give up one key and return it; None where every key is pinned, or there is none."""
        small_pinned = main_pinned = 0  # pinned keys met in a row: as many as the queue is long, and all are
        while True:
            small_left, main_left = len(self._small) > small_pinned, len(self._main) > main_pinned
            if not small_left and not main_left:
                return None
            if small_left and (not main_left or self._small_weight >= self._small_share * self.weight):
                key, entry = next(iter(self._small.items()))
                if self._is_pinned(key):
                    self._small.move_to_end(key)
                    small_pinned += 1
                elif entry.hits >= self._promote_hits:
                    self._promote(key, entry)
                else:
                    self._drop(key, entry)
                    self._remember(key, entry.weight)
                    return key
            else:
                key, entry = next(iter(self._main.items()))
                if self._is_pinned(key):
                    self._main.move_to_end(key)
                    main_pinned += 1
                elif entry.hits:
                    entry.hits -= 1
                    self._main.move_to_end(key)
                else:
                    self._drop(key, entry)
                    return key

    def _is_pinned(self, key: K) -> bool:
        return self._pinned is not None and self._pinned(key)

    def _reweigh(self, entry: _Entry, weight: int) -> None:
        change = weight - entry.weight
        entry.weight = weight
        self.weight += change
        if entry.small:
            self._small_weight += change

    def _promote(self, key: K, entry: _Entry) -> None:
        del self._small[key]
        self._small_weight -= entry.weight
        entry.small = False
        entry.hits = 0
        self._main[key] = entry

    def _drop(self, key: K, entry: _Entry) -> None:
        del self._entries[key]
        self.weight -= entry.weight
        if entry.small:
            del self._small[key]
            self._small_weight -= entry.weight
        else:
            del self._main[key]

    def _remember(self, key: K, weight: int) -> None:
        """Ghosts are worth at most as many bytes as the keys held, and are at most twice as many."""
        self._ghost[key] = weight
        self._ghost_weight += weight
        while self._ghost and (
            self._ghost_weight > self.weight + weight or len(self._ghost) > 2 * len(self._entries) + 16
        ):
            self._ghost_weight -= self._ghost.popitem(last=False)[1]
