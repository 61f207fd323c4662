"""One export: everything that touches the exported tree, and nothing that writes to it.

Every function here blocks and runs in a thread of `dadafsd.origin_pool`, unless it is called with `wait=False`: then
it answers from what the kernel has in memory or raises `BlockingIOError`, and may run in the loop. Paths are bytes
below the export's root and were checked by `dadafs.wire.paths`; `dadafsd.confine` keeps them inside. Only regular files
are opened for reading: a FIFO or a device is known by its attributes alone, because opening one has effects of its own.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from dadafs.listing import Fields
from dadafs.wire.messages import Attr, Item, StatfsReply
from dadafsd import device_ids, filesystem
from dadafsd.confine import Closer, Descriptor, list_names, open_at_once, open_beneath, open_small
from dadafsd.device_ids import device_id
from dadafsd.long_writes import change_time

#: All extended attributes of one object together, in bytes; more than this is not carried.
XATTR_LIMIT = 256 * 1024
_name = attrgetter("name")
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


def attributes(found: os.stat_result) -> Attr:
    """The wire's form of a stat result; the device is a number that outlives a reboot."""
    dev = device_id(found.st_dev)
    return Attr(
        dev,
        found.st_ino,
        found.st_mode,
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        found.st_rdev,
        found.st_size,
        found.st_blocks,
        found.st_blksize,
        found.st_atime_ns,
        found.st_mtime_ns,
        change_time(dev, found.st_ino, found.st_ctime_ns),
    )


def fstat(held: Descriptor) -> Attr:
    """The attributes of an open file as they are now."""
    return attributes(os.fstat(held.fd))


class Small(NamedTuple):
    """A small file that was opened: its attributes, and of the origin's own the device and the change time."""

    held: Descriptor
    attr: Attr
    origin_dev: int
    origin_ctime_ns: int


