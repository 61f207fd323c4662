"""Scaling on paper: where 24, 100 and 1,000 nodes saturate, and what more hardware buys.

`python -m bench.simulate [--calibration FILE] [--plots DIRECTORY] [--json FILE]`

The model (`bench/cluster_model.py`) is calibrated with `bench/results/calibration.json`, which
`python -m bench.simulate --calibrate` makes from the figures of bench.mounts, bench.full_load and bench.whole_job; and
is first checked: it has to say what bench.full_load measured, with all CPU work on the one machine of the laboratory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from bench.cluster_model import GIB, Calibration, Cluster, Outcome, simulate, sweep
from bench.lab import report

RESULTS = Path(__file__).parent / "results"
NODES = [1, 2, 4, 8, 16, 24, 48, 100, 200, 400, 1000]
BIG_SCAN = 1_000_000
SCENARIOS: dict[str, Cluster] = {
    "as installed: 1 Gbit/s nodes, one head": Cluster(1),
    "two heads": Cluster(1, heads=2),
    "10 Gbit/s nodes": Cluster(1, node_link=10e9 / 8),
    "10 Gbit/s nodes, two heads": Cluster(1, node_link=10e9 / 8, heads=2),
    "head with four serving processes": Cluster(1, head_cores=4),
    "four processes, 100 Gbit/s": Cluster(1, head_cores=4, head_link=100e9 / 8, ssd=12e9),
    "nothing cached, each node its own scan": Cluster(1, cached=0.0),
    "nothing cached, all nodes one scan": Cluster(1, cached=0.0, sharing=1000),
}
#: How much of what is read again the SSD tier holds, for the question of its size.
CACHED = [0.0, 0.25, 0.5, 0.75, 0.9, 1.0]


def load_calibration(path: Path) -> Calibration:
    """The calibration in a JSON file. Raises click.UsageError where there is none."""
    try:
        return Calibration(**json.loads(path.read_text())["calibration"])
    except FileNotFoundError:
        raise click.UsageError(f"there is no calibration at {path}: make one with --calibrate") from None


def calibrate(results: Path) -> dict[str, Any]:
    """The calibration from the measured figures: CPU of a cold sequential read (warm head), frames of a local job."""
    mounts, job = (json.loads((results / name).read_text()) for name in ("mounts.json", "whole_job.json"))
    wanted = {"peer": "dadafs", "load": "sequential", "state": "cold"}
    warm = next(row for row in mounts["rows"] if wanted.items() <= row.items())
    local = next(row for row in job["rows"] if row["state"] == "local")
    made = Calibration(
        node_cpu_s_per_gib=warm["node cpu s/GiB"],
        head_cpu_s_per_gib=warm["head cpu s/GiB"],
        frames_per_s_per_core=local["frames/s per core"],
        bytes_per_frame=local["bytes"] / local["frames"],
        measured=mounts["date"],
    )
    return {"calibration": asdict(made), "machine": mounts["machine"], "from": ["mounts.json", "whole_job.json"]}


def check(results: Path, calibration: Calibration) -> list[dict[str, Any]]:
    """What the model says of the laboratory's own full load, beside what was measured there."""
    load = json.loads((results / "full_load.json").read_text())
    rate = {"100mbit": 1e8 / 8, "1gbit": 1e9 / 8}.get(load["rate"], 1e11)
    lines = []
    for row in load["rows"]:
        cluster = Cluster(
            load["clients"],
            node_link=rate,
            head_link=1e11,
            sharing=load["clients"] if row["pattern"] == "same" else 1,
            one_machine_cores=load["machine"]["cores"],
            reduces=False,
        )
        costs = replace(
            calibration,
            node_cpu_s_per_gib=row["node cpu s/GiB"] + reader_cost(row, load["machine"]["cores"]),
            head_cpu_s_per_gib=row["head cpu s/GiB"],
        )
        said = simulate(cluster, costs).bytes_per_s / 1e6
        lines.append({**row, "model MB/s": said, "model / measured": said / row["MB/s"]})
    return lines


