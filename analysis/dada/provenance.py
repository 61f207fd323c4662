"""How a result was made, as plain JSON values: enough to compute it again."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dada.kernels import KERNEL_VERSION
from dada.mask import reasons
from dada.reductions.protocol import Setup
from dada.results.keys import run_id
from dada.results.store import ResultsStore
from dada.scan import Scan
from dada.version import FileVersion


def provenance_of(options: Any, scan: Scan, setup: Setup) -> dict[str, Any]:
    """Every parameter, versions, mask and the versions of all files."""
    from dada import __version__

    names = {name: getattr(options, name, None) for name in ("scan", "poni", "empty")}
    absolute = dataclasses.replace(options, **{name: absolute_name(value) for name, value in names.items() if value})
    return {
        "program": "dada",
        "version": __version__,
        "kernel_version": KERNEL_VERSION,
        "numpy_version": np.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "options": absolute.describe(),
        "frames": {"count": scan.n_frames, "shape": list(scan.shape), "dtype": scan.dtype.str},
        "detector": scan.detector.describe(),
        "geometry": setup.geometry.describe() if setup.geometry else None,
        "cut": setup.cut,
        "threshold": setup.threshold,
        "mask": {
            "sha256": hashlib.sha256(np.packbits(setup.mask).tobytes()).hexdigest(),
            "invalid_pixels": int(setup.mask.sum()),
            "by_reason": _reasons(scan, setup),
        },
        "files": files_of(scan),
    }


def _reasons(scan: Scan, setup: Setup) -> dict[str, int]:
    """Pixels that the detector's mask rules out, for each of its reasons, and those that only the user's masks do."""
    detector = scan.detector.pixel_mask
    if detector is None:
        return {"user's mask": int(setup.mask.sum())}
    return reasons(detector) | {"user's mask": int((setup.mask & (detector == 0)).sum())}


def remembered(provenance: dict[str, Any], store: ResultsStore | None) -> tuple[dict[str, Any], str]:
    """The provenance of a run and the run's name, under which the store remembers it."""
    name = run_id({key: provenance[key] for key in ("options", "files", "mask", "empty") if key in provenance})
    if store is not None:
        store.remember_run(name, provenance)
    return provenance, name


def changed_files(before: Mapping[str, Any], now: Mapping[str, Any]) -> int:
    """How many data files of a scan have another version than they had, or were added or are gone."""
    old, new = ([tuple(version or ()) for *_, version in provenance["files"]] for provenance in (before, now))
    return sum(a != b for a, b in itertools.zip_longest(old, new))


def files_of(scan: Scan) -> list[Any]:
    """[path, dataset, frames, version] of each file."""
    return [[str(segment.path), segment.dataset, segment.count, _version(segment.version)] for segment in scan.segments]


def _version(version: FileVersion | None) -> list[int] | None:
    return version.describe() if version else None


def absolute_name(name: str) -> str:
    """The same name from anywhere."""
    path, separator, dataset = name.partition("::")
    return os.path.abspath(Path(path)) + separator + dataset
