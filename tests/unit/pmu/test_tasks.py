# SPDX-License-Identifier: GPL-2.0-or-later
"""Counters of threads, added by task."""

import errno
import os

import pytest

from crisis.errors import Unavailable
from crisis.perf.event import Event
from crisis.perf.group import Counters
from crisis.pmu import tasks
from crisis.pmu.plan import Plan
from helpers import fixture_tree


def source(moving=False, groups=((0, 1),)):
    """A _Source of two events that nothing has been opened for."""
    made = tasks._Source.__new__(tasks._Source)
    plan = Plan("cpu", None)
    for number, name in enumerate(("cycles", "instructions")):
        plan.add([(name, [(Event(4, number, name=name), 1)])])
    made.parts, made.moving = plan.parts, moving
    made.counters = Counters.__new__(Counters)
    made.counters.events = [Event(4, 0), Event(4, 1)]
    made.counters.groups = [list(group) for group in groups]
    made.counters.group_of = {i: n for n, group in enumerate(groups) for i in group}
    return made


def test_threads_are_added():
    total = tasks._Total([source()])
    total.add([[[100, 100, 3000, 1500]]], 110)
    total.add([[[50, 25, 500, 400]]], 60)  # counted for half of its time
    assert total.cpu_ns == 170
    assert total.counts() == {"cycles": (4000, 150, 125), "instructions": (2300, 150, 125)}


def test_groups_that_take_turns():
    total = tasks._Total([source(groups=((0,), (1,)))])
    total.add([[[100, 40, 400], [100, 60, 300]]], 100)
    assert total.counts() == {"cycles": (1000, 100, 40), "instructions": (500, 100, 60)}


def test_a_thread_on_both_kinds_of_cores():
    """75 of 100 ns on the one, 25 on the other: that is all of the time, and nothing to scale."""
    total = tasks._Total([source(True), source(True)])
    total.add([[[100, 75, 3000, 1500]], [[100, 25, 500, 250]]], 100)
    assert total.counts() == {"cycles": (3500, 100, 100), "instructions": (1750, 100, 100)}


def test_what_was_never_counted_is_unknown():
    total = tasks._Total([source()])
    total.add([[[100, 0, 0, 0]]], 100)
    assert total.counts() == {"cycles": (None, 100, 0), "instructions": (None, 100, 0)}


@pytest.mark.parametrize(
    "tree, pmus, misses, bus",
    [
        ("pmu-alderlake", ["cpu_atom", "cpu_core"], "llc_misses", [10 << 32 | 6, 4 << 32 | 6]),
        ("pmu-graviton3", ["armv8_pmuv3_0"], "llc_misses", [6]),
        ("pmu-zen4", ["cpu"], "l2_misses", [6]),
    ],
)
def test_what_is_opened(monkeypatch, tmp_path, tree, pmus, misses, bus):
    root, real = fixture_tree(tree, tmp_path), tasks.plan
    monkeypatch.setattr(tasks, "plan", lambda clusters, **options: real(clusters, root, **options))
    plans = tasks._plans()
    assert [one.pmu for one in plans] == pmus and all(misses in one.parts for one in plans)
    events = [[event for cluster in one.clusters for event in cluster] for one in plans]
    found = [e.config for one in events for e in one if e.name == "bus_cycles"]
    assert found == bus
    counters = {"cycles", "instructions", misses, "branch_misses", "bus_cycles"}
    assert all(set(one.parts) == counters for one in plans)


def test_no_pmu(monkeypatch, tmp_path):
    root, real = fixture_tree("pmu-no-pmu", tmp_path), tasks.plan
    monkeypatch.setattr(tasks, "plan", lambda clusters, **options: real(clusters, root, **options))
    with pytest.raises(Unavailable, match=r"no hardware PMU.*\. .*tsa"):
        tasks.Tasks(tasks.Selection(), False, False, False)


def test_selection():
    mine = os.getpid()

    def selected(**which):
        return mine in tasks.Selection(**which).pids(lambda pid: False)

    comm = open("/proc/self/comm").read().strip()
    assert selected() and selected(pid=mine) and not selected(pid=mine + 1)
    assert selected(name=comm[1:]) and not selected(name="\n")
    assert not selected(name="test_tasks.py\0") and selected(uid=os.geteuid())
    assert not selected(uid=os.geteuid() + 1) and not selected(uid=os.geteuid(), name="\n")
    arguments = open("/proc/self/cmdline").read().split("\0")
    assert selected(name=" ".join(arguments[:2]), command_line=True)
    # One that has been selected stays so when its name changes.
    assert mine in tasks.Selection(name="\n").pids(lambda pid: pid == mine)


def test_errors_of_opening_a_thread(monkeypatch):
    made = tasks.Tasks.__new__(tasks.Tasks)
    made._sources = [source()]
    for number, why in (
        (errno.ESRCH, "ended"),
        (errno.ENODEV, "ended"),
        (errno.EACCES, "refused"),
        (errno.EMFILE, "full"),
        (errno.ENFILE, "full"),
    ):

        def refuse(*arguments, number=number):
            raise OSError(number, "")

        made._sources[0].counters.open = {}
        made._sources[0].counters.dead = set()
        monkeypatch.setattr(made._sources[0].counters, "try_add", refuse, raising=False)
        assert made._open(5, 5) == why
    monkeypatch.setattr(
        made._sources[0].counters, "try_add", lambda *_: os.open("/nonexistent", 0), raising=False
    )
    with pytest.raises(FileNotFoundError):
        made._open(5, 5)


def test_what_a_thread_did_between_its_reading_and_its_end(monkeypatch):
    made = tasks.Tasks.__new__(tasks.Tasks)
    made._sources = [source()]
    last = {5: [[3, 3, 7, 1]], 6: [[9, 9, 9, 9]]}
    monkeypatch.setattr(
        made._sources[0].counters, "read_groups", lambda keys: {key: last[key] for key in keys}
    )
    changes = {5: [[[10, 10, 100, 50]]], 6: [[[20, 20, 200, 60]]]}
    made._read_ends(changes, {6: 6})
    assert changes == {5: [[[13, 13, 107, 51]]], 6: [[[20, 20, 200, 60]]]}
