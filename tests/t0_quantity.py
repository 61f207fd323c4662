"""Sizes and durations: what is read, what is refused, what is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dadafs.quantity import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        (4096, 4096),
        ("128MiB", 128 * 2**20),
        ("3.4TiB", int(34 * 2**40 / 10)),
        (" 1 GiB ", 2**30),
        ("1k", 1024),
        ("2G", 2 * 2**30),
        ("10MB", 10_000_000),
        ("10 kB", 10_000),
        ("7B", 7),
        (".5KiB", 512),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "1e6", "12 parsecs", "1.2.3M", "1MiB2", "nan", "99999EiB", True, "١"]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="128MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("250ms", 0.25),
        ("2h", 7200.0),
        ("1h30m", 5400.0),
        ("1d 2h", 93600.0),
        ("0.5", 0.5),
        (3, 3.0),
        (0.1, 0.1),
        ("0", 0.0),
        ("10us", 1e-5),
        ("2min", 120.0),
        ("1w", 604800.0),
    ],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "-1s", "1 fortnight", "1s, 2h", "1h-5m", "inf", "nan", True, -1, float("nan"), ".", "1..2s"]
)
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="250ms"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (2**20 - 1, "1 MiB"),
        (128 * 2**20, "128 MiB"),
        (3738339534438, "3.4 TiB"),
        (2**60, "1 EiB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (1, "1s"),
        (0.25, "250ms"),
        (0.0000015, "1.5us"),
        (1.5, "1.5s"),
        (59.99, "1m"),
        (60, "1m"),
        (5400, "1h30m"),
        (93600, "1d2h"),
        (-2, "-2s"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 2**62))
def test_a_formatted_size_reads_back_within_a_percent(size: int) -> None:
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.011, abs=1)


@given(st.floats(1e-9, 1e9))
def test_a_formatted_duration_reads_back_within_a_few_percent(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.03)
