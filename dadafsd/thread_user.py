"""One thread of this process as another user, without any capability, for good.

The kernel keeps users and capabilities a thread; the wrappers of the C library make all threads follow, so the system
calls are made without them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Callable
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
#: setgroups, setresgid, setresuid, capset
_NUMBERS = {"x86_64": (116, 119, 117, 126), "aarch64": (159, 149, 147, 91)}
_CAPABILITY_VERSION_3 = 0x20080522


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def become_user(user: int, group: int) -> None:
    """Give this thread, and no other, the user, the one group and no capability. Raises OSError."""
    try:
        setgroups, setresgid, setresuid, capset = _NUMBERS[platform.machine()]
    except KeyError:
        raise OSError(f"not known how on {platform.machine()}") from None
    groups = (ctypes.c_uint32 * 1)(group)
    _call(setgroups, ctypes.c_size_t(1), groups)
    _call(setresgid, *3 * [ctypes.c_uint32(group)])
    _call(setresuid, *3 * [ctypes.c_uint32(user)])
    none = (ctypes.c_uint32 * 6)()
    _call(capset, ctypes.byref(_CapabilityHeader(_CAPABILITY_VERSION_3, 0)), none)


def _call(number: int, *arguments: Any) -> None:
    if _syscall(ctypes.c_long(number), *arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def can_become(become: Callable[[], None]) -> bool:
    """Whether `become` succeeds, tried in a thread that ends after it."""
    succeeded = []

    def attempt() -> None:
        try:
            become()
        except OSError:
            return
        succeeded.append(True)

    thread = threading.Thread(target=attempt, name="trial")
    thread.start()
    thread.join()
    return bool(succeeded)
