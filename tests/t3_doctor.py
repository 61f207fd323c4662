"""`dadafs doctor` finds the usual mistakes and says how to put them right; metrics tell what the report tells."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dadafs import doctor
from dadafs.errors import ExitCode
from dadafs.mount_options import Target
from tests.checklogs import ExpectedLog
from tests.conftest import Mounted, need_fuse
from tests.harness.processes import HeadProcess, MountProcess, wait_until
from tests.harness.stepped_clock import SteppedClock
from tests.t3_mount_life import dadafs


def test_a_healthy_mount(mounted: Mounted) -> None:
    done = dadafs("doctor", mounted.mnt, "--json")
    findings = json.loads(done.stdout)
    wrong = [finding for finding in findings if finding["state"] != "ok"]
    if os.geteuid() != 0:  # what only root can set right, and the doctor rightly says so
        wrong = [finding for finding in wrong if "root" not in finding["advice"]]
    wrong = [finding for finding in wrong if "settings could not be raised" not in finding["what"]]
    assert not wrong, done.stdout
    assert any(mounted.head.address in finding["what"] for finding in findings)


def test_a_mount_whose_process_does_not_answer(mounted: Mounted) -> None:
    os.kill(mounted.mount.pid, signal.SIGSTOP)
    try:
        done = dadafs("doctor", mounted.mnt)
    finally:
        os.kill(mounted.mount.pid, signal.SIGCONT)
    assert done.returncode == ExitCode.FAILED
    assert "does not answer" in done.stdout
    assert f"dadafs umount --lazy {mounted.mnt}" in done.stdout
    assert f"{mounted.head.address} accepts connections" in done.stdout


def test_a_head_that_went_away(mounted: Mounted, expected_log: ExpectedLog) -> None:
    expected_log.add("head|connection|session")
    mounted.head.kill()
    wait_until(lambda: "nothing listens" in dadafs("doctor", mounted.mnt).stdout, "the head is missed")
    assert dadafs("doctor", mounted.mnt).returncode == ExitCode.FAILED


def test_where_nothing_is_mounted(tmp_path: Path) -> None:
    done = dadafs("doctor", tmp_path)
    assert "is not mounted" in done.stdout
    assert f"dadafs mount HOST:/EXPORT {tmp_path}" in done.stdout


def test_an_old_kernel() -> None:
    assert doctor.kernel("4.19.0-27-amd64").state == "bad"
    assert doctor.kernel("6.1.0-18-amd64").state == "ok"
    assert doctor.kernel("4.20.1").state == "ok"


def test_an_ordinary_user_without_user_allow_other(tmp_path: Path) -> None:
    conf = tmp_path / "fuse.conf"
    conf.write_text("#user_allow_other\n")
    assert any("user_allow_other" in finding.what for finding in doctor.unprivileged(1000, conf))
    conf.write_text("user_allow_other\n")
    assert not any("user_allow_other" in finding.what for finding in doctor.unprivileged(1000, conf))
    assert list(doctor.unprivileged(0, conf)) == []


def test_readahead_that_could_not_be_raised() -> None:
    report = {"kernel": {"refused": ["read_ahead_kb: Permission denied"]}, "mountpoint": "/mnt"}
    (finding,) = doctor.readahead(report)
    assert finding.state == "bad"
    assert "/sys/class/bdi/" in finding.advice


def test_damage_on_the_way_and_errors() -> None:
    report = {"counters": {"checksum_errors": 3, "eio_sites": {"N05": 2}}}
    damage = {finding.state: finding for finding in doctor.errors(report)}
    assert "N05: 2" in damage["note"].what
    assert "memory or network" in damage["bad"].advice


def test_a_head_with_an_unknown_name_and_one_that_is_cut_off() -> None:
    def unknown(address: object, timeout: float) -> socket.socket:
        raise socket.gaierror(-2, "Name or service not known")

    def silent(address: object, timeout: float) -> socket.socket:
        raise TimeoutError("timed out")

    (finding,) = doctor.head(Target("nowhere", 7070, "data"), unknown)
    assert "unknown" in finding.what
    (finding,) = doctor.head(Target("nowhere", 7070, "data"), silent)
    assert "firewall" in finding.advice


def test_metrics_tell_what_the_report_tells(mounted: Mounted, tmp_path: Path, expected_log: ExpectedLog) -> None:
    (mounted.tree / "file").write_bytes(b"x" * 200_000)
    mount = MountProcess(
        tmp_path / "second",
        mounted.head.address,
        "data",
        tmp_path / "second.log",
        options=("--metrics", "127.0.0.1:0"),
    )
    try:
        assert len((tmp_path / "second" / "file").read_bytes()) == 200_000
        port = mount.wait_for_line(r"metrics at port (\d+)").group(1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply:
            families = {family.name: family for family in text_string_to_metric_families(reply.read().decode())}
    finally:
        mount.unmount()
    mount.check_log(expected_log)
    sizes = {sample.labels["result"]: sample.value for sample in families["dadafs_read_bytes"].samples}
    assert sum(sizes.values()) >= 200_000
    assert families["dadafs_connected"].samples[0].value == 1
    assert all(name.startswith("dadafs_") for name in families)
    assert {"dadafs_late", "dadafs_wasted", "dadafs_eio", "dadafs_reads"} <= families.keys()


# --- clocks and keys ----------------------------------------------------------------------------------------------


def key_file(path: Path, secret: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(f"main: {secret}, long enough for a key\n")
    return path


def test_clocks_that_disagree(tmp_path: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    (tmp_path / "tree").mkdir()
    clock = SteppedClock(tmp_path)
    head = HeadProcess(tmp_path / "head", {"data": tmp_path / "tree"}, env=clock.env)
    mount = MountProcess(tmp_path / "mnt", head.address, "data", tmp_path / "mount.log")
    try:
        wait_until(lambda: "head agree" in dadafs("doctor", mount.mountpoint).stdout, "the head has told its time")
        expected_log.add("the clock was set by")
        clock.set(7200)
        wait_until(
            lambda: "2h behind the head's" in dadafs("doctor", mount.mountpoint).stdout, "the difference is seen"
        )
        done = dadafs("doctor", mount.mountpoint)
        assert done.returncode == ExitCode.FAILED
        assert "NTP" in done.stdout
        fstab = tmp_path / "fstab"
        fstab.write_text(f"{head.address}:/data /elsewhere dadafs ro,_netdev 0 0\n")
        assert any("behind" in finding.what for finding in doctor.examine("/elsewhere", fstab)), "without mounting, too"
    finally:
        mount.unmount()
        head.stop()
    head.check_log(expected_log)


def test_a_key_that_is_wrong_since_the_head_has_another(tmp_path: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    (tmp_path / "tree").mkdir()
    key = key_file(tmp_path / "key", "the first")
    head = HeadProcess(tmp_path / "head", {"data": tmp_path / "tree"}, options=("--key-file", str(key)))
    options = ("--key-file", str(key))
    mount = MountProcess(tmp_path / "mnt", head.address, "data", tmp_path / "mount.log", options=options)
    try:
        head.stop()
        other = key_file(tmp_path / "other", "the second")
        options = ("--key-file", str(other))
        head = HeadProcess(tmp_path / "head", {"data": tmp_path / "tree"}, port=head.port, options=options)
        wait_until(lambda: "refuses" in dadafs("doctor", mount.mountpoint).stdout, "the head refuses the old key")
        assert "give the mount the key file of the head" in dadafs("doctor", mount.mountpoint).stdout
        key.write_text(other.read_text())
        wait_until(lambda: "no session" not in dadafs("doctor", mount.mountpoint).stdout, "it was put right")
    finally:
        mount.unmount()
        head.stop()


def test_a_line_of_fstab_is_tried_before_anybody_mounts_it(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    right, wrong = key_file(tmp_path / "right", "the right one"), key_file(tmp_path / "wrong", "another one")
    head = HeadProcess(tmp_path / "head", {"data": tmp_path / "tree"}, options=("--key-file", str(right)))
    fstab = tmp_path / "fstab"

    def said(options: str, export: str = "data") -> str:
        fstab.write_text(
            f"# a comment\n/dev/sda1 / ext4 rw 0 1\n{head.address}:/{export} /beamline dadafs ro,{options} 0 0\n"
        )
        findings = doctor.to_be_mounted("/beamline", fstab)
        return "\n".join(f"{finding.state} {finding.what}: {finding.advice}" for finding in findings)

    try:
        assert "ok" in said(f"key_file={right}")
        assert "bad" not in said(f"key_file={right}")
        assert "give the mount the key file of the head" in said(f"key_file={wrong}")
        assert "check the name of the export" in said(f"key_file={right}", "nothing")
        assert "did you mean 'freshness'" in said("freshnes=1s")
    finally:
        head.stop()
    assert "nothing listens" in said(f"key_file={right}")


def test_a_small_mtu_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = Target("127.0.0.1", listener.getsockname()[1], "data")
        assert not any("MTU" in finding.what for finding in doctor.head(target)), "loopback has a large one"
        monkeypatch.setattr(doctor, "_mtu", lambda peer: 1280)
        (small,) = [finding for finding in doctor.head(target) if "MTU of 1280" in finding.what]
        assert (small.state, bool(small.advice)) == ("note", True)


@pytest.mark.parametrize(("ahead", "state"), [(0.2, "ok"), (-29.0, "ok"), (31.0, "bad"), (-7200.0, "bad")])
def test_how_far_clocks_may_differ(ahead: float, state: str) -> None:
    (finding,) = doctor.clock(ahead)
    assert finding.state == state
    assert list(doctor.clock(None)) == [], "a head that does not say"
