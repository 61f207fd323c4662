"""`./run`, the script: what it installs, when it asks a person to, and that the second call has nothing left to do.

A copy of the script runs in a checkout of its own, on a machine that is made of a few real programs and of stand-ins
for those that would change it (apt-get, sudo, python3 -m venv, pip).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

_REAL = [
    "sh",
    "sed",
    "cat",
    "cksum",
    "dirname",
    "tr",
    "mkdir",
    "flock",
    "mktemp",
    "tail",
    "rm",
    "ln",
    "cp",
    "chmod",
    "id",
]
_PYTHON = """#!/bin/sh
case "$*" in
    *version_info\\ \\<*) exit {too_old} ;;
    *python%d.%d*) echo python3.11 ;;
    *ensurepip*) [ -e "{root}/has-venv" ] ;;
    *get_paths*) echo "{root}/include" ;;
    --version) echo Python 3.11.2 ;;
    "-m venv "*)
        mkdir -p "$3/bin"
        printf '#!/bin/sh\\necho "$*" >>{root}/pip-calls\\ncp {root}/hello "%s/bin/hello"\\n' "$3" >"$3/bin/pip"
        chmod +x "$3/bin/pip" ;;
    *) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""


class Machine:
    """A machine with this user, where nothing that `run` needs is installed yet."""

    def __init__(self, root: Path, *, user: int, too_old: bool = False) -> None:
        self.root = root
        self.bin = root / "bin"
        self.checkout = root / "checkout"
        for folder in (self.bin, self.checkout, root / "include"):
            folder.mkdir(parents=True)
        for name in _REAL:
            found = shutil.which(name)
            assert found, name
            (self.bin / name).symlink_to(found)
        self.program("python3", _PYTHON.format(root=root, too_old=int(too_old)))
        self.program("id", f"#!/bin/sh\necho {user}\n")
        self.program("hello", "#!/bin/sh\necho hello $* from $(pwd)\n", folder=root)
        shutil.copy(REPOSITORY / "run", self.checkout)
        parts = ("dadafs", "dadafsd", "analysis")
        compiled = [path.parent for part in parts for path in (REPOSITORY / part).rglob("meson.build")]
        for folder in (REPOSITORY, *compiled):
            place = self.checkout / folder.relative_to(REPOSITORY)
            place.mkdir(parents=True, exist_ok=True)
            for name in ("meson.build", "pyproject.toml" if folder == REPOSITORY else "code.c"):
                (place / name).write_text("1\n")
        for name in ("README.md", "LICENSE"):
            (self.checkout / name).touch()
        for name in ("docs", "systemd", "completion"):
            (self.checkout / name).mkdir()

    def program(self, name: str, text: str, folder: Path | None = None) -> None:
        path = (folder or self.bin) / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def add_apt_get(self) -> None:
        """An apt-get that notes what it is asked for, and provides what can be provided by a stand-in."""
        self.program(
            "apt-get",
            f'#!/bin/sh\necho "$*" >>{self.root}/apt-calls\ntouch() {{ : >"$1"; }}\n'
            f"[ $1 = update ] && exit\ntouch {self.root}/has-venv\ntouch {self.root}/include/Python.h\n"
            f"for name in cc pkg-config fusermount3; do printf '#!/bin/sh\\n' >{self.bin}/$name; "
            f"chmod +x {self.bin}/$name; done\n",
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.checkout / "run"), *arguments],
            env={"PATH": str(self.bin), "HOME": str(self.root), "TMPDIR": str(self.root)},
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def calls(self, name: str) -> list[str]:
        path = self.root / f"{name}-calls"
        return path.read_text().splitlines() if path.exists() else []


def sentence(done: subprocess.CompletedProcess[str], after: str = "") -> str:
    """The one line in which it was refused, after one that has the word `after`, if any."""
    assert done.returncode == 1, done.stderr
    *before, line = done.stderr.splitlines()
    assert len(before) == bool(after)
    assert all(after in other for other in before)
    assert line.startswith("run: ")
    return line


def test_usage(tmp_path: Path) -> None:
    machine = Machine(tmp_path, user=1000)
    asked, lost = machine.run("--help"), machine.run()
    assert (asked.returncode, lost.returncode) == (0, 2)
    for done in (asked, lost):
        assert [line.split()[0:2] for line in done.stdout.splitlines()] == [
            ["./run", w] for w in ("demo", "test", "build", "CMD")
        ]


