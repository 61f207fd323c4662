"""The mounts behind an export, looked up in /proc/self/mountinfo, and what is wrong with them said once.

That file is the kernel's own: to read it asks no file system, so that a hung origin hangs nobody here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dadafs import mount_table
from dadafs.mount_table import Mount
from dadafs.wire.messages import OriginTrouble
from dadafsd.exported import Exported
from dadafsd.policy.mount_options import Complaint, judge
from dadafsd.poll_watch import DEFAULT_FRESHNESS
from dadafsd.sessions import Session

#: How often the mounts are looked at for a node, in seconds, and how many sentences it is told at most.
LOOK_APART = 5.0
MOST = 16
log = logging.getLogger(__name__)


def mounts_behind(place: str, all_mounts: Sequence[Mount]) -> list[Mount]:
    """The mount that the directory `place` lies on, and those below it; of several on one another the topmost counts.

    `place` is absolute and without links.
    """
    visible = {mount.mountpoint: mount for mount in all_mounts}
    around = [point for point in visible if _within(place, point)]
    below = [point for point in visible if point != place and _within(point, place)]
    return [visible[point] for point in [*sorted(around, key=len)[-1:], *sorted(below)]]


def _within(path: str, directory: str) -> bool:
    return path == directory or directory == "/" or path.startswith(directory + "/")


def complaints(exported: Exported, freshness: float | None = None) -> list[Complaint]:
    """What is wrong with the mounts behind an export, for nodes with this freshness (the usual one unless given)."""
    promised = exported.freshness(DEFAULT_FRESHNESS if freshness is None else freshness)
    try:
        table = mount_table.mounts(mount_table.MOUNTINFO)
    except OSError:
        return []
    found = [each for mount in mounts_behind(exported.export.real_path, table) for each in judge(mount, promised)]
    return list(dict.fromkeys(found))


def look_for(session: Session, now: float) -> None:
    """Have the node told what is wrong with the mounts behind its export; they are looked at now and then."""
    if now - session.origin_looked_at < LOOK_APART:
        return
    session.origin_looked_at = now
    found = complaints(session.exported, session.freshness)[:MOST]
    session.tell_of_origin([OriginTrouble(complaint.text, complaint.late) for complaint in found])


def say(exported: Exported) -> None:
    """Log what is wrong with the mounts behind an export: broken promises as warnings, the rest for information."""
    for complaint in complaints(exported):
        log.log(logging.WARNING if complaint.late else logging.INFO, "export %s: %s", exported.name, complaint.text)
