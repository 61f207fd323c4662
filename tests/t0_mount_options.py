"""What the head says about how its origin is mounted, for lines as kernels write them to /proc/self/mountinfo."""

from __future__ import annotations

from pathlib import Path

import pytest

from dadafs.mount_table import Mount, mounts
from dadafsd.origin_mount import mounts_behind
from dadafsd.policy.mount_options import cached_seconds, judge

ROOT = "29 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard"
#: All defaults: the kernel shows neither acregmin nor lookupcache.
NFS4_DEFAULT = (
    "603 29 0:57 / /srv/nfs/beamline rw,relatime shared:335 - nfs4 filer:/beamline rw,vers=4.2,rsize=1048576,"
    "wsize=1048576,namlen=255,hard,proto=tcp,timeo=600,retrans=2,sec=sys,clientaddr=10.1.0.5,local_lock=none,"
    "addr=10.1.0.1"
)
#: As docs/administration.md wants it.
NFS4_GOOD = (
    "604 29 0:58 / /srv/nfs/good ro,noatime shared:336 - nfs4 filer:/good ro,vers=4.2,rsize=1048576,wsize=1048576,"
    "namlen=255,acregmin=1,acregmax=1,acdirmin=1,acdirmax=1,softerr,proto=tcp,nconnect=8,timeo=100,retrans=3,sec=sys,"
    "clientaddr=10.1.0.5,lookupcache=pos,local_lock=none,addr=10.1.0.1"
)
NFS3_NOAC = (
    "605 29 0:59 / /srv/nfs/noac rw,relatime - nfs filer:/vol/vol1/p10 rw,sync,vers=3,rsize=65536,wsize=65536,"
    "namlen=255,acregmin=0,acregmax=0,acdirmin=0,acdirmax=0,soft,noac,proto=tcp,timeo=600,retrans=2,sec=sys,mountaddr=10.1.0.1,"
    "mountvers=3,mountport=635,mountproto=udp,local_lock=none,addr=10.1.0.1"
)
CIFS = (
    r"606 29 0:60 / /srv/smb/station\0402 rw,relatime - cifs //filer/station\0402 rw,vers=3.1.1,cache=strict,"
    "username=daq,uid=0,noforceuid,gid=0,noforcegid,addr=10.1.0.1,file_mode=0755,dir_mode=0755,soft,nounix,serverino,"
    "mapposix,rsize=4194304,wsize=4194304,bsize=1048576,retrans=1,echo_interval=60,actimeo=1,closetimeo=1"
)
SMB_SPLIT = CIFS.replace("actimeo=1", "acdirmax=60,acregmax=30").replace("cache=strict", "cache=loose")


def parsed(*lines: str, folder: Path) -> list[Mount]:
    table = folder / "mountinfo"
    table.write_text("\n".join(lines) + "\n")
    return mounts(table)


@pytest.fixture
def one(tmp_path: Path, request: pytest.FixtureRequest) -> Mount:
    (mount,) = parsed(request.param, folder=tmp_path)
    return mount


@pytest.mark.parametrize(
    ("one", "seconds"),
    [
        (ROOT, None),
        (NFS4_DEFAULT, (60, 60)),
        (NFS4_GOOD, (1, 1)),
        (NFS3_NOAC, (0, 0)),
        (CIFS, (1, 1)),
        (SMB_SPLIT, (30, 60)),
        (NFS4_DEFAULT.replace(",hard", ",acregmax=120,hard"), (120, 60)),
        (NFS4_DEFAULT.replace(",hard", ",acdirmin=2,acdirmax=2,hard"), (60, 2)),
        (NFS4_DEFAULT.replace(",hard", ",acregmax=x,hard"), (60, 60)),
    ],
    indirect=["one"],
)
def test_how_long_the_client_believes_its_attributes(one: Mount, seconds: tuple[float, float] | None) -> None:
    assert cached_seconds(one) == seconds


@pytest.mark.parametrize(
    ("one", "freshness", "late", "slow"),
    [
        (ROOT, 0.0, [], []),
        (NFS4_GOOD, 1.0, [], []),
        (NFS4_GOOD, 0.5, ["actimeo=0"], []),
        (NFS4_DEFAULT, 1.0, ["actimeo=1", "lookupcache=positive"], ["softerr", "nconnect=8"]),
        (NFS4_DEFAULT, 60.0, [], ["softerr", "nconnect=8"]),
        (NFS4_DEFAULT, 30.5, ["actimeo=30", "lookupcache=positive"], ["softerr", "nconnect=8"]),
        (NFS4_DEFAULT.replace("sec=sys", "lookupcache=none"), 1.0, ["actimeo=1"], ["softerr", "nconnect=8"]),
        (NFS3_NOAC, 0.0, [], ["rsize=1048576", "nconnect=8"]),
        (NFS3_NOAC.replace("proto=tcp", "proto=rdma"), 1.0, [], ["rsize=1048576"]),
        (CIFS, 1.0, [], []),
        (CIFS, 0.5, ["actimeo=0"], []),
        (SMB_SPLIT, 1.0, ["actimeo=1", "cache=strict"], []),
    ],
    indirect=["one"],
)
def test_what_is_wrong_and_what_to_do(one: Mount, freshness: float, late: list[str], slow: list[str]) -> None:
    found = judge(one, freshness)
    for wanted, broken in ((late, True), (slow, False)):
        texts = [complaint.text for complaint in found if complaint.late is broken]
        assert len(texts) == len(wanted)
        for text, option in zip(texts, wanted, strict=True):
            assert option in text
            assert text.startswith(f"{one.source} on {one.mountpoint} is mounted ")


def test_the_mounts_behind_a_directory(tmp_path: Path) -> None:
    """That which it lies on, those below it, and of two on one another the upper one."""
    over = NFS4_GOOD.replace("/srv/nfs/good", "/srv/nfs/beamline").replace("604 29", "607 603")
    below = NFS3_NOAC.replace("/srv/nfs/noac", "/srv/nfs/beamline/2026/raw")
    beside = NFS3_NOAC.replace("/srv/nfs/noac", "/srv/nfs/beamline2")
    table = parsed(ROOT, NFS4_DEFAULT, over, below, beside, CIFS, folder=tmp_path)
    assert [mount.source for mount in mounts_behind("/srv/nfs/beamline", table)] == [
        "filer:/good",
        "filer:/vol/vol1/p10",
    ]
    assert [mount.source for mount in mounts_behind("/srv/nfs/beamline/2026", table)] == [
        "filer:/good",
        "filer:/vol/vol1/p10",
    ]
    assert [mount.source for mount in mounts_behind("/srv/nfs/beamline/2025", table)] == ["filer:/good"]
    assert [mount.source for mount in mounts_behind("/home", table)] == ["/dev/vda"]
    assert [mount.source for mount in mounts_behind("/srv/smb/station 2", table)] == ["//filer/station 2"]
    assert len(mounts_behind("/", table)) == 5
