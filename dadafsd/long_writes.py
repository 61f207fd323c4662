"""States of files that were read while a write was still under way, and how what came of it is told from them.

A write in place gives the file its times when it begins, once, however long it takes: a library that writes a data set
of gigabytes in one call, or from memory that has to be paged in, takes seconds. Whoever reads meanwhile finds old bytes
under the new times, and nothing distinguishes them from the file as it is in the end. Only the event at the end of the
write says that something changed. The file then gets a change time of its own here, some nanoseconds later than it
has; in place of the times that the origin could have given it, had it looked at the clock once more.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from dadafs.wire.messages import Version

#: Files that are remembered; one that is forgotten has its own times again, which is another state for whoever sees it.
LIMIT = 4096
#: By identity: the change time that the origin gives, and how much is added to it.
_added: OrderedDict[tuple[int, int], tuple[int, int]] = OrderedDict()
_lock = threading.Lock()


def change_time(dev: int, ino: int, ctime_ns: int) -> int:
    """The change time that nodes are told. May be called from any thread."""
    found = _added.get((dev, ino)) if _added else None
    return ctime_ns + found[1] if found is not None and found[0] == ctime_ns else ctime_ns


def overtake(version: Version) -> None:
    """What was read in this state may be older than what the file has under the same times."""
    with _lock:
        origin, added = _added.pop(version.identity, (0, 0))
        if not origin <= version.ctime_ns <= origin + added:
            origin, added = version.ctime_ns, 0
        _added[version.identity] = origin, max(added, version.ctime_ns - origin + 1)
        if len(_added) > LIMIT:
            _added.popitem(last=False)


def overtaken(version: Version) -> bool:
    """Whether nothing of this state may be kept. May be called from any thread."""
    found = _added.get(version.identity)
    return found is not None and found[0] <= version.ctime_ns < sum(found)
