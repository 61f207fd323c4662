"""A small byte-bounded memory of what was read last (least recently used goes first)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Values with a weight in bytes and, where they may not be kept long, a time at which they expire."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.weight = 0
        self._entries: OrderedDict[Hashable, tuple[Value, int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def get(self, key: Hashable, now: float) -> Value | None:
        """The value, which is now the most recently used one; None where it is not here or has expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[2] <= now:
            self.discard(key)
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Hashable, value: Value, weight: int, expires: float = float("inf")) -> None:
        """Keep `value`, at the cost of older ones; nothing heavier than a quarter of the limit is kept."""
        self.discard(key)
        if weight > self.limit // 4:
            return
        self._entries[key] = (value, weight, expires)
        self.weight += weight
        self.shrink()

    def discard(self, key: Hashable) -> None:
        """Forget `key` where it is here."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.weight -= entry[1]
            self._gone(key, entry[0])

    def shrink(self) -> None:
        """Drop the oldest until the limit holds (after the limit was lowered)."""
        while self.weight > self.limit:
            key, entry = self._entries.popitem(last=False)
            if self._in_use(key, entry[0]):
                self._entries[key] = entry
                continue
            self.weight -= entry[1]
            self._gone(key, entry[0])

    def weights(self) -> list[tuple[Any, int]]:
        """Every key with its weight, oldest first."""
        return [(key, weight) for key, (_, weight, _) in self._entries.items()]

    def discard_where(self, condition: Callable[[Any], bool]) -> None:
        """Forget every key that meets the condition."""
        for key in [key for key in self._entries if condition(key)]:
            self.discard(key)

    def clear(self) -> None:
        """Forget everything."""
        for key in list(self._entries):
            self.discard(key)

    def _gone(self, key: Hashable, value: Value) -> None:
        """`value` was just forgotten."""

    def _in_use(self, key: Hashable, value: Value) -> bool:
        """Whether it was used behind our back since this was last asked; it then counts as used just now."""
        return False
