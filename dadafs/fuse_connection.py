"""The kernel's side of a mount, as fusectl shows it: cutting off a process that is stuck, so that nobody waits for it.

Every request of an aborted connection fails at once, those that wait already included. The `abort` file belongs to the
user who mounted, so ordinary users can cut off their own mounts where fusectl is mounted, which systemd does at boot.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

CONNECTIONS = Path("/sys/fs/fuse/connections")


def folder(device: str, connections: Path = CONNECTIONS) -> Path:
    """What fusectl shows of the mount on `device` ("major:minor"); mounts fusectl where it is missing and root asks."""
    path = connections / device.rpartition(":")[2]
    if connections == CONNECTIONS and not path.exists():
        _mount_fusectl()
    return path


def abort(device: str, connections: Path = CONNECTIONS) -> str | None:
    """Cut off the process behind the mount on `device`; what hindered it, or None. Never blocks, never raises."""
    try:
        (folder(device, connections) / "abort").write_text("1\n")
    except FileNotFoundError:
        return "there is no such connection, or fusectl is not mounted"
    except OSError as problem:
        return problem.strerror or str(problem)
    return None


def _mount_fusectl() -> None:
    """systemd mounts it at boot; a container may not have it."""
    if os.geteuid() == 0 and not any(CONNECTIONS.glob("*/abort")):
        subprocess.run(
            ["mount", "-t", "fusectl", "fusectl", str(CONNECTIONS)], check=False, capture_output=True, timeout=10
        )
