"""Free runs of an arena: nothing is handed out twice, nothing is lost, neighbours are joined."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dadafs.policy.runs import FreeRuns

COUNT = 40


class Runs(RuleBasedStateMachine):
    """Takes and gives beside a plain list of units."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = FreeRuns(COUNT)
        self.free = [True] * COUNT
        self.taken: list[tuple[int, int]] = []

    def longest(self) -> int:
        """The most consecutive units that are free."""
        return max(map(len, "".join("x" if free else " " for free in self.free).split()), default=0)

    @rule(length=st.integers(1, COUNT))
    def take(self, length: int) -> None:
        announced = self.runs.next(length)
        start = self.runs.take(length)
        assert start == announced
        assert (start is None) == (length > self.longest())
        if start is not None:
            assert all(self.free[start : start + length])
            self.free[start : start + length] = [False] * length
            self.taken.append((start, length))

    @precondition(lambda self: any(self.free))
    @rule(data=st.data())
    def take_at(self, data: st.DataObject) -> None:
        first, whole = data.draw(st.sampled_from(sorted(self.runs)))
        start = data.draw(st.integers(first, first + whole - 1))
        length = data.draw(st.integers(1, first + whole - start))
        self.runs.take_at(start, length)
        self.free[start : start + length] = [False] * length
        self.taken.append((start, length))

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        start, length = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        self.runs.give(start, length)
        self.free[start : start + length] = [True] * length

    @invariant()
    def every_free_unit_is_in_one_run_and_no_two_runs_touch(self) -> None:
        runs = sorted(self.runs)
        assert [unit for start, length in runs for unit in range(start, start + length)] == [
            unit for unit, free in enumerate(self.free) if free
        ]
        assert all(start + length < following for (start, length), (following, _) in itertools.pairwise(runs))


TestRuns = Runs.TestCase


def test_the_run_of_the_wanted_length_given_back_last_comes_first() -> None:
    runs = FreeRuns(10)
    taken = [runs.take(2) for _ in range(5)]
    assert taken == [0, 2, 4, 6, 8]
    runs.give(2, 2)
    runs.give(6, 2)
    assert [runs.take(2), runs.take(2), runs.take(2)] == [6, 2, None]
