# SPDX-License-Identifier: GPL-2.0-or-later
import time

import pytest

from crisis.memory.schedule import Schedule


@pytest.fixture
def clock(monkeypatch):
    """The time, which the test sets; from 100 on."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def pass_(seconds):
        now[0] += seconds

    return pass_


def test_intervals_end_at_their_deadlines(clock):
    schedule = Schedule(2, 3)
    assert schedule.left(10) == 2 and schedule.left(1) == 1
    clock(0.5)
    assert schedule.elapsed(False) is None and schedule.left(10) == 1.5
    clock(1.75)
    assert schedule.elapsed(False) == 2.25
    assert schedule.left(10) == 1.75  # the next deadline has not moved
    clock(1.75)
    assert schedule.elapsed(False) == 1.75 and not schedule.over()
    clock(2)
    assert schedule.over() and schedule.left(10) == 0 and schedule.elapsed(True) == 2


def test_deadlines_that_were_missed_are_skipped(clock):
    schedule = Schedule(1)
    clock(3.5)
    assert schedule.elapsed(False) == 3.5 and schedule.elapsed(False) is None
    assert schedule.left(10) == 0.5 and not schedule.over()


@pytest.mark.parametrize(
    "arguments, end", [((None, None, 5), 5), ((1, None, 2.5), 2.5), ((1, 2, 5), 2), ((1, 9, 5), 5)]
)
def test_the_first_limit_is_the_end(clock, arguments, end):
    schedule = Schedule(*arguments)
    clock(end - 0.25)
    assert not schedule.over() and schedule.left(10) <= 0.25
    clock(0.25)
    assert schedule.over()


def test_without_an_interval_the_whole_run_is_one(clock):
    schedule = Schedule(None)
    assert schedule.left(7) == 7
    clock(1000)
    assert schedule.elapsed(False) is None and not schedule.over()
    assert schedule.elapsed(True) == 1000
