"""An origin that hangs or errs on command: a small FUSE mirror of a directory, for tests of the head.

    python -m tests.harness.moody_origin SOURCE MOUNTPOINT MOOD

MOOD is a file: while it contains `hang` every call waits, with `error` every call fails with EIO, else all is well.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyfuse3
import trio

from tests.harness.processes import LoggedProcess


class _Mirror(pyfuse3.Operations):
    """Read-only; an inode number of the mirror is a number that we give to a path."""

    def __init__(self, source: str, mood: str) -> None:
        super().__init__()
        self._mood = mood
        self._paths = {pyfuse3.ROOT_INODE: source}
        self._numbers = {source: pyfuse3.ROOT_INODE}

    async def _feel(self) -> None:
        while (mood := self._read_mood()) == "hang":
            await trio.sleep(0.02)
        if mood == "error":
            raise pyfuse3.FUSEError(errno.EIO)

    def _read_mood(self) -> str:
        try:
            with open(self._mood) as file:
                return file.read().strip()
        except FileNotFoundError:
            return ""

    def _number(self, path: str) -> int:
        number = self._numbers.setdefault(path, len(self._numbers) + 1)
        self._paths[number] = path
        return number

    def _attributes(self, path: str) -> pyfuse3.EntryAttributes:
        try:
            found = os.lstat(path)
        except OSError as exc:
            raise pyfuse3.FUSEError(exc.errno) from None
        entry = pyfuse3.EntryAttributes()
        for name in ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_atime_ns", "st_mtime_ns", "st_ctime_ns"):
            setattr(entry, name, getattr(found, name))
        entry.st_ino = self._number(path)
        entry.attr_timeout = entry.entry_timeout = 0
        return entry

    async def lookup(self, parent_inode, name, ctx):  # type: ignore[no-untyped-def]
        await self._feel()
        return self._attributes(os.path.join(self._paths[parent_inode], os.fsdecode(name)))

    async def getattr(self, inode, ctx):  # type: ignore[no-untyped-def]
        await self._feel()
        return self._attributes(self._paths[inode])

    async def readlink(self, inode, ctx):  # type: ignore[no-untyped-def]
        await self._feel()
        return os.fsencode(os.readlink(self._paths[inode]))

    async def opendir(self, inode, ctx):  # type: ignore[no-untyped-def]
        await self._feel()
        return inode

    async def readdir(self, fh, start_id, token):  # type: ignore[no-untyped-def]
        await self._feel()
        for place, name in enumerate(sorted(os.listdir(self._paths[fh]))[start_id:], start_id + 1):
            entry = self._attributes(os.path.join(self._paths[fh], name))
            if not pyfuse3.readdir_reply(token, os.fsencode(name), entry, place):
                return

    async def open(self, inode, flags, ctx):  # type: ignore[no-untyped-def]
        await self._feel()
        return pyfuse3.FileInfo(fh=os.open(self._paths[inode], os.O_RDONLY), direct_io=True, keep_cache=False)

    async def read(self, fh, off, size):  # type: ignore[no-untyped-def]
        await self._feel()
        return os.pread(fh, size, off)

    async def release(self, fh):  # type: ignore[no-untyped-def]
        os.close(fh)

    async def forget(self, inode_list):  # type: ignore[no-untyped-def]
        pass


def _main(source: str, mountpoint: str, mood: str) -> None:
    pyfuse3.init(_Mirror(source, mood), mountpoint, {*pyfuse3.default_options, "fsname=moody", "ro"})
    print("mirror ready", flush=True)
    trio.run(pyfuse3.main)


class MoodyOrigin:
    """A running mirror of `source`; `path` is what a head exports."""

    def __init__(self, directory: Path, source: Path) -> None:
        self.path = directory / "origin"
        self.path.mkdir()
        self._mood = directory / "mood"
        argv = [sys.executable, "-m", "tests.harness.moody_origin", str(source), str(self.path), str(self._mood)]
        self._process = LoggedProcess(argv, directory / "origin.log")
        self._process.wait_for_line("^mirror ready")

    def feel(self, mood: str) -> None:
        """`hang`, `error`, or empty for well."""
        new = self._mood.with_suffix(".new")
        new.write_text(mood)
        new.rename(self._mood)

    def vanish(self) -> None:
        """The server of this file system is gone: every call fails with ENOTCONN."""
        self._process.kill()

    def close(self) -> None:
        """Unmount and end."""
        self.feel("")
        subprocess.run(["fusermount3", "-u", "-z", str(self.path)], check=False, capture_output=True)
        self._process.kill()


@contextlib.contextmanager
def moody_origin(directory: Path, source: Path) -> Iterator[MoodyOrigin]:
    """A mirror of `source`, closed at the end whatever its mood."""
    origin = MoodyOrigin(directory, source)
    try:
        yield origin
    finally:
        origin.close()


if __name__ == "__main__":
    _main(*sys.argv[1:4])
