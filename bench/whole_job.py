"""The whole job: `dada stxm` of a scan through a mount, in each state of the caches.

`python -m bench.whole_job [--shape 50x50] [--rate 1gbit] [--json FILE]`

States: `local` (the same files without any mount, the limit), `cold` (head and node have nothing; the origin is this
machine's disk, held in its page cache), `warm head` (a fresh mount), `warm node` (the same mount again), and
`results store` (nothing is computed twice). From frames/s and core follows what 96 such cores would need for a scan of
1000 x 1000 points, if nothing else were in the way; what is in the way is the business of `bench/simulate.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench.lab import report
from bench.lab.data import read_everything
from bench.lab.needs import reason_without_fuse, reason_without_namespaces
from bench.lab.network import network
from bench.lab.side import Side, environment, machine_cpu_seconds
from bench.lab.stopping import clean_up_on_sigterm
from bench.mounts import alone
from bench.peers.base import Site
from bench.peers.dadafs import Dadafs

GIB = 2**30
BIG_SCAN = 1_000_000
CLUSTER_CORES = 96
#: Published: one million 4-megapixel frames on 24 nodes with 96 cores in ten minutes, later in under five (dada-STXM).
PUBLISHED_SECONDS = {"published, first": 600.0, "published, later": 300.0}


@dataclass(frozen=True)
class Task:
    """The scan, its shape, the detector and how often each state is measured."""

    shape: str
    detector: str
    repeat: int
    lock: Path | None

    @property
    def frames(self) -> int:
        rows, _, columns = self.shape.partition("x")
        return int(rows) * int(columns)


def make_scan(folder: Path, task: Task) -> Path:
    """The simulated scan in `folder`, made once; its master file."""
    master = folder / "scan_master.h5"
    stamp = folder / "made.json"
    wanted = {"shape": task.shape, "detector": task.detector}
    if not stamp.exists() or json.loads(stamp.read_text()) != wanted:
        per_file = str(min(500, max(1, task.frames // 2)))
        words = ["simulate", str(folder), "--shape", task.shape, "--detector", task.detector, "-q"]
        subprocess.run(_dada(*words, "--frames-per-file", per_file), check=True, env=environment(), capture_output=True)
        stamp.write_text(json.dumps(wanted))
    return master


def _dada(*words: str) -> list[str]:
    return [sys.executable, "-m", "dada", *words]


def run_job(master: Path, task: Task, store: Path | None) -> dict[str, float]:
    """One `dada stxm`; frames/s of its own account, and the seconds of the whole command."""
    where = ["--no-store"] if store is None else ["--store", str(store)]
    command = _dada("stxm", str(master), "--shape", task.shape, "--json", "-q", *where)
    begin, machine = time.perf_counter(), machine_cpu_seconds()
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    seconds, machine = time.perf_counter() - begin, machine_cpu_seconds() - machine
    if done.returncode != 0:
        raise RuntimeError(f"dada stxm: {done.stderr.strip().splitlines()[-1:]}")
    account = json.loads(done.stdout)
    if account["frames"] != task.frames or account["damaged"]:
        raise RuntimeError(f"dada stxm saw {account['frames']} frames and damage {account['damaged']}")
    return {
        "frames": account["frames"],
        "from store": account["from_store"],
        "computing s": account["seconds"],
        "command s": seconds,
        "cores busy": machine / seconds,
        "bytes": account["compressed_bytes"],
    }


def _row(state: str, task: Task, runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"state": state, "repetitions": len(runs), **report.median_rows(runs)}
    if not row["computing s"]:  # the store answered: the command's own start is all there is
        return {**row, "frames/s": task.frames / row["command s"]}
    cores = os.cpu_count() or 1
    row["frames/s"] = task.frames / row["computing s"]
    row["frames/s per core"] = row["frames/s"] / cores
    row["minutes for 1000x1000 on 96 cores"] = BIG_SCAN / (row["frames/s per core"] * CLUSTER_CORES) / 60
    return row


def _with_costs(head: Dadafs, task: Task, master: Path) -> dict[str, float]:
    sides = {"head": head.site.head, "node": head.site.node}
    before = {name: side.cpu_seconds() for name, side in sides.items()}
    with alone(task.lock):
        figures = run_job(master, task, None)
    for name, side in sides.items():
        figures[f"{name} cpu s/GiB"] = (side.cpu_seconds() - before[name]) / figures["bytes"] * GIB
        figures[f"{name} MiB"] = side.peak_bytes() / 2**20
    return figures


def _mounted_runs(task: Task, tree: Path, scratch: Path, rate: str | None) -> Iterator[tuple[str, dict[str, float]]]:
    """One round of the three states behind a mount, with a fresh head."""
    with network(1, rate) as net:
        sides = Side(net.head, scratch), Side(net.node_names[0], scratch)
        head = Dadafs(Site(tree, scratch, scratch / "mnt", *sides))
        try:
            head.serve()
            head.mount()
            master = head.root / "scan_master.h5"
            yield "cold", _with_costs(head, task, master)
            head.unmount()
            head.mount()
            yield "warm head", _with_costs(head, task, master)
            yield "warm node", _with_costs(head, task, master)
        finally:
            head.stop()


def measure(task: Task, tree: Path, scratch: Path, rate: str | None) -> list[dict[str, Any]]:
    """The rows of all states."""
    master = make_scan(tree, task)
    read_everything(tree)
    runs: dict[str, list[dict[str, float]]] = {}
    for number in range(task.repeat):
        with alone(task.lock):
            runs.setdefault("local", []).append(run_job(master, task, None))
        folder = scratch / str(number)
        folder.mkdir()
        for state, figures in _mounted_runs(task, tree, folder, rate):
            runs.setdefault(state, []).append(figures)
        run_job(master, task, folder / "store")
        again = run_job(master, task, folder / "store")
        if again["from store"] != task.frames:
            raise RuntimeError(f"only {again['from store']} of {task.frames} frames came from the results store")
        runs.setdefault("results store", []).append(again)
    return [_row(state, task, rows) for state, rows in runs.items()]


COLUMNS = ("frames/s", "frames/s per core", "minutes for 1000x1000 on 96 cores", "command s", "cores busy")
COSTS = ("node cpu s/GiB", "head cpu s/GiB", "node MiB", "head MiB")


def table_rows(rows: Sequence[dict[str, Any]]) -> list[list[object]]:
    """The lines of the table, the published figures last."""
    lines: list[list[object]] = [[row["state"], *[row.get(key) for key in (*COLUMNS, *COSTS)]] for row in rows]
    for name, seconds in PUBLISHED_SECONDS.items():
        speed = BIG_SCAN / seconds
        lines.append([name, speed, speed / CLUSTER_CORES, seconds / 60, *[None] * (2 + len(COSTS))])
    return lines


@click.command(help=__doc__)
@click.option("--shape", default="50x50", show_default=True)
@click.option("--detector", default="eiger4m", show_default=True)
@click.option("--rate", help="Shape the link, e.g. 1gbit; default unshaped.")
@click.option("--repeat", default=3, show_default=True)
@click.option("--quick", is_flag=True, help="Nine small frames, once: only check that it runs.")
@click.option("--work", type=click.Path(path_type=Path), help="Where the scan is kept; default temporary.")
@click.option("--lock", type=click.Path(path_type=Path), help="Hold this lock file during each timed part.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there.")
@click.option("--markdown", is_flag=True, help="Print the table in Markdown.")
def main(
    shape: str,
    detector: str,
    rate: str | None,
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
    task = Task("3x3", "256x256", 1, lock) if quick else Task(shape, detector, repeat, lock)
    clean_up_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="dadabench-", ignore_cleanup_errors=True) as scratch:
        tree = (work or Path(scratch)) / f"scan-{task.shape}-{task.detector}"
        rows = measure(task, tree, Path(scratch), rate)
    columns = ["state", *COLUMNS, *COSTS]
    if markdown:
        print(report.markdown(columns, table_rows(rows)))
    else:
        report.console().print(report.table(f"dada stxm, {task.frames} frames", columns, table_rows(rows)))
    if json_path:
        report.write_json(json_path, report.document("whole job", rows, rate=rate, frames=task.frames))


if __name__ == "__main__":
    main()
