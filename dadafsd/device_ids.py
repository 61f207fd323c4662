"""Names of file systems that outlive a reboot, in place of device numbers.

`st_dev` of an NFS mount is the next free number when it is mounted, that of a disk depends on the order in which it was
found. A cache whose keys held them would be cold after a reboot. A file system is therefore known by, in this order,

1. the server and the file system id that an NFS server gives (/proc/fs/nfsfs/volumes, hidden by `ProcSubset=pid`),
2. what was mounted from another machine, as `filer:/volume` (/proc/self/mountinfo),
3. its UUID, where udev lists it (/dev/disk/by-uuid, hidden by `PrivateDevices=yes`),
4. the UUID that XFS tells who asks, or `f_fsid`, which ext4, btrfs and ZFS make of theirs (XFS of the device number),
5. and by its device number where none of these is known.

Two file systems with one name (a copied disk) would share their inode numbers: the second keeps its device number.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from xxhash import xxh3_64_intdigest

from dadafs import mount_table

VOLUMES = Path("/proc/fs/nfsfs/volumes")
UUIDS = Path("/dev/disk/by-uuid")
#: File systems of other machines, whose source in the mount table says which one it is.
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "beegfs", "gpfs", "afs"}
#: XFS_IOC_FSGEOMETRY_V1, the size of what it fills in, and where the UUID is in that.
_XFS_GEOMETRY, _XFS_SIZE, _XFS_UUID = 0x80705864, 112, slice(64, 80)
#: No device number is that large.
_MARK = 1 << 62

_lock = threading.Lock()
_ids: dict[int, int] = {}


def device_id(dev: int, fd: int = -1) -> int:
    """The lasting number of the file system that has device number `dev` now. The first call for each may block.

    `fd` is a descriptor on it, if there is one: a btrfs subvolume has a number that is in no table.
    """
    known = _ids.get(dev)
    if known is not None:
        return known
    name = find_name(dev) or (_fsid_of(fd) if fd >= 0 else None)
    with _lock:
        number = dev if name is None else xxh3_64_intdigest(name.encode()) >> 2 | _MARK
        if number in _ids.values():
            number = dev
        return _ids.setdefault(dev, number)


def forget() -> None:
    """Look again from now on: something was mounted anew, and the kernel may have given its number to another."""
    _ids.clear()


def find_name(
    dev: int, volumes: Path = VOLUMES, uuids: Path = UUIDS, table: Path = mount_table.MOUNTINFO
) -> str | None:
    """What stays the same about a file system; None where nothing is known to."""
    text = f"{os.major(dev)}:{os.minor(dev)}"
    return _nfs(text, volumes) or _source(text, table) or _uuid(dev, uuids) or _fsid(dev, text, table)


def _nfs(device: str, volumes: Path) -> str | None:
    try:
        head, *lines = volumes.read_text().splitlines()
        columns = head.split()
        server, number, fsid = (columns.index(name) for name in ("SERVER", "DEV", "FSID"))
    except (OSError, ValueError):
        return None
    for fields in map(str.split, lines):
        if len(fields) > max(server, number, fsid) and fields[number] == device:
            return f"nfs {fields[server]} {fields[fsid]}"
    return None


def _source(device: str, table: Path) -> str | None:
    """Several mounts may share one file system: then the first by name, whatever the order in which they were made."""
    try:
        found = [f"{each.fstype} {each.source}" for each in mount_table.mounts(table) if each.device == device]
    except (OSError, ValueError, IndexError):
        return None
    return min((name for name in found if name.split()[0] in NETWORK), default=None)


def _uuid(dev: int, uuids: Path) -> str | None:
    try:
        names = os.listdir(uuids)
    except OSError:
        return None
    for name in names:
        try:
            if os.stat(uuids / name).st_rdev == dev:
                return f"uuid {name}"
        except OSError:
            continue
    return None


def _fsid(dev: int, device: str, table: Path) -> str | None:
    try:
        for mount in mount_table.mounts(table):
            place = mount.mountpoint
            if mount.device != device or os.stat(place).st_dev != dev:  # something else is mounted over it
                continue
            if mount.fstype == "xfs":
                return f"xfs {_xfs_uuid(place).hex()}"
            fsid = os.statvfs(place).f_fsid
            return f"fsid {fsid:x}" if fsid else None
    except OSError:
        pass
    return None


def _fsid_of(fd: int) -> str | None:
    try:
        fsid = os.fstatvfs(fd).f_fsid
    except OSError:
        return None
    return f"fsid {fsid:x}" if fsid else None


def _xfs_uuid(place: str) -> bytes:
    geometry = bytearray(_XFS_SIZE)
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _XFS_GEOMETRY, geometry)
    finally:
        os.close(fd)
    return bytes(geometry[_XFS_UUID])
