"""Everything worth knowing about a running mount, as one dictionary and as text for a person."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from dadafs.quantity import format_duration, format_size

#: A part of the report: name and what makes it.
Source = Callable[[], Mapping[str, Any]]


class RecentLog(logging.Handler):
    """Keeps the last log lines for people who cannot read the system's log."""

    def __init__(self, lines: int = 500) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[str] = deque(maxlen=lines)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))

    def content(self) -> bytes:
        """The lines, oldest first."""
        return "".join(line + "\n" for line in self._lines).encode(errors="replace")


class Report:
    """Collects the parts; each is made anew at every call."""

    def __init__(self, fixed: Mapping[str, Any]) -> None:
        self._fixed = dict(fixed)
        self._sources: dict[str, Source] = {}
        self._started = time.monotonic()

    def add(self, name: str, source: Source) -> None:
        """The part `name` of the report."""
        self._sources[name] = source

    def as_dict(self) -> dict[str, Any]:
        """The whole report; plain values only."""
        report: dict[str, Any] = dict(self._fixed)
        report["pid"] = os.getpid()
        report["uptime_s"] = round(time.monotonic() - self._started, 3)
        report["rss_bytes"] = resident_bytes()
        for name, source in self._sources.items():
            report[name] = dict(source())
        return report

    def as_json(self) -> bytes:
        """The report as JSON, one line."""
        return json.dumps(self.as_dict(), separators=(",", ":")).encode() + b"\n"

    def as_text(self) -> bytes:
        """The report for a person."""
        return render(self.as_dict()).encode()


def resident_bytes() -> int:
    """The resident memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def render(report: Mapping[str, Any]) -> str:
    """A report as lines of names and values."""
    lines = []
    for name, value in report.items():
        if isinstance(value, Mapping):
            lines.append(f"\n{name}:")
            lines += [f"  {key:<26} {_value(key, each)}" for key, each in value.items()]
        else:
            lines.append(f"{name:<28} {_value(name, value)}")
    return "\n".join(lines) + "\n"


def _value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.endswith("bytes"):
        return f"{value} ({format_size(value)})"
    if isinstance(value, int | float) and name.endswith("_s"):
        return format_duration(float(value))
    if isinstance(value, Mapping) and "buckets" in value:
        return f"{value['count']} times, {1000 * value['sum'] / max(value['count'], 1):.2f} ms on average"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={each}" for key, each in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(str(each) for each in value) or "none"
    return "-" if value is None else str(value)
