"""Questions to the admin socket of a head: one JSON object a line each way (docs/admin-socket.md)."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from dadafs.errors import ExitCode, UserError

#: Where the service's socket is, unless --socket or DADAFS_ADMIN_SOCKET say otherwise.
DEFAULT_SOCKET = "/run/dadafsd/admin.sock"
PATIENCE = 30.0
_LONGEST_REPLY = 64 << 20

Reply = dict[str, Any]


class Head:
    """A connection to a head's admin socket; `ask` raises UserError for whatever goes wrong."""

    def __init__(self, path: str | None = None, patience: float = PATIENCE) -> None:
        self.path = path or os.environ.get("DADAFS_ADMIN_SOCKET") or DEFAULT_SOCKET
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(patience)
        try:
            self._socket.connect(self.path)
        except PermissionError:
            self._socket.close()
            raise UserError(f"You may not use {self.path}: it belongs to the head's owner; try sudo.") from None
        except OSError as problem:
            self._socket.close()
            raise UserError(
                f"No head answers on {self.path} ({problem.strerror or problem}); is dadafsd running here, and is that "
                "its --admin-socket?",
                ExitCode.UNREACHABLE,
            ) from None
        self._lines = self._socket.makefile("rb")

    def ask(self, command: str, **fields: object) -> Reply:
        """The reply to a command; its error, if it is one, as a UserError."""
        request = {"command": command} | {name: value for name, value in fields.items() if value is not None}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            line = self._lines.readline(_LONGEST_REPLY)
        except OSError as problem:
            raise UserError(f"The head stopped answering on {self.path} ({problem}).", ExitCode.UNREACHABLE) from None
        if not line.endswith(b"\n"):
            raise UserError(f"The head closed {self.path}; has it ended?", ExitCode.UNREACHABLE)
        reply: Reply = json.loads(line)
        if not reply.pop("ok", False):
            raise UserError(str(reply.get("error", "The head refused without a reason.")))
        return reply

    def follow(self, job: Reply, show: Callable[[Reply], None], interval: float = 0.2) -> Reply:
        """Ask after a job until it has ended; `show` sees each answer. Ctrl-C cancels the job."""
        try:
            while True:
                show(job)
                if job["state"] != "running":
                    return job
                time.sleep(interval)
                job = self.ask("jobs", job=job["id"])["job"]
        except KeyboardInterrupt:
            self.ask("cancel", job=job["id"])
            raise

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()
