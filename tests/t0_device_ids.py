"""File systems by names that outlive a reboot, from tables as the kernel and udev write them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dadafsd import device_ids
from dadafsd.device_ids import device_id, find_name

VOLUMES = """NV SERVER   PORT DEV          FSID                              FSC
v4 c0a80164  801 0:45         4d52a5e9a7fa4d6e:9e5f1c0d3a2b4c5d no
v3 c0a80165  801 0:46         4d52a5e9a7fa4d6e:0                no
"""
MISSING = Path("/nonexistent")


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    device_ids.forget()
    yield
    device_ids.forget()


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    path = tmp_path / "volumes"
    path.write_text(VOLUMES)
    return path


def test_an_nfs_mount_is_known_by_server_and_file_system(volumes: Path) -> None:
    assert find_name(os.makedev(0, 45), volumes) == "nfs c0a80164 4d52a5e9a7fa4d6e:9e5f1c0d3a2b4c5d"
    volumes.write_text(VOLUMES.replace("0:45", "0:99"))
    assert find_name(os.makedev(0, 99), volumes) == "nfs c0a80164 4d52a5e9a7fa4d6e:9e5f1c0d3a2b4c5d"
    assert find_name(os.makedev(0, 45), volumes, MISSING, MISSING) is None


def test_where_that_table_is_hidden_it_is_known_by_what_was_mounted(tmp_path: Path) -> None:
    """As below systemd's ProcSubset=pid."""
    table = tmp_path / "mountinfo"
    lines = [
        "36 25 0:46 / /srv/nfs/b rw,relatime shared:1 - nfs4 filer:/vol/b rw,vers=4.2",
        "37 25 0:46 / /srv/nfs/a rw,relatime shared:2 - nfs4 filer:/vol/a rw,vers=4.2",
        "38 25 0:47 / /nowhere/at/all rw,relatime shared:3 - tmpfs filer:/vol/c rw",
    ]
    for order in (lines, lines[::-1]):
        table.write_text("\n".join(order) + "\n")
        assert find_name(os.makedev(0, 46), MISSING, MISSING, table) == "nfs4 filer:/vol/a"
        assert find_name(os.makedev(0, 47), MISSING, MISSING, table) is None


@pytest.mark.parametrize("text", ["", "nonsense\n", "DEV FSID\n0:45\n", VOLUMES.replace("no", "")])
def test_a_table_that_looks_otherwise_is_survived(tmp_path: Path, text: str) -> None:
    (tmp_path / "volumes").write_text(text)
    find_name(os.makedev(0, 45), tmp_path / "volumes", MISSING, MISSING)


def test_a_disk_is_known_by_its_uuid(tmp_path: Path) -> None:
    device = os.stat("/dev/null").st_rdev
    (tmp_path / "gone").symlink_to("/nonexistent")
    (tmp_path / "0d3a-2b4c").symlink_to("/dev/null")
    assert find_name(device, MISSING, tmp_path) == "uuid 0d3a-2b4c"


def test_a_mounted_file_system_is_known_by_its_fsid(tmp_path: Path) -> None:
    found = os.stat("/dev/shm")
    fsid = os.statvfs("/dev/shm").f_fsid
    name = find_name(found.st_dev, MISSING, MISSING)
    assert name == (f"fsid {fsid:x}" if fsid else None)


def test_what_is_unknown_keeps_its_number_and_a_copy_does_too(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {1: None, 2: "uuid a", 3: "uuid a", 4: "uuid b"}
    monkeypatch.setattr(device_ids, "find_name", names.get)
    ids = {dev: device_id(dev) for dev in names}
    assert ids[1] == 1
    assert ids[3] == 3, "two file systems with one name are two"
    assert min(ids[2], ids[4]) >= 1 << 62
    assert max(ids.values()) < 1 << 63
    device_ids.forget()
    assert device_id(3) == ids[2], "the number does not depend on the device's"
