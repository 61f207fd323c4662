"""One first-in-first-out queue of index entries in 17 bytes: key (8), file mark (4), size and flags (4), clock (1).

The entries lie in the queue's order in four flat arrays used as a ring. A slot is a place in the arrays. Removing an
entry from the middle leaves a hole (its `info` is 0) that vanishes when it reaches the head or the ring is packed.
"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

#: Keys, file marks and infos. The clock marks are not among them: they mean nothing in another index.
Entries = tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32], npt.NDArray[np.uint32]]

_LEAST = 1024
_GROWTH = 8  # a full ring grows by one part in this many
_CHUNK = 1 << 16


class EntryRing:
    """The queue of entries (key, file mark, info, clock mark)."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self.keys = array("Q", [0]) * _LEAST
        self.files = array("I", [0]) * _LEAST
        self.infos = array("I", [0]) * _LEAST
        self.clocks = array("B", [0]) * _LEAST
        self.head = 0
        self.used = 0  #: slots between head and tail, holes included
        self.holes = 0

    def __len__(self) -> int:
        return self.used - self.holes

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return len(self.keys) * 17

    @property
    def full(self) -> bool:
        """Whether `grow` or `pack` must come before the next `push`."""
        return self.used == len(self.keys)

    @property
    def wants_packing(self) -> bool:
        """Whether holes take more room than entries."""
        return self.holes > 1024 + len(self)

    def push(self, key: int, file: int, info: int, clock: int) -> int:
        """Append an entry (`info` not 0) and return its slot; the ring must not be full."""
        slot = self.head + self.used
        if slot >= len(self.keys):
            slot -= len(self.keys)
        self.keys[slot], self.files[slot], self.infos[slot], self.clocks[slot] = key, file, info, clock
        self.used += 1
        return slot

    def pop(self) -> int:
        """Take the oldest entry off and return its slot, readable until the next `push`; -1 where there is none."""
        while self.used:
            slot = self.head
            self.head = slot + 1 if slot + 1 < len(self.keys) else 0
            self.used -= 1
            if self.infos[slot]:
                return slot
            self.holes -= 1
        return -1

    def punch(self, slot: int) -> None:
        """Remove the entry at `slot`."""
        self.infos[slot] = 0
        self.holes += 1

    def slots(self) -> npt.NDArray[np.uint32]:
        """The slots of all entries, oldest first."""
        tail = self.head + self.used
        capacity = len(self.keys)
        first = np.arange(self.head, min(tail, capacity), dtype=np.uint32)
        slots = np.concatenate([first, np.arange(max(0, tail - capacity), dtype=np.uint32)])
        live: npt.NDArray[np.bool_] = np.frombuffer(self.infos, dtype=np.uint32)[slots] != 0
        return slots[live]

    def entries(self) -> Entries:
        """Copies of keys, file marks and infos, oldest first, without holes."""
        slots = self.slots()
        return (
            np.frombuffer(self.keys, dtype=np.uint64)[slots],
            np.frombuffer(self.files, dtype=np.uint32)[slots],
            np.frombuffer(self.infos, dtype=np.uint32)[slots],
        )

    def grow(self) -> tuple[int, int]:
        """Make room for one part in eight more, in place; (first, shift): slots from `first` on moved up by `shift`."""
        capacity, first = len(self.keys), self.head or len(self.keys)
        shift = capacity // _GROWTH
        for values in (self.keys, self.files, self.infos, self.clocks):
            values.frombytes(bytes(shift * values.itemsize))
            view = np.frombuffer(values, dtype=f"u{values.itemsize}")
            for end in range(capacity, first, -_CHUNK):  # from behind, in pieces that do not overlap themselves
                start = max(first, end - _CHUNK)
                view[start + shift : end + shift] = view[start:end].copy()
            view[first : first + shift] = 0
        self.head += shift if self.head else 0
        return first, shift

    def pack(self) -> npt.NDArray[np.uint32]:
        """Close the holes and make room for one part in eight more; the new slot of each old slot is returned."""
        slots = self.slots()
        moved = np.zeros(len(self.keys), dtype=np.uint32)
        moved[slots] = np.arange(len(slots), dtype=np.uint32)
        capacity = max(_LEAST, len(slots) + len(slots) // _GROWTH)
        self.keys = _filled("Q", np.frombuffer(self.keys, dtype=np.uint64), slots, capacity)
        self.files = _filled("I", np.frombuffer(self.files, dtype=np.uint32), slots, capacity)
        self.infos = _filled("I", np.frombuffer(self.infos, dtype=np.uint32), slots, capacity)
        self.clocks = _filled("B", np.frombuffer(self.clocks, dtype=np.uint8), slots, capacity)
        self.head, self.used, self.holes = 0, len(slots), 0
        return moved

    def fill(self, entries: Entries, clock: int) -> None:
        """Hold exactly these entries in this order, in slots 0, 1, 2 ..., all with the same clock mark."""
        everything = np.arange(len(entries[0]), dtype=np.uint32)
        capacity = max(_LEAST, len(everything) + len(everything) // _GROWTH)
        self.keys = _filled("Q", entries[0], everything, capacity)
        self.files = _filled("I", entries[1], everything, capacity)
        self.infos = _filled("I", entries[2], everything, capacity)
        self.clocks = array("B", [clock]) * capacity
        self.head, self.used, self.holes = 0, len(everything), 0


def _filled(
    code: str,
    values: npt.NDArray[np.uint64] | npt.NDArray[np.uint32] | npt.NDArray[np.uint8],
    slots: npt.NDArray[np.uint32],
    capacity: int,
) -> array[int]:
    result = array(code, [0]) * capacity
    np.take(values, slots, out=np.frombuffer(result, dtype=values.dtype)[: len(slots)], mode="clip")
    return result
