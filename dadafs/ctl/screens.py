"""What people read: one screen of status, the live view of `top`, tables of everything else."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dadafs.quantity import format_duration, format_size

Reply = dict[str, Any]
#: How the names of processes begin in what nodes report (dadafs/activity.py).
PROCESS = "process "
TIERS = "tiers of "


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> RenderableType:
    """A plain table; columns whose name ends in a space are aligned to the right."""
    made = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        made.add_column(column.strip(), justify="right" if column.endswith(" ") else "left", overflow="fold")
    for row in rows:
        made.add_row(*(printable(str(cell)) for cell in row))
    return made if title is None else Group(Text(title, style="bold"), made)  # a table's own title is as narrow as it


def printable(text: str) -> str:
    """A name of a file on one line of a terminal: what is no text, or would move the cursor, is escaped."""
    valid = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in valid)


def setting_value(name: str, value: object) -> str:
    """The value of a setting as a person writes it."""
    text = str(value)
    if text.isdigit() and name.rpartition(".")[2] in {"size", "floor", "memory", "memory_size", "write_queue"}:
        return format_size(int(text))
    return text


def settings_screen(settings: Sequence[Reply]) -> RenderableType:
    """Settings with the source of their values; a column says how long those set `--for` a while have yet."""
    left = [row.get("left") for row in settings]
    columns = ("setting", "value", "from", *(("falls back in ",) if any(one is not None for one in left) else ()))
    rows = [
        (row["name"], setting_value(row["name"], row["value"]), row["source"], _left(one))[: len(columns)]
        for row, one in zip(settings, left, strict=True)
    ]
    return table(columns, rows)


def _left(seconds: float | None) -> str:
    return "" if seconds is None else format_duration(math.ceil(seconds))


def job_result(job: Reply) -> str:
    """What became of a job that ended well, as a sentence."""
    size = format_size(job["bytes"])
    if job["message"]:
        return f"{job['message']}."
    if job["kind"] == "verify":
        return f"{job['done']} fragments ({size}) were checked, {len(job['problems'])} were wrong and deleted."
    return f"{job['done']} fragments ({size}) were looked after, with {len(job['problems'])} problems."


def hit_ratios(counters: Reply) -> dict[str, tuple[int, int]]:
    """Reads and bytes served, by tier, over all nodes and exports."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in counters["served"]:
        sums[row["tier"]][0] += row["reads"]
        sums[row["tier"]][1] += row["bytes"]
    return {tier: (reads, size) for tier, (reads, size) in sorted(sums.items())}


def status_screen(status: Reply, counters: Reply, sessions: Sequence[Reply]) -> RenderableType:
    """Everything at a glance: tiers, hit ratios, origin, nodes and what they read."""
    age = format_duration(round(time.time() - status["started_at"]))
    line = f"{status['name']} at {status['address']}, up {age}, {status['sessions']} nodes connected"
    if status["draining"]:
        line += ", draining"
    return Group(Text(line, style="bold"), *_parts(status, counters, sessions))


def _parts(status: Reply, counters: Reply, sessions: Sequence[Reply]) -> list[RenderableType]:
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
        *_nodes(counters, sessions),
        *_troubles(counters),
    ]


