"""`.dadafs/` in the root of the mount: statistics, configuration and recent log lines as files; reachable, not listed.

Each open makes a snapshot. The files have no size that could be known before, so the kernel reads them directly, as
those in /proc.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Mapping

from dadafs.kernel_cache import Emit, Told
from dadafs.listing import Fields
from dadafs.node import OWN_IDS, ROOT_ID

FOLDER = b".dadafs"
_FOLDER_ID = OWN_IDS + (1 << 62)
_FIRST_HANDLE = 1 << 62
_TIMEOUT = 60.0


class VirtualFiles:
    """The folder and its files; `contents` makes the present content of each."""

    def __init__(self, contents: Mapping[bytes, Callable[[], bytes]]) -> None:
        self._contents = dict(contents)
        self._ids = {name: _FOLDER_ID + 1 + index for index, name in enumerate(self._contents)}
        self._names = {node_id: name for name, node_id in self._ids.items()}
        self._open: dict[int, bytes] = {}
        self._next_handle = _FIRST_HANDLE
        self._born = time.time_ns()

    def owns(self, node_id: int) -> bool:
        """Whether `node_id` is one of these."""
        return node_id >= _FOLDER_ID

    def is_handle(self, handle: int) -> bool:
        """Whether `handle` was opened here."""
        return handle >= _FIRST_HANDLE

    def lookup(self, parent: int, name: bytes) -> Told | None:
        """What is at `name`, or None where that is none of our business."""
        if parent == ROOT_ID:
            return self.getattr(_FOLDER_ID) if name == FOLDER else None
        if parent != _FOLDER_ID:
            return None
        return self.getattr(self._ids[name]) if name in self._ids else Told(0, None, _TIMEOUT)

    def getattr(self, node_id: int) -> Told | None:
        """The attributes of the folder or a file, or None."""
        if node_id < _FOLDER_ID:
            return None
        mode = stat.S_IFDIR | 0o555 if node_id == _FOLDER_ID else stat.S_IFREG | 0o444
        born = self._born
        links = 2 if node_id == _FOLDER_ID else 1
        fields: Fields = (0, node_id, mode, links, os.getuid(), os.getgid(), 0, 0, 0, 4096, born, born, born)
        return Told(node_id, fields, _TIMEOUT)

    def opendir(self, node_id: int) -> int:
        """A handle on the folder. Raises OSError(ENOTDIR)."""
        if node_id != _FOLDER_ID:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return _FIRST_HANDLE

    def readdir(self, handle: int, start: int, emit: Emit) -> None:
        """Emit the names of the folder."""
        for index, (name, node_id) in enumerate(self._ids.items()):
            if index >= start:
                told = self.getattr(node_id)
                assert told is not None
                if not emit(name, told, index + 1):
                    return

    def open(self, node_id: int, flags: int) -> int:
        """A handle on a snapshot of a file. Raises OSError (EROFS, EISDIR)."""
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        name = self._names.get(node_id)
        if name is None:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        self._next_handle += 1
        self._open[self._next_handle] = self._contents[name]()
        return self._next_handle

    def read(self, handle: int, offset: int, length: int) -> bytes:
        """A part of a snapshot."""
        return self._open[handle][offset : offset + length]

    def release(self, handle: int) -> None:
        """The snapshot is not needed any more."""
        self._open.pop(handle, None)
