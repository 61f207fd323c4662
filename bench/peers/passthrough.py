"""A read-only pass-through with pyfuse3, without any thread or cache: what FUSE in Python costs by itself.

`python -m bench.peers.passthrough TREE MOUNTPOINT`.
"""

from __future__ import annotations

import errno
import os
import sys

import pyfuse3

from bench.peers.dictfs import serve

FIELDS = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_atime_ns", "st_mtime_ns", "st_ctime_ns")


class PassThrough(pyfuse3.Operations):  # type: ignore[misc]
    """Inode numbers stand for paths; attributes are read anew each time."""

    def __init__(self, tree: str) -> None:
        super().__init__()
        self.paths = {pyfuse3.ROOT_INODE: os.fsencode(tree)}
        self.inodes = {os.fsencode(tree): int(pyfuse3.ROOT_INODE)}

    def _inode(self, path: bytes) -> int:
        if path not in self.inodes:
            self.inodes[path] = len(self.inodes) + 1
            self.paths[self.inodes[path]] = path
        return self.inodes[path]

    def _attributes(self, path: bytes) -> pyfuse3.EntryAttributes:
        try:
            found = os.lstat(path)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
        attributes = pyfuse3.EntryAttributes()
        for field in FIELDS:
            setattr(attributes, field, getattr(found, field))
        attributes.st_ino = self._inode(path)
        attributes.attr_timeout = attributes.entry_timeout = 1
        return attributes

    async def lookup(self, parent_inode, name, ctx=None):  # type: ignore[no-untyped-def]
        return self._attributes(os.path.join(self.paths[parent_inode], name))

    async def getattr(self, inode, ctx=None):  # type: ignore[no-untyped-def]
        return self._attributes(self.paths[inode])

    async def opendir(self, inode, ctx):  # type: ignore[no-untyped-def]
        return inode

    async def readdir(self, fh, start_id, token):  # type: ignore[no-untyped-def]
        names = sorted(os.listdir(self.paths[fh]))
        for number, name in enumerate(names[start_id:], start_id + 1):
            attributes = self._attributes(os.path.join(self.paths[fh], name))
            if not pyfuse3.readdir_reply(token, name, attributes, number):
                return

    async def open(self, inode, flags, ctx):  # type: ignore[no-untyped-def]
        return pyfuse3.FileInfo(fh=os.open(self.paths[inode], os.O_RDONLY), keep_cache=True)

    async def read(self, fh, off, size):  # type: ignore[no-untyped-def]
        return os.pread(fh, size, off)

    async def release(self, fh):  # type: ignore[no-untyped-def]
        os.close(fh)


if __name__ == "__main__":
    serve(PassThrough(sys.argv[1]), sys.argv[2])
