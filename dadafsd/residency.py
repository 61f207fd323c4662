"""Whether bytes of a file are in the page cache, and reading them only where they are: for the loop, so never waiting.

`preadv2` with `RWF_NOWAIT` says so on file systems of disks. A tmpfs does not know that flag, although a part of it may
be in the swap; there `cachestat` (Linux 6.5) tells, and where even that is missing the answer is no.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

_SYS_CACHESTAT = 451  # the same number on every architecture that has it
_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Stat(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "lately"))


def is_resident(fd: int, offset: int, length: int, *, in_memory: bool = False) -> bool:
    """Whether `length` bytes from `offset` on are in the page cache: a look at both ends, or at every page.

    `in_memory`: the file is on a tmpfs.
    """
    try:
        ends = (offset, offset + length - 1)
        return all(os.preadv(fd, [bytearray(1)], end, os.RWF_NOWAIT) == 1 for end in ends)
    except OSError as error:  # EAGAIN: not there; EOPNOTSUPP: this file system cannot say
        return in_memory and error.errno == errno.EOPNOTSUPP and _every_page_cached(fd, offset, length)


def read_resident(fd: int, buffer: bytearray, offset: int, *, in_memory: bool = False) -> int:
    """Fill `buffer` from `offset` on, as `os.preadv` does. Raises `BlockingIOError` where that would take waiting."""
    try:
        return os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError as error:
        if not in_memory or error.errno != errno.EOPNOTSUPP or not _every_page_cached(fd, offset, len(buffer)):
            raise BlockingIOError from None
        return os.preadv(fd, [buffer], offset)


def _every_page_cached(fd: int, offset: int, length: int) -> bool:
    """Whether all pages with these bytes are in memory; not in the swap, and no holes (which are not written yet)."""
    found = _Stat()
    if _syscall(_SYS_CACHESTAT, fd, ctypes.byref(_Range(offset, length)), ctypes.byref(found), 0) != 0:
        return False
    pages = (offset + length - 1) // mmap.PAGESIZE - offset // mmap.PAGESIZE + 1
    return int(found.cached) == pages


def _probe() -> bool:
    """Whether this kernel has cachestat, and a sandbox around us lets it through."""
    fd = os.memfd_create("dadafsd")
    try:
        os.write(fd, b"x")
        return _every_page_cached(fd, 0, 1)
    finally:
        os.close(fd)


have_cachestat = _probe()