class Export:
    """A directory served under a name. Raises `OSError` from every method, with the origin's errno."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        #: Its threads act as another user than the loop, which must not look for them.
        self.threads_only = False
        self._take(_open_root(directory))
        self._closer = Closer() if self.remote else None

    def reopen(self) -> None:
        """Take the directory that is now at the configured path (after a remount)."""
        device_ids.forget()
        self._take(_open_root(self.directory))

    @property
    def real_path(self) -> str:
        """Where the root is, without links, as the kernel has it in mind: this asks no file system."""
        root = self._root
        return os.readlink(f"/proc/self/fd/{root.fd}")

    def _take(self, root: Descriptor) -> None:
        self._root = root
        self.remote = filesystem.remote(root.fd)
        self.has_acls = _has_acls(root.fd)
        self._from_memory = filesystem.answers_from_memory(root.fd)
        device_id(os.fstat(root.fd).st_dev, root.fd)  # while nobody waits, and as the user that the head was started by

    def lstat(self, path: bytes, *, wait: bool = True) -> tuple[Attr, bytes | None]:
        """Attributes of `path` itself, and the text of a symbolic link."""
        held = self.locate(path, wait=wait)
        found = attributes(os.fstat(held.fd))
        if not stat.S_ISLNK(found.mode):
            return found, None
        if not wait:  # the text may be on the disk only
            raise BlockingIOError
        return found, os.readlink(b"", dir_fd=held.fd)

    def open_file(self, path: bytes, *, wait: bool = True) -> tuple[Descriptor, Attr]:
        """A regular file, open for reading; `EISDIR`, `ELOOP` (link) or `ENXIO` when it is none."""
        held = self.locate(path, wait=wait)
        mode = os.fstat(held.fd).st_mode
        if not stat.S_ISREG(mode):
            code = errno.EISDIR if stat.S_ISDIR(mode) else errno.ELOOP if stat.S_ISLNK(mode) else errno.ENXIO
            raise OSError(code, os.strerror(code))
        # The very object that was looked at is opened, not the name again: nothing can slip in between.
        opened = self._own(_open_quietly(f"/proc/self/fd/{held.fd}", _READ & ~os.O_NOFOLLOW, wait=wait))
        return opened, fstat(opened)

    def open_small(self, paths: Sequence[bytes], most: int, room: int) -> list[Small | None] | None:
        """`open_file` for each of `paths`, many at a time: see `dadafsd.confine.open_small`."""
        root = self._root
        found = open_small(root.fd, paths, most, room)
        if found is None:
            return None
        held = [None if one is None else self._own(one[0]) for one in found]  # first of all: they have an owner now
        return [None if of is None or one is None else _small(of, one[1]) for of, one in zip(held, found, strict=True)]

    def list_directory(self, path: bytes) -> tuple[Attr, list[Item]]:
        """A directory's attributes and all its names with theirs, as far as they still exist, sorted by name.

        Programs go through names in the order of a listing or sorted; a node opens the next ones ahead, and the two
        orders are one.
        """
        held = self._open_directory(path)
        before = fstat(held)
        items = [Item(name, _attr(fields), target) for name, target, fields in list_names(held.fd)]
        items.sort(key=_name)
        return before, items

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """The `user.*` attributes and POSIX ACLs of `path`; nothing where the file system knows none."""
        held = self.locate(path)
        mode = os.fstat(held.fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return {}
        return _read_xattrs(f"/proc/self/fd/{held.fd}")

    def child_xattrs(self, path: bytes) -> dict[bytes, dict[bytes, bytes]]:
        """The same for each file and directory in the directory `path`, by name; those without are left out."""
        held = self.locate(path)
        found: dict[bytes, dict[bytes, bytes]] = {}
        total = 0
        with os.scandir(f"/proc/self/fd/{held.fd}") as entries:
            for entry in entries:
                if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                    continue
                try:
                    values = _read_xattrs(entry.path, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if values:
                    found[os.fsencode(entry.name)] = values
                    total += len(entry.name) + sum(len(name) + len(value) for name, value in values.items())
                if total > XATTR_LIMIT:
                    raise OSError(errno.E2BIG, f"more than {XATTR_LIMIT} bytes of extended attributes")
        return found

    def statfs(self) -> StatfsReply:
        """statvfs of the file system that holds the export's root."""
        found = os.fstatvfs(self._root.fd)
        return StatfsReply(
            found.f_bsize,
            found.f_frsize,
            found.f_blocks,
            found.f_bfree,
            found.f_bavail,
            found.f_files,
            found.f_ffree,
            found.f_favail,
            found.f_namemax,
        )

    def locate(self, path: bytes, *, wait: bool = True) -> Descriptor:
        """An `O_PATH` descriptor of whatever is at `path`: to look at it, or to put a watch on it."""
        root = self._root
        if wait:
            return self._own(open_beneath(root.fd, path, os.O_PATH | os.O_NOFOLLOW))
        if self.threads_only or not self._from_memory:
            raise BlockingIOError
        return self._own(open_at_once(root.fd, path, os.O_PATH | os.O_NOFOLLOW))

    def _own(self, fd: int) -> Descriptor:
        return Descriptor(fd, self._closer)

    def _open_directory(self, path: bytes) -> Descriptor:
        root = self._root
        flags = _READ | os.O_DIRECTORY
        try:
            return self._own(open_beneath(root.fd, path, flags | os.O_NOATIME))
        except PermissionError:
            return self._own(open_beneath(root.fd, path, flags))


def _attr(fields: Fields) -> Attr:
    """`attributes`, of the fields that `dadafsd.confine` gives."""
    dev = device_id(fields[0])
    changed = change_time(dev, fields[1], fields[12])
    return Attr(dev, *fields[1:12], changed)


def _small(held: Descriptor, fields: Fields) -> Small:
    return Small(held, _attr(fields), fields[0], fields[12])


def _open_root(directory: Path) -> Descriptor:
    return Descriptor(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))


def _open_quietly(path: str, flags: int, *, wait: bool) -> int:
    """Open without leaving a trace in the access time, where we may (owner or CAP_FOWNER)."""
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        if not wait:  # with a trace each read may have to wait for the journal
            raise BlockingIOError from None
        return os.open(path, flags)


def _read_xattrs(path: str, *, follow_symlinks: bool = True) -> dict[bytes, bytes]:
    values: dict[bytes, bytes] = {}
    total = 0
    try:
        names = os.listxattr(path, follow_symlinks=follow_symlinks)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    for name in names:
        if not name.startswith(("user.", "system.posix_acl_")):
            continue
        try:
            value = os.getxattr(path, name, follow_symlinks=follow_symlinks)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.ENOTSUP):  # removed meanwhile
                continue
            raise
        total += len(name) + len(value)
        if total > XATTR_LIMIT:
            raise OSError(errno.E2BIG, f"more than {XATTR_LIMIT} bytes of extended attributes")
        values[os.fsencode(name)] = value
    return values


def _has_acls(fd: int) -> bool:
    """Whether the file system at `fd` knows POSIX ACLs (NFSv4 has others, which the head's account is judged by)."""
    try:
        os.getxattr(f"/proc/self/fd/{fd}", "system.posix_acl_access")
    except OSError as error:
        return error.errno == errno.ENODATA
    return True
