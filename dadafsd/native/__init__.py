"""The compiled part of the head: reads that are answered without the interpreter's help (`hot_reads.py`)."""

from __future__ import annotations

from types import ModuleType


def load() -> ModuleType | None:
    """`_dadafsd_hot`; None where it was not built, or the xxhash package keeps its functions to itself."""
    try:
        import _dadafsd_hot
        import xxhash._xxhash
    except ModuleNotFoundError:
        return None
    module: ModuleType = _dadafsd_hot
    if not hasattr(module, "Loop"):  # built from older sources, which is as good as not built
        return None
    return module if module.use_xxh3_of(xxhash._xxhash.__file__) else None
