"""`dadafs mount`, `umount` and `status` as a person meets them: what works, what is refused and in which words."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dadafs import unmount
from dadafs.errors import ExitCode
from dadafs.unmount import detach
from tests.checklogs import ExpectedLog
from tests.conftest import Mounted, need_fuse
from tests.harness.processes import HeadProcess, MountProcess, wait_until


def dadafs(*arguments: str | Path, module: str = "dadafs") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeadProcess]:
    """A head with one file."""
    need_fuse()
    folder = tmp_path_factory.mktemp("life")
    tree = folder / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"content")
    head = HeadProcess(folder / "head", {"data": tree})
    try:
        yield head
    finally:
        head.stop()
    expected = ExpectedLog()
    expected.add("nothing")  # the unknown export
    head.check_log(expected)


@pytest.fixture
def mnt(tmp_path: Path) -> Iterator[Path]:
    """An empty directory; whatever is mounted there is taken away."""
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    yield mnt
    if os.path.ismount(mnt) or _is_dead(mnt):
        dadafs("umount", "--lazy", mnt)


def _is_dead(mnt: Path) -> bool:
    try:
        os.listdir(mnt)
    except OSError as problem:
        return problem.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    return False


def refused(done: subprocess.CompletedProcess[str], code: ExitCode, *words: str) -> None:
    """It failed with this exit code, and said so in one sentence with these words."""
    assert done.returncode == code, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_mount_returns_when_the_file_system_answers(head: HeadProcess, mnt: Path) -> None:
    done = dadafs("mount", f"{head.address}:/data", mnt)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (mnt / "file").read_bytes() == b"content"
    done = dadafs("umount", mnt)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert os.listdir(mnt) == []


def test_options_after_dash_o_and_as_flags(head: HeadProcess, mnt: Path) -> None:
    options = "rw,_netdev,x-systemd.automount,freshness=250ms,retry=3s,soft"
    assert dadafs("mount", f"{head.address}:/data", mnt, "-o", options, "--ram-cache", "32MiB").returncode == 0
    config = (mnt / ".dadafs" / "config").read_text()
    assert [line.split()[1] for line in config.splitlines() if line.split()[0] in {"freshness", "retry"}] == [
        "250ms",
        "3s",
    ]
    assert "32MiB" in config
    assert "flag --ram-cache" in config
    assert dadafs("umount", mnt).returncode == 0


def test_status_for_people_and_for_programs(head: HeadProcess, mnt: Path) -> None:
    assert dadafs("mount", f"{head.address}:/data", mnt).returncode == 0
    (mnt / "file").read_bytes()
    done = dadafs("status", mnt)
    assert done.returncode == 0
    assert head.address in done.stdout
    report = json.loads(dadafs("status", mnt, "--json").stdout)
    assert report["source"] == f"{head.address}:/data"
    assert report["session"]["connected"] is True
    assert report["counters"]["miss"] + report["counters"]["hit"] >= 1
    inside = json.loads((mnt / ".dadafs" / "stats.json").read_text())
    assert inside.keys() == report.keys()
    assert dadafs("umount", mnt).returncode == 0


def test_status_of_a_stopped_mount_process_does_not_hang(head: HeadProcess, mnt: Path, tmp_path: Path) -> None:
    mount = MountProcess(mnt, head.address, "data", tmp_path / "mount.log")
    os.kill(mount.pid, signal.SIGSTOP)
    try:
        refused(dadafs("status", mnt), ExitCode.UNREACHABLE, "does not answer")
    finally:
        os.kill(mount.pid, signal.SIGCONT)
        mount.unmount()


def test_the_folder_of_virtual_files_is_reachable_but_not_listed(head: HeadProcess, mnt: Path) -> None:
    assert dadafs("mount", f"{head.address}:/data", mnt).returncode == 0
    assert os.listdir(mnt) == ["file"]
    assert sorted(os.listdir(mnt / ".dadafs")) == ["config", "log", "stats", "stats.json"]
    for name in ("config", "log", "stats"):
        assert (mnt / ".dadafs" / name).read_text()
    with pytest.raises(OSError) as refusal:
        (mnt / ".dadafs" / "stats").open("wb")
    assert refusal.value.errno == errno.EROFS
    assert not (mnt / ".dadafs" / "other").exists()
    assert dadafs("umount", mnt).returncode == 0


def test_a_mountpoint_that_does_not_exist(tmp_path: Path) -> None:
    refused(dadafs("mount", "127.0.0.1:1:/data", tmp_path / "none"), ExitCode.MOUNTPOINT, "does not exist", "mkdir")


def test_a_mountpoint_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    refused(dadafs("mount", "127.0.0.1:1:/data", tmp_path / "file"), ExitCode.MOUNTPOINT, "not a directory")


def test_a_mountpoint_that_is_taken(head: HeadProcess, mnt: Path) -> None:
    assert dadafs("mount", f"{head.address}:/data", mnt).returncode == 0
    refused(dadafs("mount", f"{head.address}:/data", mnt), ExitCode.MOUNTPOINT, "busy", "dadafs umount")
    assert dadafs("umount", mnt).returncode == 0


def test_a_head_that_is_not_there(mnt: Path) -> None:
    for foreground in ((), ("--foreground",)):
        done = dadafs("mount", "127.0.0.1:1:/data", mnt, *foreground)
        refused(done, ExitCode.UNREACHABLE, "127.0.0.1:1")


def test_an_export_that_is_unknown(head: HeadProcess, mnt: Path) -> None:
    refused(dadafs("mount", f"{head.address}:/nothing", mnt), ExitCode.REFUSED, "nothing")


def test_a_wrong_key(tmp_path: Path, mnt: Path, expected_log: ExpectedLog) -> None:
    need_fuse()
    (tmp_path / "tree").mkdir()
    keys = {}
    for name in ("right", "wrong"):
        keys[name] = tmp_path / name
        keys[name].write_text(f"main: {name * 8}\n")
        keys[name].chmod(0o600)
    expected_log.add("key")
    head = HeadProcess(tmp_path / "head", {"data": tmp_path / "tree"}, options=("--key-file", str(keys["right"])))
    try:
        refused(dadafs("mount", f"{head.address}:/data", mnt, "--key-file", keys["wrong"]), ExitCode.REFUSED, "key")
        done = dadafs("mount", f"{head.address}:/data", mnt, "--key-file", keys["right"])
        assert done.returncode == 0, done.stderr
        assert dadafs("umount", mnt).returncode == 0
    finally:
        head.stop()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mount", "nonsense", "/mnt"), "HOST:/EXPORT"),
        (("mount", "host:99999:/data", "/mnt"), "port"),
        (("mount", "host:/data", "/mnt", "-o", "freshnes=1s"), "did you mean 'freshness'"),
        (("mount", "host:/data", "/mnt", "-o", "freshness=soon"), "freshness"),
        (("mount", "host:/data", "/mnt", "--ram-cache", "1KiB"), "too small"),
        (("umount", "/"), "not a dadafs mount"),
        (("status", "/"), "not a dadafs mount"),
    ],
)
def test_mistakes_get_one_sentence(arguments: tuple[str, ...], words: str) -> None:
    done = dadafs(*arguments)
    assert done.returncode in {ExitCode.USAGE, ExitCode.MOUNTPOINT}
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_show_config_names_each_source(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text('retry = "5s"\n')
    done = dadafs("mount", "h:/e", "/mnt", "--config", tmp_path / "d.toml", "--freshness", "2s", "--show-config")
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "5s" in rows["retry"]
    assert "d.toml" in rows["retry"]
    assert "flag --freshness" in rows["freshness"]
    assert "default" in rows["lease"]


def test_a_mount_in_use_is_not_taken_away(head: HeadProcess, mnt: Path) -> None:
    assert dadafs("mount", f"{head.address}:/data", mnt).returncode == 0
    with (mnt / "file").open("rb"):
        refused(dadafs("umount", mnt), ExitCode.MOUNTPOINT, "in use", "--lazy")
        assert (mnt / "file").read_bytes() == b"content"
    assert dadafs("umount", mnt).returncode == 0


def test_a_lazy_umount_serves_whoever_is_inside(head: HeadProcess, mnt: Path) -> None:
    assert dadafs("mount", f"{head.address}:/data", mnt).returncode == 0
    pid = json.loads(dadafs("status", mnt, "--json").stdout)["pid"]
    with (mnt / "file").open("rb", buffering=0) as file:
        process = subprocess.Popen([sys.executable, "-m", "dadafs", "umount", "--lazy", str(mnt)])
        wait_until(lambda: not os.path.ismount(mnt), "it is detached")
        assert file.read() == b"content"
    assert process.wait(60) == 0
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the mount process ends with its last user")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts(head: HeadProcess, mnt: Path, tmp_path: Path, number: signal.Signals) -> None:
    mount = MountProcess(mnt, head.address, "data", tmp_path / "mount.log")
    os.kill(mount.pid, number)
    assert mount.process.wait(60) == 0, mount.text()
    assert not os.path.ismount(mnt)
    assert os.listdir(mnt) == []
    mount.check_log(ExpectedLog())


def test_sigterm_detaches_a_mount_in_use(head: HeadProcess, mnt: Path, tmp_path: Path) -> None:
    mount = MountProcess(mnt, head.address, "data", tmp_path / "mount.log")
    file = os.open(mnt / "file", os.O_RDONLY)
    assert mount.stop() == 0
    assert not os.path.ismount(mnt)
    with pytest.raises(OSError):
        os.pread(file, 100, 100_000)
    with contextlib.suppress(OSError):  # closing asks the file system, which is gone
        os.close(file)
    mount.check_log(ExpectedLog())


def test_a_killed_mount_process_leaves_errors_not_an_empty_directory(
    head: HeadProcess, mnt: Path, tmp_path: Path
) -> None:
    mount = MountProcess(mnt, head.address, "data", tmp_path / "mount.log")
    (mnt / "file").read_bytes()
    mount.kill()
    with pytest.raises(OSError) as dead:
        os.listdir(mnt)
    assert dead.value.errno == errno.ENOTCONN
    refused(dadafs("status", mnt), ExitCode.UNREACHABLE)
    assert dadafs("umount", mnt).returncode == 0
    assert os.listdir(mnt) == []


def test_mounting_over_a_dead_mount_clears_it_away(head: HeadProcess, mnt: Path, tmp_path: Path) -> None:
    mount = MountProcess(mnt, head.address, "data", tmp_path / "mount.log")
    mount.kill()
    done = dadafs("mount", f"{head.address}:/data", mnt)
    assert done.returncode == 0, done.stderr
    assert (mnt / "file").read_bytes() == b"content"
    assert dadafs("umount", mnt).returncode == 0
    assert not os.path.ismount(mnt)


def test_a_mount_that_is_in_use_for_a_moment_only_is_unmounted(
    head: HeadProcess, mnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is while the mount process itself lists a directory in it."""
    mount = MountProcess(mnt, head.address, "data", tmp_path / "mount.log")
    held = [os.open(mnt, os.O_RDONLY)]

    def detach_and_let_go(path: str, *, lazy: bool) -> None:
        try:
            detach(path, lazy=lazy)
        finally:
            while held:
                os.close(held.pop())

    monkeypatch.setattr(unmount, "detach", detach_and_let_go)
    unmount.umount(str(mnt))
    assert not os.path.ismount(mnt)
    assert mount.process.wait(30) == 0


