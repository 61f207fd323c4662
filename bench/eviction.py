"""Which eviction policy keeps what is read again: hit ratios on recorded traces.

`python -m bench.eviction [--frames 10000] [--json FILE]`

Caches of a twentieth, a fifth and a half of what the trace reads in all (128 MiB of a 2.5 GiB scan is a twentieth: the
node; the head's SSD tier is between a fifth and all of a day's scans). `best` knows the future (Belady).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from bench.lab import report
from bench.policies import POLICIES, Access, optimum, replay
from bench.traces import TRACES, record_layout

SHARES = (0.05, 0.2, 0.5)
GIB = 2**30


def footprint(trace: Sequence[Access]) -> int:
    """Bytes of all different keys."""
    return sum(dict(trace).values())


def rows_of(name: str, trace: Sequence[Access]) -> Iterator[dict[str, Any]]:
    """Hit ratios of one trace for every cache size: of bytes, which is what the next tier has to deliver."""
    total = footprint(trace)
    for share in SHARES:
        capacity = int(total * share)
        row: dict[str, Any] = {"trace": name, "cache": share, "accesses": len(trace), "GiB": total / GIB}
        for policy, kind in POLICIES.items():
            row[policy], row[f"{policy} bytes"] = replay(kind(capacity), trace)
        row["best"], row["best bytes"] = optimum(trace, capacity)
        yield row


def measure(frames: int) -> list[dict[str, Any]]:
    """All traces."""
    layout = record_layout()
    return [row for name, make in TRACES.items() for row in rows_of(name, make(layout, frames))]


def lines(rows: Sequence[dict[str, Any]], suffix: str) -> list[list[object]]:
    """The lines of a table, in per cent."""
    names = [*POLICIES, "best"]
    return [
        [row["trace"], f"{row['cache']:.0%} of {row['GiB']:.1f} GiB", *[f"{row[n + suffix]:.1%}" for n in names]]
        for row in rows
    ]


@click.command(help=__doc__)
@click.option("--frames", default=10_000, show_default=True, help="Of each scan.")
@click.option("--quick", is_flag=True, help="Short scans: only check that it runs.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there.")
@click.option("--markdown", is_flag=True, help="Print the tables in Markdown.")
def main(frames: int, quick: bool, json_path: Path | None, markdown: bool) -> None:
    rows = measure(400 if quick else frames)
    columns = ["trace", "cache", *POLICIES, "best"]
    for title, suffix in (("hits, of accesses", ""), ("hits, of bytes", " bytes")):
        if markdown:
            print(f"\n{title}\n\n{report.markdown(columns, lines(rows, suffix))}")
        else:
            report.console().print(report.table(title, columns, lines(rows, suffix)))
    if json_path:
        report.write_json(json_path, report.document("eviction", rows, frames=frames))


if __name__ == "__main__":
    main()
