# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows and their totals."""

import argparse

import pytest

from crisis.memory import PAGE, working_set, working_set_report, working_set_row


def process_row(pid, ref, maps=(), touched=None):
    return {
        "pid": pid,
        "comm": "x",
        "mark": (0, 10),
        "read": (20, 30),
        "newborn": False,
        "rss": 9 * MB,
        "pss": 8 * MB,
        "ref": ref,
        "huge": 0,
        "hugetlb": 0,
        "maps": list(maps),
        "touched": touched,
    }


MB = 1 << 20


def test_total_by_idle_page_tracking_is_exact():
    rows = [process_row(1, 3 * PAGE, touched={5, 6, 7}), process_row(2, 2 * PAGE, touched={7, 8})]
    row = working_set_row.total(rows, {})
    assert (
        row["ref"] == row["ref_min"] == row["ref_max"] == 4 * PAGE and row["unweighted"] == 5 * PAGE
    )
    assert (row["rss"], row["pss"]) == (18 * MB, 16 * MB)


@pytest.mark.parametrize(
    "low, high, shown",
    [
        (24 * MB, 48 * MB, "total (24.00-48.00)"),
        (24 * MB, 24 * MB, "total"),
        (999 * MB, 999999 * MB, "total (999.00-999999)"),
    ],
)
def test_total_shows_its_range(low, high, shown):
    args = argparse.Namespace(json=False, timestamp=False, moretimes=False, map=False)
    row = dict(process_row(None, low), comm="total", ref_min=low, ref_max=high)
    line = working_set_report.line(args, row, 0, True)
    assert line.endswith("       - " + shown) and len(line) <= 80


class Clock:
    """time.monotonic() that stands still until it is moved."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(working_set.time, "monotonic", lambda: self.now)


def schedule(interval, **options):
    options = dict({"cumulative": False, "profile": None, "snapshot": None}, **options)
    return working_set._Schedule(argparse.Namespace(**options), interval)


def test_readings_of_a_growing_run(monkeypatch):
    clock, growing, profile = (
        Clock(monkeypatch),
        schedule(2, cumulative=True),
        schedule(1, profile=9),
    )
    assert growing.deadline() == 102 and profile.deadline() == 101
    for number, moment in (1, 104), (2, 106):
        growing.number = number
        clock.now = moment - 0.5
        growing.skip()
        assert growing.deadline() == moment
    clock.now = 109.5  # two intervals have been missed
    growing.skip()
    assert growing.deadline() == 110
    for number in range(9):
        profile.number = number
        profile.skip()
        assert profile.deadline() == 100 + 2**number


def test_readings_with_pauses(monkeypatch):
    clock, snapshots = Clock(monkeypatch), schedule(1, snapshot=4.0)
    assert snapshots.deadline() == 101
    snapshots.number, clock.now = 1, 101.2
    snapshots.skip()
    assert (snapshots.next(), snapshots.deadline()) == (105, 106)
    clock.now = 111.1  # the second and the third have been missed
    snapshots.skip()
    assert (snapshots.next(), snapshots.deadline()) == (115, 116)
    assert schedule(None).deadline() == float("inf")
