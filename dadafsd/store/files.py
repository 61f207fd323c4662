"""The directory of one tier and the plain file operations on it; every call may raise `OSError`.

    DIR/lock                 locked (flock) by the head that uses the directory; holds its process id
    DIR/fragments/abc/abc0123456789def   a record; the directory is the first three digits of its name
    DIR/new/                 records being written; emptied at start
    DIR/index                the snapshot of the index      DIR/pins   the pins      DIR/probe   the health check

Everything goes through a descriptor of the directory, so that a file system mounted over it or unmounted below it
can never lead writes astray.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dadafsd.confine import open_at_once
from dadafsd.filesystem import RAMFS, TMPFS, answers_from_memory, kind
from dadafsd.store.record import HEADER_SIZE

RECORDS = "fragments"
NEW = "new"
FAN_OUT = 4096
_RECORD_NAME = re.compile(r"[0-9a-f]{16}")
_CLOEXEC_READ = os.O_RDONLY | os.O_CLOEXEC
#: A record that somebody replaced by a link or a pipe must neither be followed nor wait.
_OPEN_RECORD = _CLOEXEC_READ | os.O_NOFOLLOW | os.O_NONBLOCK
#: Noting when it was read would write to the disk, and whoever sends a record would wait for that.
_OPEN_QUIETLY = _OPEN_RECORD | os.O_NOATIME
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class DirectoryInUse(Exception):
    """Another running head has the directory; the text is its process id, if known."""


def record_name(digest: int) -> str:
    """Path of a record below the tier's directory."""
    name = f"{digest:016x}"
    return f"{RECORDS}/{name[:3]}/{name}"


