"""The head under its full load: many clients at once, each in a namespace of its own behind a shaped link.

`python -m bench.full_load [--clients 24] [--rate 100mbit --rate none] [--mib 16] [--repeat 3] [--json FILE]`

Every client reads one file from the beginning to the end, all at the same moment: the same file (a scan that every
node analyses) or each another one. Cold: the head has nothing cached and reads the origin; warm: it has everything,
and only the nodes are fresh. Medians of `--repeat` repetitions, each with a fresh head. The head's own counters say how
often it read the origin: N readers of one file must cost one reading. Everything runs on this one machine, so its cores
are shared by the head, all nodes and the readers; `cores busy` is the CPU time of the whole machine, interrupts
included, in units of one core: where that is all of them, they and not the links set the speed. What is CPU-bound here
is not on 25 machines; `bench/simulate.py` says what is.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench.lab import data, report
from bench.lab.needs import reason_without_fuse, reason_without_namespaces
from bench.lab.network import Network, network
from bench.lab.side import Side, machine_cpu_seconds
from bench.lab.stopping import clean_up_on_sigterm
from bench.loads import Buffer, WrongBytes, check, read_whole, touched
from bench.mounts import alone
from bench.peers.base import Site, unmount
from bench.peers.dadafs import Dadafs, mount_dadafs

GIB = 2**30
PATTERNS = ("same", "different")
UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
#: Share of a link's bits that is file content, at an MTU of 1500: 1448 of 1538 bytes on the wire.
PAYLOAD_SHARE = 1448 / 1538
#: Mounts that are made at the same time.
AT_A_TIME = 4


@dataclass(frozen=True)
class Crowd:
    """How many clients, how fast their links, how much each reads, and a lock to hold while they do."""

    clients: int
    rate: str | None
    size: int
    lock: Path | None


def bytes_per_s(rate: str) -> float:
    """What a link of `rate`, e.g. `1gbit`, carries in a second."""
    unit = next(unit for unit in UNITS if rate.endswith(unit))
    return float(rate.removesuffix(unit)) * UNITS[unit] / 8


def link_limit(crowd: Crowd) -> float | None:
    """Bytes a second of file content that all links together can carry; None where they are not shaped."""
    return None if crowd.rate is None else crowd.clients * bytes_per_s(crowd.rate) * PAYLOAD_SHARE


def name_of(index: int) -> str:
    """The file of client `index`."""
    return f"client_{index:03d}.bin"


def make_files(tree: Path, crowd: Crowd) -> dict[str, list[int]]:
    """One file a client, made once; the checksums of their blocks."""
    stamp = tree / "sums.json"
    sums: dict[str, list[int]] = json.loads(stamp.read_text()) if stamp.exists() else {}
    tree.mkdir(parents=True, exist_ok=True)
    for index in range(crowd.clients):
        name = name_of(index)
        if name not in sums:
            sums[name] = data.write_content(tree / name, index, crowd.size)
    stamp.write_text(json.dumps(sums))
    return sums


class Clients:
    """One mount a node."""

    def __init__(self, net: Network, scratch: Path, head: Dadafs) -> None:
        self._head = head
        self.sites = []
        for index, name in enumerate(net.node_names):
            state = scratch / f"node{index}"
            state.mkdir()
            site = head.site
            self.sites.append(Site(site.tree, state, scratch / f"mnt{index}", site.head, Side(name, state)))

    def mount(self) -> None:
        """All of them, some at a time: each spends most of its start on its own."""
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(lambda site: mount_dadafs(site.node, site, self._head.key), self.sites))

    def unmount(self) -> None:
        """All of them, and every process ended."""
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(_unmount, self.sites))

    def cpu_seconds(self) -> float:
        """Of all nodes together."""
        return sum(site.node.cpu_seconds() for site in self.sites)

    def peak_bytes(self) -> int:
        """The largest of any node."""
        return max(site.node.peak_bytes() for site in self.sites)


def _unmount(site: Site) -> None:
    unmount(site.mountpoint)
    site.node.forget_ended("client")
    site.node.close()


def _read_all(sites: Sequence[Site], pattern: str, buffers: Sequence[Buffer]) -> list[float]:
    """Every client reads its file into its buffer, all begin at once; seconds of each until its end."""
    wanted = [0 if pattern == "same" else index for index in range(len(sites))]
    begin = threading.Barrier(len(sites))
    took: dict[int, float] = {}

    def run(index: int) -> None:
        begin.wait()
        took[index] = read_whole(sites[index].mountpoint / name_of(wanted[index]), buffers[index])

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(sites))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(took) != len(sites):
        raise WrongBytes("a client failed")
    return [took[index] for index in range(len(sites))]


def _round(head: Dadafs, clients: Clients, crowd: Crowd, pattern: str, sums: dict[str, list[int]]) -> dict[str, float]:
    """Mount everywhere, read everything once, unmount."""
    clients.mount()
    try:
        buffers = [touched(crowd.size) for _ in clients.sites]
        with alone(crowd.lock):
            origin, cpu = head.origin(), (head.site.head.cpu_seconds(), clients.cpu_seconds())
            begin, machine = time.perf_counter(), machine_cpu_seconds()
            took = _read_all(clients.sites, pattern, buffers)
            wall, machine = time.perf_counter() - begin, machine_cpu_seconds() - machine
        busy = head.site.head.cpu_seconds() - cpu[0], clients.cpu_seconds() - cpu[1]
        after = head.origin()
        for index, buffer in enumerate(buffers):
            name = name_of(0 if pattern == "same" else index)
            check(Path(name), buffer, sums[name])
        row = _figures(crowd, pattern, took)
        row["wall s"] = wall
        row["machine cpu s/GiB"] = machine / row["bytes"] * GIB
        row["cores busy"] = machine / wall
        row["head cpu s/GiB"], row["node cpu s/GiB"] = (value / row["bytes"] * GIB for value in busy)
        row["origin reads"] = after.get("reads", 0) - origin.get("reads", 0)
        row["origin bytes"] = after.get("bytes", 0) - origin.get("bytes", 0)
        row["origin per unique byte"] = row["origin bytes"] / row["unique bytes"]
        row["head MiB"] = head.site.head.peak_bytes() / 2**20
        row["node MiB"] = clients.peak_bytes() / 2**20
        return row
    finally:
        clients.unmount()


def _figures(crowd: Crowd, pattern: str, took: Sequence[float]) -> dict[str, float]:
    total = crowd.size * crowd.clients
    speed, limit = total / max(took), link_limit(crowd)
    each = [crowd.size / seconds / 1e6 for seconds in took]
    figures = {
        "bytes": float(total),
        "unique bytes": crowd.size * (1 if pattern == "same" else crowd.clients),
        "seconds": max(took),
        "MB/s": speed / 1e6,
        "client MB/s min": min(each),
        "client MB/s median": statistics.median(each),
        "client MB/s max": max(each),
    }
    return figures if limit is None else {**figures, "of link limit": speed / limit}


def _both_states(
    crowd: Crowd, pattern: str, tree: Path, work: Path, sums: dict[str, list[int]]
) -> Iterator[tuple[str, dict[str, float]]]:
    """A fresh head: once with nothing cached, once with everything."""
    work.mkdir(parents=True)
    with network(crowd.clients, crowd.rate) as net, contextlib.ExitStack() as stack:
        side = Side(net.head, work)
        stack.callback(side.close)
        head = Dadafs(Site(tree, work, work / "mnt", side, side))
        head.serve()
        clients = Clients(net, work, head)
        for state in ("cold", "warm"):
            yield state, _round(head, clients, crowd, pattern, sums)


def measure(
    crowd: Crowd, patterns: Sequence[str], tree: Path, scratch: Path, repeat: int = 1
) -> Iterator[dict[str, Any]]:
    """For each pattern and state the medians over the repetitions."""
    sums = make_files(tree, crowd)
    data.read_everything(tree)
    link = crowd.rate or "unshaped"
    for pattern in patterns:
        runs: dict[str, list[dict[str, float]]] = {}
        for number in range(repeat):
            work = scratch / link / pattern / str(number)
            for state, figures in _both_states(crowd, pattern, tree, work, sums):
                runs.setdefault(state, []).append(figures)
                print(f"{link} {pattern} {state}: {report.number(figures['MB/s'])} MB/s", file=sys.stderr, flush=True)
            shutil.rmtree(work, ignore_errors=True)
        for state, repetitions in runs.items():
            about = {"link": link, "pattern": pattern, "state": state, "repetitions": repeat}
            yield {**about, **report.median_rows(repetitions), "MB/s each": [row["MB/s"] for row in repetitions]}


COLUMNS = (
    "MB/s",
    "of link limit",
    "client MB/s min",
    "client MB/s median",
    "client MB/s max",
    "origin reads",
    "origin per unique byte",
    "head cpu s/GiB",
    "node cpu s/GiB",
    "cores busy",
    "head MiB",
    "node MiB",
)


def table_rows(rows: Sequence[dict[str, Any]]) -> list[list[object]]:
    """The lines of the table."""
    return [
        [f"{row['link']}, {row['pattern']}, head {row['state']}", *[row.get(key) for key in COLUMNS]] for row in rows
    ]


@click.command(help=__doc__)
@click.option("--clients", default=24, show_default=True, type=click.IntRange(1, 500))
@click.option(
    "--rate",
    "rates",
    multiple=True,
    default=("1gbit",),
    show_default=True,
    help="Of each node's link; `none` leaves it unshaped. May be given several times.",
)
@click.option("--mib", default=16, show_default=True, help="What each client reads.")
@click.option("--repeat", default=3, show_default=True)
@click.option("--quick", is_flag=True, help="Two clients, small files: only check that it runs.")
@click.option("--work", type=click.Path(path_type=Path), help="Where the test data is kept; default temporary.")
@click.option("--lock", type=click.Path(path_type=Path), help="Hold this lock file during each timed part.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there.")
@click.option("--markdown", is_flag=True, help="Print the table in Markdown.")
def main(
    clients: int,
    rates: tuple[str, ...],
    mib: int,
    repeat: int,
    quick: bool,
    work: Path | None,
    lock: Path | None,
    json_path: Path | None,
    markdown: bool,
) -> None:
    reason = reason_without_namespaces() or reason_without_fuse() or Dadafs.missing()
    if reason:
        print(f"skipped: {reason}")
        return
    count, size = (2, 2 * data.MIB) if quick else (clients, mib * data.MIB)
    crowds = [Crowd(count, None if rate == "none" else rate, size, lock) for rate in rates]
    repeat = 1 if quick else repeat
    clean_up_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="dadabench-", ignore_cleanup_errors=True) as scratch:
        tree = (work or Path(scratch)) / f"crowd-{size}"
        rows: list[dict[str, Any]] = []
        for row in itertools.chain.from_iterable(
            measure(crowd, PATTERNS, tree, Path(scratch), repeat) for crowd in crowds
        ):
            rows.append(row)
            if json_path:  # at once: a run that is cut off leaves what it has
                about = {"clients": count, "rates": rates, "bytes_each": size, "repeat": repeat}
                report.write_json(json_path, report.document("full load", rows, **about))
    if markdown:
        print(report.markdown(["load", *COLUMNS], table_rows(rows)))
    else:
        title = f"{count} clients at once"
        report.console().print(report.table(title, ["load", *COLUMNS], table_rows(rows)))


if __name__ == "__main__":
    main()
