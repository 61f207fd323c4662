"""dadafs and its peers side by side under the same loads, head and node in two network namespaces.

`python -m bench.mounts [--peers a,b] [--loads x,y] [--rate 1gbit] [--repeat 3] [--json FILE]`

For each peer and each load: mount with nothing cached on the node (the head is warm), run the load (`cold`), run it
again (`warm`), unmount; medians over the repetitions. Bytes are checked every time. `--quick` is for continuous
integration: tiny sizes, one repetition, nobody looks at the figures.

A slow peer cannot eat the run: a load of many items ends after `--enough` seconds with the rate of what it did; any
other is cut off after `--cut-off` seconds, and its row says so. What took longer than `--enough` is not repeated. All
this is the same for every peer.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench import loads
from bench.lab import data, report
from bench.lab.needs import reason_without_fuse, reason_without_namespaces
from bench.lab.network import network
from bench.lab.side import NotReady, Side
from bench.lab.stopping import clean_up_on_sigterm
from bench.peers.base import Peer, Site
from bench.peers.catalogue import PEERS

GIB = 2**30
SIZES = {"quick": data.QUICK, "small": data.SMALL, "medium": data.MEDIUM, "full": data.FULL}
#: What a peer may die of without ending the measurement.
TROUBLE = (NotReady, OSError, RuntimeError)
#: Loads whose warm repetition says something.
WARM = {"sequential", "readers", "metadata", "stats", "small_files", "frames", "chunks", "random_4k_1"}
#: The figure of each load that goes into the table.
HEADLINE = {
    "sequential": "MB/s",
    "readers": "MB/s",
    "mapped": "MB/s",
    "metadata": "seconds",
    "stats": "calls/s",
    "small_files": "files/s",
    "frames": "frames/s",
    "chunks": "frames/s",
    "opens": "us",
}


@dataclass(frozen=True)
class Plan:
    """What one run does."""

    peers: tuple[str, ...]
    loads: tuple[str, ...]
    sizes: data.Sizes
    rate: str | None
    repeat: int
    lock: Path | None
    #: Seconds after which a load of many items has done enough, and any load is cut off.
    enough: float = math.inf
    cut_off: float = loads.TIME_LIMIT


@contextlib.contextmanager
def alone(lock: Path | None) -> Iterator[None]:
    """Hold `lock` while something is timed, so that several people can share a machine."""
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _measured(peer: Peer, name: str, tree: data.Tree, bound: loads.Bound, cut_off: float) -> dict[str, float]:
    """One run of load `name` on a mounted tree, with what it cost on both sides."""
    sides = {"head": peer.site.head, "node": peer.site.node}
    for side in sides.values():
        side.reset_peak()
    before = {key: side.cpu_seconds() for key, side in sides.items()}
    figures = peer.run(name, tree, bound, cut_off)
    for key, side in sides.items():
        cpu = figures.setdefault(f"{key} cpu s", side.cpu_seconds() - before[key])
        if figures.get("bytes", 0) > 0:
            figures[f"{key} cpu s/GiB"] = cpu / figures["bytes"] * GIB
        figures.setdefault(f"{key} MiB", side.peak_bytes() / 2**20)
    return figures


def _once(peer: Peer, name: str, tree: data.Tree, plan: Plan) -> dict[str, dict[str, float]]:
    """Load `name` on a fresh mount and, where that says something, again: the second reads what the first has read."""
    peer.mount()
    try:
        cold = _measured(peer, name, tree, loads.Bound(plan.enough), plan.cut_off)
        if name not in WARM or not peer.keeps:
            return {"cold": cold}
        items = cold.get("items")
        again = loads.Bound(plan.enough, None if items is None else int(items))
        return {"cold": cold, "warm": _measured(peer, name, tree, again, plan.cut_off)}
    finally:
        peer.unmount()


def repeated(peer: Peer, name: str, plan: Plan) -> dict[str, dict[str, float]]:
    """Load `name` `plan.repeat` times, once where that takes more than enough time; medians for each state."""
    tree = data.Tree(peer.root, plan.sizes, peer.site.sums)
    runs: list[dict[str, dict[str, float]]] = []
    while len(runs) < plan.repeat:
        with alone(plan.lock):
            runs.append(_once(peer, name, tree, plan))
        cold = runs[-1]["cold"]
        if stopped(cold) or cold["seconds"] > plan.enough:
            break
    return {state: {**report.median_rows([run[state] for run in runs]), "repetitions": len(runs)} for state in runs[0]}


def stopped(figures: dict[str, Any]) -> bool:
    """Whether a load ended before it had done all its items."""
    return bool(figures.get("items", 0) < figures.get("planned", 0))


def _rows_of(peer_type: type[Peer], site: Site, plan: Plan) -> Iterator[dict[str, Any]]:
    """The rows of one peer; what does not work is a row that says why."""
    missing = peer_type.missing()
    if missing:
        yield {"peer": peer_type.name, "problem": missing}
        return
    peer = peer_type(site)
    try:
        peer.serve()
        peer.warm_server()
        for name in plan.loads:
            if peer.loads and name not in peer.loads:
                continue
            try:
                made = repeated(peer, name, plan)
            except loads.CutOff as cut:
                yield {"peer": peer.name, "load": name, "state": "cold", "cut": str(cut)}
                continue
            except TROUBLE as error:  # the next load may work
                yield {"peer": peer.name, "problem": f"{name}: {error}"}
                continue
            for state, figures in made.items():
                yield {"peer": peer.name, "load": name, "state": state, **figures}
    except TROUBLE as error:
        yield {"peer": peer.name, "problem": str(error)}
    finally:
        peer.stop()


def measure(plan: Plan, tree: data.Tree, scratch: Path) -> Iterator[dict[str, Any]]:
    """Every peer of `plan` over `tree`, one after the other, each with fresh namespaces."""
    for name in plan.peers:
        with network(1, plan.rate) as net:
            state = scratch / name
            state.mkdir(parents=True)
            head, node = Side(net.head, state), Side(net.node_names[0], state)
            site = Site(tree.root, state, scratch / f"mnt-{name}", head, node, sums=tree.sums)
            for row in _rows_of(PEERS[name], site, plan):
                _say(row)
                yield row
            shutil.rmtree(state, ignore_errors=True)


def _say(row: dict[str, Any]) -> None:
    """One line of progress on standard error."""
    what = row.get("problem") or f"{row['load']} {state_of(row)}: {report.number(headline(row))}"
    print(f"{row['peer']}: {what}", file=sys.stderr, flush=True)


def headline(row: dict[str, Any]) -> object:
    """The one figure of a row that goes into the table."""
    return row.get("cut") or row.get(HEADLINE.get(row["load"], "reads/s"))


def state_of(row: dict[str, Any]) -> str:
    """Cold or warm, and how far a load got that ended early."""
    if not stopped(row) or row["state"] != "cold":
        return str(row["state"])
    return f"{row['state']}, {row['items']:,.0f} of {row['planned']:,.0f}"


#: What a load costs: the columns after its figure.
COSTS = ("node cpu s/GiB", "head cpu s/GiB", "node MiB", "head MiB")
PERCENTILES = ("p50 us", "p95 us", "p99 us")


def tables(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[str], list[list[object]]]]:
    """(title, columns, rows) of every table: one a load, one line a peer; the last one lists what did not run."""
    for name in dict.fromkeys(row["load"] for row in rows if "load" in row):
        mine = [row for row in rows if row.get("load") == name]
        more = [key for key in (*PERCENTILES, *COSTS) if any(key in row for row in mine)]
        lines = [[row["peer"], state_of(row), headline(row), *[row.get(key) for key in more]] for row in mine]
        yield name, ["peer", "state", HEADLINE.get(name, "reads/s"), *more], lines
    problems = [[row["peer"], row["problem"]] for row in rows if "problem" in row]
    if problems:
        yield "not measured", ["peer", "why"], problems


def _print(rows: Sequence[dict[str, Any]], as_markdown: bool) -> None:
    for title, columns, lines in tables(rows):
        if as_markdown:
            print(f"\n### {title}\n\n{report.markdown(columns, lines)}")
        else:
            report.console().print(report.table(title, columns, lines))


def _chosen(text: str | None, known: Sequence[str], what: str) -> tuple[str, ...]:
    names = tuple(known) if text is None else tuple(filter(None, text.split(",")))
    for name in names:
        if name not in known:
            raise click.UsageError(f"there is no {what} {name}; choose from {', '.join(known)}")
    return names


@click.command(help=__doc__)
@click.option("--peers", help="Comma-separated; default all.")
@click.option("--loads", "load_names", help="Comma-separated; default all.")
@click.option("--size", type=click.Choice(sorted(SIZES)), default="full", show_default=True)
@click.option("--quick", is_flag=True, help="Only check that everything runs and the bytes are right.")
@click.option("--rate", help="Shape the link, e.g. 1gbit; default unshaped.")
@click.option("--repeat", default=3, show_default=True)
@click.option("--enough", default=3.0, show_default=True, help="Seconds after which a load of many items ends.")
@click.option("--cut-off", default=20.0, show_default=True, help="Seconds after which any load is cut off.")
@click.option("--work", type=click.Path(path_type=Path), help="Where the test data is kept; default temporary.")
@click.option("--lock", type=click.Path(path_type=Path), help="Hold this lock file during each timed part.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there.")
@click.option("--markdown", is_flag=True, help="Print tables in Markdown.")
def main(
    peers: str | None,
    load_names: str | None,
    size: str,
    quick: bool,
    rate: str | None,
    repeat: int,
    enough: float,
    cut_off: float,
    work: Path | None,
    lock: Path | None,
    json_path: Path | None,
    markdown: bool,
) -> None:
    reason = reason_without_namespaces() or reason_without_fuse()
    if reason:
        print(f"skipped: {reason}")
        return
    chosen = _chosen(peers, list(PEERS), "peer"), _chosen(load_names, list(loads.LOADS), "load")
    size = "quick" if quick else size
    plan = Plan(*chosen, SIZES[size], rate, 1 if quick else repeat, lock, enough, cut_off)
    clean_up_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="dadabench-", ignore_cleanup_errors=True) as scratch:
        Path(scratch).chmod(0o711)  # a server may run as another user
        tree = data.make_tree((work or Path(scratch)) / size, plan.sizes)
        rows = []
        for row in measure(plan, tree, Path(scratch)):
            rows.append(row)
            if json_path:  # at once: a run that is cut off leaves what it has
                about = {"rate": rate, "repeat": plan.repeat, "size": size, "enough": enough, "cut_off": cut_off}
                report.write_json(json_path, report.document("mounts", rows, **about))
    _print(rows, markdown)
    if quick and any("problem" in row and not row["problem"].startswith("not installed") for row in rows):
        sys.exit("quick check failed: see the table of what was not measured")


if __name__ == "__main__":
    main()
