"""The `dadafsd` command: runs a head in the foreground until SIGTERM."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click
import trio

from dadafs.errors import ExitCode, UserError
from dadafs.interpreter import share_the_interpreter
from dadafs.logs import set_up_logging
from dadafsd.config import HeadConfig, read_config
from dadafsd.head import Head


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "files", multiple=True, type=click.Path(path_type=Path), help="TOML; later ones win.")
@click.option("--export", "exports", multiple=True, metavar="NAME=DIR", help="Serve DIR as NAME; may be repeated.")
@click.option("--cache-dir", metavar="DIR", help="Where fragments are kept on disk.")
@click.option("--cache-size", metavar="SIZE", help="How much the cache may use (16GiB).")
@click.option("--memory", metavar="SIZE", help="Recently read fragments kept in memory (64MiB).")
@click.option("--listen", metavar="HOST:PORT", help="Where nodes connect (127.0.0.1:7070).")
@click.option("--key-file", metavar="FILE", help="The keys that nodes must know.")
@click.option("--admin-socket", metavar="PATH", help="Where dadafsctl connects.")
@click.option("--metrics", metavar="HOST:PORT", help="Serve Prometheus metrics there.")
@click.option("--insecure-no-auth", is_flag=True, default=None, help="Let everybody in who can reach the port.")
@click.option("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR.")
@click.option("--show-config", is_flag=True, help="Print every effective value with its source, and end.")
def command(files: tuple[Path, ...], exports: tuple[str, ...], show_config: bool, **flags: str | bool | None) -> None:
    """Serve directories to dadafs nodes."""
    config = read_config(files, flags, exports)
    if show_config:
        print_config(config)
        return
    standing = {"head": config.name}
    set_up_logging("dadafsd", config.settings["log_level"], standing=standing, foreground=True, times=False)
    head = Head(config)
    logging.getLogger().addHandler(head.recent_log)
    try:
        share_the_interpreter()
        trio.run(head.run)
    except BaseExceptionGroup as group:
        raise _only(group) from None


def print_config(config: HeadConfig) -> None:
    """Every effective value with its source."""
    rows = config.settings.explain()
    width = max(len(row.name) for row in rows)
    values = max(len(row.value) for row in rows)
    for row in rows:
        print(f"{row.name:{width}}  {row.value:{values}}  {row.source}")
    for export in config.exports:
        print(f"export {export.name} = {export.directory}")


def _only(error: BaseException) -> BaseException:
    """What a group of nested groups of one is about."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def main() -> None:
    """Run the command; errors of the user are one sentence and an exit code."""
    try:
        command(standalone_mode=False)
    except UserError as error:
        print(f"dadafsd: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(ExitCode.INTERRUPTED)
