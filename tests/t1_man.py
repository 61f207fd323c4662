"""The manual pages know every command, option, setting and exit code, no other ones, and the wheel has them all."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dada.cli import dada
from dadafs.cli import cli as dadafs
from dadafs.ctl.cli import cli as dadafsctl
from dadafs.errors import ExitCode
from dadafs.mount_options import SCHEMA as MOUNT
from dadafsd.cli import command as dadafsd
from dadafsd.config import SCHEMA as HEAD
from tests.conftest import REPOSITORY

PAGES = REPOSITORY / "docs" / "man"
COMMANDS = {
    "dadafs.1": dadafs,
    "dadafs-mount.8": dadafs.commands["mount"],
    "dadafsctl.8": dadafsctl,
    "dadafsd.8": dadafsd,
    "dada.1": dada,
}
ALL = [*COMMANDS, "mount.dadafs.8", "dadafsd.toml.5"]
HOW = "`./run python docs/man/generate.py` writes the pages anew"


def text(page: str) -> str:
    """A page without its markup."""
    plain = re.sub(r"\\f[BRI]", "", (PAGES / page).read_text())
    return plain.replace("\\-", "-").replace("\\&", "").replace("\\e", "\\")


def commands(command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, with their names."""
    yield "", command
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            for rest, below in commands(each):
                yield f"{name} {rest}".strip(), below


def options(command: click.Command) -> set[str]:
    """The long options of a command and all below it."""
    return {
        word
        for _, each in commands(command)
        for parameter in each.params
        if isinstance(parameter, click.Option) and not parameter.hidden
        for word in (*parameter.opts, *parameter.secondary_opts)
        if word.startswith("--")
    }


@pytest.mark.parametrize("page", COMMANDS)
def test_every_option_is_described_and_no_other(page: str) -> None:
    terms = re.findall(r"^\.TP\n(-.*)$", text(page), re.MULTILINE)
    described = {word for term in terms for word in re.findall(r"--[\w-]+", term)}
    assert described - {"--help"} == options(COMMANDS[page]) - {"--help"}, HOW


@pytest.mark.parametrize("page", ["dadafs.1", "dadafsctl.8", "dada.1"])
def test_every_command_is_described(page: str) -> None:
    headings = re.findall(r"^\.SS (.*)$", text(page), re.MULTILINE)
    for name, command in commands(COMMANDS[page]):
        if not isinstance(command, click.Group):
            assert any(heading.startswith(name) for heading in headings), f"{name}: {HOW}"


def test_every_setting_is_described() -> None:
    terms = set(re.findall(r"^\.TP\n(\w+)", text("dadafsd.toml.5"), re.MULTILINE))
    for schema in (HEAD, *HEAD.tables.values()):
        assert schema.settings.keys() <= terms, HOW
    assert MOUNT.settings.keys() <= set(re.findall(r"^\.TP\n(\w+)", text("mount.dadafs.8"), re.MULTILINE)), HOW


@pytest.mark.parametrize("page", [page for page in ALL if page != "dadafsd.toml.5"])
def test_every_exit_code_is_described(page: str) -> None:
    codes = re.findall(r"^\.TP\n(\d+)$", text(page).partition(".SH EXIT STATUS")[2], re.MULTILINE)
    assert [int(code) for code in codes] == sorted(ExitCode), HOW


@pytest.mark.parametrize("page", ALL)
def test_man_shows_them_without_complaint(page: str) -> None:
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("man and groff are not installed")
    command = ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", str(PAGES / page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""
    for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO"):
        assert re.search(rf"^{heading}$", re.sub(r".\x08|\x1b\[[\d;]*m", "", done.stdout), re.MULTILINE)


def test_the_wheel_takes_every_page_along() -> None:
    listed = re.findall(r"docs/man/([\w.-]+)", (REPOSITORY / "meson.build").read_text())
    assert sorted(listed) == sorted(path.name for path in Path(PAGES).glob("*.[0-9]"))
    assert sorted(listed) == sorted(ALL)
