"""One log line a minute for each subject, however often the thing happens (sans-IO)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

#: Subjects remembered at a time.
MEMORY = 1024


class Throttle:
    """Allows each subject once in `interval` seconds."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._last: OrderedDict[Hashable, float] = OrderedDict()

    def allows(self, subject: Hashable, now: float) -> bool:
        """Whether to say it now."""
        last = self._last.get(subject)
        if last is not None and now - last < self._interval:
            return False
        self._last.pop(subject, None)
        self._last[subject] = now
        if len(self._last) > MEMORY:
            self._last.popitem(last=False)
        return True
