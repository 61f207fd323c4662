"""The results store: the interface, and which backend a name means.

A store keeps records (bytes, see `records.py`) under keys (hex strings, see `keys.py`) and a list of runs. It is a
cache: a record may be gone at any time, and a store that is down, full or slow never stops an analysis: `get` then
finds nothing and `put` keeps nothing, both are counted and neither raises.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dada.errors import UsageError


@dataclass
class StoreCounters:
    """What a store was asked and what came of it, since it was opened."""

    hits: int = 0
    misses: int = 0
    kept: int = 0
    refused: int = 0  # writes that were not kept: full, too big, down
    failures: int = 0  # calls the store did not answer, or answered with an error
    damaged: int = 0  # records whose checksum was wrong
    last_failure: str = ""


class ResultsStore(Protocol):
    """What both backends do. Safe to use from several threads."""

    name: str
    counters: StoreCounters

    def get(self, key: str) -> bytes | None:
        """The record under `key`, None when there is none or the store does not answer."""

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """The records that are there."""

    def put(self, key: str, record: bytes) -> bool:
        """Keep a record; whether it was kept. A record of the same key is replaced."""

    def discard(self, keys: Iterable[str]) -> None:
        """Remove records that others have replaced, as far as that is possible; nothing may rely on it."""

    def remember_run(self, run_id: str, description: Mapping[str, Any]) -> None:
        """Add a run to the list (or replace it)."""

    def runs(self) -> dict[str, dict[str, Any]]:
        """The runs that are remembered, by id."""

    def prune(self, *, older_than_s: float | None = None, down_to_bytes: int | None = None) -> tuple[int, int]:
        """Remove records not used for so long, then the least recently used down to a size: (records,
        bytes) removed.
        """

    def size(self) -> tuple[int, int]:
        """(records, bytes) kept now."""

    def close(self) -> None:
        """Release what the store holds open."""


def open_store(name: str | Path | None = None) -> ResultsStore:
    """The store of that name: a directory (default `$DADA_STORE`, else `dada/results` in the user's cache), or
    `aerospike://HOST[:PORT][,HOST[:PORT]]/NAMESPACE/SET`. Raises UsageError."""
    text = str(name or os.environ.get("DADA_STORE") or default_directory())
    if text.startswith("aerospike:"):
        from dada.results.aerospike import AerospikeStore, parse_url

        return AerospikeStore(parse_url(text))
    if "://" in text:
        raise UsageError(f"'{text}' is no results store; give a directory or aerospike://HOST:3000/NAMESPACE/SET")
    from dada.results.embedded import EmbeddedStore

    return EmbeddedStore(Path(text))


def default_directory() -> Path:
    """Where results are kept unless somebody says otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "dada" / "results"
