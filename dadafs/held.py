"""How much of which files the node's memory holds, by path: what `dadafsctl cached` asks a mount.

Only what the mount process knows already is told; neither the head nor the kernel is asked for it.
"""

from __future__ import annotations

from typing import Any

from dadafs.ram_cache import RamCache
from dadafs.remote_file import RemoteFiles
from dadafs.tree import Tree


class Held:
    """The content of one mount's RAM cache."""

    def __init__(self, cache: RamCache, files: RemoteFiles, tree: Tree) -> None:
        self._cache = cache
        self._files = files
        self._tree = tree

    def below(self, path: bytes) -> dict[str, Any]:
        """Of how many files at or below `path` something is held, how large they are, and how many bytes that is."""
        files = size = memory = 0
        for file in self._cache.files():
            held = file.readable
            if held and _is_below(self._path(file.version.identity), path):
                files, size, memory = files + 1, size + file.version.size, memory + held
        return {"files": files, "size": size, "memory": memory}

    def _path(self, identity: tuple[int, int]) -> bytes | None:
        """Where a file is, or was seen last; None where nobody remembers."""
        file = self._files.find(identity)
        if file is not None and not file.orphaned:
            return file.path
        return self._tree.path_of_object(*identity)


def _is_below(path: bytes | None, directory: bytes) -> bool:
    """Everything is below the root, what has no name any more included."""
    if not directory:
        return True
    return path is not None and (path == directory or path.startswith(directory + b"/"))
