"""A mount as dadafsctl sees it: asked through its socket, found in /proc, never touched itself."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from dadafs import __version__, status_socket
from dadafs.ctl.client import Reply
from dadafs.ctl.places import mount_of
from dadafs.errors import UserError
from dadafs.mount_table import FSTYPE, mount_at, mounts
from dadafs.unmount import no_mount_of_ours, without_touching

_FUSE = Path("/sys/fs/fuse/connections")


class Mountpoint:
    """The mount at exactly a path. Raises UserError where there is none."""

    def __init__(self, place: str) -> None:
        self.place = without_touching(place)
        found = mount_at(self.place)
        if found is None or found.fstype != FSTYPE:
            raise no_mount_of_ours(place)
        self.mount = found

    @classmethod
    def of(cls, path: str) -> Mountpoint | None:
        """The mount that an absolute path lies on; None where it lies on none of ours."""
        found = mount_of(os.path.normpath(path), mounts()) if os.path.isabs(path) else None
        return None if found is None else cls(found.mountpoint)

    def below(self, path: str) -> str:
        """A path on the mount, relative to it."""
        return os.path.relpath(os.path.normpath(path), self.place).removeprefix(".")

    def ask(self, command: str, **fields: object) -> Reply:
        """What the mount process answers. Raises UserError."""
        given = {name: value for name, value in fields.items() if value is not None}
        return status_socket.ask(self.mount.device, command, fields=given)

    def bundle(self) -> dict[str, Any]:
        """Everything for a bug report; what cannot be had is told instead."""
        asked: dict[str, Reply] = {}
        for command in ("status", "activity", "get", "log"):
            asked[command] = self._try(command)
            if "error" in asked[command]:  # one wait is enough
                break
        pid = asked["status"].get("pid")
        from dadafs.doctor import examine

        return {
            "version": __version__,
            "mount": {**vars(self.mount), "options": list(self.mount.options)},
            "machine": {"system": list(platform.uname()), "memory": _text(Path("/proc/meminfo"))},
            "fuse": self._fuse(),
            **asked,
            "doctor": [vars(finding) for finding in examine(self.place)],
            "process": _process(Path("/proc") / str(pid)) if isinstance(pid, int) else {},
        }

    def _try(self, command: str) -> Reply:
        try:
            return self.ask(command)
        except UserError as error:
            return {"error": str(error)}

    def _fuse(self) -> dict[str, str]:
        """The kernel's side: `waiting` is how many requests have no answer yet."""
        connection = _FUSE / self.mount.device.partition(":")[2]
        return {name: _text(connection / name) for name in ("waiting", "max_background", "congestion_threshold")}


def _process(proc: Path) -> dict[str, Any]:
    """Status and limits of a process, and where in the kernel each of its threads is."""
    try:
        threads = sorted((proc / "task").iterdir())
    except OSError as error:
        return {"error": error.strerror}
    return {
        "status": _text(proc / "status"),
        "limits": _text(proc / "limits"),
        "threads": {thread.name: [_text(thread / "wchan"), _text(thread / "stack")] for thread in threads},
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError as error:
        return f"({error.strerror})"