def test_sigusr1_shows_what_everybody_is_doing_and_harms_nobody(head: HeadProcess, mnt: Path, tmp_path: Path) -> None:
    """Following frames in a signal handler, which may change meanwhile, ended the process now and then."""
    mount = MountProcess(mnt, head.address, "data", tmp_path / "mount.log")
    os.kill(mount.pid, signal.SIGUSR1)
    mount.wait_for_line(r"^thread MainThread")
    mount.wait_for_line(r"^task ")
    for _ in range(2000):
        os.kill(mount.pid, signal.SIGUSR1)
        assert (mnt / "file").read_bytes() == b"content"
        assert os.listdir(mnt)
    mount.unmount()


def test_kernel_settings_are_reported(mounted: Mounted) -> None:
    kernel = json.loads((mounted.mnt / ".dadafs" / "stats.json").read_text())["kernel"]
    device = mounted.mnt.stat().st_dev
    bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    assert kernel["read_ahead_kb"] == (int(bdi.read_text()) if bdi.exists() else None)
    if os.access(bdi, os.W_OK) and not kernel["refused"]:
        assert kernel["read_ahead_kb"] == 1024
        assert kernel["max_background"] == 64


def test_the_helper_of_mount_takes_its_arguments(head: HeadProcess, mnt: Path) -> None:
    done = dadafs(f"{head.address}:/data", mnt, "-o", "rw,_netdev,retry=3s", "-n", module="dadafs.mount_helper")
    assert (done.returncode, done.stderr) == (0, "")
    assert (mnt / "file").read_bytes() == b"content"
    assert dadafs("umount", mnt).returncode == 0
    refused(dadafs("only-one", module="dadafs.mount_helper"), ExitCode.USAGE, "Usage")
