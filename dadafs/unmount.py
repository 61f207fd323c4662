"""Taking a mount down: cleanly where nobody uses it, lazily where somebody insists, and never by touching it."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import time

from dadafs.errors import ExitCode, UserError
from dadafs.mount_table import FSTYPE, Mount, mount_at
from dadafs.status_socket import answers, socket_path

_MNT_DETACH = 2
_GONE_WITHIN = 15.0


def detach(mountpoint: str, *, lazy: bool) -> None:
    """Unmount. Blocks shortly. Raises OSError (EBUSY where it is in use and `lazy` is not given)."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(mountpoint), _MNT_DETACH if lazy else 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), mountpoint)
        return
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", mountpoint]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if result.returncode != 0:
        number = errno.EBUSY if "busy" in result.stderr else errno.EPERM
        raise OSError(number, result.stderr.strip() or os.strerror(number), mountpoint)


def umount(mountpoint: str, *, lazy: bool = False) -> None:
    """`dadafs umount`: unmount and wait until the mount process has ended. Raises UserError."""
    path = without_touching(mountpoint)
    mount = mount_at(path)
    if mount is None or mount.fstype != FSTYPE:
        raise UserError(f"{mountpoint} is not a dadafs mount; `mount -t {FSTYPE}` lists them.", ExitCode.MOUNTPOINT)
    try:
        detach(path, lazy=lazy)
    except OSError as problem:
        raise _refusal(mountpoint, problem) from None
    _wait_until_gone(mount)


def clear_away(mountpoint: str) -> None:
    """`dadafs umount --dead`: take away a mount whose process has ended; nothing where there is none."""
    path = without_touching(mountpoint)
    there = mount_at(path)
    if there is not None and there.fstype == FSTYPE and is_dead(there):
        detach(path, lazy=True)


def is_dead(there: Mount) -> bool:
    """Whether the process behind a mount has ended. `statvfs` is never answered from the kernel's caches."""
    if answers(socket_path(there.device)):
        return False
    try:
        os.statvfs(there.mountpoint)
    except OSError as problem:
        return problem.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    return False


def _refusal(mountpoint: str, problem: OSError) -> UserError:
    if problem.errno == errno.EBUSY:
        return UserError(
            f"{mountpoint} is in use; `fuser -vm {mountpoint}` shows by whom. Close those programs, "
            f"or detach it with `dadafs umount --lazy {mountpoint}`.",
            ExitCode.MOUNTPOINT,
        )
    return UserError(f"Cannot unmount {mountpoint}: {problem.strerror}.", ExitCode.MOUNTPOINT)


def without_touching(mountpoint: str) -> str:
    """The absolute path, links resolved in its parent only: the mount itself may not answer."""
    parent, name = os.path.split(os.path.abspath(mountpoint))
    return os.path.join(os.path.realpath(parent), name)


def _wait_until_gone(mount: Mount) -> None:
    """The process closes its socket when it is done; that of a process that was killed is cleared away."""
    path = socket_path(mount.device)
    end = time.monotonic() + _GONE_WITHIN
    while answers(path) and time.monotonic() < end:
        time.sleep(0.02)
