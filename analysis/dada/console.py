"""What `dada` shows on a terminal: progress bars with rate and estimate, and the account of a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress import Task as RichTask
from rich.text import Text

from dada import engine
from dada.analysis import StxmResult
from dada.frame_analysis import FramesResult
from dada.quantity import format_bytes
from dada.results.store import ResultsStore

Result = StxmResult | FramesResult
_OUTPUTS = {"stxm": "maps", "average": "frames", "composite": "composite"}
_DAMAGED_SHOWN = 5
_UPDATE_EVERY_S = 0.1


class Bar(Protocol):
    """Shows that `done` of `total` frames are finished, `computed` of them in `seconds` and not taken from a store."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} frames/s" if speed else "", style="progress.data.speed")


@contextmanager
def progress_bar(what: str, quiet: bool = False) -> Iterator[Bar]:
    """A bar on standard error while a terminal shows it; nothing otherwise."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda done, total, note="": None
        return
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=None, note="")
        shown = 0.0

        def update(done: int, total: int, note: str = "") -> None:
            nonlocal shown
            now = time.monotonic()
            if done < total and now - shown < _UPDATE_EVERY_S:
                return
            shown = now
            progress.update(task, completed=done, total=total, note=note)

        yield update


def follow(bar: Bar) -> engine.Callback:
    """A run's callback that drives a bar."""

    def notify(progress: engine.Progress) -> None:
        notes = []
        if progress.from_store:
            notes.append(f"{progress.from_store} from the store")
        if progress.damaged:
            notes.append(f"{progress.damaged} damaged")
        bar(progress.done, progress.frames, ", ".join(notes))

    return notify


def account(result: Result, store: ResultsStore | None, output: str | None, png: str | None) -> list[str]:
    """What a run did, in a few lines."""
    progress = result.progress
    lines = [f"{progress.frames} frames: {progress.from_store} from the results store, {progress.computed} computed"]
    if progress.computed and progress.seconds:
        speed = format_bytes(progress.stored_bytes / progress.seconds)
        lines[0] += f" in {progress.seconds:.2f} s ({progress.rate:,.0f} frames/s, {speed}/s of compressed frames)"
    if progress.retries:
        lines.append(f"{progress.retries} patches were computed again because their worker died")
    lines += _damages(result)
    if store is not None and store.counters.failures:
        counters = store.counters
        lines.append(
            f"results store {store.name}: {counters.failures} calls failed, {counters.refused} results were not kept "
            f"({counters.last_failure})"
        )
    written = ((_OUTPUTS[result.options.kind], output), ("picture", png))
    lines += [f"{what} in {where}" for what, where in written if where]
    return lines


def _damages(result: Result) -> list[str]:
    damaged = result.damaged
    if not damaged:
        return []
    count = "1 frame is" if len(damaged) == 1 else f"{len(damaged)} frames are"
    lines = [f"{count} damaged or missing, {_without(result)}:"]
    lines += [f"  {item}" for item in damaged[:_DAMAGED_SHOWN]]
    if len(damaged) > _DAMAGED_SHOWN:
        lines.append(f"  and {len(damaged) - _DAMAGED_SHOWN} more, listed in /entry/dada/damaged of the output")
    return lines


def _without(result: Result) -> str:
    return "left out" if result.options.kind == "average" else "NaN on the map"


def as_json(result: Result, store: ResultsStore | None, output: str | None, png: str | None) -> dict[str, Any]:
    """The same for programs."""
    progress = result.progress
    return {
        "run": result.run_id,
        "scan": str(result.scan.path),
        "shape": None if result.map_ptr is None else list(result.map_ptr.shape),
        "frames": progress.frames,
        "from_store": progress.from_store,
        "computed": progress.computed,
        "seconds": round(progress.seconds, 4),
        "frames_per_s": round(progress.rate, 2),
        "compressed_bytes": progress.stored_bytes,
        "retries": progress.retries,
        "damaged": [
            {"frame": d.frame, "file": str(d.path), "dataset": d.dataset, "number": d.number, "reason": d.reason}
            for d in result.damaged
        ],
        **_what(result),
        "store": None if store is None else {"name": store.name, **vars(store.counters)},
        "output": output,
        "png": png,
    }


def _what(result: Result) -> dict[str, Any]:
    if isinstance(result, StxmResult):
        return {"maps": list(result.maps)}
    return {"images": list(result.images), "frames_used": len(result.frames)}


def say(line: str) -> None:
    """A line on standard error."""
    print(line, file=sys.stderr, flush=True)
