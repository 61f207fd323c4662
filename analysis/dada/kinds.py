"""The kinds of results: which options ask for which analysis, and how it is written and drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dada import analysis, frame_analysis, nexus, nexus_frames
from dada.errors import UsageError
from dada.frame_options import AverageOptions, CompositeOptions
from dada.options import StxmOptions

Options = StxmOptions | AverageOptions | CompositeOptions


@dataclass(frozen=True)
class Kind:
    """What is done with options of one class."""

    options: type[Any]
    analyse: Callable[..., Any]
    write: Callable[[Path, Any], None]
    draw: Callable[[Path, Any], None]


def _draw_maps(path: Path, result: Any) -> None:
    from dada.picture import draw  # matplotlib takes a second to import

    draw(path, result)


def _draw_frames(path: Path, result: Any) -> None:
    from dada.picture_frames import draw_frames

    draw_frames(path, result)


KINDS = {
    kind.options.kind: kind
    for kind in (
        Kind(StxmOptions, analysis.analyse, nexus.write_nexus, _draw_maps),
        Kind(AverageOptions, frame_analysis.average, nexus_frames.write_frames, _draw_frames),
        Kind(CompositeOptions, frame_analysis.composite_of, nexus_frames.write_frames, _draw_frames),
    )
}


def options_of(description: Mapping[str, Any]) -> Options:
    """The options that `describe` of some kind described. Raises UsageError where they are not understood."""
    kind = KINDS.get(str(description.get("kind", StxmOptions.kind)))
    if kind is None:
        raise UsageError(f"there is no analysis {description['kind']!r} in this version of dada")
    options: Options = kind.options.from_description(description)
    return options
