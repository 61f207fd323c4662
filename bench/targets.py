"""What we want to reach, row by row, from the figures of one run of `bench.mounts`: reached or not, as ratios.

`python -m bench.targets bench/results/mounts.json [more of the same run ...] [--markdown]`
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench.lab import report
from bench.mounts import HEADLINE
from bench.peers.catalogue import PEERS

Row = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """One wish: dadafs' figure over (or under) a yardstick's."""

    wish: str
    load: str
    state: str
    yardstick: str
    bound: float
    at_least: bool
    figure: str | None = None


FASTEST = "fastest mounted peer"
TARGETS = (
    Target("warm re-read, of local page-cache speed", "sequential", "warm", "local", 0.95, True),
    Target("cold sequential, times the fastest mounted peer", "sequential", "cold", FASTEST, 1.3, True),
    Target("metadata walk cold, of the fastest peer's time", "metadata", "cold", FASTEST, 0.5, False),
    Target("small files cold, times the fastest peer", "small_files", "cold", FASTEST, 3.0, True),
    Target("random 4 KiB cold, 1 thread, times the fastest peer", "random_4k_1", "cold", FASTEST, 1.0, True),
    Target("random 4 KiB cold, 8 threads, times the fastest peer", "random_4k_8", "cold", FASTEST, 1.0, True),
    Target("HDF5 chunks cold, times the fastest peer", "chunks", "cold", FASTEST, 1.5, True),
    Target("node CPU, core-seconds per GiB", "sequential", "cold", "", 0.6, False, "node cpu s/GiB"),
    Target("head CPU, core-seconds per GiB", "sequential", "cold", "", 0.25, False, "head cpu s/GiB"),
    Target("open + fstat + close, of a dict file system's time", "opens", "cold", "dict", 2.0, False),
)


def mounted(row: Row) -> bool:
    """Whether a row is one of a mounted network peer."""
    kind = PEERS.get(row["peer"])
    return row["peer"] != "dadafs" and kind is not None and kind.remote and kind.keeps


def _best(rows: Sequence[Row], figure: str, lower: bool) -> Row | None:
    pick: Callable[..., Row | None] = min if lower else max
    return pick(rows, key=lambda row: row[figure], default=None)


def judged(rows: Sequence[Row]) -> list[list[object]]:
    """The lines of the table: wish, dadafs' figure, the yardstick's and whose it is, ratio, bound, verdict."""
    lines: list[list[object]] = []
    for target in TARGETS:
        figure = target.figure or HEADLINE.get(target.load, "reads/s")
        there = [
            row for row in rows if (row.get("load"), row.get("state")) == (target.load, target.state) and figure in row
        ]
        ours = next((row for row in there if row["peer"] == "dadafs"), None)
        if target.yardstick == FASTEST:
            other = _best([row for row in there if mounted(row)], figure, lower=figure in ("seconds", "us"))
        else:
            other = next((row for row in there if row["peer"] == target.yardstick), None)
        if ours is None or (other is None and target.yardstick):
            lines.append([target.wish, None, None, None, target.bound, "not measured"])
            continue
        ratio = ours[figure] if other is None else ours[figure] / other[figure]
        reached = ratio >= target.bound if target.at_least else ratio <= target.bound
        whose = "-" if other is None else f"{report.number(other[figure])} ({other['peer']})"
        sign = "at least" if target.at_least else "at most"
        verdict = "reached" if reached else "not reached"
        lines.append([target.wish, ours[figure], whose, round(ratio, 2), f"{sign} {target.bound}", verdict])
    return lines


#: At most so many times the time of LZ4 alone, for the kernel that the machine can run best.
KERNEL_BOUNDS = {"0.06 counts uint16": 1.5, "5 counts uint16": 4.0}
#: Two threads: of twice the frames of one, at least.
TWO_THREADS = 0.9
FULL_SET = "dada, full set, "


def judged_kernels(rows: Sequence[Row]) -> list[list[object]]:
    """The lines of the kernels' table: wish, what was measured, bound, verdict."""
    lines: list[list[object]] = []
    for kind in dict.fromkeys(row["frames"] for row in rows):
        found = {row["what"]: row for row in rows if row["frames"] == kind}
        single = [name for name in found if name.startswith(FULL_SET) and not name.endswith("threads")]
        best = min(single, key=lambda name: found[name]["times_lz4"])
        if kind in KERNEL_BOUNDS:
            times, bound = found[best]["times_lz4"], KERNEL_BOUNDS[kind]
            wish = f"{kind}: full set ({best.removeprefix(FULL_SET)}), times LZ4 alone"
            lines.append([wish, times, f"at most {bound}", "reached" if times <= bound else "not reached"])
        both = found[f"{FULL_SET}two threads"]["frames_per_second"] / found[best]["frames_per_second"]
        verdict = "reached" if both >= 2 * TWO_THREADS else "not reached"
        lines.append([f"{kind}: two threads, times the frames of one", both, f"at least {2 * TWO_THREADS}", verdict])
    return lines


COLUMNS = ("what we want to reach", "dadafs", "beside", "ratio", "wanted", "")


@click.command(help=__doc__)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--markdown", is_flag=True, help="Print the table in Markdown.")
def main(files: tuple[Path, ...], markdown: bool) -> None:
    rows = [row for path in files for row in json.loads(path.read_text())["rows"]]
    lines = judged(rows)
    if markdown:
        print(report.markdown(COLUMNS, lines))
    else:
        report.console().print(report.table("what we want to reach", COLUMNS, lines))


if __name__ == "__main__":
    main()
