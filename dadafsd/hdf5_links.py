"""Which files an HDF5 file refers to: external links and sources of virtual datasets.

Run as a process of its own, because the HDF5 library trusts the files that it reads:

    python -m dadafsd.hdf5_links FD        prints a JSON list of file names, as they stand in the file
"""

from __future__ import annotations

import json
import sys
from typing import Any

import h5py

#: More names than this are not looked for.
LIMIT = 100_000
_DEEPEST = 50


def referred_files(path: str) -> list[str]:
    """The names in the file at `path`, each once, in order. Raises OSError where it is no HDF5 file."""
    found: dict[str, None] = {}
    with h5py.File(path, "r", locking=False) as file:
        _collect(file, found, set(), 0)
    return list(found)


def _collect(group: Any, found: dict[str, None], seen: set[Any], depth: int) -> None:
    identity = h5py.h5o.get_info(group.id).addr
    if identity in seen or depth > _DEEPEST:
        return
    seen.add(identity)
    for name in group:
        if len(found) >= LIMIT:
            return
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            found[link.filename] = None
        elif isinstance(link, h5py.HardLink):
            _look(group[name], found, seen, depth)


def _look(thing: Any, found: dict[str, None], seen: set[Any], depth: int) -> None:
    if isinstance(thing, h5py.Group):
        _collect(thing, found, seen, depth + 1)
    elif isinstance(thing, h5py.Dataset) and thing.is_virtual:
        found.update(dict.fromkeys(source.file_name for source in thing.virtual_sources() if source.file_name != "."))


if __name__ == "__main__":
    print(json.dumps(referred_files(f"/proc/self/fd/{int(sys.argv[1])}")))