def _nodes(counters: Reply, sessions: Sequence[Reply]) -> list[RenderableType]:
    """Who is connected, how much each was sent, how often its own memory had the answer, and what it opened last."""
    if not sessions:
        return [Text(), Text("no nodes are connected", style="dim")]
    sent: dict[tuple[str, str], int] = defaultdict(int)
    for row in counters["served"]:
        sent[row["node"], row["export"]] += row["bytes"]
    rows = []
    for session in sorted(sessions, key=lambda one: -sent[one["node"], one["export"]]):
        report = session["report"]
        asked = report.get("hit", 0) + report.get("miss", 0)
        ratio = f"{report['hit'] / asked:.1%}" if asked else "-"
        reads = session["reading"][0] if session["reading"] else "-"
        total = format_size(sent[session["node"], session["export"]])
        rows.append((session["node"], session["export"], session["handles"], total, ratio, reads))
    return [Text(), table(("node", "export", "files ", "was sent ", "own hits ", "reads"), rows)]


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
    """What happened between two answers of `counters`: by node and tier, scan and process, and who waits for what."""
    seconds = max(after["at"] - before["at"], 1e-3)
    waits = [
        (row["node"], row["path"], row["fragment"], row["tier"], f"{row['seconds'] * 1000:.1f} ms")
        for row in recent["reads"][:10]
    ]
    return Group(
        _top_exports(before, after, sessions["sessions"], seconds),
        Text(),
        _top_nodes(before, after, {row["node"] for row in sessions["sessions"]}, seconds),
        Text(),
        _top_scans(before, after, seconds),
        Text(),
        *_top_processes(sessions, _tier_names(after)),
        table(("node", "file", "fragment ", "from", "waited "), waits, "the latest reads that had to wait"),
    )


def _top_exports(before: Reply, after: Reply, sessions: Sequence[Reply], seconds: float) -> RenderableType:
    names = _tier_names(after)
    rows = [
        (export, sum(row["export"] == export for row in sessions), *_rates(tiers, names, seconds))
        for (export,), tiers in _served(before, after, ("export",))
    ]
    columns = ("export", "nodes ", "throughput ", *(f"{name} " for name in names), "mean wait ")
    return table(columns, rows, "exports (bytes per second, by the tier that answered)")


def _top_nodes(before: Reply, after: Reply, connected: set[str], seconds: float) -> RenderableType:
    names = _tier_names(after)
    rows = [
        (node if node in connected else f"{node} (gone)", export, *_rates(tiers, names, seconds))
        for (node, export), tiers in _served(before, after, ("node", "export"))
    ]
    columns = ("node", "export", "throughput ", *(f"{name} " for name in names), "mean wait ")
    return table(columns, rows, "nodes")


def _tier_names(counters: Reply) -> list[str]:
    return list(dict.fromkeys(row["tier"] for row in counters["tiers"]))


def _served(before: Reply, after: Reply, group: Sequence[str]) -> list[tuple[tuple[str, ...], dict[str, Reply]]]:
    """What was sent meanwhile by `group`, and in each by tier; those that were sent most come first."""
    found: dict[tuple[str, ...], dict[str, Reply]] = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
    for row in _differences(before["served"], after["served"], ("export", "node", "tier")):
        sums = found[tuple(row[name] for name in group)][row["tier"]]
        for name in ("bytes", "waits", "seconds"):
            sums[name] += row[name]
    return sorted(found.items(), key=lambda item: -sum(row["bytes"] for row in item[1].values()))


def _rates(tiers: dict[str, Reply], names: Sequence[str], seconds: float) -> list[str]:
    """Cells: bytes per second, of all and of each tier, and the mean wait."""
    cells = [format_size(round(tiers[name]["bytes"] / seconds)) if name in tiers else "-" for name in names]
    whole = format_size(round(sum(row["bytes"] for row in tiers.values()) / seconds))
    return [f"{whole}/s", *cells, _mean_wait(list(tiers.values()))]


def _top_scans(before: Reply, after: Reply, seconds: float) -> RenderableType:
    names = _tier_names(after)
    scans = [row for row in _differences(before["scans"], after["scans"], ("export", "scan")) if row["reads"]]
    rows = [
        (
            row["export"],
            row["scan"] or "/",
            f"{format_size(round(row['bytes'] / seconds))}/s",
            row["reads"],
            *(format_size(round(row["tiers"][name] / seconds)) if row["tiers"].get(name) else "-" for name in names),
            _mean_wait([row]),
        )
        for row in sorted(scans, key=lambda row: -row["bytes"])[:10]
    ]
    columns = ("export", "scan", "throughput ", "reads ", *(f"{name} " for name in names), "mean wait ")
    return table(columns, rows, "scans")


