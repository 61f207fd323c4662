"""What came out: medians, the machine it came out of, tables for people, JSON for programs."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PYTHON_PACKAGES = ("pyfuse3", "trio", "msgspec", "xxhash", "lz4", "numpy", "h5py", "hdf5plugin", "simpy")
DEBIAN_PACKAGES = (
    "sshfs",
    "openssh-server",
    "rclone",
    "glusterfs-server",
    "xrootd-fuse",
    "nfs-ganesha",
    "libnfs-utils",
    "samba",
    "smbclient",
    "smbnetfs",
    "bindfs",
)
#: Of the machine when this program began: what else was going on.
_LOAD_BEFORE = os.getloadavg()


def _cpu() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def _memory_gib() -> float:
    found = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return round(int(found.group(1)) / 2**20, 1) if found else 0.0


def _python_versions() -> dict[str, str]:
    versions = {}
    for name in PYTHON_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _debian_versions() -> dict[str, str]:
    try:
        command = ["dpkg-query", "-W", "-f=${Package} ${Version}\n", *DEBIAN_PACKAGES]
        text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return {}
    return dict(line.split(" ", 1) for line in text.splitlines() if line.count(" ") == 1 and line[-1] != " ")


def machine() -> dict[str, Any]:
    """The machine, as every JSON file describes it."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": _python_versions(),
        "debian": _debian_versions(),
        "load_average": {"before": _LOAD_BEFORE, "after": os.getloadavg()},
    }


def document(question: str, rows: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """One benchmark's JSON: what was asked, when, on what, and the rows."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"question": question, "date": now, "machine": machine(), **more, "rows": list(rows)}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content`, readable for people, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(path.suffix + ".new")
    fresh.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    fresh.replace(path)


def median_rows(repetitions: Sequence[dict[str, float]]) -> dict[str, float]:
    """For every key the median over the repetitions that have it."""
    keys = dict.fromkeys(key for row in repetitions for key in row)
    return {key: statistics.median(row[key] for row in repetitions if key in row) for key in keys}


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 of `values` (nearest rank)."""
    ordered = sorted(values)
    return {f"p{p}": ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 95, 99)}


def number(value: object) -> str:
    """A number with three significant digits, a dash for None, anything else as it is."""
    if value is None:
        return "-"
    if not isinstance(value, int | float):
        return str(value)
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A rich table: the first column is text, the others are numbers."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*[number(cell) for cell in row])
    return made


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The same as a Markdown table, for bench/README.md."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(number(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def console() -> Console:
    """Where tables go: standard output, wide enough for a table also where that is a file."""
    out = Console()
    return out if out.is_terminal else Console(width=160)