def reader_cost(row: dict[str, Any], cores: int) -> float:
    """CPU seconds per GiB of everything else on the laboratory's cores: the readers and the kernel's network.

    They belong to no process of head or node; a copy out of the page cache and two passes through the network stack
    cost about half a second per GiB on the machines this was written on.
    """
    used = row["node cpu s/GiB"] + row["head cpu s/GiB"]
    wall = cores * row["seconds"] / row["bytes"] * GIB
    return min(0.5, max(0.0, wall - used))


def scaling(calibration: Calibration, nodes: Sequence[int]) -> list[dict[str, Any]]:
    """Every scenario with every number of nodes."""
    rows = []
    for name, base in SCENARIOS.items():
        for count, outcome in zip(nodes, sweep(base, calibration, list(nodes)), strict=True):
            rows.append({"scenario": name, "nodes": count, **_figures(outcome)})
    return rows


def tier_size(calibration: Calibration, nodes: int) -> list[dict[str, Any]]:
    """What the share of bytes that the head's tiers hold is worth."""
    rows = []
    for loops in (1, 4):
        for share in CACHED:
            outcome = simulate(Cluster(nodes, cached=share, head_cores=loops), calibration)
            rows.append({"serving loops": loops, "cached": share, "nodes": nodes, **_figures(outcome)})
    return rows


def _figures(outcome: Outcome) -> dict[str, Any]:
    return {
        "frames/s": outcome.frames_per_s,
        "GB/s": outcome.bytes_per_s / 1e9,
        "minutes for 1000x1000": outcome.minutes_for(BIG_SCAN),
        "bottleneck": outcome.bottleneck,
        "busy": outcome.utilisation[outcome.bottleneck],
    }


SCALING_COLUMNS = ("nodes", "frames/s", "GB/s", "minutes for 1000x1000", "bottleneck", "busy")


def _print(title: str, columns: Sequence[str], rows: Sequence[dict[str, Any]], markdown: bool) -> None:
    lines = [[row[column] for column in columns] for row in rows]
    if markdown:
        print(f"\n{title}\n\n{report.markdown(columns, lines)}")
    else:
        report.console().print(report.table(title, columns, lines))


@click.command(help=__doc__)
@click.option("--calibrate", "make", is_flag=True, help="Make the calibration file from the measured figures first.")
@click.option("--calibration", "path", type=click.Path(path_type=Path), default=RESULTS / "calibration.json")
@click.option("--quick", is_flag=True, help="Few nodes: only check that it runs.")
@click.option("--plots", type=click.Path(path_type=Path), help="Draw the plots of docs/scaling.md there.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there.")
@click.option("--markdown", is_flag=True, help="Print the tables in Markdown.")
def main(make: bool, path: Path, quick: bool, plots: Path | None, json_path: Path | None, markdown: bool) -> None:
    if make:
        report.write_json(path, calibrate(path.parent))
    calibration = load_calibration(path)
    checked = check(path.parent, calibration)
    columns = ("pattern", "state", "MB/s", "model MB/s", "model / measured")
    _print("the model and the laboratory", columns, checked, markdown)
    rows = scaling(calibration, [1, 4] if quick else NODES)
    shown = rows if quick else [row for row in rows if row["nodes"] in (24, 100, 1000)]
    _print("scenarios", ("scenario", *SCALING_COLUMNS), shown, markdown)
    tiers = tier_size(calibration, 4 if quick else 24)
    _print("share that the head holds", ("serving loops", "cached", *SCALING_COLUMNS), tiers, markdown)
    if plots:
        from bench.scaling_plots import draw

        draw(rows, tiers, plots)
    if json_path:
        report.write_json(json_path, report.document("scaling", rows, check=checked, tiers=tiers))


if __name__ == "__main__":
    main()
