"""Which files' fragments are kept, and after how many reads (sans-IO)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

NEVER = 0
#: The store counts reads up to this.
MOST_READS = 255


@dataclass(frozen=True, slots=True)
class Rule:
    """Fragments of files whose path matches `pattern` are kept when read for the `reads`-th time, or NEVER."""

    pattern: str
    reads: int


class Keeping:
    """The rules of one export; the first that matches a path holds, and what none matches is kept at once."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self.rules = tuple(rules)

    def after_reads(self, path: bytes) -> int:
        """From which read on a fragment of the file at `path` is kept; NEVER (0) where it is not."""
        if not self.rules:
            return 1
        name = os.fsdecode(path)
        return next((rule.reads for rule in self.rules if fnmatchcase(name, rule.pattern)), 1)


def parse_rules(texts: Sequence[str]) -> tuple[Rule, ...]:
    """Rules from `PATTERN=N` or `PATTERN=never`. Raises ValueError with what is wrong."""
    return tuple(_parse(text) for text in texts)


def _parse(text: str) -> Rule:
    pattern, equals, count = text.rpartition("=")
    if count == "never":
        reads = NEVER
    elif count.isascii() and count.isdigit() and 1 <= int(count) <= MOST_READS:
        reads = int(count)
    else:
        equals = ""
    if not equals or not pattern:
        raise ValueError(f"{text!r} is no rule: write PATTERN=N, with N from 1 to {MOST_READS}, or PATTERN=never")
    return Rule(pattern, reads)
