"""The units and the example configuration are what systemd and dadafsd accept."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from dadafs.ctl.client import DEFAULT_SOCKET
from dadafsd.config import METRICS_PORT
from tests.conftest import REPOSITORY

UNITS = REPOSITORY / "systemd"


def analyze(*words: str) -> str:
    """The output of systemd-analyze, whatever its exit code."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (a container without systemd)")
    done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


ALL = sorted(path.name for path in UNITS.glob("*.service"))


def settings(unit: str, name: str) -> list[str]:
    """The values of one setting of a unit."""
    lines = (UNITS / unit).read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(name + "=")]


def test_there_is_a_unit_for_each_part() -> None:
    assert ALL == [
        "dada-scheduler.service",
        "dada-worker.service",
        "dadafs-metrics.service",
        "dadafs@.service",
        "dadafsd.service",
    ]


@pytest.mark.parametrize("unit", ALL)
def test_units_are_valid(unit: str, tmp_path: Path) -> None:
    text = re.sub(r"/(usr/local|opt/dadafs)/bin/(dadafsd?|dask) ", "/bin/true ", (UNITS / unit).read_text())
    (tmp_path / unit).write_text(text)
    said = analyze("verify", str(tmp_path / unit)).replace(str(tmp_path), "")
    assert not [line for line in said.splitlines() if "dada" in line], said


@pytest.mark.parametrize("unit", ALL)
def test_units_are_hardened(unit: str) -> None:
    last = analyze("security", "--offline=true", str(UNITS / unit)).strip().splitlines()[-1]
    assert float(last.split(":")[1].split()[0]) < 4, last


def test_the_mount_gets_no_namespace_of_its_own() -> None:
    """What the node mounts must be seen by all; each of these would hide it (systemd.exec(5))."""
    for name in ("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "ProtectProc",
                 "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups",
                 "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "MountFlags", "DynamicUser"):  # fmt: skip
        assert settings("dadafs@.service", name) == [], name


@pytest.mark.parametrize("unit", ["dadafsd.service", "dadafs@.service", "dadafs-metrics.service"])
def test_systemd_learns_when_a_service_is_ready_and_that_it_lives(unit: str) -> None:
    assert settings(unit, "Type") == ["notify"]
    assert settings(unit, "WatchdogSec") != []
    assert settings(unit, "Restart") == ["always"]


@pytest.mark.parametrize("unit", ALL)
def test_under_memory_pressure_data_stays_and_analysis_goes(unit: str) -> None:
    (adjustment,) = settings(unit, "OOMScoreAdjust")
    assert (int(adjustment) < 0) == (unit in {"dadafsd.service", "dadafs@.service"})


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


def example() -> dict[str, Any]:
    """The example configuration, with the tables that stand there as comments."""
    text = (UNITS / "dadafsd.toml.example").read_text()
    head, marker, rest = text.partition("# [[tier]]\n")
    assert marker
    return tomllib.loads(head + re.sub("(?m)^# ", "", marker + rest))


def test_the_head_may_write_to_every_tier_of_the_example() -> None:
    writable = {path.lstrip("-") for line in settings("dadafsd.service", "ReadWritePaths") for path in line.split()}
    tiers = [tier["directory"] for tier in example()["tier"]]
    assert len(tiers) == 2
    for directory in tiers:
        assert directory in writable
    assert all(path.startswith("-") for line in settings("dadafsd.service", "ReadWritePaths") for path in line.split())


def test_the_ports_of_metrics_are_the_same_everywhere() -> None:
    jobs = yaml.safe_load((REPOSITORY / "docs" / "monitoring" / "prometheus.yml").read_text())["scrape_configs"]
    scraped = {
        job["job_name"]: {target.rpartition(":")[2] for group in job["static_configs"] for target in group["targets"]}
        for job in jobs
    }
    assert scraped["dadafsd"] == {str(METRICS_PORT)}
    assert example()["metrics"] == f"0.0.0.0:{METRICS_PORT}", "Prometheus comes from another machine"
    (listen,) = settings("dadafs-metrics.service", "Environment")
    assert scraped["dadafs"] == {listen.rpartition(":")[2]}


def test_head_and_mounts_do_not_share_a_directory_of_sockets() -> None:
    """systemd gives the directory to the unit's user at each start: one of two users would lose it."""
    (head,), (mount,) = (settings(unit, "RuntimeDirectory") for unit in ("dadafsd.service", "dadafs@.service"))
    assert head != mount
    assert example()["admin_socket"] == f"/run/{head}/admin.sock" == DEFAULT_SOCKET
