"""Which state of a file something was computed from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FileVersion:
    """Size, modification time and inode number of a file: changes whenever the file does.

    The path and the device are left out on purpose: a file has the same version on every machine that mounts the same
    tree, wherever it is mounted there.
    """

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path | int) -> FileVersion:
        """The version of the file at `path` (or of an open descriptor) now. Raises OSError."""
        status = os.stat(path)
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)

    def only_grew(self, now: FileVersion) -> bool:
        """Whether the file is still the same one and has become longer: what was in it before is there to be read."""
        return now.inode == self.inode and now.size > self.size

    def describe(self) -> list[int]:
        """As plain JSON values."""
        return [self.size, self.mtime_ns, self.inode]

    @classmethod
    def from_description(cls, description: Any) -> FileVersion:
        """The version that `describe` described."""
        return cls(*(int(value) for value in description))
