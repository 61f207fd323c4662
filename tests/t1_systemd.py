"""The units and the example configuration are what systemd and dadafsd accept."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parent.parent / "systemd"


def analyze(*words: str) -> str:
    """The output of systemd-analyze, whatever its exit code."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (a container without systemd)")
    done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("unit", ["dadafsd.service", "dadafs@.service"])
def test_units_are_valid(unit: str, tmp_path: Path) -> None:
    text = (UNITS / unit).read_text().replace("/usr/local/bin/dadafs", "/bin/true #")
    text = "\n".join(line.split(" #")[0] for line in text.splitlines())
    (tmp_path / unit).write_text(text + "\n")
    assert "dadafs" not in analyze("verify", str(tmp_path / unit)).replace(str(tmp_path), "")


def test_the_head_is_hardened() -> None:
    """Exposure below 4; the node cannot be: what it mounts must be seen outside its own namespace."""
    last = analyze("security", "--offline=true", str(UNITS / "dadafsd.service")).strip().splitlines()[-1]
    assert float(last.split(":")[1].split()[0]) < 4, last


def test_the_example_configuration_is_accepted(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dadafsd", "--config", str(UNITS / "dadafsd.toml.example"), "--show-config"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "0.0.0.0:7070" in done.stdout
    assert "beamline = /srv/nfs/beamline" in done.stdout
