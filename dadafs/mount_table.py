"""What is mounted where, from /proc/self/mountinfo: no call here can hang on a mount that does not answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FSTYPE = "fuse.dadafs"
MOUNTINFO = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo; `device` is "major:minor", `options` those of the mount and of its file system."""

    device: str
    mountpoint: str
    fstype: str
    source: str
    options: tuple[str, ...] = ()


def mounts(table: Path = MOUNTINFO) -> list[Mount]:
    """All mounts, in the order they were made."""
    found = []
    for line in table.read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ")
        dash = fields.index("-", 6)
        options = f"{fields[5]},{fields[dash + 3]}" if len(fields) > dash + 3 else fields[5]
        found.append(
            Mount(
                fields[2],
                _unescape(fields[4]),
                fields[dash + 1],
                _unescape(fields[dash + 2]),
                tuple(options.split(",")),
            )
        )
    return found


def mount_at(mountpoint: str, table: Path = MOUNTINFO) -> Mount | None:
    """The topmost mount at exactly `mountpoint` (absolute, without links)."""
    found = None
    for each in mounts(table):
        if each.mountpoint == mountpoint:
            found = each
    return found


def _unescape(text: str) -> str:
    """Undo the octal escapes for space, tab, newline and backslash."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
