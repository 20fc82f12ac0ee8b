# SPDX-License-Identifier: GPL-2.0-or-later
"""A session's arguments."""

import pytest

from crisis.errors import NotPermitted, Unavailable, Usage
from crisis.perf.event import Event
from crisis.pmu import plan, session


def test_cpu_list():
    assert session.cpu_list("0,2-3") == [0, 2, 3] and session.cpu_list(None) is None
    with pytest.raises(Usage):
        session.cpu_list("a")


@pytest.mark.parametrize(
    "reading, error",
    [
        ((1000, 1000, 4711), None),
        ((1000, 1000, 0), Unavailable),  # a PMU that a hypervisor only pretends to pass on
        (None, Unavailable),  # the CPU has gone offline
        (PermissionError(13, "Permission denied"), NotPermitted),
        (FileNotFoundError(2, "No such file or directory"), Unavailable),
    ],
)
def test_whether_a_pmu_counts(monkeypatch, reading, error):
    class Group:
        def __init__(self, events, cpu):
            assert cpu == 2
            if isinstance(reading, OSError):
                raise reading

        def read(self):
            return reading

        def enable(self):
            pass

        close = enable

    core = plan.Plan("cpu_atom", [2, 3])
    core.clusters.append([Event(4, 0x3C)])
    monkeypatch.setattr(session, "plan", lambda clusters, shared_l3: ([core], []))
    monkeypatch.setattr(session, "Group", Group)
    monkeypatch.setattr(session.sysfs, "online_cpus", lambda: [0, 1, 2, 3])
    if error is None:
        assert session.check() == "cpu_atom"
        return
    with pytest.raises(error):
        session.check()
