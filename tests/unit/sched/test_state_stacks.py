# SPDX-License-Identifier: GPL-2.0-or-later
"""Stacks of waits."""

import os
from types import SimpleNamespace

from crisis.sched import state_stacks, states


def bits(*names):
    return sum(1 << states.TRACED.index(name) for name in names)


def test_the_states_that_get_stacks():
    assert state_stacks.mask(None) == 0
    assert state_stacks.mask("disk") == bits("disk")
    assert state_stacks.mask("lock") == bits("lock", "condition", "shared")
    assert state_stacks.mask("idle") == bits("idle", "condition", "shared")
    every = state_stacks.mask(state_stacks.LARGEST)
    assert every & bits("runq", "disk", "lock", "condition") == bits(
        "runq", "disk", "lock", "condition"
    )
    assert not every & bits("cpu", "sleep", "idle", "gone")


def test_the_largest_state_is_one_of_waiting():
    ns = dict.fromkeys(states.STATES, 0)
    ns.update(user=900, idle=5000, sleep=6000, net=70, lock=80)
    assert state_stacks.largest(ns.values()) == "lock"


def test_stacks_of_a_state_are_added_up_by_their_addresses():
    """Of a process that does not exist, so that only the kernel's part has names, if any."""
    gone = 1 << 30
    read = []

    def stack(number):
        read.append(number)
        return {1: [0x1000, 0x2000], 2: [0x400000]}.get(number)

    def record(state, kernel, user, ns):
        key = SimpleNamespace(
            tgid=gone, state=states.TRACED.index(state), kernel_stack=kernel, user_stack=user
        )
        return key, SimpleNamespace(ns=ns)

    stacks = state_stacks.Stacks(SimpleNamespace(stack=stack))
    stacks.add([record("lock", 1, 2, 10), record("disk", 1, 2, 99), record("lock", -17, -14, 50)])
    stacks.add([record("lock", 1, 2, 70)])
    first, second = stacks.take("lock")
    assert (first.pid, first.ns) == (gone, 80)
    assert [frame.address for frame in first.frames] == [0x1000, 0x2000, 0x400000]
    assert (second.ns, second.frames) == (50, [])
    assert sorted(read) == [1, 2], "each is read once"
    assert stacks.take("lock") == [] and stacks.take("disk") == []
    assert not os.path.exists(f"/proc/{gone}")
