"""Reading records back: does every block on disk still have its checksum?"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass

from dadafs.checksum import damaged_blocks
from dadafsd.store.files import FAN_OUT
from dadafsd.store.record import DATA_OFFSET, HEADER_SIZE, DamagedRecord, FragmentKey, decode_header
from dadafsd.store.tier import Tier


@dataclass(frozen=True, slots=True)
class Verified:
    """One record that was read; `fault` is empty where it is sound, else it was deleted for that reason."""

    tier: str
    record: str
    size: int  #: bytes of data read
    fault: str


def verify_tier(tier: Tier, sample: float, chance: random.Random) -> Iterator[Verified]:
    """Check a random part `sample` (0 .. 1) of the records; what the disk cannot read counts as a fault."""
    for part in range(FAN_OUT):
        for digest in tier.files.records(part):
            if chance.random() < sample:
                result = _verify(tier, digest)
                if result is not None:
                    yield result


def _verify(tier: Tier, digest: int) -> Verified | None:
    """The verdict on one record; None where it was evicted meanwhile."""
    name, size = f"{digest:016x}", 0
    try:
        size = _check(tier, digest)
    except FileNotFoundError:
        return None
    except (DamagedRecord, OSError) as error:
        tier.discard(digest, str(error))
        return Verified(tier.name, name, size, str(error))
    return Verified(tier.name, name, size, "")


def sound_copy(tier: Tier, key: FragmentKey) -> bytes | None:
    """The data that `tier` has for `key`, not counted as a use; None where it has no sound ones."""
    try:
        found, data = _sound(tier, key.digest)
    except (DamagedRecord, OSError):
        return None
    return data if found == key else None


def _check(tier: Tier, digest: int) -> int:
    """Bytes of sound data in a record; raises `DamagedRecord` or `OSError`."""
    return len(_sound(tier, digest)[1])


def _sound(tier: Tier, digest: int) -> tuple[FragmentKey, bytes]:
    """Key and data of a record whose checksums fit; raises `DamagedRecord` or `OSError`."""
    fd = tier.files.open_record(digest)
    try:
        key, checksums = decode_header(os.pread(fd, HEADER_SIZE, 0))
        if key.digest != digest:
            raise DamagedRecord("another key under this name")
        data = os.pread(fd, key.length + 1, DATA_OFFSET)
    finally:
        os.close(fd)
    if len(data) != key.length:
        raise DamagedRecord("data cut short")
    damaged = damaged_blocks(data, checksums)
    if damaged:
        raise DamagedRecord(f"{len(damaged)} damaged blocks")
    return key, data
