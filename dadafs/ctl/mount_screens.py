"""What people read about one mount: which process reads how much, and what it waits for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from dadafs.ctl.screens import Reply, printable, table
from dadafs.quantity import format_size


def top_screen(before: Reply, after: Reply, seconds: float) -> RenderableType:
    """What happened between two answers of `activity`, by process, and the latest reads that had to wait."""
    then = {(one["pid"], one["command"]): one for one in before["processes"]}
    names = sorted({name for one in after["processes"] for name in one["tiers"]})
    rows = []
    for one in after["processes"]:
        old = then.get((one["pid"], one["command"]), defaultdict(int))
        reads, size, waits = (one[name] - old[name] for name in ("reads", "bytes", "waits"))
        if reads <= 0:
            continue
        waiting = one["seconds"] - old["seconds"]
        own = f"{1 - waits / reads:.1%}"
        mean = f"{1000 * waiting / waits:.1f} ms" if waits else "-"
        tiers = [one["tiers"].get(name, 0) - (old["tiers"] or {}).get(name, 0) for name in names]
        rate = f"{format_size(round(size / seconds))}/s"
        rows.append((size, (one["command"], one["pid"], rate, reads, own, *tiers, mean)))
    rows.sort(key=lambda row: -row[0])
    columns = (
        "process",
        "pid ",
        "throughput ",
        "reads ",
        "at once ",
        *(f"from {name} " for name in names),
        "mean wait ",
    )
    return Group(
        table(columns, [row for _, row in rows[:20]], "who reads"),
        Text(),
        _reads(after["reads"][:15], "the latest reads that had to wait"),
    )


def cached_screen(held: Reply, path: str, source: str) -> RenderableType:
    """How much of a path the memory of this node holds; what the tiers of its head hold is known there."""
    head, _, export = source.rpartition(":/")
    size, memory = int(held["size"]), int(held["memory"])
    share = f"{min(memory / size, 1):.0%}" if size else "-"
    files = f"{printable(path)}: something is held of {held['files']} files, which have {format_size(size)}"
    return Group(
        table(("tier", "holds ", "share "), [("this node", format_size(memory), share)], files),
        Text(f"What the tiers of the head hold is told there: `dadafsctl cached --export {export} PATH` on {head}."),
    )


def explain_screen(reads: Sequence[Reply], path: str) -> RenderableType:
    """Why reading a file was slow: by process and by the tier that answered."""
    waits: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    for read in reads:
        waits[read["command"], read["pid"], read["tier"]].append(read["seconds"])
    rows = [
        (*who, len(times), f"{1000 * sum(times) / len(times):.1f} ms", f"{1000 * max(times):.1f} ms")
        for who, times in sorted(waits.items(), key=lambda item: -sum(item[1]))
    ]
    if not rows:
        return Text(f"No read of {printable(path)} had to wait lately (or none that you may see).")
    columns = ("process", "pid ", "answered by", "reads ", "mean wait ", "longest ")
    return Group(
        table(columns, rows, f"{printable(path)}: its latest reads that had to wait"),
        Text(),
        _reads(sorted(reads, key=lambda read: -read["seconds"])[:10], "the longest of them"),
    )


def _reads(reads: Sequence[Reply], title: str) -> RenderableType:
    rows = [
        (
            read["command"],
            read["path"],
            format_size(read["offset"]),
            format_size(read["size"]),
            read["tier"],
            f"{read['seconds'] * 1000:.1f} ms",
        )
        for read in reads
    ]
    return table(("process", "file", "at ", "bytes ", "from", "waited "), rows, title)
