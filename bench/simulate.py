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

from bench.cluster_model import MIB, Calibration, Cluster, Outcome, Simulation, simulate, sweep
from bench.full_load import bytes_per_s
from bench.lab import report

RESULTS = Path(__file__).parent / "results"
NODES = [1, 2, 4, 8, 16, 24, 48, 100, 200, 400, 1000]
BIG_SCAN = 1_000_000
#: A link, or a disk behind the page cache, that limits nothing.
UNSHAPED = 1e11
#: What a node asks for at a time, and how many of these it has on their way.
FRAGMENT = MIB
AHEAD = 8
SCENARIOS: dict[str, Cluster] = {
    "as installed: 1 Gbit/s nodes, one head": Cluster(1),
    "two heads": Cluster(1, heads=2),
    "10 Gbit/s nodes": Cluster(1, node_link=10e9 / 8),
    "10 Gbit/s nodes, two heads": Cluster(1, node_link=10e9 / 8, heads=2),
    "head with 100 Gbit/s and four SSDs": Cluster(1, head_link=100e9 / 8, ssd=12e9),
    "the same, head with four serving loops": Cluster(1, head_cores=4, head_link=100e9 / 8, ssd=12e9),
    "nothing cached, each node its own scan": Cluster(1, cached=0.0),
    "nothing cached, all nodes one scan": Cluster(1, cached=0.0, sharing=1000),
}
#: As installed, where every byte costs the head what it cost it under the full load.
CROWDED = "as installed, head's CPU as under the full load"
#: Installations for the question of the SSD tier's size.
TIERED: dict[str, Cluster] = {
    "24 nodes, 1 Gbit/s": Cluster(24),
    "24 nodes, 10 Gbit/s": Cluster(24, node_link=10e9 / 8),
    "24 nodes, 10 Gbit/s, two heads": Cluster(24, node_link=10e9 / 8, heads=2),
}
#: How much of what is read again the SSD tier holds.
CACHED = [0.0, 0.25, 0.5, 0.75, 0.9, 1.0]


def load_calibration(path: Path) -> Calibration:
    """The calibration in a JSON file. Raises click.UsageError where there is none."""
    try:
        return Calibration(**json.loads(path.read_text())["calibration"])
    except FileNotFoundError:
        raise click.UsageError(f"there is no calibration at {path}: make one with --calibrate") from None


def calibrate(results: Path) -> dict[str, Any]:
    """The calibration from the measured figures of one mount: nothing of the full load, which the model has to say.

    CPU of a cold sequential read with a warm head, frames of a local job, and what a cold head costs more than a warm
    one.
    """
    mounts, job = (json.loads((results / name).read_text()) for name in ("mounts.json", "whole_job.json"))
    wanted = {"peer": "dadafs", "load": "sequential", "state": "cold"}
    warm = next(row for row in mounts["rows"] if wanted.items() <= row.items())
    local, cold, filled = (
        next(row for row in job["rows"] if row["state"] == state) for state in ("local", "cold", "warm head")
    )
    programs = warm["node cpu s/GiB"] + warm["head cpu s/GiB"]
    made = Calibration(
        node_cpu_s_per_gib=warm["node cpu s/GiB"],
        head_cpu_s_per_gib=warm["head cpu s/GiB"],
        other_cpu_s_per_gib=max(0.0, warm["machine cpu s/GiB"] - programs),
        fill_cpu_s_per_gib=max(0.0, cold["head cpu s/GiB"] - filled["head cpu s/GiB"]),
        frames_per_s_per_core=local["frames/s per core"],
        bytes_per_frame=local["bytes"] / local["frames"],
        measured=mounts["date"],
    )
    return {"calibration": asdict(made), "machine": mounts["machine"], "from": ["mounts.json", "whole_job.json"]}


def check(results: Path, calibration: Calibration) -> list[dict[str, Any]]:
    """What the model says of the laboratory's own full load, beside what was measured there.

    Twice: with the calibration, and with the CPU seconds per GiB that the same load took itself. The second tells
    whether the queues are right, the first in addition whether a byte costs 24 small nodes what it costs one.
    """
    load = json.loads((results / "full_load.json").read_text())
    return [_checked(row, load, calibration) for row in load["rows"]]


