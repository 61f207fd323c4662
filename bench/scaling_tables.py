"""The tables of docs/scaling.md from what bench.simulate found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench.lab import report

Found = dict[str, Any]
Table = tuple[str, list[str], list[list[object]]]
#: Numbers of nodes that the tables show.
SHOWN = (24, 100, 1000)
#: From this share of the most frames on, more nodes are no use.
SATURATED = 0.95
CHECK = ["load", "MB/s", "cores busy", "model MB/s", "model / measured", "left out / measured", "own costs / measured"]
FIGURES = ["nodes", "frames/s", "GB/s", "minutes for 1000x1000", "bottleneck", "busy"]


def _table(title: str, columns: list[str], rows: Sequence[Found]) -> Table:
    return title, columns, [[row[column] for column in columns] for row in rows]


def checked(found: Found) -> Table:
    """The model beside the laboratory."""
    return _table("the model and the laboratory", [*CHECK, "bottleneck"], found["check"])


def cost_lines(found: Found) -> Table:
    """What was fitted."""
    columns = ["side", "s per GiB", "us per piece", "ms per client", "s per filled GiB", "s per distinct GiB"]
    lines: list[list[object]] = [
        [
            side,
            cost["per_gib"],
            cost["per_piece"] * 1e6,
            cost["per_client"] * 1e3,
            cost["per_filled_gib"],
            cost["per_distinct_gib"],
        ]
        for side, cost in found["costs"].items()
    ]
    return "costs", columns, lines


def scenario_lines(found: Found) -> Table:
    """Every scenario with some numbers of nodes (all of them where none of these was computed)."""
    rows = [row for row in found["rows"] if row["nodes"] in SHOWN] or found["rows"]
    return _table("scenarios", ["scenario", *FIGURES], rows)


def bought_lines(found: Found) -> Table:
    """Each scenario in frames of the first one, and from how many nodes on more are no use."""
    rows: list[Found] = found["rows"]
    names = list(dict.fromkeys(row["scenario"] for row in rows))
    counts = [n for n in SHOWN if any(row["nodes"] == n for row in rows)] or sorted({row["nodes"] for row in rows})
    speed = {(row["scenario"], row["nodes"]): row["frames/s"] for row in rows}
    lines: list[list[object]] = []
    for name in names:
        mine = [row for row in rows if row["scenario"] == name]
        most = max(row["frames/s"] for row in mine)
        enough = next(row["nodes"] for row in mine if row["frames/s"] >= SATURATED * most)
        ratios = [speed[name, n] / speed[names[0], n] for n in counts]
        lines.append([name, *ratios, enough, most, mine[-1]["bottleneck"]])
    columns = ["scenario", *[f"x as installed, {n:,} nodes" for n in counts]]
    return "what it buys", [*columns, "saturated from nodes", "most frames/s", "limit then"], lines


def tier_lines(found: Found) -> Table:
    """What the share of bytes that the head's tiers hold is worth."""
    return _table("share that the head holds", ["installation", "cached", *FIGURES], found["tiers"])


def everything(found: Found) -> Iterator[Table]:
    """All of them."""
    for make in (cost_lines, checked, bought_lines, scenario_lines, tier_lines):
        yield make(found)


def _markdown(table: Table) -> str:
    return report.markdown(table[1], table[2])


def check(found: Found) -> str:
    """In Markdown: the model beside the laboratory."""
    return _markdown(checked(found))


def costs(found: Found) -> str:
    """In Markdown: what was fitted."""
    return _markdown(cost_lines(found))


def scenarios(found: Found) -> str:
    """In Markdown: the scenarios."""
    return _markdown(scenario_lines(found))


def bought(found: Found) -> str:
    """In Markdown: what each scenario buys."""
    return _markdown(bought_lines(found))


def tiers(found: Found) -> str:
    """In Markdown: the SSD tier's size."""
    return _markdown(tier_lines(found))
