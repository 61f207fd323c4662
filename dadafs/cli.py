"""The `dadafs` command: mount, umount, status, doctor."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from dadafs import __version__
from dadafs.errors import ExitCode, UserError
from dadafs.mount_options import SCHEMA, resolve
from dadafs.mount_table import FSTYPE, mount_at
from dadafs.report import render
from dadafs.settings import Kind, Setting


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dadafs")
def cli() -> None:
    """A read-only, caching network file system for detector data."""


def _flag(setting: Setting) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The command-line flag of a setting; None where it was not given, so that other layers count."""
    name = setting.name.replace("_", "-")
    if setting.kind is Kind.BOOL:
        declaration = f"--{name}/--soft" if setting.name == "hard" else f"--{name}/--no-{name}"
        return click.option(declaration, setting.name, default=None, help=setting.help)
    default = setting.format(setting.default)
    more = f" (default {default})" if default else ""
    return click.option(f"--{name}", setting.name, metavar=setting.kind.name, help=setting.help + more)


def _all_flags(command: Callable[..., None]) -> Callable[..., None]:
    for setting in reversed(SCHEMA.settings.values()):
        command = _flag(setting)(command)
    return command


@cli.command(name="mount")
@click.argument("source", metavar="HOST[:PORT]:/EXPORT")
@click.argument("mountpoint")
@click.option("-o", "dash_o", multiple=True, metavar="OPTIONS", help="Options as mount(8) has them, by commas.")
@click.option("--config", metavar="FILE", help="Read this file instead of /etc/dadafs/dadafs.toml.")
@click.option("--foreground", is_flag=True, help="Stay, and log to the terminal.")
@click.option("--show-config", is_flag=True, help="Print every effective value with its source, and exit.")
@_all_flags
def mount_command(
    source: str,
    mountpoint: str,
    dash_o: tuple[str, ...],
    config: str | None,
    foreground: bool,
    show_config: bool,
    **flags: object,
) -> None:
    """Mount an export of a head. Returns when the file system answers."""
    options = resolve(source, mountpoint, dash_o=dash_o, flags=flags, config=config, foreground=foreground)
    if show_config:
        for row in options.settings.explain():
            click.echo(f"{row.name:<18} {row.value or '-':<12} {row.source}")
        return
    from dadafs.mount import mount

    mount(options)


@cli.command(name="umount")
@click.argument("mountpoint")
@click.option("--lazy", is_flag=True, help="Detach it also while it is in use.")
@click.option("--dead", is_flag=True, help="Only clear away what a dead or stuck mount process left, if anything.")
def umount_command(mountpoint: str, lazy: bool, dead: bool) -> None:
    """Unmount, also what a killed mount process left behind."""
    from dadafs.unmount import clear_away, umount

    if dead:
        clear_away(mountpoint)
    else:
        umount(mountpoint, lazy=lazy)


@cli.command(name="abort")
@click.argument("mountpoint")
@click.option("--if-stuck", is_flag=True, help="Only where the mount process does not answer.")
def abort_command(mountpoint: str, if_stuck: bool) -> None:
    """Cut off a mount process that is stuck: whoever waits for it gets an error.

    A supervised mount comes back by itself; otherwise the path gives errors until it is unmounted or mounted again.
    """
    from dadafs.unmount import cut_off

    if cut_off(mountpoint, if_stuck=if_stuck):
        click.echo(f"The connection of {mountpoint} is aborted.")


@cli.command(name="status")
@click.argument("mountpoint")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status_command(mountpoint: str, as_json: bool) -> None:
    """Show how a mount is doing, without touching it."""
    report = mount_status(mountpoint)
    click.echo(json.dumps(report, indent=2) if as_json else render(report), nl=as_json)


@cli.command(name="metrics")
@click.option("--listen", metavar="HOST:PORT", default="127.0.0.1:9108", show_default=True, help="Where to serve them.")
def metrics_command(listen: str) -> None:
    """Serve Prometheus metrics of all mounts of this machine, until SIGTERM. The mounts are not touched."""
    from dadafs.metrics import MetricsServer, all_mounts
    from dadafs.notify import notify, watchdog_interval

    with stoppable() as stopped:
        server = MetricsServer(listen, all_mounts)
        print(f"metrics at port {server.port}", flush=True)
        notify("READY=1", f"STATUS=Serving metrics at {listen}")
        while not stopped.wait(watchdog_interval()):
            notify("WATCHDOG=1")
        server.close()


@cli.command(name="doctor")
@click.argument("mountpoint")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor_command(mountpoint: str, as_json: bool) -> None:
    """Look for the usual mistakes around a mount, and say how to put them right. Fails where it finds one."""
    from dataclasses import asdict

    from dadafs.doctor import examine
    from dadafs.unmount import without_touching

    findings = examine(without_touching(mountpoint))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.state:>4}  {finding.what}" + (f": {finding.advice}" if finding.advice else ""))
    if any(finding.state == "bad" for finding in findings):
        sys.exit(ExitCode.FAILED)


def mount_status(mountpoint: str) -> dict[str, object]:
    """What the process of the mount at `mountpoint` reports. Raises UserError."""
    from dadafs.status_socket import ask
    from dadafs.unmount import without_touching

    there = mount_at(without_touching(mountpoint))
    if there is None or there.fstype != FSTYPE:
        raise UserError(f"{mountpoint} is not a dadafs mount; `mount -t {FSTYPE}` lists them.", ExitCode.MOUNTPOINT)
    return ask(there.device)


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set meanwhile."""
    event = threading.Event()
    before = {number: signal.signal(number, lambda *_: event.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_command(program: str, command: Callable[[], object]) -> None:
    """Run a command; a person's mistake is one sentence on stderr and an exit code."""
    try:
        command()
    except UserError as problem:
        print(f"{program}: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    except click.ClickException as problem:
        problem.show()
        sys.exit(ExitCode.USAGE)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(ExitCode.INTERRUPTED)


def main() -> None:
    """Entry point of `dadafs`."""
    run_command("dadafs", lambda: cli(standalone_mode=False))
