"""Eviction policies side by side: LRU, SLRU, ARC, S3-FIFO, and what node and head really run; all weighted by bytes.

Each decides about keys and weights only. `access(key, weight)` answers whether the key was held, and holds it from
then on; what is held never weighs more than `capacity` bytes. A key that weighs more than the whole capacity is not
held.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable, Sequence

from xxhash import xxh3_64_intdigest

from dadafs.policy.s3fifo import SPACING, S3Fifo
from dadafsd.store.index import FragmentIndex
from dadafsd.store.record import UNIT

Key = Hashable
Access = tuple[Key, int]


class Policy(ABC):
    """What is held within `capacity` bytes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

    def access(self, key: Key, weight: int) -> bool:
        """Whether `key` was held; it is now, where it fits at all."""
        if weight > self.capacity:
            return False
        return self._access(key, weight)

    @abstractmethod
    def _access(self, key: Key, weight: int) -> bool: ...


class _Queue(OrderedDict[Key, int]):
    """Keys in order with their weights; the first is the next to go."""

    total: int = 0

    def push(self, key: Key, weight: int) -> None:
        self[key] = weight
        self.total += weight

    def take(self, key: Key) -> int:
        weight = self.pop(key)
        self.total -= weight
        return weight

    def drop_first(self) -> tuple[Key, int]:
        key, weight = self.popitem(last=False)
        self.total -= weight
        return key, weight


class Lru(Policy):
    """Least recently used."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._held = _Queue()

    def _access(self, key: Key, weight: int) -> bool:
        if key in self._held:
            self._held.move_to_end(key)
            return True
        self._held.push(key, weight)
        while self._held.total > self.capacity:
            self._held.drop_first()
        return False


class Slru(Policy):
    """Segmented LRU (Karedla, Love and Wherry, 1994): a fifth on probation, the rest for keys that were hit there."""

    PROTECTED = 0.8

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._probation = _Queue()
        self._protected = _Queue()

    def _access(self, key: Key, weight: int) -> bool:
        if key in self._protected:
            self._protected.move_to_end(key)
            return True
        hit = key in self._probation
        if hit:
            self._protected.push(key, self._probation.take(key))
            while self._protected.total > self.PROTECTED * self.capacity:
                self._probation.push(*self._protected.drop_first())
        else:
            self._probation.push(key, weight)
        while self._probation.total + self._protected.total > self.capacity:
            (self._probation or self._protected).drop_first()
        return hit


class Arc(Policy):
    """Adaptive replacement cache (Megiddo and Modha, FAST 2003), its cases I to IV, with bytes for pages."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._recent, self._frequent = _Queue(), _Queue()  # T1, T2
        self._recent_ghosts, self._frequent_ghosts = _Queue(), _Queue()  # B1, B2
        self._target = 0.0  # p: the bytes that T1 should have

    def _access(self, key: Key, weight: int) -> bool:
        for held in (self._recent, self._frequent):
            if key in held:
                self._frequent.push(key, held.take(key))
                return True
        ghosts, others = self._recent_ghosts, self._frequent_ghosts
        if key in ghosts:
            self._target = min(self.capacity, self._target + weight * max(1.0, others.total / ghosts.total))
            self._revive(key, ghosts, weight, from_frequent=False)
        elif key in others:
            self._target = max(0.0, self._target - weight * max(1.0, ghosts.total / others.total))
            self._revive(key, others, weight, from_frequent=True)
        else:
            self._make_room(weight, from_frequent=False)
            self._recent.push(key, weight)
        self._forget_ghosts()
        return False

    def _revive(self, key: Key, ghosts: _Queue, weight: int, *, from_frequent: bool) -> None:
        ghosts.take(key)
        self._make_room(weight, from_frequent=from_frequent)
        self._frequent.push(key, weight)

    def _make_room(self, weight: int, *, from_frequent: bool) -> None:
        """REPLACE, until `weight` more bytes fit."""
        while self._recent.total + self._frequent.total + weight > self.capacity:
            over = self._recent.total > self._target or (from_frequent and self._recent.total == self._target)
            if self._recent and (over or not self._frequent):
                self._recent_ghosts.push(*self._recent.drop_first())
            else:
                self._frequent_ghosts.push(*self._frequent.drop_first())

    def _forget_ghosts(self) -> None:
        """L1 = T1 + B1 is worth one capacity, all four queues two."""
        while self._recent_ghosts and self._recent.total + self._recent_ghosts.total > self.capacity:
            self._recent_ghosts.drop_first()
        queues = (self._recent, self._frequent, self._recent_ghosts, self._frequent_ghosts)
        while self._frequent_ghosts and sum(queue.total for queue in queues) > 2 * self.capacity:
            self._frequent_ghosts.drop_first()


class PlainS3Fifo(Policy):
    """S3-FIFO as published: every hit counts. With `spacing`, only those that are apart."""

    spacing = 0.0

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._held: S3Fifo[Key] = S3Fifo(spacing=self.spacing)

    def _access(self, key: Key, weight: int) -> bool:
        if key in self._held:
            self._held.hit(key)
            return True
        self._held.insert(key, weight)
        while self._held.weight > self.capacity:
            self._held.evict()
        return False


class NodeS3Fifo(PlainS3Fifo):
    """`dadafs.policy.s3fifo` with its defaults: the code that every node runs."""

    spacing = SPACING


class HeadS3Fifo(Policy):
    """`dadafsd.store.index`: the code that every tier of a head runs. Weights are rounded up to its units."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._index = FragmentIndex()

    def _access(self, key: Key, weight: int) -> bool:
        digest = xxh3_64_intdigest(repr(key).encode())
        if self._index.touch(digest):
            return True
        self._index.insert(digest, 0, -(-weight // UNIT), 0)
        while self._index.units * UNIT > self.capacity:
            self._index.evict(lambda key, file: False)
        return False


POLICIES: dict[str, type[Policy]] = {
    "LRU": Lru,
    "SLRU": Slru,
    "ARC": Arc,
    "S3-FIFO": PlainS3Fifo,
    "node": NodeS3Fifo,
    "head": HeadS3Fifo,
}


def replay(policy: Policy, trace: Sequence[Access]) -> tuple[float, float]:
    """Hit ratios of a trace: of its accesses, and of its bytes."""
    hits = hit_bytes = total = 0
    for key, weight in trace:
        total += weight
        if policy.access(key, weight):
            hits += 1
            hit_bytes += weight
    return hits / len(trace), hit_bytes / total


def optimum(trace: Sequence[Access], capacity: int) -> tuple[float, float]:
    """The same for Belady's choice, which knows the future: evict what is needed last (an upper bound in practice)."""
    later = _next_uses(trace)
    held: dict[Key, tuple[int, int]] = {}  # next use, weight
    order: list[tuple[int, int, Key]] = []  # a heap of (-next use, number, key); stale entries are skipped
    used = hits = hit_bytes = 0
    for number, (key, weight) in enumerate(trace):
        if key in held:
            hits += 1
            hit_bytes += weight
        else:
            used += weight
        held[key] = later[number], weight
        heapq.heappush(order, (-later[number], number, key))
        while used > capacity:
            use, _, victim = heapq.heappop(order)
            if victim in held and held[victim][0] == -use:
                used -= held.pop(victim)[1]
    return hits / len(trace), hit_bytes / sum(weight for _, weight in trace)


def _next_uses(trace: Sequence[Access]) -> list[int]:
    following: dict[Key, int] = {}
    later = [0] * len(trace)
    for number in range(len(trace) - 1, -1, -1):
        later[number] = following.get(trace[number][0], len(trace) + number)
        following[trace[number][0]] = number
    return later
