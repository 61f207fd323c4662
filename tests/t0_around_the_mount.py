"""What stands around a mount: its source, its options, the mount table, kernel settings and systemd."""

from __future__ import annotations

import os
import socket
import tomllib
from pathlib import Path

import pytest

from dadafs.errors import UserError
from dadafs.kernel_tuning import tune
from dadafs.mount_helper import parse
from dadafs.mount_options import parse_dash_o, parse_target, resolve
from dadafs.mount_table import mount_at, mounts
from dadafs.notify import notify, watchdog_interval
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("text", "host", "port", "export", "again"),
    [
        ("head:/data", "head", 7070, "data", "head:7070:/data"),
        ("head.example.org:7171:/beam line", "head.example.org", 7171, "beam line", "head.example.org:7171:/beam line"),
        ("192.0.2.7:80:/x/", "192.0.2.7", 80, "x", "192.0.2.7:80:/x"),
        ("[2001:db8::1]:/data", "2001:db8::1", 7070, "data", "[2001:db8::1]:7070:/data"),
        ("[fe80::1%eth0]:7171:/data", "fe80::1%eth0", 7171, "data", "[fe80::1%eth0]:7171:/data"),
    ],
)
def test_sources(text: str, host: str, port: int, export: str, again: str) -> None:
    target = parse_target(text)
    assert (target.host, target.port, target.export) == (host, port, export)
    assert str(target) == again


@pytest.mark.parametrize(
    "text", ["", "head", "head:/", ":/data", "2001:db8::1:/data", "head:0:/d", "head:/a/b", "h:x:/d"]
)
def test_what_is_no_source(text: str) -> None:
    with pytest.raises(UserError):
        parse_target(text)


def test_options_that_only_concern_mount_are_left_out() -> None:
    texts = ("rw,nosuid,_netdev,x-systemd.automount,noauto", "freshness=2s,hard,comment=x")
    assert parse_dash_o(texts) == {"freshness": "2s", "hard": True}
    assert parse_dash_o(("hard,soft",)) == {"hard": False}


def test_other_users_are_let_in_only_together_with_the_kernels_permission_check() -> None:
    alone = resolve("h:/e", "/mnt").fuse_options()
    assert "allow_other" not in alone
    shared = resolve("h:/e", "/mnt", dash_o=("allow_other",)).fuse_options()
    assert {"allow_other", "default_permissions", "ro", "nosuid", "nodev", "noatime"} <= set(shared)


def test_commas_in_a_source_do_not_become_options() -> None:
    assert r"fsname=h:7070:/a\,dev\,suid" in resolve("h:/a,dev,suid", "/mnt").fuse_options()


def test_the_helper_reads_the_arguments_of_mount() -> None:
    options, fake = parse(["h:/e", "/mnt", "-n", "-o", "rw,retry=5s", "-v"])
    assert options.settings["retry"] == 5
    assert not fake
    assert parse(["h:/e", "/mnt", "-f"])[1]
    assert parse(["-oretry=7s", "h:/e", "/mnt"])[0].settings["retry"] == 7


def test_patience_is_longer_than_retry_and_endless_with_hard() -> None:
    assert resolve("h:/e", "/mnt", dash_o=("retry=5s",)).patience > 5
    assert resolve("h:/e", "/mnt", dash_o=("hard",)).patience == float("inf")


def test_the_topmost_mount_counts_and_odd_names_are_read(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        r"40 25 0:50 / /mnt/a\040b rw shared:2 - tmpfs tmpfs rw"
        "\n"
        r"41 25 0:51 / /mnt/a\040b ro - fuse.dadafs head:7070:/data ro"
        "\n"
    )
    assert len(mounts(table)) == 3
    found = mount_at("/mnt/a b", table)
    assert found is not None
    assert (found.device, found.fstype, found.source) == ("0:51", "fuse.dadafs", "head:7070:/data")
    assert mount_at("/mnt/a", table) is None


def _sysfs(folder: Path) -> tuple[int, Path, Path]:
    device = os.makedev(0, 77)
    (folder / "bdi" / "0:77").mkdir(parents=True)
    (folder / "connections" / "77").mkdir(parents=True)
    (folder / "bdi" / "0:77" / "read_ahead_kb").write_text("128\n")
    (folder / "connections" / "77" / "max_background").write_text("12\n")
    (folder / "connections" / "77" / "congestion_threshold").write_text("9\n")
    return device, folder / "bdi", folder / "connections"


def test_the_kernels_settings_are_raised_and_read_back(tmp_path: Path) -> None:
    device, bdi, connections = _sysfs(tmp_path)
    found = tune(device, bdi=bdi, connections=connections)
    assert (found.read_ahead_kb, found.max_background, found.congestion_threshold) == (1024, 64, 48)
    assert found.refused == ()


def test_what_may_not_be_set_is_reported_and_no_warning(tmp_path: Path) -> None:
    device, bdi, connections = _sysfs(tmp_path)
    (connections / "77" / "max_background").unlink()
    (connections / "77" / "max_background").mkdir()
    found = tune(device, bdi=bdi, connections=connections)
    assert found.read_ahead_kb == 1024
    assert found.max_background is None
    assert [refusal.split(":")[0] for refusal in found.refused] == ["max_background"]


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notify("READY=1")  # without systemd nothing happens
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify("READY=1", "STATUS=fine")
        assert systemd.recv(100) == b"READY=1\nSTATUS=fine"
    notify("STOPPING=1")  # nobody listens any more


def test_the_watchdogs_interval_is_half_of_what_systemd_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert watchdog_interval() is None
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    assert watchdog_interval() == 30


def test_the_helper_of_mount_is_installed_under_its_name() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["mount.dadafs"] == "dadafs.mount_helper:main"
