"""When the kernel should have how much of a file read ahead, beyond its own small window (sans-IO).

Where `read_ahead_kb` may not be raised, the kernel reads 128 KiB ahead, one request after the other. `Windows` notes
the requests of one open file and says which ranges to have in the page cache soon. A reader that finds everything in
the page cache asks for nothing, and nobody would know how far it is; so each window has a hole in its middle, and the
request for what is in the hole says that the next window is due.
"""

from __future__ import annotations

#: What the kernel reads ahead by itself, and in one request.
PIECE = 128 * 1024
#: Bytes read on without a gap before anything is read ahead for them.
PROOF = 4 * PIECE
FIRST_WINDOW = 8 * PIECE
LONGEST_WINDOW = 32 * PIECE

#: Half-open range of bytes.
Range = tuple[int, int]


class Windows:
    """The requests of one open file."""

    __slots__ = ("_asked", "_begin", "_end", "_length")

    def __init__(self) -> None:
        self._begin = 0  # of the run of requests without a gap
        self._end = 0
        self._asked = 0  # up to where pages are on their way
        self._length = FIRST_WINDOW

    def note(self, offset: int, length: int, size: int) -> list[Range]:
        """The kernel asked for `length` bytes at `offset` of a file of `size` bytes; what to have read ahead now."""
        if not self._end <= offset <= max(self._asked, self._end) + PIECE:
            self._begin = self._asked = offset
            self._length = FIRST_WINDOW
        self._end = offset + length
        ahead = self._asked - self._end
        if self._end - self._begin < PROOF or ahead >= self._length // 2 or max(self._asked, self._end) >= size:
            return []
        begin = max(self._asked, self._end)
        hole = begin + self._length // 2
        self._asked = begin + self._length
        self._length = min(2 * self._length, LONGEST_WINDOW)
        ranges = ((begin, min(hole, size)), (hole + PIECE, min(self._asked, size)))
        return [(start, end) for start, end in ranges if start < end]
