"""A file system that answers from a dict, as small as pyfuse3 allows: the yardstick for the node's own overhead.

`python -m bench.peers.dictfs TREE MOUNTPOINT` loads the small files of TREE into memory and serves them.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import pyfuse3
import trio


class DictFs(pyfuse3.Operations):  # type: ignore[misc]
    """Directories and files in dicts; every inode number is an index."""

    def __init__(self, tree: Path) -> None:
        super().__init__()
        self.attributes: dict[int, pyfuse3.EntryAttributes] = {}
        self.children: dict[int, dict[bytes, int]] = {}
        self.contents: dict[int, bytes] = {}
        self._add(tree, pyfuse3.ROOT_INODE, top=True)

    def _add(self, path: Path, inode: int, top: bool = False) -> None:
        found = path.stat()
        attributes = pyfuse3.EntryAttributes()
        attributes.st_ino, attributes.st_mode, attributes.st_size = inode, found.st_mode, found.st_size
        attributes.attr_timeout = attributes.entry_timeout = 1
        self.attributes[inode] = attributes
        if stat.S_ISREG(found.st_mode):
            self.contents[inode] = path.read_bytes()
            return
        self.children[inode] = names = {}
        for child in [path / "small"] if top else sorted(path.iterdir()):
            names[os.fsencode(child.name)] = number = len(self.attributes) + 1
            self._add(child, number)

    async def lookup(self, parent_inode, name, ctx=None):  # type: ignore[no-untyped-def]
        inode = self.children[parent_inode].get(name)
        if inode is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self.attributes[inode]

    async def getattr(self, inode, ctx=None):  # type: ignore[no-untyped-def]
        return self.attributes[inode]

    async def opendir(self, inode, ctx):  # type: ignore[no-untyped-def]
        return inode

    async def readdir(self, fh, start_id, token):  # type: ignore[no-untyped-def]
        for number, (name, inode) in enumerate(list(self.children[fh].items())[start_id:], start_id + 1):
            if not pyfuse3.readdir_reply(token, name, self.attributes[inode], number):
                return

    async def open(self, inode, flags, ctx):  # type: ignore[no-untyped-def]
        return pyfuse3.FileInfo(fh=inode, keep_cache=True)

    async def read(self, fh, off, size):  # type: ignore[no-untyped-def]
        return self.contents[fh][off : off + size]


def serve(operations: pyfuse3.Operations, mountpoint: str) -> None:
    """Serve `operations` at `mountpoint` until it is unmounted."""
    pyfuse3.init(operations, mountpoint, {*pyfuse3.default_options, "ro", f"fsname={type(operations).__name__}"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    serve(DictFs(Path(sys.argv[1])), sys.argv[2])
