"""What the results store holds, from Python: `dada.results.list()`, `.show()`, `.export()` and `.prune()`.

store: as everywhere, the name of a results store, an open one, or None for the default one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dada.api import Store, open_results, write
from dada.api import run as _run
from dada.errors import UsageError
from dada.kinds import options_of
from dada.quantity import parse_bytes, parse_seconds
from dada.results.store import ResultsStore


def list_runs(store: Store = None) -> dict[str, dict[str, Any]]:
    """The runs whose results are kept, by id, the newest first."""
    with _opened(store) as opened:
        return dict(sorted(opened.runs().items(), key=lambda item: item[1].get("date", ""), reverse=True))


def show(run: str, store: Store = None) -> dict[str, Any]:
    """Everything that is known about a run, named by its id or the beginning of it. Raises UsageError."""
    with _opened(store) as opened:
        run_id, description = _found(opened, run)
    return {"run": run_id, **description}


def export(run: str, output: str | Path | None = None, png: str | Path | None = None, store: Store = None) -> Any:
    """The result of a run, written where `output` and `png` say; what the store no longer has is computed again. Raises
    UsageError where the run had a mask that is not kept.
    """
    with _opened(store) as opened:
        _, description = _found(opened, run)
        result = _run(options_of(description["options"]), opened)
    if result.provenance["mask"]["sha256"] != description["mask"]["sha256"]:
        raise UsageError(
            f"run {run} had another mask, given as an array or changed since, which the store does not keep; "
            "use `dada recompute` on the file it wrote"
        )
    write(result, output, png)
    return result


def prune(older: str | float | None = None, size: str | int | None = None, store: Store = None) -> tuple[int, int]:
    """Remove what was not used for so long (seconds, or "30d"), then the least recently used down to a size (bytes, or
    "2GiB"): records and bytes removed.
    """
    if older is None and size is None:
        raise UsageError("say what to remove: --older 30d, --size 2GiB, or --size 0 for everything")
    with _opened(store) as opened:
        return opened.prune(
            older_than_s=parse_seconds(older) if isinstance(older, str) else older,
            down_to_bytes=parse_bytes(size) if isinstance(size, str) else size,
        )


@contextmanager
def _opened(store: Store) -> Iterator[ResultsStore]:
    opened = open_results(store)
    if opened is None:
        raise UsageError("say which results store; there is none without one")
    try:
        yield opened
    finally:
        if opened is not store:
            opened.close()


def _found(store: ResultsStore, name: str) -> tuple[str, dict[str, Any]]:
    """The run whose id begins with `name`. Raises UsageError where none or several do."""
    found = [(run_id, run) for run_id, run in store.runs().items() if run_id.startswith(name)]
    if len(found) != 1:
        what = "no run begins" if not found else f"{len(found)} runs begin"
        raise UsageError(f"{what} with {name}; `dada results list` shows them all")
    return found[0]