class _Descriptor:
    """A descriptor that lives as long as somebody uses it: whoever is in the middle of a call holds a reference."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class TierFiles:
    """Opens and locks the directory (made if it is missing, mode 0700); raises `DirectoryInUse` or `OSError`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._number = itertools.count()
        self._lock: _Descriptor | None = None
        self._opened: _Descriptor | None = None
        self.open()

    @property
    def _root(self) -> _Descriptor:
        root = self._opened
        if root is None:
            raise OSError(errno.ESHUTDOWN, "the tier was closed", str(self.directory))
        return root

    @property
    def is_open(self) -> bool:
        """Whether the directory is held."""
        return self._opened is not None

    def open(self) -> None:
        """Open the directory anew (also after it was deleted by hand) and empty `new/`."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        root = _Descriptor(os.open(self.directory, _CLOEXEC_READ | os.O_DIRECTORY))
        self._lock = _lock_directory(root.fd)
        self._opened = root
        self._device = os.fstat(root.fd).st_dev
        self._from_memory = answers_from_memory(root.fd)
        self.in_memory = kind(root.fd) in (TMPFS, RAMFS)  #: whether it has no disk
        for name in (RECORDS, NEW):
            self._mkdir(name)
        self._sweep()

    def reopen(self) -> None:
        """After the directory was deleted by hand or mounted anew: open what is there now, or make it again.

        Raises `OSError` where the path now leads to the root file system and did not before: then the tier's own
        file system is not mounted, and nothing must be written in its place.
        """
        place = self.directory if self.directory.exists() else self.directory.parent
        device = os.stat(place).st_dev
        if device != self._device and device == os.stat("/").st_dev:
            raise OSError(errno.ENODEV, "its file system is not mounted", str(self.directory))
        self.open()

    def close(self) -> None:
        """Give up the lock and the directory."""
        self._lock = self._opened = None

    def still_there(self) -> bool:
        """Whether the path still leads to the directory that was opened."""
        root = self._opened
        if root is None:
            return False
        try:
            there, mine = os.stat(self.directory), os.fstat(root.fd)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def _mkdir(self, name: str) -> None:
        root = self._root  # keeps it open while it is in use here
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=root.fd)

    def _sweep(self) -> None:
        """Delete what a crash left half written; this process holds the lock, so nobody writes there."""
        root = self._root  # keeps it open while it is in use here
        fd = os.open(NEW, _CLOEXEC_READ | os.O_DIRECTORY, dir_fd=root.fd)
        try:
            for name in os.listdir(fd):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)

    # --- records -----------------------------------------------------------------------------------------------

    def open_record(self, digest: int) -> int:
        """A descriptor of the record; raises `FileNotFoundError` where there is none."""
        root = self._root  # keeps it open while it is in use here
        try:
            return os.open(record_name(digest), _OPEN_QUIETLY, dir_fd=root.fd)
        except PermissionError:  # somebody else's file
            return os.open(record_name(digest), _OPEN_RECORD, dir_fd=root.fd)

    def open_record_at_once(self, digest: int) -> int:
        """The same without ever waiting; `BlockingIOError` where the kernel does not have it in memory."""
        root = self._root  # keeps it open while it is in use here
        if not self._from_memory:
            raise BlockingIOError
        return open_at_once(root.fd, record_name(digest).encode(), _OPEN_QUIETLY)

    def write_record(self, digest: int, parts: Sequence[bytes | bytearray | memoryview], sync: bool) -> None:
        """Write a record beside and move it to its name: it is there whole or not at all."""
        root = self._root  # keeps it open while it is in use here
        temporary = f"{NEW}/{digest:016x}.{next(self._number)}"
        try:
            fd = os.open(temporary, _CREATE, 0o600, dir_fd=root.fd)
        except FileNotFoundError:  # somebody deleted `new/`
            self._mkdir(NEW)
            fd = os.open(temporary, _CREATE, 0o600, dir_fd=root.fd)
        try:
            try:
                _write_all(fd, parts)
                if sync:
                    os.fdatasync(fd)
            finally:
                os.close(fd)
            self._move(temporary, record_name(digest))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=root.fd)
            raise

    def _move(self, source: str, target: str) -> None:
        root = self._root  # keeps it open while it is in use here
        try:
            os.rename(source, target, src_dir_fd=root.fd, dst_dir_fd=root.fd)
        except FileNotFoundError:  # directories of records are made when first needed
            self._mkdir(RECORDS)
            self._mkdir(target.rpartition("/")[0])
            os.rename(source, target, src_dir_fd=root.fd, dst_dir_fd=root.fd)

    def remove_record(self, digest: int) -> bool:
        """Delete a record; whether it was there."""
        root = self._root  # keeps it open while it is in use here
        try:
            os.unlink(record_name(digest), dir_fd=root.fd)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def has_any_record(self) -> bool:
        """Whether there are directories of records at all."""
        root = self._root  # keeps it open while it is in use here
        fd = os.open(RECORDS, _CLOEXEC_READ | os.O_DIRECTORY, dir_fd=root.fd)
        try:
            return bool(os.listdir(fd))
        finally:
            os.close(fd)

    def has_record(self, digest: int) -> bool:
        """Whether there is a file under that name (also where that cannot be told)."""
        root = self._root  # keeps it open while it is in use here
        try:
            os.stat(record_name(digest), dir_fd=root.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            pass
        return True

    def records(self, part: int) -> Iterator[int]:
        """The records whose names begin with the three digits of `part` (0 .. FAN_OUT - 1), in no order."""
        root = self._root  # keeps it open while it is in use here
        try:
            fd = os.open(f"{RECORDS}/{part:03x}", _CLOEXEC_READ | os.O_DIRECTORY, dir_fd=root.fd)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            names = os.listdir(fd)
        finally:
            os.close(fd)
        for name in names:
            if _RECORD_NAME.fullmatch(name) and int(name[:3], 16) == part:
                yield int(name, 16)

    def read_header(self, digest: int) -> tuple[bytes, os.stat_result]:
        """The first 4096 bytes of a record (fewer where it is shorter) and its status."""
        fd = self.open_record(digest)
        try:
            return os.pread(fd, HEADER_SIZE, 0), os.fstat(fd)
        finally:
            os.close(fd)

    # --- small files of the tier -------------------------------------------------------------------------------

    def read_file(self, name: str) -> bytes | None:
        """The content of DIR/name, None where there is none."""
        root = self._root  # keeps it open while it is in use here
        try:
            fd = os.open(name, _CLOEXEC_READ, dir_fd=root.fd)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:
            return file.read()

    def write_file(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
        """Replace DIR/name at once by the concatenation of `parts`, on the disk before it has its name."""
        root = self._root  # keeps it open while it is in use here
        temporary = f"{NEW}/{name}.{next(self._number)}"
        fd = os.open(temporary, _CREATE, 0o600, dir_fd=root.fd)
        try:
            with open(fd, "wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fdatasync(fd)
            os.rename(temporary, name, src_dir_fd=root.fd, dst_dir_fd=root.fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=root.fd)
            raise

    def probe(self, writing: bool) -> None:
        """Read a small file, and where `writing` write, sync, read and delete another; raises `OSError`."""
        root = self._root  # keeps it open while it is in use here
        self.read_file("lock")
        if writing:
            self.write_file("probe", [os.urandom(HEADER_SIZE)])
            self.read_file("probe")
            os.unlink("probe", dir_fd=root.fd)

    def free(self) -> int:
        """Bytes that the file system has left for us."""
        root = self._root  # keeps it open while it is in use here
        status = os.fstatvfs(root.fd)
        return status.f_bavail * status.f_frsize


def _lock_directory(root: int) -> _Descriptor:
    """Lock by a descriptor for reading only, which does not keep an admin from remounting the disk read-only."""
    lock = _Descriptor(os.open("lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=root))
    try:
        fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock.fd, 32, 0).decode(errors="replace").strip()
        raise DirectoryInUse(owner or "unknown") from None
    writer = os.open("lock", os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, dir_fd=root)
    try:
        os.write(writer, f"{os.getpid()}\n".encode())
    finally:
        os.close(writer)
    return lock


def _write_all(fd: int, parts: Sequence[bytes | bytearray | memoryview]) -> None:
    wanted = sum(len(part) for part in parts)
    written = os.writev(fd, parts)
    if written < wanted:  # a signal, or the disk ran full in between: go on, and get the error
        rest = memoryview(b"".join(parts))[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]
