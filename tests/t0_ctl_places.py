"""What a path on the command line of dadafsctl means, and which scan a file belongs to."""

from __future__ import annotations

import pytest

from dadafs.ctl.places import in_export
from dadafs.ctl.screens import printable
from dadafs.mount_table import Mount
from dadafsd.policy.scans import scan_of

MOUNTS = [
    Mount("0:1", "/", "ext4", "/dev/sda"),
    Mount("0:2", "/beamline", "fuse.dadafs", "head:7070:/p10"),
    Mount("0:3", "/beamline/old", "fuse.dadafs", "[fe80::1]:7070:/archive"),
    Mount("0:4", "/srv/nfs", "nfs4", "filer:/vol"),
]
EXPORTS = [{"name": "p10", "directory": "/srv/nfs/p10"}, {"name": "raw", "directory": "/srv/nfs/p10/raw/"}]


@pytest.mark.parametrize(
    ("path", "export", "meant"),
    [
        ("scan/master.h5", None, (None, "scan/master.h5")),
        ("/scan/master.h5", "p10", ("p10", "/scan/master.h5")),
        ("/beamline/scan", None, ("p10", "scan")),
        ("/beamline", None, ("p10", "")),
        ("/beamline/old/scan/", None, ("archive", "scan")),
        ("/beamlines/scan", None, (None, "/beamlines/scan")),
        ("/srv/nfs/p10/scan", None, ("p10", "scan")),
        ("/srv/nfs/p10/raw/scan", None, ("raw", "scan")),
        ("/srv/nfs/p10/raw/scan", "p10", ("p10", "raw/scan")),
        ("/srv/nfs/../nfs/p10//scan", None, ("p10", "scan")),
        ("/beamline/scan", "raw", ("raw", "/beamline/scan")),
    ],
)
def test_paths(path: str, export: str | None, meant: tuple[str | None, str]) -> None:
    assert in_export(path, export, EXPORTS, MOUNTS) == meant


@pytest.mark.parametrize(
    ("path", "scan"),
    [
        (b"p10/scan1/scan1_data_000001.h5", "p10/scan1/scan1"),
        (b"p10/scan1/scan1_master.h5", "p10/scan1/scan1"),
        (b"scan_00001.cbf", "scan"),
        (b"p10/notes.txt", "p10"),
        (b"notes.txt", ""),
        (b"p10/\xff_master.h5", "p10/\udcff"),
        (b"a\nb_master.h5", "a\nb"),
    ],
)
def test_scans(path: bytes, scan: str) -> None:
    assert scan_of(path) == scan


def test_names_stay_on_their_line() -> None:
    assert printable("scan 1/\u00e4.h5") == "scan 1/\u00e4.h5"
    assert printable("a\nb\x1b[31m\udcff") == r"a\nb\x1b[31m\xff"