def _top_processes(sessions: Reply, names: Sequence[str]) -> list[RenderableType]:
    """What the nodes say of the processes that read most; of their reads that had to wait, which tier answered."""
    rows = []
    for session in sessions["sessions"]:
        report = session["report"]
        for name, value in report.items():
            if name.startswith(PROCESS):
                process = name.removeprefix(PROCESS)
                rate, _, wait = str(value).partition(" ")
                tiers = _counts(str(report.get(TIERS + process, "")))
                rows.append((float(rate), session["node"], process, float(wait or 0), tiers))
    rows.sort(key=lambda row: -row[0])
    shown = [
        (node, process, f"{format_size(round(rate))}/s", *(tiers.get(name, "-") for name in names), f"{wait:.1%}")
        for rate, node, process, wait, tiers in rows[:10]
    ]
    if not shown:
        return []
    columns = ("node", "process", "throughput ", *(f"{name} " for name in names), "waiting ")
    return [table(columns, shown, "processes (reads that had to wait, by the tier that answered)"), Text()]


def _counts(text: str) -> dict[str, str]:
    """`ssd=3 origin=1` as a dictionary."""
    return {name: count for name, _, count in (word.rpartition("=") for word in text.split())}


def _differences(before: Sequence[Reply], after: Sequence[Reply], key: Sequence[str]) -> list[Reply]:
    """What the rows of counters have grown by; rows of one table have the same `key`."""
    then = {tuple(row[name] for name in key): row for row in before}
    grown = []
    for row in after:
        old = then.get(tuple(row[name] for name in key), {})
        counts = {name: _grown(value, old.get(name)) for name, value in row.items() if name not in key}
        if counts["reads"] < 0:  # forgotten meanwhile, and counted anew
            counts = {name: row[name] for name in counts}
        grown.append({name: row[name] for name in key} | counts)
    return grown


def _grown(value: Any, before: Any) -> Any:
    """By how much a number, or each number of a table, is larger than before."""
    if isinstance(value, dict):
        return {name: number - (before or {}).get(name, 0) for name, number in value.items()}
    return value - (before or 0)


def _mean_wait(rows: Sequence[Reply]) -> str:
    waits = sum(row["waits"] for row in rows)
    return f"{1000 * sum(row['seconds'] for row in rows) / waits:.1f} ms" if waits else "-"


#: Said where the head has not yet looked through what it found on its disks.
INCOMPLETE = "The cache is still being looked through after its start."


def cached_screen(cached: Reply, path: str, node: int | None = None) -> RenderableType:
    """How much of a path each tier holds; `node` is what the memory of a mount does."""
    size = max(int(cached["size"]), 1)
    where = [("memory", cached["memory"]), *cached["tiers"].items()]
    if node is not None:
        where.insert(0, ("this node", node))
    held = table(
        ("tier", "holds ", "share "),
        [(name, format_size(held), f"{min(held / size, 1):.0%}") for name, held in where],
        f"{printable(path)}: {format_size(cached['size'])} in {cached['files']} files",
    )
    return held if cached["complete"] else Group(held, Text(f"{INCOMPLETE} There may be more than this."))


def explain_screen(reads: Sequence[Reply], cached: Reply, path: str) -> RenderableType:
    """Why reading a file took as long as it did: where it is cached, and what its latest waits were for."""
    waits: dict[tuple[str, str], list[float]] = defaultdict(list)
    for read in reads:
        waits[read["node"], read["tier"]].append(read["seconds"])
    rows = [
        (*who, len(times), f"{1000 * sum(times) / len(times):.1f} ms", f"{1000 * max(times):.1f} ms")
        for who, times in sorted(waits.items(), key=lambda item: -sum(item[1]))
    ]
    title = "its latest reads that had to wait" if rows else "no read of it had to wait lately"
    shown = table(("node", "answered by", "reads ", "mean wait ", "longest "), rows, title)
    return Group(cached_screen(cached, path), Text(), shown)
