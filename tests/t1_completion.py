"""Tab completes commands and options of every program in bash and zsh, with the files that the wheel installs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dadafs.ctl.cli import PROGRAMS
from tests.conftest import REPOSITORY

FILES = REPOSITORY / "completion"
MAIN = {"dadafs": "dadafs.cli", "dadafsd": "dadafsd.cli", "dadafsctl": "dadafs.ctl.cli", "dada": "dada.cli"}


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with the programs as pip installs them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for program, module in MAIN.items():
        (folder / program).write_text(f"#!{sys.executable}\nfrom {module} import main\nmain()\n")
        (folder / program).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("program", "begun", "whole"),
    [
        ("dadafs", "sta", "status"),
        ("dadafsd", "--list", "--listen"),
        ("dadafsctl", "verif", "verify"),
        ("dada", "stx", "stxm"),
    ],
)
def test_bash_completes_a_word(path: str, program: str, begun: str, whole: str) -> None:
    asked = f"""
    source {FILES}/bash/{program}
    COMP_WORDS=({program} {begun}) COMP_CWORD=1
    _{program}_completion {program}
    printf '%s\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", asked],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == [whole], done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_zsh_takes_the_file_for_the_program(program: str) -> None:
    file = FILES / "zsh" / f"_{program}"
    assert file.read_text().startswith(f"#compdef {program}\n")
    assert f"_{program.upper()}_COMPLETE=zsh_complete {program}" in file.read_text()
    if shutil.which("zsh") is not None:
        subprocess.run(["zsh", "-n", str(file)], check=True, timeout=120)


def test_there_is_a_file_for_each_program_and_no_other() -> None:
    assert sorted(each.name for each in (FILES / "bash").iterdir()) == sorted(PROGRAMS)
    assert sorted(each.name for each in (FILES / "zsh").iterdir()) == sorted(f"_{each}" for each in PROGRAMS)
    meson = (REPOSITORY / "meson.build").read_text()
    assert "'completion/bash'" in meson
    assert "'completion/zsh'" in meson
