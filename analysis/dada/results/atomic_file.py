"""Write a file so that a reader sees all of it or none of it, whenever the writer dies."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

TEMPORARY_SUFFIX = ".part"


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path`, replacing what is there; makes the directory. Raises OSError.

    The data need not be on the disk when this returns: readers check content, so a record torn by a power cut is a
    miss, and waiting for the disk for each of thousands of records would cost more than computing one again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(suffix=TEMPORARY_SUFFIX, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
