"""What the FUSE protocol cannot set: readahead and the number of requests in flight, written to sysfs after mounting.

The defaults (128 KiB and 12) cost a factor of three to five in throughput. Writing needs root; where it is not
permitted the defaults stay, the statistics say so, and `dadafs.kernel_readahead` helps out.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from dadafs.fuse_connection import CONNECTIONS, folder

log = logging.getLogger(__name__)

BDI = Path("/sys/class/bdi")
READ_AHEAD_KB = 1024
MAX_BACKGROUND = 64
CONGESTION_THRESHOLD = 48


@dataclass(frozen=True)
class KernelSettings:
    """The values in force; None where they cannot be read. `refused` names what could not be set, and why."""

    read_ahead_kb: int | None
    max_background: int | None
    congestion_threshold: int | None
    refused: tuple[str, ...] = ()


def tune(
    device: int, *, read_ahead_kb: int = READ_AHEAD_KB, bdi: Path = BDI, connections: Path = CONNECTIONS
) -> KernelSettings:
    """Set what may be set for the mount on `device` (its st_dev), and read back what holds. Blocks; never raises."""
    readahead = bdi / f"{os.major(device)}:{os.minor(device)}" / "read_ahead_kb"
    connection = folder(f"{os.major(device)}:{os.minor(device)}", connections)
    refused = []
    for path, value in (
        (readahead, read_ahead_kb),
        (connection / "max_background", MAX_BACKGROUND),
        (connection / "congestion_threshold", CONGESTION_THRESHOLD),
    ):
        problem = _write(path, value)
        if problem is not None:
            refused.append(f"{path.name}: {problem}")
    if refused:
        log.info("the kernel's defaults stay for %s (root may set them)", "; ".join(refused))
    return KernelSettings(
        _read(readahead),
        _read(connection / "max_background"),
        _read(connection / "congestion_threshold"),
        tuple(refused),
    )


def _write(path: Path, value: int) -> str | None:
    """Write one value; what went wrong, or None."""
    try:
        path.write_text(f"{value}\n")
    except OSError as problem:
        return problem.strerror or str(problem)
    return None


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
