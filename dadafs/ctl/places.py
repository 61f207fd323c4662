"""What a path on the command line means: below an export as it stands, or as this machine sees it.

Nothing here touches a mount: what is mounted where is read from /proc/self/mountinfo.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from dadafs.mount_table import FSTYPE, Mount


def mount_of(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """The dadafs mount that the absolute `path` lies on, the innermost one."""
    ours = [mount for mount in mounts if mount.fstype == FSTYPE and _below(path, mount.mountpoint) is not None]
    return max(ours, key=lambda mount: len(mount.mountpoint), default=None)


def in_export(
    path: str, export: str | None, exports: Sequence[dict[str, Any]], mounts: Iterable[Mount]
) -> tuple[str | None, str]:
    """The export and the path in it that `path` means.

    An absolute path below a dadafs mount or below the directory of an export is that place; everything else is
    relative to the export, with or without a slash in front.
    """
    if not os.path.isabs(path):
        return export, path
    normal = os.path.normpath(path)
    mount = mount_of(normal, mounts)
    if mount is not None:
        name = mount.source.rpartition(":/")[2]
        if export in (None, name):
            return name, _below(normal, mount.mountpoint) or ""
    for one in sorted(exports, key=lambda one: -len(one["directory"])):
        below = _below(normal, os.path.normpath(one["directory"]))
        if below is not None and export in (None, one["name"]):
            return one["name"], below
    return export, path


def _below(path: str, directory: str) -> str | None:
    """`path` relative to `directory`, empty for itself; None where it does not lie there."""
    if path == directory:
        return ""
    start = directory.rstrip("/") + "/"
    return path[len(start) :] if path.startswith(start) else None
