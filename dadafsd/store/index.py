"""Which fragments a tier holds and which to give up next: S3-FIFO in at most 32 bytes a fragment.

The index never decides whether a fragment is there - the file system does. It exists to evict: it knows sizes, hits,
files and the order of both queues. Source of the policy and its plain twin (the oracle of its tests):
`dadafs.policy.s3fifo`. Not thread-safe; the tier locks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dadafs.policy.s3fifo import HIT_SHARE, MAX_HITS, PROMOTE_HITS, SMALL_SHARE, UseClock
from dadafsd.store.ghosts import Ghosts
from dadafsd.store.key_table import Keys, KeyTable, Positions
from dadafsd.store.ring import Entries, EntryRing

# An entry's info: units of space in 14 bits, hits in 2, read at all in 1, quarter-hour of its insertion in 15.
_UNITS = 0x3FFF
_HIT = 1 << 14
_HITS = 3 << 14
_READ = 1 << 16
_STAMP_SHIFT = 17
_STAMPS = 1 << 15
_STAMP_SECONDS = 900
_MAIN = 1 << 31  # set in a position that is a slot of the main queue
_STEPS = 4096  # entries looked at for one victim at most: bounds the time under the tier's lock
_PARTS = 6  # bits of the key by which a build is cut into parts

Pinned = Callable[[int, int], bool]


class Victim(NamedTuple):
    """A fragment to delete: its key, units of space, and whether it was ever read."""

    key: int
    units: int
    read: bool


def stamp(seconds: float) -> int:
    """A time (seconds since the epoch) as the index keeps it: quarter-hours modulo 341 days."""
    return int(seconds // _STAMP_SECONDS) % _STAMPS


class FragmentIndex:
    """Entries by key in two queues. Sizes in units (`dadafsd.store.record.UNIT`)."""

    def __init__(self) -> None:
        self._small = EntryRing()
        self._main = EntryRing()
        self._ghosts = Ghosts()
        self._clock = UseClock()
        self._table = KeyTable(self._key_at, self._keys_at)
        self.units = 0  #: space of all entries
        self._small_units = 0

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, key: int) -> bool:
        return self._table.get(key) >= 0

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return self._small.nbytes + self._main.nbytes + self._table.nbytes + self._ghosts.nbytes

    def _key_at(self, position: int) -> int:
        if position & _MAIN:
            return self._main.keys[position ^ _MAIN]
        return self._small.keys[position]

    def _keys_at(self, positions: Positions) -> Keys:
        keys = np.empty(len(positions), dtype=np.uint64)
        in_main = positions >= _MAIN
        keys[in_main] = np.frombuffer(self._main.keys, dtype=np.uint64)[positions[in_main] ^ np.uint32(_MAIN)]
        keys[~in_main] = np.frombuffer(self._small.keys, dtype=np.uint64)[positions[~in_main]]
        return keys

    def _ring(self, position: int) -> tuple[EntryRing, int]:
        return (self._main, position ^ _MAIN) if position & _MAIN else (self._small, position)

    # --- one entry ---------------------------------------------------------------------------------------------

    def insert(self, key: int, file: int, units: int, when: int) -> None:
        """`key` is held and takes `units`; `when` is a `stamp`. For a key held already: a hit and a change of size."""
        position = self._table.get(key)
        if position >= 0:
            self._resize(position, units)
            self.touch(key)
            return
        self.units += units
        self._clock.used(units, self.units)
        self._push(self._ghosts.recall(key), key, file, units | when << _STAMP_SHIFT, self._clock.now)

    def adopt(self, key: int, file: int, units: int, when: int) -> None:
        """A record of an earlier life was found on disk: it goes to the main queue, unless it is known."""
        if key not in self:
            self._push(True, key, file, units | when << _STAMP_SHIFT, self._clock.long_ago)
            self.units += units

    def insert_as(self, key: int, file: int, info: int) -> None:
        """Insert an entry as it stood in another index, unless it is known."""
        if key not in self:
            self._push(False, key, file, info, self._clock.long_ago)
            self.units += info & _UNITS

    def touch(self, key: int) -> bool:
        """`key` was read; whether it is held. It counts as a hit unless the last that did was just now."""
        position = self._table.get(key)
        if position < 0:
            return False
        ring, slot = self._ring(position)
        info = ring.infos[slot] | _READ
        if self._clock.apart(ring.clocks[slot]):
            self._clock.used((info & _UNITS) * HIT_SHARE, self.units)
            ring.clocks[slot] = self._clock.now
            if (info & _HITS) < MAX_HITS * _HIT:
                info += _HIT
        ring.infos[slot] = info
        return True

    def remove(self, key: int) -> bool:
        """`key` is gone for a reason of its own and leaves no ghost; whether it was held."""
        position = self._table.remove(key)
        if position < 0:
            return False
        ring, slot = self._ring(position)
        units = ring.infos[slot] & _UNITS
        self.units -= units
        if ring is self._small:
            self._small_units -= units
        ring.punch(slot)
        return True

    def clear(self) -> None:
        """Forget all."""
        for part in (self._small, self._main, self._table):
            part.clear()
        self._ghosts = Ghosts()
        self.units = self._small_units = 0

    def _resize(self, position: int, units: int) -> None:
        ring, slot = self._ring(position)
        change = units - (ring.infos[slot] & _UNITS)
        ring.infos[slot] += change
        self.units += change
        if ring is self._small:
            self._small_units += change

    def _push(self, main: bool, key: int, file: int, info: int, clock: int) -> None:
        """Append to a queue and note in the table where it lies."""
        ring = self._main if main else self._small
        if ring.wants_packing:
            self._pack(ring)
        if ring.full:
            self._grow(ring)
        slot = ring.push(key, file, info, clock)
        self._table.put(key, slot | _MAIN if main else slot)
        if not main:
            self._small_units += info & _UNITS

    def _grow(self, ring: EntryRing) -> None:
        flag = np.uint32(_MAIN if ring is self._main else 0)
        first, shift = ring.grow()

        def change(positions: Positions) -> Positions:
            moved = ((positions & np.uint32(_MAIN)) == flag) & ((positions ^ flag) >= first)
            positions[moved] += np.uint32(shift)
            return positions

        self._table.remap(change)

    def _pack(self, ring: EntryRing) -> None:
        flag = np.uint32(_MAIN if ring is self._main else 0)
        moved = ring.pack()

        def change(positions: Positions) -> Positions:
            mine = np.flatnonzero((positions & np.uint32(_MAIN)) == flag)
            positions[mine] = moved[positions[mine] ^ flag] | flag
            return positions

        self._table.remap(change)

    # --- eviction ----------------------------------------------------------------------------------------------

    def evict(self, pinned: Pinned) -> Victim | None:
        """Give up one entry; None where all are pinned (`pinned(key, file)`) or none was met in time."""
        small_blocked = main_blocked = 0  # pinned entries met since the queue last moved on
        for _ in range(min(_STEPS, (MAX_HITS + 2) * len(self))):
            small_free, main_free = small_blocked < len(self._small), main_blocked < len(self._main)
            if not small_free and not main_free:
                return None
            if small_free and (not main_free or self._small_units >= SMALL_SHARE * self.units):
                victim, blocked = self._evict_small(pinned)
                small_blocked += blocked
                if victim is None and not blocked:
                    main_blocked = 0  # one moved over
            else:
                victim, blocked = self._evict_main(pinned)
                main_blocked += blocked
            if victim is not None:
                return victim
        return None

    def _evict_small(self, pinned: Pinned) -> tuple[Victim | None, bool]:
        """The oldest of the small queue: a victim, or moved to the main queue, or (True) pinned and put back."""
        ring = self._small
        slot = ring.pop()
        key, file, info, clock = ring.keys[slot], ring.files[slot], ring.infos[slot], ring.clocks[slot]
        if pinned(key, file):
            self._table.put(key, ring.push(key, file, info, clock))
            return None, True
        self._small_units -= info & _UNITS
        if (info & _HITS) >= PROMOTE_HITS * _HIT:
            self._push(True, key, file, info & ~_HITS, clock)
            return None, False
        self._remember(key)
        return self._give_up(ring, slot), False

    def _evict_main(self, pinned: Pinned) -> tuple[Victim | None, bool]:
        """The oldest of the main queue: a victim, or put back with a hit less, or (True) pinned and put back."""
        ring = self._main
        slot = ring.pop()
        key, file, info, clock = ring.keys[slot], ring.files[slot], ring.infos[slot], ring.clocks[slot]
        is_pinned = pinned(key, file)
        if not is_pinned and not info & _HITS:
            return self._give_up(ring, slot), False
        self._table.put(key, ring.push(key, file, info if is_pinned else info - _HIT, clock) | _MAIN)
        return None, is_pinned

    def _give_up(self, ring: EntryRing, slot: int) -> Victim:
        """Forget the entry just popped."""
        key, info = ring.keys[slot], ring.infos[slot]
        self._table.remove(key)
        self.units -= info & _UNITS
        return Victim(key, info & _UNITS, bool(info & _READ))

    def _remember(self, key: int) -> None:
        """A ghost; there are places for about as many as entries, and at least a thousand."""
        if len(self) > 1.5 * self._ghosts.places:
            self._ghosts.resize(len(self))
        self._ghosts.remember(key)

    # --- in bulk -----------------------------------------------------------------------------------------------

    def of_file(self, file: int) -> tuple[list[int], int]:
        """Keys and units of all entries of a file mark."""
        keys: list[int] = []
        units = 0
        for ring in (self._small, self._main):
            slots = ring.slots()
            slots = slots[np.frombuffer(ring.files, dtype=np.uint32)[slots] == file]
            keys += np.frombuffer(ring.keys, dtype=np.uint64)[slots].tolist()
            units += int((np.frombuffer(ring.infos, dtype=np.uint32)[slots] & _UNITS).sum())
        return keys, units

    def sorted_keys(self) -> Keys:
        """All keys in ascending order (8 bytes each)."""
        return np.sort(np.concatenate([self._small.entries()[0], self._main.entries()[0]]))

    def state(self) -> tuple[Entries, Entries]:
        """Copies of both queues, small and main, oldest first: what a snapshot keeps."""
        return self._small.entries(), self._main.entries()

    def restore(self, small: Entries, main: Entries) -> None:
        """Become what `state` gave. Keys must all be different (`ValueError`)."""
        self._small.fill(small, self._clock.long_ago)
        self._main.fill(main, self._clock.long_ago)
        self._small_units = int((small[2] & np.uint32(_UNITS)).sum(dtype=np.int64))
        self.units = self._small_units + int((main[2] & np.uint32(_UNITS)).sum(dtype=np.int64))
        count = len(small[0]) + len(main[0])
        self._table.build(count, self._parts)
        self._ghosts.resize(max(1024, count))

    def _parts(self) -> Iterator[tuple[Keys, Positions]]:
        """All keys and positions, in parts of ascending keys."""
        shift = np.uint64(64 - _PARTS)
        for part in range(1 << _PARTS):
            keys, positions = [], []
            for ring, flag in ((self._small, 0), (self._main, _MAIN)):
                held = np.frombuffer(ring.keys, dtype=np.uint64)[: ring.used]
                slots = np.flatnonzero((held >> shift) == part).astype(np.uint32)
                keys.append(held[slots])
                positions.append(slots | np.uint32(flag))
            yield np.concatenate(keys), np.concatenate(positions)

    def order_by_age(self, now: int) -> None:
        """Order the main queue by insertion, oldest first (after a scan without a snapshot); `now` is a `stamp`."""
        keys, files, infos = self._main.entries()
        age = (now - (infos >> np.uint32(_STAMP_SHIFT)).astype(np.int64)) % _STAMPS
        order: npt.NDArray[np.intp] = np.argsort(-age, kind="stable")
        small = self._small.entries()
        self.restore(small, (keys[order], files[order], infos[order]))
