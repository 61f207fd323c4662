"""The `dadafsd` command: runs a head in the foreground until SIGTERM."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click
import trio

from dadafs.errors import ExitCode, UserError
from dadafs.quantity import parse_size
from dadafsd.config import ExportConfig, HeadConfig, parse_listen
from dadafsd.head import Head


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--export", "exports", multiple=True, metavar="NAME=DIR", help="Serve DIR as NAME; may be repeated.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where fragments are kept on disk.")
@click.option("--cache-size", default="16GiB", metavar="SIZE", help="How much the cache may use.")
@click.option("--listen", default="127.0.0.1", metavar="HOST:PORT", help="Where nodes connect (port 7070).")
@click.option("--key-file", type=click.Path(path_type=Path), help="The keys that nodes must know.")
@click.option("--admin-socket", type=click.Path(path_type=Path), help="Where dadafsctl connects.")
@click.option("--metrics", metavar="HOST:PORT", help="Serve Prometheus metrics there.")
@click.option("--insecure-no-auth", is_flag=True, help="Let everybody in who can reach the port.")
@click.option("--log-level", default="INFO", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]))
def command(
    exports: tuple[str, ...],
    cache_dir: Path | None,
    cache_size: str,
    listen: str,
    key_file: Path | None,
    admin_socket: Path | None,
    metrics: str | None,
    insecure_no_auth: bool,
    log_level: str,
) -> None:
    """Serve directories to dadafs nodes."""
    logging.basicConfig(stream=sys.stderr, level=log_level, format="%(levelname)s %(name)s: %(message)s")
    host, port = parse_listen(listen)
    config = HeadConfig(
        exports=tuple(_parse_export(text) for text in exports),
        host=host,
        port=port,
        cache_dir=cache_dir,
        cache_size=parse_size(cache_size),
        key_file=key_file,
        no_auth=insecure_no_auth,
        admin_socket=admin_socket,
        metrics=parse_listen(metrics, 9470) if metrics else None,
    )
    try:
        trio.run(Head(config).run)
    except BaseExceptionGroup as group:
        raise _only(group) from None


def _only(error: BaseException) -> BaseException:
    """What a group of nested groups of one is about."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _parse_export(text: str) -> ExportConfig:
    name, equals, directory = text.partition("=")
    if not equals or not name or not directory or "/" in name:
        raise UserError(f"--export {text}: write NAME=DIR.", ExitCode.USAGE)
    return ExportConfig(name, Path(directory))


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
    except ValueError as error:
        print(f"dadafsd: {error}", file=sys.stderr)
        sys.exit(ExitCode.USAGE)
