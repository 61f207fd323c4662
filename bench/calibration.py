"""The costs of the model, fitted to what bench.mounts and bench.full_load measured.

A GiB does not cost the same everywhere: 24 nodes that read 16 MiB each pay several times what one stream pays. Three
things make it dearer: each client's beginning (a mount's first reads) is spread over few bytes, over a slow link bytes
arrive in small pieces, each of which wakes the receiver, and bytes that nobody else reads are in no processor's cache.
So the CPU seconds of each side, per GiB that was read, are fitted as

    a byte + a piece x pieces per GiB + a client's beginning x clients per GiB + a filled byte x share that is filled
    + a distinct byte x share that nobody else reads

with coefficients that are not negative (least squares of the errors in per cent of the whole machine's CPU). Throughput
is no input: it is what the model has to say. `left_out` fits without one row of the full load, so that the model can
be asked about that row without having seen its costs either.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.cluster_model import GIB, Calibration, Cost, pieces_per_gib
from bench.full_load import bytes_per_s

#: A link, or a disk behind the page cache, that limits nothing.
UNSHAPED = 1e11
SIDES = ("node", "head", "other")
#: From this share of what links can carry on, they are what limits.
FULL_LINK = 0.8
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Observation:
    """One measured load: what it was, and the CPU seconds per GiB of each side."""

    name: str
    link: float
    clients_per_gib: float
    filled: float
    distinct: float
    cpu: dict[str, float]

    def features(self, side: str) -> list[float]:
        """What the coefficients of `side` are multiplied with; a node fills nothing."""
        filled = 0.0 if side == "node" else self.filled
        return [1.0, pieces_per_gib(self.link), self.clients_per_gib, filled, self.distinct]


def link_of(rate: str | None) -> float:
    """Bytes a second of a link as the JSON files name it."""
    return UNSHAPED if rate in (None, "unshaped") else bytes_per_s(str(rate))


def _cpu(row: dict[str, Any]) -> dict[str, float]:
    node, head = row["node cpu s/GiB"], row["head cpu s/GiB"]
    return {"node": node, "head": head, "other": max(0.0, row["machine cpu s/GiB"] - node - head)}


def single(document: dict[str, Any]) -> list[Observation]:
    """The cold sequential read of one mount."""
    rate, wanted = document["rate"], {"peer": "dadafs", "load": "sequential", "state": "cold"}
    return [
        Observation(f"one mount, {rate or 'unshaped'}", link_of(rate), GIB / row["bytes"], 0.0, 1.0, _cpu(row))
        for row in document["rows"]
        if wanted.items() <= row.items()
    ]


def crowded(document: dict[str, Any]) -> list[Observation]:
    """The rows of the full load. What is filled is what the head read of its origin, per byte that was read."""
    return [
        Observation(
            name_of(row),
            link_of(row["link"]),
            document["clients"] / row["bytes"] * GIB,
            row["origin bytes"] / row["bytes"],
            row["unique bytes"] / row["bytes"],
            _cpu(row),
        )
        for row in document["rows"]
    ]


def name_of(row: dict[str, Any]) -> str:
    """What a row of the full load is called in tables."""
    return f"{row['link']}, {row['pattern']}, head {row['state']}"


def non_negative(features: Vector, values: Vector) -> Vector:
    """The coefficients, none negative, with the least squares; by trying which of them are zero."""
    count = features.shape[1]
    best, least = np.zeros(count), float(np.sum(values**2))
    for kept in itertools.chain.from_iterable(itertools.combinations(range(count), n) for n in range(1, count + 1)):
        found = np.linalg.lstsq(features[:, kept], values, rcond=None)[0]
        error = float(np.sum((features[:, kept] @ found - values) ** 2))
        if found.min() >= 0 and error < least * (1 - 1e-9):
            best, least = np.zeros(count), error
            best[list(kept)] = found
    return best


def fitted(observations: Sequence[Observation]) -> dict[str, Cost]:
    """The costs of each side."""
    whole = np.array([sum(seen.cpu.values()) for seen in observations])
    costs = {}
    for side in SIDES:
        features = np.array([seen.features(side) for seen in observations]) / whole[:, None]
        values = np.array([seen.cpu[side] for seen in observations]) / whole
        costs[side] = Cost(*map(float, non_negative(features, values)))
    return costs


def observed(results: Path) -> list[Observation]:
    """Everything that the costs are fitted to."""
    seen = []
    for name in ("mounts", "mounts_1gbit"):
        path = results / f"{name}.json"
        if path.exists():
            seen += single(json.loads(path.read_text()))
    return seen + crowded(json.loads((results / "full_load.json").read_text()))


def busy_share(load: dict[str, Any], left_out: str | None = None) -> float:
    """How busy the laboratory's cores are in the rows of the full load where links do not limit: the median."""
    free = [row for row in load["rows"] if row.get("of link limit", 0.0) < FULL_LINK and name_of(row) != left_out]
    return statistics.median([row["cores busy"] / load["machine"]["cores"] for row in free] or [1.0])


def calibrated(results: Path, left_out: str | None = None) -> Calibration:
    """The calibration from the JSON files in `results`, without the row `left_out` of the full load."""
    job = json.loads((results / "whole_job.json").read_text())
    local = next(row for row in job["rows"] if row["state"] == "local")
    load = json.loads((results / "full_load.json").read_text())
    costs = fitted([seen for seen in observed(results) if seen.name != left_out])
    return Calibration(
        **costs,
        frames_per_s_per_core=local["frames/s per core"],
        bytes_per_frame=local["bytes"] / local["frames"],
        busy_share=busy_share(load, left_out),
        measured=load["date"],
    )


def document(results: Path) -> dict[str, Any]:
    """The calibration file."""
    machine = json.loads((results / "full_load.json").read_text())["machine"]
    files = ["mounts.json", "mounts_1gbit.json", "full_load.json", "whole_job.json"]
    return {"calibration": asdict(calibrated(results)), "machine": machine, "from": files}


def read(path: Path) -> Calibration:
    """The calibration in a file that `document` made."""
    found = json.loads(path.read_text())["calibration"]
    return Calibration(**{**found, **{side: Cost(**found[side]) for side in SIDES}})
