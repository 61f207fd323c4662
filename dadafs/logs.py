"""Where log lines go: to journald with fields where it is there, else to stderr or the system's log (shared)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from logging.handlers import SysLogHandler
from pathlib import Path

from dadafs import journal

_SYSLOG = Path("/dev/log")


def set_up_logging(
    program: str, level: str, *, standing: Mapping[str, journal.Value] | None = None, foreground: bool, times: bool
) -> None:
    """Log from `level` on. In the foreground to stderr, `times` included if wanted; as a daemon to the system's log.

    `standing` fields go with every record to journald.
    """
    root = logging.getLogger()
    root.setLevel(level)
    if foreground and not journal.stderr_is_the_journal():
        handler: logging.Handler = logging.StreamHandler(sys.stderr)
        text = "%(levelname)s %(name)s: %(message)s"
        handler.setFormatter(logging.Formatter("%(asctime)s " + text if times else text))
        root.addHandler(handler)
    elif journal.SOCKET.exists():
        root.addHandler(journal.JournalHandler(program, standing))
    elif _SYSLOG.exists():
        with suppress(OSError):
            handler = SysLogHandler(str(_SYSLOG), SysLogHandler.LOG_DAEMON)
            handler.setFormatter(logging.Formatter(program + "[%(process)d]: %(levelname)s %(name)s: %(message)s"))
            root.addHandler(handler)
