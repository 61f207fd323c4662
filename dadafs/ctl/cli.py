"""The `dadafsctl` command line. Every command takes `--json`; what it prints then is what the head answered."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from dadafs import __version__
from dadafs.cli import run_command
from dadafs.ctl import mount_screens, screens
from dadafs.ctl.client import DEFAULT_SOCKET, Head, Reply
from dadafs.ctl.mountpoint import Mountpoint
from dadafs.ctl.places import in_export, mount_of
from dadafs.errors import ExitCode, UserError
from dadafs.mount_table import mounts
from dadafs.quantity import format_duration, format_size, parse_duration

Command = Callable[..., Any]
#: All that a shell completes.
PROGRAMS = ("dadafs", "dadafsd", "dadafsctl", "dada")


class Context:
    """What all commands share: the head (connected on first use) and how to print."""

    def __init__(self, socket: str | None, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False, soft_wrap=False, markup=False, emoji=False)
        self._socket = socket
        self._head: Head | None = None

    @property
    def named_a_head(self) -> bool:
        """Whether somebody said which head is meant; otherwise it is the one of this machine, if there is one."""
        return bool(self._socket or os.environ.get("DADAFS_ADMIN_SOCKET"))

    @property
    def head(self) -> Head:
        if self._head is None:
            self._head = Head(self._socket)
        return self._head

    def target(self, mountpoint: str | None) -> Head | Mountpoint:
        """The head, or the mount that was named."""
        return self.head if mountpoint is None else Mountpoint(mountpoint)

    def ask(self, command: str, path: str, export: str | None, **fields: object) -> Reply:
        """Ask the head about a path as a person wrote it: in the export, on a mount, or in the exported directory."""
        try:
            exports = self.head.ask("status")["exports"] if path.startswith("/") else []
        except UserError as problem:
            mount = mount_of(os.path.normpath(path), mounts())
            if mount is None or self.named_a_head:
                raise
            raise UserError(f"{problem} {path} is on {mount.source}: ask there.", problem.exit_code) from None
        export, path = in_export(path, export, exports, mounts())
        return self.head.ask(command, path=path, export=export, **fields)

    def show(self, reply: Reply, render: Callable[[], object]) -> None:
        """The reply as JSON, or what `render` makes of it."""
        if self.as_json:
            click.echo(json.dumps(reply, indent=2))
        else:
            self.console.print(render())

    def follow(self, job: Reply) -> None:
        """Show a job until it has ended; a job that failed is an error."""
        if self.as_json:
            job = self.head.follow(job, lambda _: None)
            click.echo(json.dumps(job, indent=2))
        else:
            job = self._follow_with_bar(job)
            for problem in job["problems"]:
                self.console.print(str(problem))
            if job["state"] == "done":
                self.console.print(screens.job_result(job))
        if job["state"] not in {"done", "running"}:
            raise UserError(f"{job['kind']} {job['target']} {job['state']}: {job['message'] or 'no reason given'}")

    def _follow_with_bar(self, job: Reply) -> Reply:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[size]}"))
        with Progress(*columns, TimeElapsedColumn(), console=self.console) as bar:
            task = bar.add_task(f"{job['kind']} {job['target']}", total=None, size="")

            def show(job: Reply) -> None:
                bar.update(task, completed=job["done"], total=job["total"] or None, size=format_size(job["bytes"]))

            return self.head.follow(job, show)


pass_context = click.make_pass_decorator(Context)


class _Command(click.Command):
    """A command that takes --json behind its name, too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(["--json"], is_flag=True, expose_value=False, callback=_as_json, help="Print JSON.")
        )


class _Group(click.Group):
    command_class = _Command


def _as_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().obj.as_json = True


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="dadafsctl")
@click.option("--socket", metavar="PATH", help=f"Admin socket of the head.  [DADAFS_ADMIN_SOCKET, {DEFAULT_SOCKET}]")
@click.option("--json", "as_json", is_flag=True, help="Print what the head answers as JSON.")
@click.pass_context
def cli(context: click.Context, socket: str | None, as_json: bool) -> None:
    """Look at a running head or mount, and change it while it runs.

    PATH is a path in an export, or one that lies on a dadafs mount or in the exported directory on this machine.
    """
    context.obj = Context(socket, as_json)


