"""Whether an origin is mounted so that the promises can be kept: the client's attribute cache comes before ours.

An NFS or SMB client answers `stat` from its own cache for some seconds, and no change is seen earlier than that,
whatever dadafs does. Pure: what is mounted how goes in, sentences come out. Options are read as
/proc/self/mountinfo shows them, where the kernel leaves its defaults out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dadafs.mount_table import Mount

NFS = {"nfs", "nfs4"}
SMB = {"cifs", "smb3"}
#: What nfs(5) says for how many seconds attributes of files and of directories are believed at most.
NFS_DEFAULT = 60.0
#: The same for mount.cifs(8), files and directories.
SMB_DEFAULT = 1.0
#: Bytes of one fragment, and of the requests that fetch it well.
GOOD_RSIZE = 1 << 20


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong with a mount and how to put it right; `late`: a promise is broken, not only slower."""

    text: str
    late: bool


def options_of(mount: Mount) -> dict[str, str]:
    """Name and value of each option; flags have the value ""."""
    return dict(option.partition("=")[::2] for option in mount.options)


def cached_seconds(mount: Mount) -> tuple[float, float] | None:
    """How long the client believes the attributes of files and of directories; None for other file systems."""
    given = options_of(mount)
    if mount.fstype in NFS:
        if "noac" in given:
            return 0.0, 0.0
        default = NFS_DEFAULT
    elif mount.fstype in SMB:
        default = SMB_DEFAULT
    else:
        return None
    both = _seconds(given, "actimeo", default)
    return _seconds(given, "acregmax", both), _seconds(given, "acdirmax", both)


def judge(mount: Mount, freshness: float) -> list[Complaint]:
    """What is wrong with the mount of an origin whose nodes are promised `freshness` seconds."""
    cached = cached_seconds(mount)
    if cached is None:
        return []
    where = f"{mount.source} on {mount.mountpoint}"
    found = []
    if max(cached) > freshness:
        files, directories = cached
        fit = f"{int(freshness)}" if freshness >= 1 else "0"
        found.append(
            Complaint(
                f"{where} is mounted so that attributes are believed for {files:g} s (files) and {directories:g} s "
                f"(directories), so changes are seen so much late and not within the freshness of {freshness:g} s: "
                f"mount it with actimeo={fit}",
                late=True,
            )
        )
    return found + (_nfs_only(where, mount, freshness) if mount.fstype in NFS else _smb_only(where, mount))


def _nfs_only(where: str, mount: Mount, freshness: float) -> list[Complaint]:
    given = options_of(mount)
    found = []
    _, directories = cached_seconds(mount) or (0.0, 0.0)
    # The client says that a name is absent for as long as it believes the directory.
    if directories > freshness and given.get("lookupcache", "all") == "all":
        found.append(
            Complaint(
                f"{where} is mounted with lookupcache=all, so a name that was looked up in vain stays absent for "
                f"{directories:g} s: mount it with lookupcache=positive",
                late=True,
            )
        )
    if "soft" not in given and "softerr" not in given:
        found.append(
            Complaint(
                f"{where} is mounted hard, so calls never return when its server is gone, and each keeps a thread: "
                "mount it with softerr,timeo=100,retrans=3",
                late=False,
            )
        )
    if _seconds(given, "rsize", GOOD_RSIZE) < GOOD_RSIZE:
        found.append(
            Complaint(
                f"{where} is mounted with rsize={given['rsize']}, so a fragment takes several requests: mount it with "
                f"rsize={GOOD_RSIZE}, if the server allows that",
                late=False,
            )
        )
    if given.get("proto", "tcp").startswith("tcp") and _seconds(given, "nconnect", 1) < 2:
        found.append(
            Complaint(
                f"{where} is mounted with one connection, which fills no fast network: mount it with nconnect=8",
                late=False,
            )
        )
    return found


def _smb_only(where: str, mount: Mount) -> list[Complaint]:
    if options_of(mount).get("cache") != "loose":
        return []
    text = f"{where} is mounted with cache=loose, so contents may be old for any time: mount it with cache=strict"
    return [Complaint(text, late=True)]


def _seconds(given: Mapping[str, str], name: str, default: float) -> float:
    """The number in option `name`; the default where it is not given, or no number."""
    try:
        return float(given.get(name, default))
    except ValueError:
        return default
