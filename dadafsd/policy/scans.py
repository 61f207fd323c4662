"""Which scan a file belongs to, by its name (sans-IO)."""

from __future__ import annotations

import os
import re
from functools import lru_cache

#: Master and data files of one series, as detectors and NeXus writers name them.
_SUFFIXES = (b".h5", b".hdf5", b".nxs", b".cbf", b".tif", b".tiff", b".edf")
_SERIES = re.compile(rb"(.+?)_(?:master|data_\d+|\d{4,})\.[a-z0-9]+", re.DOTALL)


_decoded = lru_cache(64)(os.fsdecode)


def scan_of(path: bytes) -> str:
    """The common name of a series of files, with its directory; for other files their directory (`""`: the root)."""
    directory, _, name = path.rpartition(b"/")
    series = _SERIES.fullmatch(name) if name.endswith(_SUFFIXES) else None
    if series is None:
        return _decoded(directory)
    return os.fsdecode(directory + b"/" + series[1] if directory else series[1])
