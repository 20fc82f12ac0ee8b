# SPDX-License-Identifier: GPL-2.0-or-later
"""What tasks have waited for between two readings, and which of them are shown."""

import pytest

from crisis.net import taskstats
from crisis.net import taskstats_waits as waits


def test_what_was_never_kept_is_not_zero(tmp_path):
    zeros = dict.fromkeys(taskstats.DELAYS, (0, 0))
    account = dict(zeros, cpu=(5, 500), wpcopy=(3, 30))
    assert waits.known(account, True, True) == account
    assert waits.known(account, True, False) == dict(account, irq=(None, None))
    for accounts, on in (account, False), (dict(zeros, cpu=(5, 500)), True):
        found = waits.known(accounts, on, True)
        assert found.pop("cpu") == (5, 500) and set(found.values()) == {(None, None)}
    old = dict(zeros, wpcopy=(None, None))  # before Linux 5.19
    assert waits.known(old, True, True) == old
    assert taskstats.switched_on(str(tmp_path)) and waits.irq_kept(str(tmp_path))
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/pressure").mkdir()
    (tmp_path / "proc/sys/kernel/task_delayacct").write_text("0\n")
    assert not taskstats.switched_on(str(tmp_path)) and not waits.irq_kept(str(tmp_path))


def test_difference_and_average():
    before = {"cpu": (1, 100), "blkio": (None, None), "irq": (5, 50)}
    after = {"cpu": (3, 400), "blkio": (2, 20), "irq": (4, 60)}
    assert waits.difference(before, after) == {
        "cpu": (2, 300),
        "blkio": (None, None),
        "irq": (None, 10),
    }
    assert (waits.average(2, 3000), waits.average(0, 0), waits.average(3, None)) == (
        1.5,
        None,
        None,
    )


class Tasks:
    """What the kernel knows of the tasks at one moment.

    {number: (comm, whether it is a kernel thread, start time, ns waited for a CPU, and for I/O)}.
    """

    names = ["cpu", "blkio", "wpcopy"]

    def __init__(self):
        self.now = {}
        self.looked_at = []

    def read(self, numbers, threads=False):
        return {
            number: (1, self.now[number][3], 1, self.now[number][4], 1, 0)
            for number in numbers
            if number in self.now
        }

    def task(self, number):
        self.looked_at.append(number)
        if number not in self.now:
            return None
        return waits._Task(*self.now[number][:3])


@pytest.fixture
def tasks(monkeypatch):
    made = Tasks()
    monkeypatch.setattr(waits._Task, "read", made.task)
    monkeypatch.setattr(waits.proc, "processes", lambda: list(made.now))
    monkeypatch.setattr(waits.taskstats, "switched_on", lambda: True)
    monkeypatch.setattr(waits, "irq_kept", lambda: True)
    monkeypatch.setattr(waits.time, "clock_gettime", lambda clock: made.clock)
    made.clock = 100.0
    return made


def numbers(rows):
    return [row.number for row in rows]


def test_kernel_threads_are_last(tasks):
    source = waits.Waits(tasks, None, None, None)
    tasks.now = {n: (f"user{n}", False, 1, n, 50 - n) for n in range(1, 20)}
    tasks.now.update({n: ("kworker", True, 1, n, 0) for n in range(100, 110)})
    tasks.now[99] = "idle", False, 1, 0, 0
    everything = source.read()
    top = source.top(None, everything, 3, waits.waited)
    assert numbers(top) == [1, 2, 3] and [row.kernel for row in top] == [False] * 3
    by_cpu = source.top(None, everything, 3, lambda accounts: accounts["cpu"][1])
    assert numbers(by_cpu) == [19, 18, 17]
    few = source.top(None, everything, 25, lambda accounts: accounts["cpu"][1])
    assert numbers(few) == [*range(19, 0, -1), *range(109, 103, -1)]
    assert few[0].comm == "user19" and few[0].accounts["swapin"] == (None, None)


def test_only_what_is_shown_is_looked_at(tasks):
    source = waits.Waits(tasks, None, None, None)
    tasks.now = {n: ("x", False, 1, n, 0) for n in range(1, 1000)}
    before = source.read()
    tasks.now[7] = "x", False, 1, 1007, 0
    tasks.now[8] = "x", False, 1, 500, 0
    after = source.read()
    top = source.top(before, after, 10, waits.waited)
    assert [(row.number, row.accounts["cpu"][1]) for row in top] == [(7, 1000), (8, 492)]
    assert tasks.looked_at == [7, 8]


def test_a_number_that_another_process_has_got(tasks):
    source = waits.Waits(tasks, None, None, None)
    tasks.now = {5: ("old", False, 10.0, 1000, 0), 6: ("same", False, 10.0, 1000, 0)}
    before = source.read()
    tasks.clock = 101.0
    tasks.now = {5: ("new", False, 100.5, 1300, 0), 6: ("same", False, 10.0, 1400, 0)}
    after = source.read()
    top = source.top(before, after, 10, waits.waited)
    assert [(row.comm, row.accounts["cpu"][1]) for row in top] == [("new", 1300), ("same", 400)]
    chosen = waits.Waits(tasks, [5, 6], None, None)
    for tasks.clock in 100.0, 101.0:
        chosen.read()
    assert [row.comm for row in chosen.rows(before, after)] == ["same"]
    assert [row.comm for row in chosen.rows(None, after)] == ["new", "same"]


def test_columns(tasks, monkeypatch):
    assert waits.Waits(tasks, None, None, None).columns == ["cpu", "blkio", "wpcopy"]
    monkeypatch.setattr(tasks, "names", [*tasks.names, "irq"], raising=False)
    monkeypatch.setattr(waits, "irq_kept", lambda: False)
    assert waits.Waits(tasks, None, None, None).columns == ["cpu", "blkio", "wpcopy"]
    monkeypatch.setattr(waits.taskstats, "switched_on", lambda: False)
    assert waits.Waits(tasks, None, None, None).columns == ["cpu"]
