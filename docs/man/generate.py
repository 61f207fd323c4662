"""Writes the manual pages beside this file from the commands and settings: `./run python docs/man/generate.py`.

What a command does, its options and its settings come from the code, exit codes from docs/administration.md; only what
is in `PAGES` is written by hand. The pages are kept in the repository, so that building a wheel imports nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from dada.cli import dada
from dadafs import __version__, cli, mount_options
from dadafs.ctl.cli import cli as ctl
from dadafs.settings import Kind, Setting
from dadafsd import config
from dadafsd.cli import command as dadafsd

HERE = Path(__file__).resolve().parent
ADMINISTRATION = HERE.parent / "administration.md"


@dataclass(frozen=True)
class Page:
    """One page; `command` None for what is no command of click. `sections` follow the description."""

    name: str
    section: int
    summary: str
    command: click.Command | None = None
    synopsis: tuple[str, ...] = ()
    description: str = ""
    sections: dict[str, Callable[[], Iterable[str]]] = field(default_factory=dict)
    exit_codes: bool = True

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.name}.{self.section}"


# --- roff ---------------------------------------------------------------------------------------------------------


def escape(text: str) -> str:
    """`text` as roff shows it literally."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"(?m)^([.'])", r"\\&\1", text)


def sentence(text: str) -> str:
    """`text` with a capital at its beginning and a full stop at its end."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}" if text else ""


def paragraphs(text: str) -> Iterator[str]:
    """Text with empty lines between its paragraphs; click's `\\b` keeps lines as they are."""
    for block in re.split(r"\n\s*\n", text.strip()):
        kept = block.startswith("\b")
        lines = [line.strip() if not kept else line for line in block.lstrip("\b\n").splitlines()]
        yield ".PP"
        if kept:
            yield from (".nf", *map(escape, lines), ".fi")
        else:
            yield escape(" ".join(lines))


def tagged(tag: str, text: str) -> Iterator[str]:
    """A term and what it means."""
    yield from (".TP", f"\\fB{escape(tag)}\\fR", escape(text or "See above."))


def example(*lines: str) -> Iterator[str]:
    """Lines as they are typed."""
    yield from (".PP", ".nf", ".RS", *map(escape, lines), ".RE", ".fi")


# --- commands and settings ----------------------------------------------------------------------------------------


def usage(name: str, command: click.Command) -> str:
    """One line of a synopsis."""
    pieces = command.collect_usage_pieces(click.Context(command, info_name=name))
    return " ".join((name, *pieces))


def options(command: click.Command) -> Iterator[str]:
    """Every option of one command."""
    context = click.Context(command, info_name=command.name)
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            record = parameter.get_help_record(context)
            assert record is not None
            yield from tagged(record[0], sentence(record[1]))
    yield from tagged("-h, --help", "Show the help and exit.")


def subcommands(name: str, group: click.Group, heading: str = "") -> Iterator[str]:
    """Every command of a group with its options, groups within it included."""
    for word, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from subcommands(f"{name} {word}", command, f"{heading}{word} ")
            continue
        yield f".SS {escape(usage(heading + word, command))}"
        yield from paragraphs(command.help or "")
        yield from options(command)


def settings(found: Iterable[Setting]) -> Iterator[str]:
    """Every setting with its kind, default and meaning."""
    for setting in found:
        default = setting.format(setting.default)
        choices = f", one of {', '.join(setting.choices)}" if setting.choices else ""
        kind = f"{setting.kind.value}{choices}" + (f"; {default} if not given" if default else "")
        live = " Changeable while it runs (dadafsctl set)." if setting.live else ""
        yield from tagged(setting.name, f"{sentence(f'{setting.help} ({kind})')}{live}")


def mount_settings() -> Iterator[str]:
    """What may stand behind -o."""
    for setting in mount_options.SCHEMA.settings.values():
        tag = setting.name if setting.kind is Kind.BOOL else f"{setting.name}={setting.kind.name}"
        default = setting.format(setting.default)
        yield from tagged(tag, sentence(setting.help + (f" (default {default})" if default else "")))
    yield from tagged("soft", "The opposite of hard.")
    yield from paragraphs("What mount(8) and fstab know besides (ro, _netdev, nofail, noauto, x-*, ...) is accepted.")


def exit_codes() -> Iterator[str]:
    """The table of docs/administration.md."""
    table = ADMINISTRATION.read_text(encoding="utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    for code, meaning in re.findall(r"^\| (\d+) \| (.*?) \|$", table, re.MULTILINE):
        yield from tagged(code, sentence(meaning))


# --- the pages ----------------------------------------------------------------------------------------------------


PAGES = (
    Page(
        "dadafs",
        1,
        "read-only, caching network file system for detector data",
        cli.cli,
        description="Mounts the exports of a head, dadafsd(8), and looks after the mounts of a node.",
        sections={
            "COMMANDS": lambda: subcommands("dadafs", cli.cli),
            "FILES": lambda: [
                *tagged("/etc/dadafs/dadafs.toml", "Settings of mounts, named as in mount.dadafs(8)."),
                *tagged("/etc/dadafs/key", "The key shared with the head, mode 600."),
                *tagged("MOUNTPOINT/.dadafs/", "stats, stats.json, config and log of a mount; not listed, but there."),
                *tagged("/run/dadafs/mount-*.sock", "Where a mount process answers, for everybody."),
            ],
            "SIGNALS": lambda: [
                *tagged("SIGTERM", "Unmount; where the mount is in use it is detached after 2 s."),
                *tagged("SIGUSR1", "Write the stacks of all threads to the log."),
            ],
        },
    ),
    Page(
        "dadafs-mount",
        8,
        "mount an export of a head",
        cli.cli.commands["mount"],
        description=(
            "Where the file system does not answer it fails with a reason. A supervisor stays behind that replaces "
            "the mount process when it dies or is stuck (option watchdog); with --foreground systemd does that."
        ),
        sections={
            "EXAMPLES": lambda: example(
                "dadafs mount head:/beamline /beamline -o allow_other,freshness=1s",
                "dadafs mount [2001:db8::1]:7070:/beamline /beamline --key-file /etc/dadafs/key",
            )
        },
    ),
    Page(
        "mount.dadafs",
        8,
        "helper of mount(8) for dadafs",
        synopsis=(
            "mount -t dadafs HOST[:PORT]:/EXPORT MOUNTPOINT [-o OPTIONS]",
            "mount.dadafs HOST[:PORT]:/EXPORT MOUNTPOINT [-sfnv] [-o OPTIONS]",
        ),
        description=(
            "Called by mount(8), for lines of fstab(5) and by automount(8); does what dadafs-mount(8) does. With -f it "
            "checks its arguments and mounts nothing; -s, -n and -v change nothing."
        ),
        sections={
            "OPTIONS": mount_settings,
            "EXAMPLES": lambda: example(
                "# /etc/fstab",
                "head:/beamline  /beamline  dadafs  ro,_netdev,nofail,allow_other,key_file=/etc/dadafs/key  0 0",
                "",
                "# a map of autofs",
                "p10  -fstype=dadafs,allow_other,key_file=/etc/dadafs/key  :head:/beamline",
            ),
        },
    ),
    Page(
        "dadafsd",
        8,
        "head of dadafs: caches and serves directories to nodes",
        dadafsd,
        description="Runs in the foreground until SIGTERM. Options come before what dadafsd.toml(5) says.",
        sections={
            "SIGNALS": lambda: [
                *tagged("SIGTERM, SIGINT", "Drain: nodes are told, what is under way is finished, then it ends."),
                *tagged(
                    "SIGHUP", "Read configuration, keys and certificates again; what needs a restart is logged by name."
                ),
                *tagged("SIGUSR1", "Write the stacks of all threads and tasks to stderr."),
            ],
            "FILES": lambda: tagged("/etc/dadafs/dadafsd.toml", "The configuration, unless --config names others."),
        },
    ),
    Page(
        "dadafsd.toml",
        5,
        "configuration of a dadafs head",
        synopsis=("/etc/dadafs/dadafsd.toml",),
        description=(
            "TOML. Sizes are written as 128MiB or 3.4TiB, durations as 250ms, 30s or 2h. The environment (DADAFSD_NAME "
            "for the setting name) and options of dadafsd(8) come before the file; dadafsd --show-config prints every "
            "value with its source. What is unknown or wrong is refused at the start, naming the nearest known name."
        ),
        sections={
            "SETTINGS": lambda: settings(config.SCHEMA.settings.values()),
            "[[export]]": lambda: [
                *paragraphs("A table an export."),
                *settings(config.SCHEMA.tables["export"].settings.values()),
            ],
            "[[tier]]": lambda: [
                *paragraphs("A table a cache directory."),
                *settings(config.SCHEMA.tables["tier"].settings.values()),
            ],
            "EXAMPLE": lambda: example(
                'listen = "0.0.0.0:7070"',
                'key_file = "/etc/dadafs/key"',
                'admin_socket = "/run/dadafsd/admin.sock"',
                "",
                "[[export]]",
                'name = "beamline"',
                'directory = "/srv/nfs/beamline"',
                "",
                "[[tier]]",
                'directory = "/ssd/dadafs"',
                'size = "3TiB"',
            ),
        },
        exit_codes=False,
    ),
    Page(
        "dadafsctl",
        8,
        "look after a dadafs head",
        ctl,
        description="Talks to the admin socket of a head, which belongs to its owner.",
        sections={"COMMANDS": lambda: subcommands("dadafsctl", ctl)},
    ),
    Page(
        "dada",
        1,
        "reductions of scanning diffraction and STXM data",
        dada,
        description="Reduces the frames of a scan to maps. A result that was computed once is not computed again.",
        sections={
            "COMMANDS": lambda: subcommands("dada", dada),
            "EXAMPLES": lambda: example(
                "dada stxm /beamline/scan_00017_master.h5 --shape 250x250 --png maps.png",
                "dada simulate /tmp/scan --shape 50x50",
            ),
        },
    ),
)


def render(page: Page) -> str:
    """The roff of one page."""
    lines = [f'.TH "{page.name.upper()}" "{page.section}" "" "dadafs {__version__}" "dadafs"', ".SH NAME"]
    lines += [f"{escape(page.name)} \\- {escape(page.summary)}", ".SH SYNOPSIS", ".nf"]
    name = page.name if page.name != "dadafs-mount" else "dadafs mount"
    synopsis = page.synopsis or (usage(name, page.command) if page.command else "",)
    lines += [escape(line) for line in ((synopsis,) if isinstance(synopsis, str) else synopsis)]
    lines += [".fi", ".SH DESCRIPTION"]
    if page.command is not None:
        lines += paragraphs(page.command.help or "")
    lines += paragraphs(page.description)
    if page.command is not None:
        lines += [".SH OPTIONS", *options(page.command)]
    for heading, content in page.sections.items():
        lines += [f'.SH "{heading}"', *content()]
    if page.exit_codes:
        lines += [".SH EXIT STATUS", *exit_codes()]
    others = [f"\\fB{escape(each.name)}\\fR({each.section})" for each in PAGES if each is not page]
    lines += [".SH SEE ALSO", ", ".join(others)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write all pages."""
    for page in PAGES:
        (HERE / page.file).write_text(render(page), encoding="utf-8")


if __name__ == "__main__":
    main()
