"""Sizes and times as people write them."""

from __future__ import annotations

import re

from dada.errors import UsageError

_SIZES = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_SIZES |= {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_TIMES = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*$")


def parse_bytes(text: str) -> int:
    """`128MiB`, `3.4TiB`, `1000` as bytes. Raises UsageError."""
    value, unit = _parse(text, "size, for example 2GiB")
    if unit not in _SIZES:
        raise UsageError(f"'{text}' is no size: the units are KiB, MiB, GiB and TiB")
    return int(value * _SIZES[unit])


def parse_seconds(text: str) -> float:
    """`30d`, `12h`, `90` as seconds. Raises UsageError."""
    value, unit = _parse(text, "time, for example 30d")
    if unit not in _TIMES:
        raise UsageError(f"'{text}' is no time: the units are s, m, h, d and w")
    return value * _TIMES[unit]


def format_bytes(size: float) -> str:
    """A size for people: `435.0 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _parse(text: str, what: str) -> tuple[float, str]:
    match = _QUANTITY.match(text)
    if not match:
        raise UsageError(f"'{text}' is no {what}")
    return float(match.group(1)), match.group(2).lower()
