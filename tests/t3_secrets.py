"""No secret is on a command line, in the environment, in a log line, in a setting that is shown, or in a bug report."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checklogs import ExpectedLog
from tests.conftest import need_fuse
from tests.harness.processes import HeadProcess, MountProcess, wait_until


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A key file, and one that has the wrong key."""
    files = tmp_path / "key", tmp_path / "wrong"
    for file in files:
        file.touch(mode=0o600)
        file.write_text(f"main: {os.urandom(32).hex()}\n")
    return files


@pytest.fixture
def place(
    tmp_path: Path, keys: tuple[Path, Path], expected_log: ExpectedLog
) -> Iterator[tuple[HeadProcess, MountProcess]]:
    """A head and a mount that say all that they can say."""
    need_fuse()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"content")
    options = ("--key-file", str(keys[0]), "--log-level", "DEBUG")
    head = HeadProcess(tmp_path / "head", {"data": tmp_path / "tree"}, options=options)
    options = ("--key-file", str(keys[0]), "-o", "log_level=DEBUG,retry=1s")
    mount = MountProcess(tmp_path / "mnt", head.address, "data", tmp_path / "mount.log", options=options)
    yield head, mount
    mount.unmount()
    head.stop()


def said(*words: object) -> str:
    """Everything that a command prints, whether it succeeds or not."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout or done.stderr
    return done.stdout + done.stderr


def forms(file: Path) -> list[str]:
    """The secret of a key file in all ways in which it might be written."""
    text = file.read_text().split()[1]
    raw = bytes.fromhex(text)
    return [text, text.upper(), base64.b64encode(raw).decode(), repr(raw)[2:-1]]


def test_no_secret_is_told_anywhere(
    place: tuple[HeadProcess, MountProcess], keys: tuple[Path, Path], tmp_path: Path
) -> None:
    head, mount = place
    key, wrong = keys
    secrets = forms(key) + forms(wrong)
    mnt = mount.mountpoint
    assert (mnt / "file").read_bytes() == b"content"
    source = f"{head.address}:/data"
    places = {
        "a refusal": said("dadafs", "mount", source, tmp_path, "--key-file", wrong),
        "settings of the head": said("dadafsd", "--export", f"data={tmp_path}", "--key-file", key, "--show-config"),
        "settings of a mount": said("dadafs", "mount", source, mnt, "--key-file", key, "--show-config"),
        "live settings": said("dadafs.ctl", "--socket", head.admin_socket, "get", "--show-config", "--json"),
        "doctor": said("dadafs", "doctor", mnt),
    }
    assert "key" in places["a refusal"]
    for name, words in (("head", ("--socket", head.admin_socket, "bundle")), ("node", ("bundle", mnt))):
        report = tmp_path / f"{name}.json"
        said("dadafs.ctl", *words, "-o", report)
        assert len(json.loads(report.read_text())) > 5
        places[f"bug report of the {name}"] = report.read_text()
    for name in ("config", "log", "stats", "stats.json"):
        places[name] = (mnt / ".dadafs" / name).read_text()
    key.write_text(wrong.read_text())  # the node's key is wrong from its next connection on
    for process in (head, mount):
        for what in ("cmdline", "environ"):
            places[f"{what} of {process.pid}"] = Path(f"/proc/{process.pid}/{what}").read_text(errors="replace")
        assert str(key) in places[f"cmdline of {process.pid}"], "the file is named there, not what is in it"
    head.stop()
    wait_until(lambda: "lost the head" in mount.text(), "the mount has seen it")
    for process in (head, mount):
        places[process.log.name] = process.text()
    for name, text in places.items():
        for secret in secrets:
            assert secret not in text, name
