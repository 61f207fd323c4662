"""`./run demo` in all its forms: what it prints, what it writes, and that nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from bench.demo import FRAMES
from dada.simulate import Simulation, simulate
from tests.conftest import need_fuse
from tests.harness import scans
from tests.harness.processes import DEADLINE, LoggedProcess, wait_until

DEMO = [sys.executable, "-m", "bench.demo"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment in which the demo finds our commands, and works in a folder that the test can look into."""
    (tmp_path / "tmp").mkdir()
    commands = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PATH": commands}


def demo(*arguments: str | Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [*DEMO, *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=900, check=False)


def cell(output: str, row: str) -> list[str]:
    """The columns of a row of a printed table."""
    (line,) = (line for line in output.splitlines() if row in line)
    return [part.strip() for part in line.split("│")[2:-1]]


def nothing_is_left(tmp_path: Path) -> None:
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_maps_of_the_phantom(tmp_path: Path, env: dict[str, str]) -> None:
    need_fuse()
    done = demo("--frames", "16", "--output", tmp_path / "out", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert cell(done.stdout, "frames computed") == ["16", "0"]
    assert cell(done.stdout, "frames from the results store") == ["0", "16"]
    cold, again = cell(done.stdout, "fragments from the origin")
    assert int(cold) > 0
    assert int(again) == 0
    for what in ("from the head's SSD", "from the head's memory", "from the node's memory"):
        assert len(cell(done.stdout, what)) == 2
    for speed in cell(done.stdout, "frames per second, start to end"):
        assert float(speed) >= 0
    read = float(cell(done.stdout, "read by the node from the head")[0].removesuffix(" MiB"))
    assert 2 * read / 16 * FRAMES < 200, "the scan and the cache of the usual demo fit a laptop"
    for name in ("itot", "comh", "comv", "orient2_outer"):
        assert float(cell(done.stdout, f" {name} ")[1]) < 2, "in units of the statistical error"
    with h5py.File(tmp_path / "out" / "maps.h5") as maps:
        assert maps["entry/itot/data"].shape == (4, 4)
        assert np.isfinite(maps["entry/outer/data"][()]).all()
        assert maps["entry/itot"].attrs["NX_class"] == "NXdata"
    assert (tmp_path / "out" / "maps.png").read_bytes().startswith(b"\x89PNG")
    nothing_is_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_mount_stays_until_it_is_told_to_go(tmp_path: Path, env: dict[str, str], number: signal.Signals) -> None:
    need_fuse()
    process = LoggedProcess(
        [*DEMO, "--frames", "4", "--keep", "--output", str(tmp_path / "out")], tmp_path / "log", env
    )
    try:
        mnt = Path(process.wait_for_line(r"The mount stays at (\S+) until", deadline=900).group(1))
        assert os.path.ismount(mnt)
        with h5py.File(mnt / "scan_master.h5") as master:
            assert master["entry/data/data_000001"].shape[0] == 4
        process.process.send_signal(number)
        assert process.process.wait(DEADLINE) == 0, process.text()
    finally:
        process.stop()
    nothing_is_left(tmp_path)


def test_a_scan_on_disk_whose_links_lead_to_another_folder(tmp_path: Path, env: dict[str, str]) -> None:
    need_fuse()
    beamtime = tmp_path / "beamtime"
    simulate(beamtime / "raw", Simulation((3, 4), counts=0.5, detector="200x210", frames_per_file=6))
    (beamtime / "processed").mkdir()
    with h5py.File(beamtime / "processed" / "nice_master.h5", "w") as master:
        for number in (1, 2):
            name = f"data_{number:06d}"
            master[f"entry/data/{name}"] = h5py.ExternalLink(f"../raw/scan_{name}.h5", "/entry/data/data")
    scan = beamtime / "processed" / "nice_master.h5"
    done = demo(scan, "--shape", "3x4", "--output", tmp_path / "out", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert cell(done.stdout, "frames computed") == ["12", "0"]
    with h5py.File(tmp_path / "out" / "maps.h5") as maps:
        assert maps["entry/itot/data"].shape == (3, 4)
    nothing_is_left(tmp_path)


def test_a_single_dataset(tmp_path: Path, env: dict[str, str]) -> None:
    need_fuse()
    scans.stack(tmp_path / "data" / "stack.h5", scans.frames(6))
    with h5py.File(tmp_path / "data" / "stack.h5") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    done = demo(f"{tmp_path}/data/stack.h5::/{names[0]}", "--output", tmp_path / "out", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    with h5py.File(tmp_path / "out" / "maps.h5") as maps:
        assert maps["entry/itot/data"].shape == (2, 3), "as square as possible"


def test_frames_of_a_real_detector(tmp_path: Path, env: dict[str, str]) -> None:
    """With a frame of the test's own in place of the one that would be fetched."""
    need_fuse()
    frame = np.random.default_rng(3).poisson(2.0, (1, 3262, 1500)).astype(np.uint32)
    scans.stack(tmp_path / "real" / "eiger2_9m_saxs_aps12idb.h5", frame)
    env["DADA_REALDATA"] = str(tmp_path / "real")
    done = demo("--real", "--frames", "4", "--output", tmp_path / "out", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    with h5py.File(tmp_path / "out" / "maps.h5") as maps:
        assert maps["entry/inner/data"].shape == (2, 2)
        assert "q" in maps["entry/iq"], "the geometry of the frame is known"
    nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nowhere.h5",), 7, "is not there"),
        (("text.h5",), 7, "is no HDF5 file"),
        (("text.h5", "--real"), 2, "leave --real and --frames out"),
        (("--shape", "3x4"), 2, "--shape belongs to a scan at PATH"),
        (("--frames", "1"), 2, "--frames"),
    ],
)
def test_mistakes(tmp_path: Path, env: dict[str, str], arguments: tuple[str, ...], code: int, words: str) -> None:
    need_fuse()
    (tmp_path / "text.h5").write_text("no HDF5")
    given = [str(tmp_path / word) if word.endswith(".h5") else word for word in arguments]
    done = demo(*given, "--output", tmp_path / "out", env=env)
    assert done.returncode == code, done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    assert re.fullmatch(rf"demo: .*{re.escape(words)}.*", line)
    nothing_is_left(tmp_path)


def test_a_failure_of_one_of_the_commands_ends_the_demo_with_its_code(tmp_path: Path, env: dict[str, str]) -> None:
    need_fuse()
    scans.legacy(tmp_path / "scan", scans.frames(12))
    done = demo(tmp_path / "scan" / "scan_master.h5", "--shape", "3x3", "--output", tmp_path / "out", env=env)
    assert done.returncode == 7, done.stdout + done.stderr
    assert "--shape 3x3 needs 9" in done.stderr
    wait_until(lambda: str(tmp_path) not in Path("/proc/self/mounts").read_text(), "it is unmounted")
    nothing_is_left(tmp_path)
