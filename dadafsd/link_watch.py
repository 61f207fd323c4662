"""Files whose link count is watched: a name that they get in another directory raises no event in their own.

Whoever holds a lease on a file relies on its directory to see every write, which is true while it has one name. So
files that nodes opened, whose contents they may keep, are watched themselves for that one thing. Directories are not
enough for that, and a watch for everything would see each write twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container

from dadafsd import inotify
from dadafsd.open_files import OpenFile


class LinkWatch:
    """At most `limit` files, those opened last; `others` has the numbers of watches that belong to somebody else."""

    def __init__(self, watches: inotify.Watches, limit: int, others: Container[int]) -> None:
        self._watches = watches
        self._limit = limit
        self._others = others
        self._numbers: OrderedDict[tuple[int, int], int] = OrderedDict()  # by identity, opened longest ago first
        self._files: dict[int, tuple[tuple[int, int], bytes]] = {}  # identity and path, by number

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, number: int) -> bool:
        return number in self._files

    def watch(self, file: OpenFile) -> None:
        """Watch a file that was just opened, where that is possible; it may be open for long or closed at once."""
        number = self._numbers.get(file.identity)
        if number is None:
            if file.descriptor is None:
                return
            try:
                number = self._watches.add_links(file.descriptor)
            except OSError:
                return
            self._numbers[file.identity] = number
            if len(self._numbers) > self._limit:
                self._drop_oldest()
        else:
            self._numbers.move_to_end(file.identity)
        self._files[number] = file.identity, file.path

    def _drop_oldest(self) -> None:
        _, number = self._numbers.popitem(last=False)
        if self._files.pop(number, None) is not None and number not in self._others:
            self._watches.remove(number)

    def event(self, number: int, mask: int) -> bytes | None:
        """The path of the file that may have another name now; None where this event says nothing like that."""
        found = self._files.get(number)
        if found is None:
            return None
        identity, path = found
        if mask & inotify.IGNORED:
            del self._files[number]
            if self._numbers.get(identity) == number:
                del self._numbers[identity]
            return None
        return path if mask & inotify.ATTRIB else None