def test_the_readme_opens_with_the_two_commands() -> None:
    title, first, *_ = (REPOSITORY / "README.md").read_text().split("\n\n")
    assert title == "# dadafs"
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["./run demo", "./run test"]


@pytest.mark.parametrize("user", [0, 1000])
def test_no_python(tmp_path: Path, user: int) -> None:
    assert "Python 3.11 or newer is needed" in sentence(Machine(tmp_path, user=user, too_old=True).run("hello"))


def test_an_ordinary_user_is_told_what_to_ask_for(tmp_path: Path) -> None:
    machine = Machine(tmp_path, user=1000)
    machine.add_apt_get()
    line = sentence(machine.run("hello"))
    assert "please ask an administrator for: apt-get install" in line
    for package in ("python3.11-venv", "python3.11-dev", "gcc", "pkg-config", "fuse3"):
        assert f" {package} " in line
    assert machine.calls("apt") == []


def test_another_distribution_is_told_the_names(tmp_path: Path) -> None:
    line = sentence(Machine(tmp_path, user=0).run("hello"))
    assert "please install" in line
    assert "fuse3" in line


def test_tests_need_more(tmp_path: Path) -> None:
    line = sentence(Machine(tmp_path, user=0).run("test"))
    for package in ("git", "rsync", "attr", "acl"):
        assert f" {package} " in line


@pytest.mark.parametrize("user", [0, 1000])
def test_the_second_call_finds_all_done(tmp_path: Path, user: int) -> None:
    """As root, and as an ordinary user who may use sudo."""
    machine = Machine(tmp_path, user=user)
    machine.add_apt_get()
    if user:
        machine.program("sudo", f'#!/bin/sh\necho "$*" >>{tmp_path}/sudo-calls\n[ "$1" = -n ] && shift\nexec "$@"\n')
        machine.program("true", "#!/bin/sh\n")
    first = machine.run("hello", "a b")
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"hello a b from {tmp_path}\n", "in the folder where it was called"
    assert [call.split()[0] for call in machine.calls("apt")] == ["update", "install"]
    assert bool(machine.calls("sudo")) == bool(user)
    assert len(machine.calls("pip")) == 1
    second = machine.run("hello")
    assert (second.returncode, second.stderr) == (0, "")
    assert len(machine.calls("apt")) == 2
    assert len(machine.calls("pip")) == 1


@pytest.mark.parametrize(
    "changed",
    ["pyproject.toml", "meson.build", "analysis/dada/kernels/code.c", "dadafs/native/code.c", "dadafsd/native/code.c"],
)
def test_the_environment_is_made_again_when_what_it_is_made_of_changes(tmp_path: Path, changed: str) -> None:
    machine = Machine(tmp_path, user=0)
    machine.add_apt_get()
    assert machine.run("hello").returncode == 0
    (machine.checkout / changed).write_text("2\n")
    assert machine.run("hello").returncode == 0
    assert len(machine.calls("pip")) == 2


def test_an_environment_that_cannot_be_written(tmp_path: Path) -> None:
    machine = Machine(tmp_path, user=0)
    machine.add_apt_get()
    (machine.checkout / ".venv").write_text("a file is in the way, for root too")
    assert "name another folder in DADA_VENV" in sentence(machine.run("hello"), "installing")


def test_an_unknown_command(tmp_path: Path) -> None:
    machine = Machine(tmp_path, user=0)
    machine.add_apt_get()
    assert machine.run("hello").returncode == 0
    assert "there is no command nonsense" in sentence(machine.run("nonsense"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_checkout_that_belongs_to_somebody_else(tmp_path: Path) -> None:
    machine = Machine(tmp_path, user=0)
    machine.add_apt_get()
    machine.checkout.chmod(0o555)
    try:
        assert machine.run("hello").returncode == 0
    finally:
        machine.checkout.chmod(0o755)
    venv = tmp_path / ".cache" / "dadafs" / "venv"
    assert machine.calls("pip")[0].endswith(f" {venv}/source"), "the build cannot write into the checkout"
    assert (venv / "source" / "dadafs" / "native" / "meson.build").exists()
    assert (venv / "bin" / "hello").exists()


def test_the_copy_that_is_built_from_has_all_that_the_wheel_takes() -> None:
    (copied,) = re.findall(r'cp -R (.*) "\$venv/source"', (REPOSITORY / "run").read_text())
    named = re.findall(r"'([^']+)'", (REPOSITORY / "meson.build").read_text())
    taken = {name.split("/")[0] for name in named if (REPOSITORY / name).exists()}
    assert {"dadafs", "docs", "completion"} <= taken <= set(copied.split())
