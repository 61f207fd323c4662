"""The size that the kernel has in mind for a file, without asking the file system: statx(2) with AT_STATX_DONT_SYNC."""

from __future__ import annotations

import ctypes
import struct

_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_STATX_DONT_SYNC = 0x4000
_STATX_SIZE = 0x200
_LENGTH = 256
#: stx_ino and stx_size in `struct statx`.
_INO_AND_SIZE = struct.Struct("@QQ")
_OFFSET = 32

_libc = ctypes.CDLL(None, use_errno=True)


def kernel_size(path: bytes) -> int | None:
    """The size in bytes, or None where it cannot be told."""
    buffer = ctypes.create_string_buffer(_LENGTH)
    flags = _AT_SYMLINK_NOFOLLOW | _AT_STATX_DONT_SYNC
    if _libc.statx(_AT_FDCWD, ctypes.c_char_p(path), flags, _STATX_SIZE, buffer) != 0:
        return None
    _, size = _INO_AND_SIZE.unpack_from(buffer, _OFFSET)
    return int(size)
