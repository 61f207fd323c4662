"""The tables of the pages, written from the JSON files of one run, so that none is ever typed by hand.

`python -m bench.tables [bench/results] [--check]`

Between `<!-- NAME -->` and `<!-- end NAME -->` in bench/README.md and docs/scaling.md everything is replaced by what
the files in the directory say; a file that is not there leaves its tables as they are and is named. `--check` writes
nothing and fails where a page says other than the files.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from bench import eviction, full_load, mounts, scaling_tables, targets, whole_job, wire
from bench.lab import report

BENCH = Path(__file__).parent
PAGES = (BENCH / "README.md", BENCH.parent / "docs" / "scaling.md")
Document = dict[str, Any]
#: Question of a file (without .json), in the order of the page.
FILES = ("mounts", "mounts_1gbit", "full_load", "whole_job", "kernels", "eviction", "head", "wire", "scaling")


def machine_line(document: Document) -> str:
    """One sentence on the machine."""
    machine = document["machine"]
    return (
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']:g} GiB, Linux {machine['kernel']}, "
        f"Python {machine['python']}"
    )


def runs(documents: dict[str, Document]) -> str:
    """When, on what and how each file was measured; the load averages say how quiet the machine was."""
    lines = []
    for name in FILES:
        if name in documents:
            found = documents[name]
            load = found["machine"].get("load_average", {})
            quiet = " / ".join(f"{load[when][0]:.1f}" for when in ("before", "after") if when in load) or None
            lines.append([f"{name}.json", found["date"].replace("T", " ")[:16], _about(found), quiet])
    machines: dict[str, list[str]] = {}
    for name, found in documents.items():
        machines.setdefault(machine_line(found), []).append(f"{name}.json")
    table = report.markdown(["file", "measured (UTC)", "options", "load average before / after"], lines)
    said = [
        f"Measured on {line}{'' if len(machines) == 1 else ': ' + ', '.join(each)}." for line, each in machines.items()
    ]
    return "\n\n".join([*said, table])


def _about(document: Document) -> str:
    skipped = ("question", "date", "machine", "rows", "check", "tiers")
    about = {key: value for key, value in document.items() if key not in skipped and not isinstance(value, dict)}
    return ", ".join(f"{key} {_plain(value)}" for key, value in about.items() if value is not None)


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def mount_tables(document: Document) -> str:
    """Every load with all its figures."""
    made = [
        f"#### {title}\n\n{report.markdown(columns, lines)}" for title, columns, lines in mounts.tables(_rows(document))
    ]
    return "\n\n".join(made)


def side_by_side(document: Document) -> str:
    """One line a load and state, one column a peer: the headline figures only."""
    rows = [row for row in _rows(document) if "load" in row]
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    lines: list[list[object]] = []
    for load, state in dict.fromkeys((row["load"], row["state"]) for row in rows):
        figures = {row["peer"]: row for row in rows if (row["load"], row["state"]) == (load, state)}
        cells = [figures.get(peer) for peer in peers]
        title = f"{load}, {mounts.HEADLINE.get(load, 'reads/s')}"
        lines.append([title, state, *[None if row is None else _cell(row) for row in cells]])
    table = report.markdown(["load", "state", *peers], lines)
    early = any(mounts.stopped(row) for row in rows)
    return table + ("\n\n\\* ended early: the rate of the items done until then; measured once." if early else "")


def _cell(row: dict[str, Any]) -> str:
    return report.number(mounts.headline(row)) + (r" \*" if mounts.stopped(row) else "")


def _rows(document: Document) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = document["rows"]
    order = {name: number for number, name in enumerate(mounts.PEERS)}
    return sorted(rows, key=lambda row: order.get(row.get("peer", ""), -1))


def wishes(document: Document) -> str:
    """What we want to reach of the file system."""
    return report.markdown(targets.COLUMNS, targets.judged(document["rows"]))


def clients(document: Document) -> str:
    """The head under its full load."""
    return report.markdown(["load", *full_load.COLUMNS], full_load.table_rows(document["rows"]))


def job(document: Document) -> str:
    """The whole job beside the published figures."""
    return report.markdown(["state", *whole_job.COLUMNS, *whole_job.COSTS], whole_job.table_rows(document["rows"]))


def kernels(document: Document) -> str:
    """Times LZ4 alone and frames/s of each competitor (rows) for each kind of frames (columns)."""
    rows = document["rows"]
    kinds = list(dict.fromkeys(row["frames"] for row in rows))
    lines: list[list[object]] = []
    for what in dict.fromkeys(row["what"] for row in rows):
        found = {row["frames"]: row for row in rows if row["what"] == what}
        lines.append([what, *[_times(found[kind]) if kind in found else None for kind in kinds]])
    return report.markdown(["x LZ4 alone (frames/s)", *kinds], lines)


def _times(row: dict[str, Any]) -> str:
    return f"{report.number(row['times_lz4'])} ({report.number(row['frames_per_second'])})"


def kernel_wishes(document: Document) -> str:
    """What we want to reach of the kernels."""
    return report.markdown(
        ["what we want to reach", "measured", "wanted", ""], targets.judged_kernels(document["rows"])
    )


def evictions(document: Document) -> str:
    """Share of the bytes that each policy finds in a cache of each size."""
    return report.markdown(["trace", "cache", *eviction.POLICIES, "best"], eviction.lines(document["rows"], " bytes"))


def head(document: Document) -> str:
    """What each request costs the head."""
    lines = [[row["row"], row["cpu s"], row["per"]] for row in document["rows"]]
    return report.markdown(["request", "CPU seconds of the head", "per"], lines)


def wire_alone(document: Document) -> str:
    """Calls and bytes a second without head and node."""
    return report.markdown(wire.COLUMNS, [[row.get(column) for column in wire.COLUMNS] for row in document["rows"]])


#: Name of a block: the file that it is made from, and how.
BLOCKS: dict[str, tuple[str, Callable[[Document], str]]] = {
    "what we want to reach": ("mounts", wishes),
    "mounts side by side": ("mounts", side_by_side),
    "mounts": ("mounts", mount_tables),
    "mounts at 1 Gbit/s": ("mounts_1gbit", side_by_side),
    "full load": ("full_load", clients),
    "whole job": ("whole_job", job),
    "kernel wishes": ("kernels", kernel_wishes),
    "kernels": ("kernels", kernels),
    "eviction": ("eviction", evictions),
    "head": ("head", head),
    "wire": ("wire", wire_alone),
    "model check": ("scaling", scaling_tables.check),
    "model costs": ("scaling", scaling_tables.costs),
    "scenarios": ("scaling", scaling_tables.scenarios),
    "what it buys": ("scaling", scaling_tables.bought),
    "tiers": ("scaling", scaling_tables.tiers),
}


def load(results: Path) -> dict[str, Document]:
    """The files that are there, by name."""
    return {name: json.loads(path.read_text()) for name in FILES if (path := results / f"{name}.json").exists()}


def blocks(documents: dict[str, Document]) -> Iterator[tuple[str, str]]:
    """(name, content) of every block whose file is there."""
    yield "runs", runs(documents)
    for name, (file, make) in BLOCKS.items():
        if file in documents:
            yield name, make(documents[file])


def filled(page: str, made: dict[str, str]) -> str:
    """`page` with the content of each of its blocks replaced where `made` has it."""

    def put(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- {name} -->\n\n{made[name]}\n\n<!-- end {name} -->" if name in made else match[0]

    return re.sub(r"<!-- ([\w /]+) -->\n.*?<!-- end \1 -->", put, page, flags=re.DOTALL)


def names_in(pages: Sequence[Path]) -> set[str]:
    """The blocks that the pages have."""
    return {name for page in pages for name in re.findall(r"<!-- end ([\w /]+) -->", page.read_text())}


@click.command(help=__doc__)
@click.argument("results", default=BENCH / "results", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--check", is_flag=True, help="Write nothing; fail where a page says other than the files.")
def main(results: Path, check: bool) -> None:
    documents = load(results)
    for name in FILES:
        if name not in documents:
            print(f"no {name}.json in {results}: its tables stay as they are", file=sys.stderr)
    made = dict(blocks(documents))
    stale = []
    for page in PAGES:
        before = page.read_text()
        after = filled(before, made)
        if after != before:
            stale.append(str(page))
            if not check:
                page.write_text(after)
    if check and stale:
        sys.exit(f"not what {results} says: {', '.join(stale)}; write them with: python -m bench.tables {results}")


if __name__ == "__main__":
    main()
