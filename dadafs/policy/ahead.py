"""Which small files of a directory to open ahead of a program that goes through them in order (sans-IO).

Positions are those of a listing, which is sorted by name: programs go through it in that order, or sort the names
themselves. An open near the last one proves that this goes on, and with each proof that was needed the program is given
a longer lead. It is asked for in parts, so that the next ones are on their way while the last are used. Whoever opens
names here and there gets nothing ahead.
"""

from __future__ import annotations

#: How many files a program's lead has at the first proof, and at most; and by what it grows.
FIRST = 8
MOST = 128
GROWTH = 4
#: At most so many are asked for at a time, and no fewer than this share of the lead.
AT_ONCE = 64
SHARE = 4
#: An open goes on where the last one was when it is at most so many names behind it or beyond it: several workers share
#: a directory, and some skip what they do not want.
NEAR = 8


class InOrder:
    """One program's way through the names of one directory.

    `proven`: it went through the directories before this one in the same way, and begins with the first name.
    """

    __slots__ = ("_lead", "_position", "asked")

    def __init__(self, *, proven: bool = False) -> None:
        self._position: int | None = -1 if proven else None
        self._lead = MOST if proven else 0
        self.asked = 0  #: names below this were asked for

    @property
    def begun(self) -> bool:
        """Whether a file was opened, or is surely going to be."""
        return self._position is not None

    @property
    def far(self) -> bool:
        """Whether the lead is so long that an open or two may be told of late."""
        return self._lead == MOST

    @property
    def reach(self) -> int:
        """Where the lead ends, were there names enough."""
        return self.asked if self._position is None else max(self.asked, self._position + 1 + self._lead)

    def is_through(self, count: int) -> bool:
        """Whether the last one of `count` names was opened, or one near it."""
        return self._position is not None and self._position + NEAR >= count

    def opened(self, position: int) -> range:
        """The file at `position` is opened: positions to open ahead now, maybe none."""
        if self._position is None or abs(position - self._position) > NEAR:
            self._position = position
            self.asked = position + 1
            self._lead = 0
            return range(0)
        if position <= self._position:
            return range(0)
        self._position = position
        return self.go_on()

    def go_on(self) -> range:
        """Positions to open ahead, maybe none, as after an open where the last one was."""
        behind = 0 if self._position is None else self._position + 1
        left = self.asked - behind
        if self._lead and left > self._lead - max(1, self._lead // SHARE):
            return range(0)
        self._lead = min(max(FIRST, self._lead * GROWTH), MOST)
        start = max(self.asked, behind)
        self.asked = min(behind + self._lead, start + AT_ONCE)
        return range(start, self.asked)
