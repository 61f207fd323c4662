"""Taking a mount down: cleanly where nobody uses it, lazily where somebody insists, and never by touching it."""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import subprocess
import threading
import time
from dataclasses import dataclass

from dadafs.errors import ExitCode, UserError
from dadafs.fuse_connection import abort
from dadafs.mount_table import FSTYPE, Mount, mount_at
from dadafs.status_socket import answers, ask, places, socket_path

_MNT_DETACH = 2
_GONE_WITHIN = 15.0
_BUSY_FOR_A_MOMENT = 1.0
#: A mount process that says nothing for so long is stuck, in seconds. A loaded machine is not.
STUCK_AFTER = 15.0


class Condition(enum.Enum):
    """How the process behind a mount is."""

    SERVING = "serving"
    STUCK = "stuck"  # there, but it does not answer
    DEAD = "dead"  # it has ended: every call on the mount fails


@dataclass(frozen=True)
class DeadMount:
    """What a mount process left behind on `device`, "" for nothing; `required`: without it nothing is to be mounted."""

    device: str = ""
    required: bool = False


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
        raise no_mount_of_ours(mountpoint)
    try:
        _detach_patiently(path, lazy=lazy)
    except OSError as problem:
        raise _refusal(mountpoint, problem) from None
    _wait_until_gone(mount)


def _detach_patiently(path: str, *, lazy: bool) -> None:
    """`detach`, again for a moment where the mount is in use: the mount process itself lists directories in it."""
    end = time.monotonic() + _BUSY_FOR_A_MOMENT
    while True:
        try:
            return detach(path, lazy=lazy)
        except OSError as problem:
            if problem.errno != errno.EBUSY or time.monotonic() >= end:
                raise
        time.sleep(0.02)


def clear_away(mountpoint: str) -> None:
    """`dadafs umount --dead`: take away a mount whose process has ended or is stuck; nothing where there is none."""
    path = without_touching(mountpoint)
    there = mount_at(path)
    if there is None or there.fstype != FSTYPE:
        return
    found = condition(there)
    if found is Condition.STUCK:
        abort(there.device)
    if found is not Condition.SERVING:
        detach(path, lazy=True)


def replace(mountpoint: str, dead: DeadMount) -> bool:
    """Take the dead mount away, to mount anew at once; False where nothing is to be replaced any more."""
    there = mount_at(mountpoint)
    if there is None or there.fstype != FSTYPE:
        return not dead.required
    if there.device != dead.device or not is_dead(there):
        return False
    detach(mountpoint, lazy=True)
    return True


def cut_off(mountpoint: str, *, if_stuck: bool = False) -> bool:
    """`dadafs abort`: every call on the mount fails from now on, those that wait included. Raises UserError.

    With `if_stuck` only where the mount process does not answer; returns whether it was done.
    """
    path = without_touching(mountpoint)
    there = mount_at(path)
    if there is None or there.fstype != FSTYPE:
        if if_stuck:
            return False
        raise no_mount_of_ours(mountpoint)
    if if_stuck and condition(there) is not Condition.STUCK:
        return False
    problem = abort(there.device)
    if problem is not None:
        raise UserError(
            f"Cannot abort the connection of {mountpoint}: {problem}; as root, `mount -t fusectl fusectl "
            "/sys/fs/fuse/connections` and try again, or kill -9 the mount process.",
            ExitCode.MOUNTPOINT,
        )
    return True


def no_mount_of_ours(mountpoint: str) -> UserError:
    """What to say where there is none."""
    return UserError(f"{mountpoint} is not a dadafs mount; `mount -t {FSTYPE}` lists them.", ExitCode.MOUNTPOINT)


def condition(there: Mount, patience: float = STUCK_AFTER) -> Condition:
    """How the process behind a mount is; takes about `patience` seconds at most, whatever the mount does."""
    if any(answers(path) for path in places(there.device)):
        try:
            ask(there.device, patience=patience)
        except UserError:
            return Condition.STUCK
        return Condition.SERVING
    return _looked_at(there.mountpoint, patience)


def _looked_at(mountpoint: str, patience: float) -> Condition:
    """What the file system itself says. `statvfs` is never answered from the kernel's caches, and so may hang."""
    found = Condition.STUCK

    def look() -> None:
        nonlocal found
        try:
            os.statvfs(mountpoint)
        except OSError as problem:
            gone = problem.errno in {errno.ENOTCONN, errno.ECONNABORTED}
            found = Condition.DEAD if gone else Condition.SERVING
        else:
            found = Condition.SERVING

    thread = threading.Thread(target=look, name="statvfs", daemon=True)
    thread.start()
    thread.join(patience)
    return found


def is_dead(there: Mount) -> bool:
    """Whether the process behind a mount has ended."""
    return condition(there) is Condition.DEAD


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
