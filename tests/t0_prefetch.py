"""Streams, windows and strides: what is prefetched for which pattern of reads."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dadafs.policy.prefetch import (
    LONGEST_STRIDE_WINDOW,
    LONGEST_WINDOW,
    MAX_STREAMS,
    MOST_HABITS,
    NEIGHBOURHOOD,
    Habits,
    Streams,
    both_ends,
    likes_both_ends,
)

MIB = 2**20
SIZE = 256 * MIB
KIB = 1024


def sequential(streams: Streams, start: int, end: int, step: int, size: int = SIZE) -> list[tuple[int, int]]:
    """Everything that a sequential reader makes prefetch."""
    ranges: list[tuple[int, int]] = []
    for offset in range(start, end, step):
        ranges += streams.note(offset, step, size).ranges
    return ranges


def test_the_first_read_prefetches_nothing_and_fetches_what_it_needs() -> None:
    advice = Streams(MIB).note(5 * MIB, 128 * KIB, SIZE)
    assert advice.ranges == []
    assert advice.reach == 5 * MIB + 128 * KIB


def test_a_small_file_is_fetched_whole_from_its_beginning() -> None:
    assert Streams(MIB).note(0, 4096, 300_000).reach == 300_000


def test_sequential_reading_prefetches_each_later_fragment_once() -> None:
    ranges = sequential(Streams(MIB), 0, 64 * MIB, 128 * KIB)
    starts = [start for start, _ in ranges]
    assert starts == sorted(set(starts))
    assert starts[:60] == list(range(starts[0], starts[0] + 60 * MIB, MIB))
    assert starts[0] <= 2 * MIB


def test_a_long_window_is_asked_for_several_fragments_at_a_time() -> None:
    streams = Streams(MIB)
    sequential(streams, 0, 64 * MIB, 128 * KIB)
    asked = [streams.note(offset, 128 * KIB, SIZE).ranges for offset in range(64 * MIB, 128 * MIB, 128 * KIB)]
    assert {len(ranges) for ranges in asked} == {0, 4}
    for number, ranges in enumerate(asked):  # and is never used up meanwhile
        if ranges:
            assert ranges[0][0] >= 64 * MIB + number * 128 * KIB + 11 * MIB


def test_the_end_of_the_file_is_not_waited_for() -> None:
    size = 70 * MIB + 5
    streams = Streams(MIB)
    sequential(streams, 0, 60 * MIB, 128 * KIB, size)
    assert streams.streams[0].ahead >= size


def test_the_window_doubles_on_proof_up_to_the_cap() -> None:
    streams = Streams(MIB, cap=8 * MIB)
    widest = 0
    for offset in range(0, 64 * MIB, 128 * KIB):
        streams.note(offset, 128 * KIB, SIZE)
        widest = max(widest, streams.streams[0].window)
        assert streams.streams[0].ahead <= offset + 128 * KIB + 9 * MIB
    assert widest == 8 * MIB


def test_a_growing_run_fetches_more_and_more_before_there_is_a_window() -> None:
    streams = Streams(MIB)
    base = 10 * MIB
    reaches = [streams.note(base + i * 64 * KIB, 64 * KIB, SIZE).reach - base for i in range(4)]
    assert reaches == [64 * KIB, 256 * KIB, 384 * KIB, 512 * KIB]


def test_random_access_prefetches_nothing() -> None:
    streams = Streams(MIB)
    generator = random.Random(7)
    asked = 0
    for _ in range(2000):
        asked += len(streams.note(generator.randrange(SIZE // 4096) * 4096, 4096, SIZE).ranges)
    assert asked == 0


def test_two_streams_of_one_handle_do_not_disturb_each_other() -> None:
    streams = Streams(MIB)
    asked: set[int] = set()
    for i in range(64):
        for base in (0, 128 * MIB):
            asked.update(start for start, _ in streams.note(base + i * 128 * KIB, 128 * KIB, SIZE).ranges)
    assert {3 * MIB, 128 * MIB + 3 * MIB} <= asked


def test_readahead_that_arrives_out_of_order_is_one_stream() -> None:
    streams = Streams(MIB)
    for i in range(0, 64, 2):
        streams.note((i + 1) * 128 * KIB, 128 * KIB, SIZE)
        streams.note(i * 128 * KIB, 128 * KIB, SIZE)
    assert max(stream.window for stream in streams.streams) > MIB


def test_pressure_halves_the_windows() -> None:
    streams = Streams(MIB)
    sequential(streams, 0, 32 * MIB, 128 * KIB)
    window = streams.streams[0].window
    streams.pressure()
    assert streams.streams[0].window == window // 2


def test_nothing_beyond_the_end_of_the_file() -> None:
    size = 10 * MIB + 123
    ranges = sequential(Streams(MIB), 0, 10 * MIB, 128 * KIB, size)
    assert ranges[-1] == (10 * MIB, size)


def test_single_chunks_far_apart_drag_no_fragment_along() -> None:
    """Random frames of half a MiB, read by the kernel in pieces: no prefetch, and at most twice what is needed."""
    streams = Streams(MIB)
    generator = random.Random(3)
    frames = list(range(0, SIZE, 4 * MIB))
    generator.shuffle(frames)
    for frame in frames:
        for piece in range(3):
            advice = streams.note(frame + piece * 128 * KIB, 128 * KIB, SIZE)
            assert advice.ranges == []
            assert advice.reach <= frame + 2 * (piece + 1) * 128 * KIB


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_stride_is_learned_and_prefetched(pieces: int) -> None:
    streams = Streams(MIB)
    asked: list[tuple[int, int]] = []
    distance, length = 7 * MIB + 4096, 128 * KIB
    for i in range(20):
        for piece in range(pieces):
            asked += streams.note(i * distance + piece * length, length, SIZE).ranges
    starts = [start for start, _ in asked]
    assert set(starts) <= {i * distance for i in range(64)}
    assert {i * distance for i in range(6, 20)} <= set(starts)
    assert len(starts) == len(set(starts))
    assert all(end - start >= length for start, end in asked)


def test_a_stride_that_breaks_is_forgotten() -> None:
    streams = Streams(MIB)
    for i in range(10):
        streams.note(i * 5 * MIB, 128 * KIB, SIZE)
    assert streams.note(200 * MIB, 128 * KIB, SIZE).ranges == []
    assert streams.note(100 * MIB, 128 * KIB, SIZE).ranges == []


def test_small_reads_between_do_not_disturb_a_stride() -> None:
    streams = Streams(MIB)
    asked: list[tuple[int, int]] = []
    for i in range(12):
        asked += streams.note(i * 5 * MIB + MIB, 128 * KIB, SIZE).ranges
        streams.note(200 * MIB + 3 * i * MIB, 4096, SIZE)
    assert asked


@given(
    st.lists(st.tuples(st.integers(0, SIZE), st.integers(1, MIB)), max_size=200),
    st.integers(0, 20),
    st.integers(0, SIZE),
)
@settings(deadline=None)
def test_advice_always_makes_sense(reads: list[tuple[int, int]], refusals: int, size: int) -> None:
    streams = Streams(MIB, cap=4 * MIB)
    for number, (offset, length) in enumerate(reads):
        advice = streams.note(offset, length, size)
        assert advice.reach <= max(size, 0)
        assert len(advice.ranges) <= max(5, LONGEST_STRIDE_WINDOW)
        assert all(0 <= start < end <= size for start, end in advice.ranges)
        assert len(streams.streams) <= MAX_STREAMS
        assert all(0 <= stream.window <= LONGEST_WINDOW for stream in streams.streams)
        if number < refusals:
            streams.pressure()


def test_hdf5_files_are_known_by_their_names() -> None:
    assert likes_both_ends(b"scan/x_master.h5")
    assert likes_both_ends(b"X.NXS")
    assert not likes_both_ends(b"x.tif")


@given(size=st.integers(0, 8 * MIB), fragment_size=st.sampled_from([64 * KIB, MIB, 4 * MIB]))
def test_both_ends_are_the_first_and_the_last_fragment(size: int, fragment_size: int) -> None:
    ranges = both_ends(size, fragment_size)
    last = max(0, size - 1) // fragment_size * fragment_size
    wanted = [(0, min(fragment_size, size))] + ([(last, size)] if last else [])
    pieces = sorted(ranges)
    assert sum(end - start for start, end in pieces) == sum(end - start for start, end in wanted)
    assert all(any(low <= start and end <= high for low, high in wanted) for start, end in pieces)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(pieces))
    assert ranges[0][1] <= NEIGHBOURHOOD
    assert all(start % fragment_size % (16 * KIB) == 0 for start, _ in ranges)


def test_a_scan_in_many_files_is_read_alike() -> None:
    habits = Habits()
    far, short = Streams(MIB), Streams(MIB)
    sequential(far, 0, 64 * MIB, MIB)
    sequential(short, 0, 2 * MIB, MIB)
    habits.note(b"scan/data_000001.h5", far)
    habits.note(b"other/data_000001.h5", short)
    assert habits.of(b"scan/data_000002.h5") == LONGEST_WINDOW // 2
    assert habits.of(b"other/data_000002.h5") == habits.of(b"scan") == 0
    streams = Streams(MIB)
    streams.habit = habits.of(b"scan/data_000002.h5")
    assert streams.note(0, MIB // 4, SIZE).ranges == []
    for offset, ahead in ((MIB // 4, range(1, 5)), (MIB // 2, range(5, 9))):
        assert streams.note(offset, MIB // 4, SIZE).ranges == [(start * MIB, (start + 1) * MIB) for start in ahead]
    for number in range(MOST_HABITS):
        habits.note(b"%d/file" % number, far)
    assert habits.of(b"scan/data_000003.h5") == 0
