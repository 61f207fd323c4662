"""Log lines that may come a thousand times a second: each cause speaks once a minute and counts its silences."""

from __future__ import annotations

import logging
import threading
import time

INTERVAL = 60.0


class ThrottledLog:
    """Wraps a logger; `cause` names what is counted together."""

    def __init__(self, logger: logging.Logger, interval: float = INTERVAL) -> None:
        self._logger = logger
        self._interval = interval
        self._lock = threading.Lock()
        self._said: dict[str, tuple[float, int]] = {}

    def warning(self, cause: str, text: str) -> None:
        """Log `text`, unless this cause has spoken within the interval."""
        now = time.monotonic()
        with self._lock:
            last, silent = self._said.get(cause, (-self._interval, 0))
            if now - last < self._interval:
                self._said[cause] = (last, silent + 1)
                return
            self._said[cause] = (now, 0)
        if silent:
            text += f" ({silent} more of this kind since the last message)"
        self._logger.warning("%s", text)