def _export(command: Command) -> Command:
    return click.option("--export", metavar="NAME", help="Which export, where the head has several.")(command)


def _setting_names(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """For the shell: names of settings of the head that begin so; none where it does not answer."""
    only_live = context.command.name != "get"
    try:
        rows = Head(context.find_root().params.get("socket"), patience=2.0).ask("get")["settings"]
    except UserError:
        return []
    end = "=" if context.command.name == "set" else ""
    return [row["name"] + end for row in rows if row["name"].startswith(begun) and (row["live"] or not only_live)]


def _mount(command: Command) -> Command:
    return click.option("--mount", "mountpoint", metavar="MOUNTPOINT", help="Of this mount, not of the head.")(command)


# --- looking ------------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("mountpoint", required=False)
@pass_context
def status(context: Context, mountpoint: str | None) -> None:
    """One screen: tiers, hit ratios, origin, nodes; or the status of the mount at MOUNTPOINT."""
    if mountpoint is not None:
        from dadafs.cli import mount_status
        from dadafs.report import render

        report = mount_status(mountpoint)
        context.show(report, lambda: render(report))
        return
    answer, counters = context.head.ask("status"), context.head.ask("counters")
    sessions = context.head.ask("sessions")["sessions"]
    whole = answer | {"counters": counters, "nodes": sessions}
    context.show(whole, lambda: screens.status_screen(answer, counters, sessions))


@cli.command()
@click.option("--interval", default="1s", show_default=True, help="How often.")
@click.option("--count", type=click.IntRange(1), help="End after so many screens.")
@click.argument("mountpoint", required=False)
@pass_context
def top(context: Context, mountpoint: str | None, interval: str, count: int | None) -> None:
    """Live: who reads how much from which tier, and what had to wait; on the head, or on the mount at MOUNTPOINT."""
    pause = parse_duration(interval)
    if mountpoint is not None:
        _top_of_mount(context, Mountpoint(mountpoint), pause, count)
        return
    before = context.head.ask("counters")
    with Live(console=context.console, auto_refresh=False, transient=False) as live:
        while count is None or count > 0:
            time.sleep(pause)
            after = context.head.ask("counters")
            sessions, recent = context.head.ask("sessions"), context.head.ask("recent", limit=15)
            if context.as_json:
                click.echo(json.dumps({"before": before, "after": after} | sessions | recent))
            else:
                live.update(screens.top_screen(before, after, sessions, recent), refresh=True)
            before = after
            count = count and count - 1


def _top_of_mount(context: Context, mount: Mountpoint, pause: float, count: int | None) -> None:
    before, begun = mount.ask("activity"), time.monotonic()
    with Live(console=context.console, auto_refresh=False, transient=False) as live:
        while count is None or count > 0:
            time.sleep(pause)
            after, now = mount.ask("activity"), time.monotonic()
            if context.as_json:
                click.echo(json.dumps({"before": before, "after": after}))
            else:
                live.update(mount_screens.top_screen(before, after, now - begun), refresh=True)
            before, begun = after, now
            count = count and count - 1


@cli.command()
@click.argument("path")
@_export
@pass_context
def cached(context: Context, path: str, export: str | None) -> None:
    """How much of PATH each tier of the head holds, and on a mount, how much the memory of this node."""
    mount = Mountpoint.of(path)
    if mount is None:
        reply = context.ask("cached", path, export)
        context.show(reply, lambda: screens.cached_screen(reply, path))
        return
    node = mount.ask("cached", path=mount.below(path))
    try:
        head = context.ask("cached", path, export)
    except UserError:
        if context.named_a_head:
            raise
        context.show({"node": node}, lambda: mount_screens.cached_screen(node, path, mount.mount.source))
        return
    context.show(head | {"node": node}, lambda: screens.cached_screen(head, path, node["memory"]))


@cli.command()
@click.argument("path")
@_export
@pass_context
def explain(context: Context, path: str, export: str | None) -> None:
    """Why was reading PATH slow: which tier answered, how long that took, and for which node, or process of a mount."""
    mount = Mountpoint.of(path)
    if mount is not None:
        reads = mount.ask("activity", path=mount.below(path), limit=1000)["reads"]
        context.show({"reads": reads}, lambda: mount_screens.explain_screen(reads, path))
        return
    where = context.ask("cached", path, export)
    reads = context.ask("recent", path, export, limit=1000)["reads"]
    context.show({"cached": where, "reads": reads}, lambda: screens.explain_screen(reads, where, path))


@cli.command()
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="File to write.  [dadafs-bundle-TIME.json]")
@click.argument("mountpoint", required=False)
@pass_context
def bundle(context: Context, mountpoint: str | None, output: str | None) -> None:
    """Everything for a bug report about the head, or the mount at MOUNTPOINT, in one file; holds no secrets.

    Works for a mount that hangs: what the kernel and the mount process say is asked for without touching the mount.
    """
    output = output or time.strftime("dadafs-bundle-%Y%m%d-%H%M%S.json")
    content = context.head.ask("bundle") if mountpoint is None else Mountpoint(mountpoint).bundle()
    with open(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # names of files are in it
        json.dump(content, file, indent=1)
    context.show({"file": output}, lambda: f"Everything is in {output}; look through it before you send it away.")


# --- settings -----------------------------------------------------------------------------------------------------


@cli.command(name="get")
@click.argument("name", required=False, shell_complete=_setting_names)
@click.option("--show-config", is_flag=True, help="All settings, not only those that `set` can change.")
@_mount
@pass_context
def get_command(context: Context, name: str | None, show_config: bool, mountpoint: str | None) -> None:
    """Settings that can be changed while the head (or a mount) runs, or NAME: value, source, what is left of --for."""
    reply = context.target(mountpoint).ask("get", name=name)
    if name is None and not show_config:
        reply["settings"] = [row for row in reply["settings"] if row["live"]]
    context.show(reply, lambda: screens.settings_screen(reply["settings"]))


@cli.command(name="set")
@click.argument("setting", metavar="NAME=VALUE", shell_complete=_setting_names)
@click.option("--for", "how_long", metavar="TIME", help="Fall back by itself after so long, e.g. 2h.")
@_mount
@pass_context
def set_command(context: Context, setting: str, how_long: str | None, mountpoint: str | None) -> None:
    """Change a setting of the running head, or of a mount."""
    name, equals, value = setting.partition("=")
    if not equals:
        raise UserError(f"Write NAME=VALUE, for example tier.ssd.size=2TiB, not {setting}.")
    seconds = None if how_long is None else parse_duration(how_long)
    reply = context.target(mountpoint).ask("set", name=name.strip(), value=value.strip(), seconds=seconds)
    row = reply["setting"]
    until = "" if seconds is None else f" for {format_duration(seconds)}"
    shown = screens.setting_value(row["name"], row["value"])
    context.show(reply, lambda: f"{row['name']} is {shown}{until}.")


@cli.command()
@click.argument("name", shell_complete=_setting_names)
@_mount
@pass_context
def reset(context: Context, name: str, mountpoint: str | None) -> None:
    """Take a live change back."""
    reply = context.target(mountpoint).ask("reset", name=name)
    value = screens.setting_value(name, reply["setting"]["value"])
    context.show(reply, lambda: f"{name} is {value} again.")


# --- the cache ----------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("path")
@_export
@click.option(
    "--follow",
    metavar="[TIME]",
    is_flag=False,
    flag_value="1min",
    help="Go on while the scan is written, until nothing changed for TIME (1min if behind PATH without one).",
)
@click.option("--no-links", is_flag=True, help="Do not follow the external links of HDF5 files.")
@pass_context
def warm(context: Context, path: str, export: str | None, follow: str | None, no_links: bool) -> None:
    """Bring PATH, and what HDF5 master files there link to, into the cache."""
    seconds = 0 if follow is None else parse_duration(follow)
    reply = context.ask("warm", path, export, follow=seconds, links=not no_links)
    context.follow(reply["job"])


@cli.command()
@click.argument("path")
@_export
@click.option("--for", "how_long", default="7d", show_default=True, metavar="TIME", help="How long.")
@click.option("--no-warm", is_flag=True, help="Keep what is cached, fetch nothing.")
@pass_context
def pin(context: Context, path: str, export: str | None, how_long: str, no_warm: bool) -> None:
    """Keep PATH in the cache for some time."""
    seconds = parse_duration(how_long)
    reply = context.ask("pin", path, export, seconds=seconds, warm=not no_warm)
    context.show(reply, lambda: f"{path} is kept until {time.ctime(reply['until'])}.")
    if reply["job"] is not None and not context.as_json:
        context.follow(reply["job"])


@cli.command()
@click.argument("path")
@_export
@pass_context
def unpin(context: Context, path: str, export: str | None) -> None:
    """PATH may be evicted again."""
    reply = context.ask("unpin", path, export)
    context.show(reply, lambda: f"{path} may be evicted again.")


@cli.command()
@pass_context
def pins(context: Context) -> None:
    """What is pinned, and until when."""
    reply = context.head.ask("pins")
    rows = [(row["export"], row["path"], row["files"], time.ctime(row["until"])) for row in reply["pins"]]
    context.show(reply, lambda: screens.table(("export", "path", "files ", "until"), rows))


@cli.command()
@click.argument("path", required=False)
@_export
@click.option("--all", "everything", is_flag=True, help="Instead of a PATH: of the whole export, or of all.")
@pass_context
def evict(context: Context, path: str | None, export: str | None, everything: bool) -> None:
    """Delete what is cached of PATH."""
    if (path is None) is not everything:
        raise UserError("Give a PATH, or --all to delete everything that is cached.", ExitCode.USAGE)
    reply = context.head.ask("evict", export=export) if path is None else context.ask("evict", path, export)
    rest = "" if reply["complete"] else f" {screens.INCOMPLETE} Evict again later for the rest."
    context.show(reply, lambda: f"{reply['evicted']} fragments deleted.{rest}")


@cli.command()
@click.argument("path", required=False)
@_export
@click.option("--sample", default="100%", show_default=True, help="How much of what is cached, e.g. 1%.")
@click.option("--against-origin", is_flag=True, help="Compare with the bytes of the files, at or below PATH or all.")
@pass_context
def verify(context: Context, path: str | None, export: str | None, sample: str, against_origin: bool) -> None:
    """Check what is cached, by its checksums or against the origin; what is wrong is deleted and listed."""
    try:
        part = float(sample.removesuffix("%")) / (100 if sample.endswith("%") else 1)
    except ValueError:
        raise UserError(f"Write a share like 1% or 0.01, not {sample}.") from None
    if path is None:
        reply = context.head.ask("verify", sample=part, export=export, against_origin=against_origin)
    else:
        reply = context.ask("verify", path, export, sample=part, against_origin=against_origin)
    context.follow(reply["job"])


@cli.command()
@pass_context
def jobs(context: Context) -> None:
    """Warming, pinning and verifying that is under way, and what became of the latest."""
    reply = context.head.ask("jobs")
    rows = [
        (job["id"], job["kind"], job["target"], job["state"], format_size(job["bytes"]), job["message"])
        for job in reply["jobs"]
    ]
    context.show(reply, lambda: screens.table(("job ", "what", "target", "state", "bytes ", "message"), rows))


@cli.command()
@click.argument("job", type=int)
@pass_context
def cancel(context: Context, job: int) -> None:
    """End a job."""
    reply = context.head.ask("cancel", job=job)
    context.show(reply, lambda: f"job {job} is {reply['job']['state']}.")


@cli.command()
@click.confirmation_option(prompt="Nodes will wait for another head. Drain this one?")
@pass_context
def drain(context: Context) -> None:
    """Tell the nodes, finish what is under way, and end the head."""
    reply = context.head.ask("drain")
    context.show(reply, lambda: "The head finishes what is under way and ends.")


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion of dadafs, dadafsd, dadafsctl and dada for SHELL, e.g. for /etc/bash_completion.d/dadafs."""
    for program in PROGRAMS:
        click.echo(completion_script(shell, program))


def completion_script(shell: str, program: str) -> str:
    """What has `shell` ask `program` itself how a word that was begun may go on."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    return made(cli, {}, program, f"_{program.upper()}_COMPLETE").source()


def main() -> None:
    """Entry point of `dadafsctl`."""
    run_command("dadafsctl", lambda: cli(prog_name="dadafsctl", standalone_mode=False))