def _checked(row: dict[str, Any], load: dict[str, Any], calibration: Calibration) -> dict[str, Any]:
    cluster = Cluster(
        load["clients"],
        node_link=UNSHAPED if row["link"] == "unshaped" else bytes_per_s(row["link"]),
        head_link=UNSHAPED,
        ssd=UNSHAPED,
        origin=UNSHAPED,
        cached=0.0 if row["state"] == "cold" else 1.0,
        sharing=load["clients"] if row["pattern"] == "same" else 1,
        one_machine_cores=load["machine"]["cores"],
        reduces=False,
    )
    own = replace(
        calibration,
        node_cpu_s_per_gib=row["node cpu s/GiB"],
        head_cpu_s_per_gib=row["head cpu s/GiB"],
        fill_cpu_s_per_gib=0.0,
    )
    batches = max(1, load["bytes_each"] // FRAGMENT)
    said, with_own = (
        Simulation(cluster, costs, batch=FRAGMENT, window=AHEAD).run(batches) for costs in (calibration, own)
    )
    return {
        **row,
        "load": f"{row['link']}, {row['pattern']}, head {row['state']}",
        "model MB/s": said.bytes_per_s / 1e6,
        "model / measured": said.bytes_per_s / 1e6 / row["MB/s"],
        "bottleneck": said.bottleneck,
        "own costs MB/s": with_own.bytes_per_s / 1e6,
        "own costs / measured": with_own.bytes_per_s / 1e6 / row["MB/s"],
    }


def scaling(calibration: Calibration, nodes: Sequence[int], crowded: float = 0.0) -> list[dict[str, Any]]:
    """Every scenario with every number of nodes; two of them with `crowded` CPU seconds per GiB at the head."""
    rows = []
    dear = replace(calibration, head_cpu_s_per_gib=max(calibration.head_cpu_s_per_gib, crowded))
    runs = [(name, base, calibration) for name, base in SCENARIOS.items()]
    runs += [(CROWDED, Cluster(1), dear), (f"{CROWDED}, two heads", Cluster(1, heads=2), dear)]
    for name, base, costs in runs:
        for count, outcome in zip(nodes, sweep(base, costs, list(nodes)), strict=True):
            rows.append({"scenario": name, "nodes": count, **_figures(outcome)})
    return rows


def crowded_head(results: Path) -> float:
    """The most that a GiB cost a warm head under the full load, CPU seconds."""
    rows = json.loads((results / "full_load.json").read_text())["rows"]
    same = [row["head cpu s/GiB"] for row in rows if (row["pattern"], row["state"]) == ("same", "warm")]
    return float(max(same))


def tier_size(calibration: Calibration, nodes: int) -> list[dict[str, Any]]:
    """What the share of bytes that the head's tiers hold is worth."""
    rows = []
    for name, base in TIERED.items():
        for share in CACHED:
            outcome = simulate(replace(base, nodes=nodes, cached=share), calibration)
            rows.append({"installation": name, "cached": share, "nodes": nodes, **_figures(outcome)})
    return rows


def _figures(outcome: Outcome) -> dict[str, Any]:
    return {
        "frames/s": outcome.frames_per_s,
        "GB/s": outcome.bytes_per_s / 1e9,
        "minutes for 1000x1000": outcome.minutes_for(BIG_SCAN),
        "bottleneck": outcome.bottleneck,
        "busy": outcome.utilisation[outcome.bottleneck],
    }


CHECK_COLUMNS = (
    "load",
    "MB/s",
    "model MB/s",
    "model / measured",
    "bottleneck",
    "own costs MB/s",
    "own costs / measured",
)
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
    _print("the model and the laboratory", CHECK_COLUMNS, checked, markdown)
    rows = scaling(calibration, [1, 4] if quick else NODES, crowded_head(path.parent))
    shown = rows if quick else [row for row in rows if row["nodes"] in (24, 100, 1000)]
    _print("scenarios", ("scenario", *SCALING_COLUMNS), shown, markdown)
    tiers = tier_size(calibration, 4 if quick else 24)
    _print("share that the head holds", ("installation", "cached", *SCALING_COLUMNS), tiers, markdown)
    if plots:
        from bench.scaling_plots import draw

        draw(rows, tiers, plots)
    if json_path:
        report.write_json(json_path, report.document("scaling", rows, check=checked, tiers=tiers))


if __name__ == "__main__":
    main()
