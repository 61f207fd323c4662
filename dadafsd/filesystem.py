"""Which file system a directory lies on, and what follows from that for how it may be called."""

from __future__ import annotations

import ctypes
import os

TMPFS, RAMFS = 0x01021994, 0x858458F6
#: On these a call may wait for another machine or for a process, whatever the kernel remembers.
_REMOTE = {
    0x6969: "nfs",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x65735546: "fuse",
    0x0BD00BD0: "lustre",
    0x19830326: "beegfs",
    0x00C36400: "ceph",
    0x01021997: "9p",
    0x47504653: "gpfs",
    0x5346414F: "afs",
}
#: On these an object that the kernel has in memory is looked at without waiting for anything. Overlays are not among
#: them (what they lie over may be anything), nor is ZFS, which has every name looked up again.
_FROM_MEMORY = {
    0xEF53,
    0x58465342,
    0x9123683E,
    0xF2F52010,
    0xCA451A4E,
    TMPFS,
    RAMFS,
}  # ext4, xfs, btrfs, f2fs, bcachefs

_libc = ctypes.CDLL(None, use_errno=True)


def kind(place: int | str | os.PathLike[str]) -> int:
    """The magic number (statfs(2)) of the file system at a path or of an open descriptor; 0 where it does not say."""
    buffer = (ctypes.c_long * 64)()
    if isinstance(place, int):
        failed = _libc.fstatfs(place, buffer)
    else:
        failed = _libc.statfs(os.fsencode(place), buffer)
    return 0 if failed else buffer[0] & 0xFFFFFFFF


def remote(fd: int) -> str | None:
    """The kind of network (or user-space) file system that `fd` lies on; None for a local one."""
    return _REMOTE.get(kind(fd))


def answers_from_memory(fd: int) -> bool:
    """Whether what is cached of the file system of `fd` can be looked at in the loop (`confine.open_at_once`)."""
    return kind(fd) in _FROM_MEMORY
