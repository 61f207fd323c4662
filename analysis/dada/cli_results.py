"""`dada results`: what the results store holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from dada.errors import UsageError
from dada.quantity import format_bytes, parse_bytes, parse_seconds
from dada.results.store import ResultsStore, open_store

_store_option = click.option("--store", help="a directory or aerospike://HOST:3000/NAMESPACE/SET  [your cache]")


@click.group()
def results() -> None:
    """What the results store holds."""


@contextmanager
def _opened(name: str | None) -> Iterator[ResultsStore]:
    store = open_store(name)
    try:
        yield store
    finally:
        store.close()


@results.command("list")
@_store_option
@click.option("--json", "as_json", is_flag=True)
def list_runs(store: str | None, as_json: bool) -> None:
    """The runs whose results are kept, the newest first."""
    with _opened(store) as opened:
        runs = opened.runs()
        records, size = opened.size()
    newest = sorted(runs.items(), key=lambda item: item[1].get("date", ""), reverse=True)
    if as_json:
        click.echo(json.dumps({"records": records, "bytes": size, "runs": dict(newest)}))
        return
    for run_id, run in newest:
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
    with _opened(store) as opened:
        run_id, description = find_run(opened, run)
    click.echo(json.dumps({"run": run_id, **description}, indent=1))


@results.command()
@click.argument("run")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="HDF5/NeXus file to write")
@click.option("--png", type=click.Path(path_type=Path), help="picture to draw")
@_store_option
def export(run: str, output: Path, png: Path | None, store: str | None) -> None:
    """Write the maps of RUN to a file; what the store no longer has is computed again."""
    from dada import api, console
    from dada.kinds import options_of

    with _opened(store) as opened:
        _, description = find_run(opened, run)
        result = api.run(options_of(description["options"]), opened)
        if result.provenance["mask"]["sha256"] != description["mask"]["sha256"]:
            raise UsageError(
                f"run {run} had another mask, given as an array or changed since, which the store does not keep; "
                "use `dada recompute` on the file it wrote"
            )
        api.write(result, output, png)
        for line in console.account(result, opened, str(output), png and str(png)):
            console.say(line)


@results.command()
@click.option("--older", metavar="TIME", help="remove what was not used for so long: 30d, 12h")
@click.option("--size", metavar="SIZE", help="then the least recently used, down to this size: 2GiB")
@_store_option
def prune(older: str | None, size: str | None, store: str | None) -> None:
    """Remove results that are no longer wanted."""
    if older is None and size is None:
        raise UsageError("say what to remove: --older 30d, --size 2GiB, or --size 0 for everything")
    with _opened(store) as opened:
        removed, freed = opened.prune(
            older_than_s=None if older is None else parse_seconds(older),
            down_to_bytes=None if size is None else parse_bytes(size),
        )
    click.echo(f"removed {removed} records, {format_bytes(freed)}", err=True)


def find_run(store: ResultsStore, name: str) -> tuple[str, dict[str, Any]]:
    """The run whose id begins with `name`. Raises UsageError where none or several do."""
    found = [(run_id, run) for run_id, run in store.runs().items() if run_id.startswith(name)]
    if len(found) != 1:
        what = "no run begins" if not found else f"{len(found)} runs begin"
        raise UsageError(f"{what} with {name}; `dada results list` shows them all")
    return found[0]
