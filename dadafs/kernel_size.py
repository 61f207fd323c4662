"""What the kernel has in mind of a file, and how to make it ask: statx(2) as glibc's wrappers do not offer it."""

from __future__ import annotations

import ctypes
import struct

_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_STATX_FORCE_SYNC = 0x2000
_AT_STATX_DONT_SYNC = 0x4000
_STATX_SIZE = 0x200
_LENGTH = 256
#: stx_ino and stx_size in `struct statx`.
_INO_AND_SIZE = struct.Struct("@QQ")
_OFFSET = 32

_libc = ctypes.CDLL(None, use_errno=True)


def kernel_size(path: bytes) -> int | None:
    """The size in bytes that the kernel believes in, without asking; None where it cannot be told."""
    return _size(path, _AT_STATX_DONT_SYNC)


def ask(path: bytes) -> int | None:
    """Make the kernel ask for the attributes of the file at `path` now, whatever it has cached; the size it heard."""
    return _size(path, _AT_STATX_FORCE_SYNC)


def _size(path: bytes, sync: int) -> int | None:
    buffer = ctypes.create_string_buffer(_LENGTH)
    flags = _AT_SYMLINK_NOFOLLOW | sync
    if _libc.statx(_AT_FDCWD, ctypes.c_char_p(path), flags, _STATX_SIZE, buffer) != 0:
        return None
    _, size = _INO_AND_SIZE.unpack_from(buffer, _OFFSET)
    return int(size)
