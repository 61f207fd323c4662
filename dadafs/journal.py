"""Log records for journald with their fields, through its native socket (shared by node and head).

The protocol is the documented one (https://systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram of `NAME=value` lines, or,
for values with control characters, `NAME`, a length and the bytes. A record may carry fields of its own:
`log.warning("...", extra=fields(site=101, path=b"scan.h5"))` gives `DADAFS_SITE=101` and `DADAFS_PATH=scan.h5`.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
#: Longer values are cut, so that a record always fits into one datagram, in bytes.
LONGEST_VALUE = 32768
_LONGEST_FIELD = 4096
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

Value = str | bytes | int


def fields(**values: Value) -> dict[str, dict[str, Value]]:
    """What `extra=` of a logging call takes: each name becomes a field DADAFS_NAME."""
    return {"dadafs_fields": values}


def stderr_is_the_journal() -> bool:
    """Whether systemd connected our stderr to the journal (`JOURNAL_STREAM` names its device and inode)."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


class JournalHandler(logging.Handler):
    """Sends records to journald. It never blocks: what journald does not take at once is counted, and told later.

    `standing` fields are sent with every record, as DADAFS_NAME.
    """

    def __init__(self, identifier: str, standing: Mapping[str, Value] | None = None, path: Path = SOCKET) -> None:
        super().__init__()
        self._identifier = identifier
        self._standing = dict(standing or {})
        self._path = str(path)
        self._lost = 0
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; where journald is gone it goes to stderr as a plain line."""
        try:
            packet = b"".join(_encode(name, value) for name, value in self._fields(record))
            self._sock.sendto(packet, socket.MSG_DONTWAIT, self._path)
            self._lost = 0
        except OSError as problem:
            if problem.errno in {errno.EAGAIN, errno.ENOBUFS}:
                self._lost += 1
            else:
                print(f"{record.levelname} {record.name}: {self.format(record)}", file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()
        super().close()

    def _fields(self, record: logging.LogRecord) -> Iterator[tuple[str, Value]]:
        yield "MESSAGE", self.format(record)
        yield "PRIORITY", next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        yield "SYSLOG_IDENTIFIER", self._identifier
        yield "SYSLOG_PID", os.getpid()
        yield "LOGGER", record.name
        yield "CODE_FILE", record.pathname
        yield "CODE_LINE", record.lineno
        yield "CODE_FUNC", record.funcName or ""
        own: Mapping[str, Value] = getattr(record, "dadafs_fields", {})
        for name, value in {**self._standing, **own}.items():
            yield f"DADAFS_{name.upper()}", value
        if self._lost:
            yield "DADAFS_LOST", self._lost


def _encode(name: str, value: Value) -> bytes:
    data = value if isinstance(value, bytes) else str(value).encode(errors="surrogateescape")
    data = data[: LONGEST_VALUE if name == "MESSAGE" else _LONGEST_FIELD]
    if any(byte < 32 for byte in data):
        return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return name.encode() + b"=" + data + b"\n"
