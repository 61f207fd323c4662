"""What people read: one screen of status, the live view of `top`, tables of everything else."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dadafs.quantity import format_duration, format_size

Reply = dict[str, Any]


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """A plain table; columns whose name ends in a space are aligned to the right."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        made.add_column(column.strip(), justify="right" if column.endswith(" ") else "left", overflow="fold")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def setting_value(name: str, value: object) -> str:
    """The value of a setting as a person writes it."""
    text = str(value)
    if text.isdigit() and name.rpartition(".")[2] in {"size", "floor", "memory", "memory_size", "write_queue"}:
        return format_size(int(text))
    return text


def hit_ratios(counters: Reply) -> dict[str, tuple[int, int]]:
    """Reads and bytes served, by tier, over all nodes and exports."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in counters["served"]:
        sums[row["tier"]][0] += row["reads"]
        sums[row["tier"]][1] += row["bytes"]
    return {tier: (reads, size) for tier, (reads, size) in sorted(sums.items())}


def status_screen(status: Reply, counters: Reply) -> RenderableType:
    """Everything at a glance: tiers, hit ratios, origin, nodes."""
    age = format_duration(round(time.time() - status["started_at"]))
    line = f"{status['name']} at {status['address']}, up {age}, {status['sessions']} nodes connected"
    if status["draining"]:
        line += ", draining"
    return Group(Text(line, style="bold"), *_parts(status, counters))


def _parts(status: Reply, counters: Reply) -> list[RenderableType]:
    memory = status["memory"]
    tiers: list[Sequence[object]] = [
        ("memory", "normal", format_size(memory["used"]), format_size(memory["limit"]), "-", memory["fragments"])
    ]
    for tier in status["tiers"]:
        state = tier["state"] + ("" if tier["scanned"] else ", scanning")
        row = (tier["name"], state, format_size(tier["used"]), format_size(tier["size"]), format_size(tier["free"]))
        tiers.append((*row, tier["fragments"]))
    served = hit_ratios(counters)
    whole = sum(reads for reads, _ in served.values()) or 1
    return [
        Text(),
        table(("tier", "state", "used ", "limit ", "disk free ", "fragments "), tiers),
        Text(),
        table(
            ("answered by", "reads ", "share ", "bytes "),
            [(tier, reads, f"{reads / whole:.1%}", format_size(size)) for tier, (reads, size) in served.items()],
        ),
        Text(),
        table(
            ("export", "tier", "hit ", "miss ", "bypass ", "late ", "wasted ", "hit ratio "),
            [_results_row(row) for row in counters["tiers"]],
        ),
        Text(),
        table(
            ("export", "directory", "changes seen by", "origin calls ", "waiting ", "stuck ", "open files "),
            [_export_row(export) for export in status["exports"]],
        ),
        *_advice(status),
        *_troubles(counters),
    ]


def _results_row(row: Reply) -> tuple[object, ...]:
    """What one tier did for one export; a tier that was never asked has no ratio."""
    counts = ["-" if row[what] is None else row[what] for what in ("hit", "miss", "bypass", "late", "wasted")]
    asked = row["hit"] + (row["miss"] or 0)
    ratio = f"{row['hit'] / asked:.1%}" if asked and row["miss"] is not None else "-"
    return (row["export"], row["tier"], *counts, ratio)


def _export_row(export: Reply) -> tuple[object, ...]:
    origin = export["origin"]
    stuck = Text(str(origin["stuck"]), style="bold red" if origin["stuck"] else "")
    where = f"{export['directory']} ({export['remote'] or 'local'})"
    return (
        export["name"],
        where,
        export["leases"]["method"],
        origin["busy"],
        origin["waiting"],
        stuck.plain,
        export["open_files"],
    )


def _advice(status: Reply) -> list[RenderableType]:
    """What is wrong with the mounts behind the exports, one line each."""
    lines = [f"export {export['name']}: {text}" for export in status["exports"] for text in export["mounted"]]
    return [Text(), *(Text(line, style="yellow") for line in lines)] if lines else []


def _troubles(counters: Reply) -> list[RenderableType]:
    if not counters["errors"]:
        return []
    rows = [(name, count) for name, count in sorted(counters["errors"].items())]
    return [Text(), table(("error (docs/error-sites.md)", "count "), rows)]


def top_screen(before: Reply, after: Reply, sessions: Reply, recent: Reply) -> RenderableType:
    """What happened between two answers of `counters`: by node and tier, and who waits for what."""
    seconds = max(after["at"] - before["at"], 1e-3)
    then = {(row["export"], row["node"], row["tier"]): row for row in before["served"]}
    rates: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in after["served"]:
        key = (row["export"], row["node"], row["tier"])
        rates[key[:2]][row["tier"]] = (row["bytes"] - then.get(key, {"bytes": 0})["bytes"]) / seconds
    nodes = {row["node"] for row in sessions["sessions"]}
    names = list(dict.fromkeys(row["tier"] for row in after["tiers"]))
    rows = []
    for (export, node), tiers in sorted(rates.items(), key=lambda item: -sum(item[1].values())):
        total = sum(tiers.values())
        cells = [format_size(tiers.get(tier, 0)) for tier in names]
        rows.append((node if node in nodes else f"{node} (gone)", export, f"{format_size(total)}/s", *cells))
    waits = [
        (row["node"], row["path"], row["fragment"], row["tier"], f"{row['seconds'] * 1000:.1f} ms")
        for row in recent["reads"][:15]
    ]
    return Group(
        table(("node", "export", "throughput ", *(f"{name} " for name in names)), rows, "who reads (bytes per second)"),
        Text(),
        table(("node", "file", "fragment ", "from", "waited "), waits, "the latest reads that had to wait"),
    )


#: Said where the head has not yet looked through what it found on its disks.
INCOMPLETE = "The cache is still being looked through after its start."


def cached_screen(cached: Reply, path: str) -> RenderableType:
    """How much of a path each tier holds."""
    size = max(int(cached["size"]), 1)
    where = [("memory", cached["memory"]), *cached["tiers"].items()]
    held = table(
        ("tier", "holds ", "share "),
        [(name, format_size(held), f"{min(held / size, 1):.0%}") for name, held in where],
        f"{path}: {format_size(cached['size'])} in {cached['files']} files",
    )
    return held if cached["complete"] else Group(held, Text(f"{INCOMPLETE} There may be more than this."))


def explain_screen(reads: Sequence[Reply], cached: Reply, path: str) -> RenderableType:
    """Why reading a file took as long as it did: where it is cached, and what its latest waits were for."""
    by_tier: dict[str, list[float]] = defaultdict(list)
    for read in reads:
        by_tier[read["tier"]].append(read["seconds"])
    rows = [
        (tier, len(times), f"{1000 * sum(times) / len(times):.1f} ms", f"{1000 * max(times):.1f} ms")
        for tier, times in sorted(by_tier.items())
    ]
    title = "its latest reads that had to wait" if rows else "no read of it had to wait lately"
    waits = table(("answered by", "reads ", "mean wait ", "longest "), rows, title)
    return Group(cached_screen(cached, path), Text(), waits)
