"""A client of a head's admin socket (docs/admin-socket.md)."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from tests.harness.processes import wait_until


class Socket:
    """A client of the admin socket."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """The reply, which must be a success."""
        reply = self.try_to(command, **arguments)
        assert reply["ok"], reply
        return reply

    def try_to(self, command: str, **arguments: object) -> dict[str, Any]:
        return self.send(json.dumps({"command": command, **arguments}).encode())

    def send(self, line: bytes) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as peer, peer.makefile("rwb") as stream:
            peer.settimeout(60)
            peer.connect(str(self.path))
            stream.write(line + b"\n")
            stream.flush()
            return dict(json.loads(stream.readline()))

    def finished(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job once it is over."""
        wait_until(lambda: self.ask("jobs", job=job["id"])["job"]["state"] != "running", "the job ends")
        return dict(self.ask("jobs", job=job["id"])["job"])
