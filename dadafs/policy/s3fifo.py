"""S3-FIFO: scan-resistant eviction with three first-in-first-out queues, weighted by bytes (sans-IO).

Source: Yang, Zhang, Qiu, Yue, Rashmi, "FIFO queues are all you need for cache eviction", SOSP 2023. New
keys enter a small queue that holds a tenth of the bytes; only those hit more than once there move on to the
main queue, so that a scan passes through the tenth and leaves the rest alone. A ghost queue remembers what
the small queue dropped: such a key, when it comes back, goes to the main queue at once.

One thing is added: hits in a row are one use. Two frames lie in one fragment and every open reads the same header, so
each fragment of a scan is hit several times within milliseconds, and nothing of it is needed again. A hit counts only
when enough else was used since the last one that did (the correlated references of O'Neil, O'Neil and Weikum, LRU-K,
SIGMOD 1993). What this is worth on recorded traces is in docs/decisions-eviction.md.

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
#: A hit counts when this share of the bytes held (half of it at least) was used since the key's last hit that counted.
SPACING = 0.01
#: What a hit that counted is worth on the clock, as a share of coming in. Without it a working set that is read again
#: and again while nothing comes in would never prove itself.
HIT_SHARE = 0.25
_TICKS = 256


class UseClock:
    """Time measured in bytes used: it ticks when half of `spacing` of what is held was used since its last tick.

    Used is what comes in, and a part of what is hit and counts. A tick fits into a byte. One use ticks once at most,
    however heavy it is: in a cache of a few dozen fragments not everything is to look spaced. A mark that is a whole
    turn old looks new for two ticks of 256, which costs one hit.
    """

    __slots__ = ("_since", "_step", "now")

    def __init__(self, spacing: float = SPACING) -> None:
        self._step = spacing / 2
        self._since = 0.0
        self.now = 0

    @property
    def long_ago(self) -> int:
        """A mark that any hit is apart from."""
        return (self.now - _TICKS // 2) % _TICKS

    def used(self, weight: float, held: int) -> None:
        """`weight` was used, and `held` is held now."""
        self._since += weight
        if self._since >= self._step * held:
            self._since = 0.0
            self.now = (self.now + 1) % _TICKS

    def apart(self, mark: int) -> bool:
        """Whether enough was used since `now` was `mark`."""
        return not self._step or (self.now - mark) % _TICKS >= 2


class _Entry:
    __slots__ = ("counted", "hits", "small", "weight")

    def __init__(self, weight: int, small: bool, counted: int) -> None:
        self.weight = weight
        self.hits = 0
        self.small = small
        self.counted = counted  #: the clock at its insertion or at its last hit that counted


class S3Fifo(Generic[K]):
    """Decides which key to give up next; holds keys and weights only, never the data.

    `pinned(key)` names keys that `evict` must pass over (being read, being filled). `spacing` 0 counts every hit.
    """

    def __init__(
        self,
        pinned: Callable[[K], bool] | None = None,
        *,
        small_share: float = SMALL_SHARE,
        promote_hits: int = PROMOTE_HITS,
        spacing: float = SPACING,
    ) -> None:
        self._pinned = pinned
        self._small_share = small_share
        self._promote_hits = promote_hits
        self._clock = UseClock(spacing)
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
        self.weight += weight
        self._clock.used(weight, self.weight)
        entry = _Entry(weight, forgotten is None, self._clock.now)
        self._entries[key] = entry
        if entry.small:
            self._small[key] = entry
            self._small_weight += weight
        else:
            self._main[key] = entry

    def hit(self, key: K) -> None:
        """`key` was read; soon after it came in, or after the last hit, that proves nothing. Ignored when not held."""
        entry = self._entries.get(key)
        if entry is not None and self._clock.apart(entry.counted):
            self._clock.used(entry.weight * HIT_SHARE, self.weight)
            entry.counted = self._clock.now
            entry.hits = min(MAX_HITS, entry.hits + 1)

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
