"""`dada results`: what the results store holds."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import click

from dada.quantity import format_bytes
from dada.results.store import open_store

_store_option = click.option("--store", help="a directory or aerospike://HOST:3000/NAMESPACE/SET  [your cache]")


@click.group()
def results() -> None:
    """What the results store holds."""


@results.command("list")
@_store_option
@click.option("--json", "as_json", is_flag=True)
def list_runs(store: str | None, as_json: bool) -> None:
    """The runs whose results are kept, the newest first."""
    from dada import api_results

    with closing(open_store(store)) as opened:
        runs = api_results.list_runs(opened)
        records, size = opened.size()
    if as_json:
        click.echo(json.dumps({"records": records, "bytes": size, "runs": runs}))
        return
    for run_id, run in runs.items():
        options = run["options"]
        shape = "x".join(str(n) for n in (options.get("grid") or {"shape": ["-"]})["shape"])
        kind = options.get("kind", "stxm")
        click.echo(f"{run_id}  {run['date'][:19]}  {kind:<9}  {shape:>9}  {options['scan']}")
    click.echo(f"{len(runs)} runs; {records} records, {format_bytes(size)} in {opened.name}", err=True)


@results.command()
@click.argument("run")
@_store_option
def show(run: str, store: str | None) -> None:
    """Everything that is known about RUN (an id of `dada results list`, or its beginning), as JSON."""
    from dada import api_results

    click.echo(json.dumps(api_results.show(run, store), indent=1))


@results.command()
@click.argument("run")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="HDF5/NeXus file to write")
@click.option("--png", type=click.Path(path_type=Path), help="picture to draw")
@_store_option
def export(run: str, output: Path, png: Path | None, store: str | None) -> None:
    """Write the maps of RUN to a file; what the store no longer has is computed again."""
    from dada import api_results, console

    with closing(open_store(store)) as opened:
        result = api_results.export(run, output, png, opened)
        for line in console.account(result, opened, str(output), png and str(png)):
            console.say(line)


@results.command()
@click.option("--older", metavar="TIME", help="remove what was not used for so long: 30d, 12h")
@click.option("--size", metavar="SIZE", help="then the least recently used, down to this size: 2GiB")
@_store_option
def prune(older: str | None, size: str | None, store: str | None) -> None:
    """Remove results that are no longer wanted."""
    from dada import api_results

    removed, freed = api_results.prune(older, size, store)
    click.echo(f"removed {removed} records, {format_bytes(freed)}", err=True)
