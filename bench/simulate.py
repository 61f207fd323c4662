"""Scaling on paper: where 24, 100 and 1,000 nodes saturate, and what more hardware buys.

`python -m bench.simulate [--calibrate] [--plots DIRECTORY] [--json FILE]`

The model (`bench/cluster_model.py`) is calibrated with `bench/results/calibration.json`, which `--calibrate` makes from
the figures of bench.mounts, bench.full_load and bench.whole_job (`bench/calibration.py`); and is first checked: it has
to say what bench.full_load measured, with all CPU work on the one machine of the laboratory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from bench import calibration, scaling_tables
from bench.calibration import UNSHAPED
from bench.cluster_model import FRAGMENT, Calibration, Cluster, Cost, Outcome, Simulation, simulate, sweep
from bench.lab import report

RESULTS = Path(__file__).parent / "results"
NODES = [1, 2, 4, 8, 16, 24, 48, 100, 200, 400, 1000]
BIG_SCAN = 1_000_000
#: How many fragments a node has on their way.
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
        return calibration.read(path)
    except FileNotFoundError:
        raise click.UsageError(f"there is no calibration at {path}: make one with --calibrate") from None


def laboratory(row: dict[str, Any], load: dict[str, Any]) -> Cluster:
    """The full load's own installation: one machine, whose cores everybody shares."""
    return Cluster(
        load["clients"],
        node_link=calibration.link_of(row["link"]),
        head_cores=load["machine"]["cores"],
        head_link=UNSHAPED,
        ssd=UNSHAPED,
        origin=UNSHAPED,
        cached=max(0.0, 1.0 - row["origin per unique byte"]),
        sharing=load["clients"] if row["pattern"] == "same" else 1,
        one_machine_cores=load["machine"]["cores"],
        reduces=False,
        begins=True,
    )


def check(results: Path, costs: Calibration) -> list[dict[str, Any]]:
    """What the model says of the laboratory's own full load, beside what was measured there.

    Three times: with the calibration; with a calibration that has not seen that row; and with the CPU seconds per GiB
    that the row took itself, which tells whether the queues are right.
    """
    load = json.loads((results / "full_load.json").read_text())
    return [_checked(row, load, results, costs) for row in load["rows"]]


def _checked(row: dict[str, Any], load: dict[str, Any], results: Path, costs: Calibration) -> dict[str, Any]:
    name = calibration.name_of(row)
    seen = next(seen for seen in calibration.crowded(load) if seen.name == name)
    own = {side: Cost(seen.cpu[side]) for side in calibration.SIDES}
    used = {
        "model": costs,
        "left out": calibration.calibrated(results, left_out=name),
        "own costs": replace(costs, **own),
    }
    checked: dict[str, Any] = {"load": name, "MB/s": row["MB/s"], "cores busy": row["cores busy"]}
    for what, each in used.items():
        outcome = Simulation(laboratory(row, load), each, batch=FRAGMENT, window=AHEAD).run(
            max(1, load["bytes_each"] // FRAGMENT)
        )
        checked[f"{what} MB/s"] = outcome.bytes_per_s / 1e6
        checked[f"{what} / measured"] = outcome.bytes_per_s / 1e6 / row["MB/s"]
        if what == "model":
            checked["bottleneck"] = outcome.bottleneck
    return checked


def scaling(costs: Calibration, nodes: Sequence[int]) -> list[dict[str, Any]]:
    """Every scenario with every number of nodes."""
    return [
        {"scenario": name, "nodes": count, **_figures(outcome)}
        for name, base in SCENARIOS.items()
        for count, outcome in zip(nodes, sweep(base, costs, list(nodes)), strict=True)
    ]


def tier_size(costs: Calibration, nodes: int) -> list[dict[str, Any]]:
    """What the share of bytes that the head's tiers hold is worth."""
    rows = []
    for name, base in TIERED.items():
        for share in CACHED:
            outcome = simulate(replace(base, nodes=nodes, cached=share), costs)
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


@click.command(help=__doc__)
@click.option("--calibrate", "make", is_flag=True, help="Make the calibration file from the measured figures first.")
@click.option("--calibration", "path", type=click.Path(path_type=Path), default=RESULTS / "calibration.json")
@click.option("--quick", is_flag=True, help="Few nodes: only check that it runs.")
@click.option("--plots", type=click.Path(path_type=Path), help="Draw the plots of docs/scaling.md there.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there.")
@click.option("--markdown", is_flag=True, help="Print the tables in Markdown.")
def main(make: bool, path: Path, quick: bool, plots: Path | None, json_path: Path | None, markdown: bool) -> None:
    if make:
        report.write_json(path, calibration.document(path.parent))
    costs = load_calibration(path)
    found = {
        "rows": scaling(costs, [1, 4] if quick else NODES),
        "check": check(path.parent, costs),
        "tiers": tier_size(costs, 4 if quick else 24),
        "costs": {side: asdict(getattr(costs, side)) for side in calibration.SIDES},
    }
    for title, columns, lines in scaling_tables.everything(found):
        if markdown:
            print(f"\n{title}\n\n{report.markdown(columns, lines)}")
        else:
            report.console().print(report.table(title, columns, lines))
    if plots:
        from bench.scaling_plots import draw

        draw(found["rows"], found["tiers"], plots)
    if json_path:
        report.write_json(json_path, report.document("scaling", found.pop("rows"), **found))


if __name__ == "__main__":
    main()
