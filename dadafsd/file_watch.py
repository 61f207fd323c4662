"""Files that nodes opened are watched themselves, for what the watch of their directory does not tell.

* A name that a file gets in another directory raises no event in its own. Whoever holds a lease on the file relies on
  its directory to see every write, which is true while it has one name.
* The end of a write tells whether something was read while it was under way (`long_writes.py`), whoever has a lease.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container

from dadafsd import inotify
from dadafsd.open_files import OpenFile


class FileWatch:
    """At most `limit` files, those opened last; `others` has the numbers of watches that belong to somebody else."""

    def __init__(self, watches: inotify.Watches, limit: int, others: Container[int]) -> None:
        self._watches = watches
        self._limit = limit
        self._others = others
        self._numbers: OrderedDict[tuple[int, int], int] = OrderedDict()  # by identity, opened longest ago first
        self._files: dict[int, OpenFile] = {}  # by number; as they were opened last, perhaps closed since

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
                number = self._watches.add_opened(file.descriptor)
            except OSError:
                return
            self._numbers[file.identity] = number
            if len(self._numbers) > self._limit:
                self._drop_oldest()
        else:
            self._numbers.move_to_end(file.identity)
            earlier = self._files[number].read_as
            if earlier is not None:
                file.note_read(earlier)
        self._files[number] = file

    def _drop_oldest(self) -> None:
        _, number = self._numbers.popitem(last=False)
        if self._files.pop(number, None) is not None and number not in self._others:
            self._watches.remove(number)

    def event(self, number: int, mask: int) -> OpenFile | None:
        """The file that an event is about; None where it is not one of these, or is gone."""
        file = self._files.get(number)
        if file is not None and mask & inotify.IGNORED:
            del self._files[number]
            if self._numbers.get(file.identity) == number:
                del self._numbers[file.identity]
            return None
        return file
