# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of threads and processes."""

from hypothesis import given
from hypothesis import strategies as st

from crisis.sched import state_sums
from crisis.sched.states import STATES

TIMES = st.lists(st.integers(0, 10**12), min_size=len(STATES), max_size=len(STATES))


def made(tgid, tid, comm="a", kernel=False, **times):
    one = state_sums.Sum(tgid, tid, comm, kernel)
    one.ns = [times.get(state, 0) for state in STATES]
    return one


def report(sums, by_thread=False, top=10, everything=True, calls=None):
    return state_sums.report(sums, by_thread, top, everything, calls or {})


def test_a_process_is_the_sum_of_its_threads_and_has_the_name_of_its_first():
    found = report([made(5, 6, "worker", disk=10, idle=90), made(5, 5, "main", idle=100)])
    (row,) = found.rows
    assert (row.pid, row.tid, row.comm, row.threads) == (5, None, "main", 2)
    assert dict(zip(STATES, row.ns))["idle"] == 190 and row.total == 200
    assert found.others is None and found.comms == {5: "main"}


def test_the_order_is_by_the_time_that_can_be_acted_on():
    sums = [
        made(1, 1, user=100),
        made(2, 2, runq=1, disk=1, swap=1, lock=1, idle=96),
        made(3, 3, net=100),
        made(4, 4, disk=5, idle=95),
        made(5, 5, idle=100),
    ]
    assert [row.pid for row in report(sums).rows] == [4, 2, 1, 3, 5]


def test_others_have_what_is_not_shown():
    sums = [made(n, n, lock=10 * n, idle=1000 - 10 * n) for n in range(1, 5)]
    found = report([*sums, made(9, 9, idle=1000), made(9, 10, sleep=1000)], True, 2, False)
    assert [row.tid for row in found.rows] == [4, 3]
    assert found.others.tasks == found.others.threads == 4
    assert found.others.total == 4000 and found.others.ns[STATES.index("lock")] == 30
    assert found.totals()[STATES.index("lock")] == 100


def test_a_task_that_only_rested_is_shown_on_request():
    sums = [made(1, 1, idle=1000, runq=1), made(2, 2, idle=9999, runq=1), made(3, 3, sleep=5)]
    assert [row.pid for row in report(sums, everything=False).rows] == [1]
    assert [row.pid for row in report(sums).rows] == [1, 2, 3]
    assert report([made(4, 4)], everything=False).rows == []


def test_calls_belong_to_their_row():
    calls = {7: {("futex", "lock"): (3, 30)}, 8: {("read", "net"): (1, 1)}}
    found = report([made(7, 7, lock=30)], calls=calls)
    assert found.rows[0].calls == calls[7]


@given(TIMES, TIMES)
def test_differences_are_not_negative_and_keep_the_sum(before, more):
    after = [old + new for old, new in zip(before, more)]
    assert state_sums.difference(after, before) == more


def test_a_wait_for_a_lock_that_turns_out_to_be_idle():
    """At the reading before, 80 ns were taken for LOCK; now all 200 are IDLE."""
    lock, idle = STATES.index("lock"), STATES.index("idle")
    before, after = [0] * len(STATES), [0] * len(STATES)
    before[lock], after[idle] = 80, 200
    found = state_sums.difference(after, before)
    assert found[lock] == 0 and found[idle] == 120


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**12), st.booleans())
def test_user_and_system_add_up(ran, utime, stime, kernel):
    user, system = state_sums.split_cpu(ran, utime, stime, kernel)
    assert user + system == ran and user >= 0 and system >= 0


def test_without_a_tick():
    assert state_sums.split_cpu(10, 0, 0) == (10, 0)
    assert state_sums.split_cpu(10, 0, 0, True) == (0, 10)
    assert state_sums.split_cpu(10, 1, 3) == (2, 8)
