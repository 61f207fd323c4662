"""Sizes and durations as people write them: `128MiB`, `3.4TiB`, `250ms`, `2h`.

Sizes are bytes (int), durations seconds (float). Binary prefixes (`KiB`) are powers of 1024, decimal ones
(`kB`, `MB`) powers of 1000, as IEC 80000-13 has them; a bare `K`, `M`, `G`, `T` is binary, as in most
administrators' tools.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*([A-Za-zµ%]*)\s*")
_MAX_SIZE = 2**63 - 1

_SIZES: dict[str, int] = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtpe", start=1):
    _SIZES[_letter] = _SIZES[_letter + "ib"] = _SIZES[_letter + "i"] = 1024**_power
    _SIZES[_letter + "b"] = 1000**_power

_DURATIONS: dict[str, Decimal] = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "": Decimal(1),
    "s": Decimal(1),
    "sec": Decimal(1),
    "m": Decimal(60),
    "min": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
    "w": Decimal(604800),
}


def parse_size(text: str | int) -> int:
    """Bytes in `text`: `4096`, `64KiB`, `1.5G`, `10 MB`. Raises ValueError with a sentence for a person."""
    if isinstance(text, int) and not isinstance(text, bool):
        text = str(text)
    example = "write a size like 128MiB or 3.4TiB"
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a size; {example}")
    unit = _SIZES.get(match[2].lower())
    if unit is None:
        raise ValueError(f"{match[2]!r} in {text!r} is not a unit of size; {example}")
    size = int(Decimal(match[1]) * unit)
    if size > _MAX_SIZE:
        raise ValueError(f"{text!r} is larger than any size can be; {example}")
    return size


def parse_duration(text: str | int | float) -> float:
    """Seconds in `text`: `1s`, `250ms`, `2h`, `1h30m`, `0.5`. Raises ValueError with a sentence."""
    example = "write a duration like 1s, 250ms or 2h"
    if isinstance(text, bool) or (not isinstance(text, str) and not 0 <= text < math.inf):
        raise ValueError(f"{text!r} is not a duration; {example}")
    if not isinstance(text, str):
        return float(text)
    parts = re.findall(r"[0-9.]+\s*[A-Za-zµ]*", text)
    if not parts or re.sub(r"\s", "", "".join(parts)) != re.sub(r"\s", "", text):
        raise ValueError(f"{text!r} is not a duration; {example}")
    return float(sum((_duration_part(part, text, example) for part in parts), Decimal(0)))


def _duration_part(part: str, text: str, example: str) -> Decimal:
    match = _QUANTITY.fullmatch(part)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; {example}")
    unit = _DURATIONS.get(match[2].lower())
    if unit is None:
        raise ValueError(f"{match[2]!r} in {text!r} is not a unit of time; {example}")
    return Decimal(match[1]) * unit


def format_size(size: int | float) -> str:
    """`size` bytes for a person: `512 B`, `1.5 MiB`; three or four significant digits."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if abs(value) < 1023.995:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} B" if unit == "B" else f"{_significant(value)} {unit}"


def format_duration(seconds: float) -> str:
    """`seconds` for a person: `250ms`, `1.5s`, `2h`, `1d3h`; what `parse_duration` reads back (rounded)."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds == 0:
        return "0s"
    for limit, factor, unit in ((1e-6, 1e9, "ns"), (1e-3, 1e6, "us"), (1, 1e3, "ms"), (60, 1, "s")):
        if float(_significant(seconds * factor)) < limit * factor:
            return f"{_significant(seconds * factor)}{unit}"
    return _whole_units(round(seconds))


def _whole_units(seconds: int) -> str:
    """The two largest units of a duration of a minute or more."""
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])


def _significant(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
