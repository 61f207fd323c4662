"""What a result is filed under: the state of the data, what was computed of it, and by which kernel."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from dada.kernels import KERNEL_VERSION
from dada.version import FileVersion

#: Changes whenever a record's layout does.
RECORD_FORMAT = 1


def patch_key(
    version: FileVersion,
    dataset: str,
    channel: int,
    start: int,
    count: int | tuple[int, ...],
    plan_digest: str,
    family: str,
    part_digest: str,
) -> str:
    """The key of one family of sums of the frames [start, start + count) of a dataset, or of those of them that
    `count` names, as hex digits.

    Neither the path nor the scan is part of it: the same frames reached through another master file or mount are the
    same. `plan_digest` stands for shape, type, mask and cut, `part_digest` for the table of bins or the ROI.
    """
    return _hash("sums", version.describe(), dataset, channel, start, count, plan_digest, family, part_digest)


def pixel_key(frames: Sequence[tuple[Any, ...]], plan_digest: str) -> str:
    """The key of sums of each pixel over frames: (file's version, dataset, channel, start, count) of each stretch."""
    return _hash("pixels", frames, plan_digest)


def chained_keys(keys: Iterable[str], plan_digest: str) -> list[str]:
    """For each of these keys, that of everything up to and with it."""
    return list(accumulate(keys, lambda before, key: pixel_key([(before, key)], plan_digest)))


def run_id(description: dict[str, Any]) -> str:
    """A short name for a run: the same parameters on the same data are the same run."""
    return _hash("run", description)[:12]


def _hash(*values: Any) -> str:
    text = json.dumps([RECORD_FORMAT, KERNEL_VERSION, *values], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def checked_key(key: str) -> str:
    """The key, if it is one: only hex digits, so that none leads out of a directory or is cut at a NUL byte.

    Raises ValueError.
    """
    if not key or not all(letter in "0123456789abcdef" for letter in key):
        raise ValueError(f"a key of the results store is a hex string, not {key!r}")
    return key
