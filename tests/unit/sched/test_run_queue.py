# SPDX-License-Identifier: GPL-2.0-or-later
"""What runqlat and runqslower attach to."""

import pytest

from crisis.sched import run_queue, slow_waits


@pytest.mark.parametrize("module", [run_queue, slow_waits])
def test_switches_are_attached_before_wakeups(module):
    """A task woken and run before sched_switch is attached would keep that start."""
    for source in module.SOURCES.values():
        first, *others = (point[0].partition("/")[2] for point in source.points)
        assert first == "sched_switch:on_switch"
        assert others == ["sched_wakeup:on_wakeup", "sched_wakeup_new:on_wakeup"]
