"""Mistakes in how a head is started: one clear sentence and an exit code each, never a traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dadafs.errors import ExitCode


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    return tree


def refused(*options: str | Path, before: Sequence[str] = ()) -> tuple[int, str]:
    """The exit code and the sentence."""
    ended = subprocess.run(
        [*before, sys.executable, "-m", "dadafsd", "--listen", "127.0.0.1:0", *map(str, options)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    return ended.returncode, ended.stderr


def test_nothing_to_serve() -> None:
    code, text = refused()
    assert code == ExitCode.USAGE
    assert "--export NAME=DIR" in text


def test_export_directory_missing_or_a_file(tmp_path: Path) -> None:
    code, text = refused("--export", f"data={tmp_path}/missing")
    assert code == ExitCode.USAGE
    assert f"{tmp_path}/missing: No such file" in text
    (tmp_path / "file").write_text("x")
    code, text = refused("--export", f"data={tmp_path}/file")
    assert code == ExitCode.USAGE
    assert "Not a directory" in text


def test_listening_to_the_world_without_authentication(tree: Path) -> None:
    code, text = refused("--export", f"data={tree}", "--listen", "0.0.0.0:0")
    assert code == ExitCode.USAGE
    assert "without authentication" in text
    assert "--insecure-no-auth" in text


@pytest.mark.parametrize("problem", ["missing", "readable by others", "empty"])
def test_key_file(tree: Path, tmp_path: Path, problem: str) -> None:
    key = tmp_path / "key"
    if problem != "missing":
        key.write_text("" if problem == "empty" else "a secret that is long enough\n")
        key.chmod(0o644 if problem == "readable by others" else 0o600)
    code, text = refused("--export", f"data={tree}", "--key-file", key)
    assert code == ExitCode.USAGE
    assert str(key) in text


def test_port_in_use(tree: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, text = refused("--export", f"data={tree}", "--listen", f"127.0.0.1:{port}")
    assert code == ExitCode.FAILED
    assert "another process uses that port" in text


def test_cache_directory(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    code, text = refused("--export", f"data={tree}", "--cache-dir", tmp_path / "file")
    assert code == ExitCode.CACHE
    assert str(tmp_path / "file") in text
    code, text = refused("--export", f"data={tree}", "--cache-dir", tree / "cache")
    assert code == ExitCode.USAGE
    assert "inside export data" in text


def test_all_squash_without_the_right_to_become_somebody(tree: Path, tmp_path: Path) -> None:
    file = tmp_path / "dadafsd.toml"
    file.write_text(f'[[export]]\nname = "data"\ndirectory = "{tree}"\nall_squash = true\n')
    without = "-setuid,-setgid"
    before = ("setpriv", "--bounding-set", without, "--inh-caps", without) if os.geteuid() == 0 else ()
    code, text = refused("--config", file, before=before)
    assert code == ExitCode.USAGE
    assert "CAP_SETUID" in text


@pytest.mark.parametrize(
    "text",
    [
        "memroy = '1GiB'",
        "memory = 'much'",
        "[[export]]\nname = 'a'",
        "[[export]]\nname = 'a/b'\ndirectory = '/tmp'",
        "[[export]]\nname = 'a'\ndirectory = '/tmp'\nnodes = ['10.0.0.0/99']",
        "[[export]]\nname = 'a'\ndirectory = '/tmp'\nfragment_size = '3MiB'",
        "[[tier]]\nsize = '1GiB'",
        "not toml",
    ],
)
def test_configuration_file(tree: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "dadafsd.toml"
    file.write_text(text)
    code, said = refused("--config", file, "--export", f"data={tree}")
    assert code == ExitCode.USAGE
    assert said.startswith("dadafsd: ")


def test_show_config_names_sources(tmp_path: Path, tree: Path) -> None:
    file = tmp_path / "dadafsd.toml"
    file.write_text(f"memory = '32MiB'\n[[export]]\nname = 'data'\ndirectory = '{tree}'\nwatch = 'poll'\n")
    shown = subprocess.run(
        [sys.executable, "-m", "dadafsd", "--config", file, "--cache-size", "1GiB", "--show-config"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "DADAFSD_DRAIN": "3s"},
    ).stdout
    lines = {line.split()[0]: line for line in shown.splitlines()}
    assert "32MiB" in lines["memory"]
    assert str(file) in lines["memory"]
    assert "flag --cache-size" in lines["cache_size"]
    assert "environment DADAFSD_DRAIN" in lines["drain"]
    assert "poll" in lines["export[0].watch"]
