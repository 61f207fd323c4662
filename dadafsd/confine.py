"""Opening paths below a directory so that nothing outside can be reached: openat2, or a walk like it.

No component of a path is ever followed as a symbolic link, magic links of /proc are refused, and the result
lies beneath the root, whatever is renamed meanwhile. Paths are those of `dadafs.wire.paths`: bytes without
empty, `.` or `..` components, `b""` for the root itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
import queue
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import cast

from dadafs.listing import Fields

try:
    import _dadafsd_opening as _compiled
except ModuleNotFoundError:  # it was not built
    _compiled = None

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RESOLVE_CACHED = 0x20  # since Linux 5.12
_RESOLVE = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS
#: Below another mount there may be a file system that waits for a server even where names are cached.
_RESOLVE_AT_ONCE = _RESOLVE | _RESOLVE_CACHED | _RESOLVE_NO_XDEV
#: openat2 answers EAGAIN when a rename raced with it; more often than this in a row means something else is
#: wrong.
_RACES = 16

#: Of a stat result, in the order of `dadafs.wire.messages.Attr`.
_FIELDS = (
    *("st_dev", "st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_blocks", "st_blksize"),
    *("st_atime_ns", "st_mtime_ns", "st_ctime_ns"),
)

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW_SIZE = ctypes.sizeof(_OpenHow)


class Descriptor:
    """A file descriptor that is closed when the last reference to this object goes.

    A thread that hangs in a system call holds a reference, so the number cannot be reused under it; nobody
    has to count.
    """

    __slots__ = ("_closer", "fd")

    def __init__(self, fd: int, closer: Closer | None = None) -> None:
        self.fd = fd
        self._closer = closer

    def fileno(self) -> int:
        return self.fd

    def __del__(self) -> None:
        if self._closer is None:
            os.close(self.fd)
        else:
            self._closer.close(self.fd)


class Closer:
    """Closes descriptors in a thread of its own: on a network file system even that can hang."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[int] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="closer", daemon=True).start()

    def close(self, fd: int) -> None:
        """Close `fd` soon; never waits, may be called while an object is being deleted."""
        self._queue.put(fd)

    def _serve(self) -> None:
        while True:
            with suppress(OSError):
                os.close(self._queue.get())


def open_beneath(root: int, path: bytes, flags: int) -> int:
    """Open `path` below the directory `root` with `flags`, close-on-exec added; the caller closes it.

    Raises `OSError`: `ELOOP` where a component is a symbolic link (a final one too, unless `O_PATH |
    O_NOFOLLOW` asks for the link itself), `EXDEV` where the path would leave the root, and what open(2)
    raises.
    """
    if _have_openat2:
        return _openat2(root, path or b".", flags | os.O_CLOEXEC)
    return open_by_walk(root, path, flags)


def open_at_once(root: int, path: bytes, flags: int) -> int:
    """`open_beneath` from what the kernel has in memory, so that it may be called in the loop.

    Raises `BlockingIOError` where it would have to wait or cannot tell; what else it raises is so. Only for roots on
    file systems that answer from memory once a name is cached (`dadafsd.filesystem.answers_from_memory`).
    """
    if not have_open_at_once:
        raise BlockingIOError(errno.EAGAIN, "this kernel cannot tell whether it would wait", path)
    try:
        return _openat2(root, path or b".", flags | os.O_CLOEXEC, _RESOLVE_AT_ONCE, attempts=1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BlockingIOError(errno.EAGAIN, error.strerror, path) from None


def open_small(root: int, paths: Sequence[bytes], most: int, room: int) -> list[tuple[int, Fields] | None] | None:
    """Regular files below `root`, open for reading, of at most `most` bytes each and of `room` bytes in all.

    For each path the descriptor, which the caller closes, and the fields of its stat result with times in nanoseconds,
    in the order of `dadafs.wire.messages.Attr`; None for anything else, and for all that come after the first that does
    not fit. None in place of the list where this cannot be done at a time.
    """
    if _compiled is None or not _have_openat2:
        return None
    found = _compiled.open_small(root, paths, most, room)
    return [None if one is None else (one[0], one[1:]) for one in found]


def read_small(files: Sequence[tuple[int, ...]], most: int) -> list[bytes | None]:
    """The contents of files that `open_small` opened, each given as (fd, dev, ino, size, mtime_ns, ctime_ns).

    None for one that is not in that state, before and after, or cannot be read. Only where `open_small` works.
    """
    contents: list[bytes | None] = _compiled.read_small(files, most)
    return contents


def list_names(directory: int) -> Iterator[tuple[bytes, bytes | None, Fields]]:
    """The names in a directory that is open for reading, in no order; those that vanish meanwhile are left out.

    With each the text of a symbolic link, or None, and the fields of its stat result as `open_small` gives them. Raises
    OSError.
    """
    if _compiled is None or not hasattr(_compiled, "list_some"):
        yield from _list_names(directory)
        return
    while (some := _compiled.list_some(directory)) is not None:
        for one in some:
            yield one[0], one[1], one[2:]


def _list_names(directory: int) -> Iterator[tuple[bytes, bytes | None, Fields]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
                target = os.readlink(entry.name, dir_fd=directory) if stat.S_ISLNK(found.st_mode) else None
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EINVAL:  # EINVAL: a link was replaced by something else
                    raise
                continue
            text = None if target is None else os.fsencode(target)
            fields = cast("Fields", tuple(getattr(found, field) for field in _FIELDS))
            yield os.fsencode(entry.name), text, fields


def _openat2(root: int, path: bytes, flags: int, resolve: int = _RESOLVE, attempts: int = _RACES) -> int:
    how = _OpenHow(flags, 0, resolve)
    for _ in range(attempts):
        fd: int = _syscall(_SYS_OPENAT2, root, path, ctypes.byref(how), _HOW_SIZE)
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code), path)


def open_by_walk(root: int, path: bytes, flags: int) -> int:
    """`open_beneath` for kernels without openat2 (before 5.6): one component at a time, none followed."""
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    *parents, last = path.split(b"/") if path else [b"."]
    directory = os.dup(root)
    try:
        for name in parents:
            below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            os.close(directory)
            directory = below
        return os.open(last, flags, dir_fd=directory)
    finally:
        os.close(directory)


def _probe(resolve: int = _RESOLVE) -> bool:
    """Whether this kernel (and a sandbox around us) lets openat2 through."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(_openat2(root, b".", os.O_PATH | os.O_CLOEXEC, resolve))
    except OSError:
        return False
    finally:
        os.close(root)
    return True


_have_openat2 = _probe()
have_open_at_once = _have_openat2 and _probe(_RESOLVE_AT_ONCE)
