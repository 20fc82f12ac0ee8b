# SPDX-License-Identifier: GPL-2.0-or-later
"""Stat files of tasks, on a made-up /proc and of this process."""

import os
import time

import pytest

from crisis.kernel import task_stat
from helpers import write_tree

TICK = 10**9 // os.sysconf("SC_CLK_TCK")


def stat(comm, system, cpu):
    before = "S 1 1 1 0 -1 4194304 0 0 0 0 9"  # state to utime
    between = "0 0 20 0 1 0 4200 0 0 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17"
    return f"7 ({comm}) {before} {system} {between} {cpu} 0 0 0 0 0 0 0 0 0 0\n"


@pytest.mark.parametrize("comm", ["sh", "a b", ") S 1 (", "x)", ""])
def test_a_name_may_have_parentheses(tmp_path, comm):
    files = {"proc/7/stat": stat(comm, 250, 3), "proc/7/task/8/stat": stat(comm, 50, 2)}
    root = write_tree(tmp_path, files)
    found = task_stat.task_stat(7, root=root)
    assert (found.comm, found.system_ns, found.cpu) == (comm, 250 * TICK, 3)
    found = task_stat.task_stat(7, 8, root)
    assert (found.comm, found.system_ns, found.cpu) == (comm, 50 * TICK, 2)


def test_what_has_ended(tmp_path):
    root = str(tmp_path)
    assert task_stat.task_stat(7, root=root) is None and task_stat.owner(7, root) is None
    assert task_stat.run_ns(7, 8, root) is None and task_stat.command_line(7, root) is None


def test_owner_is_the_effective_user(tmp_path):
    status = "Name:\tUid:\t9\nUmask:\t0022\nUid:\t1000\t33\t1000\t1000\nGid:\t0\t0\t0\t0\n"
    assert task_stat.owner(7, write_tree(tmp_path, {"proc/7/status": status})) == 33


def test_command_line(tmp_path):
    root = write_tree(tmp_path, {"proc/7/cmdline": "cc\0-o\0\0x\0", "proc/8/cmdline": ""})
    assert task_stat.command_line(7, root) == "cc -o  x"
    assert task_stat.command_line(8, root) is None


def test_all_tasks(tmp_path):
    text = "cpu  5 1 4 900 80 70 60 50 40 30\ncpu0 5 1 4\nprocesses 77\nprocs_running 1\n"
    assert task_stat.all_tasks(write_tree(tmp_path, {"proc/stat": text})) == (10 * TICK, 77)


def test_this_process():
    pid = os.getpid()
    before, end = task_stat.run_ns(pid, pid), time.thread_time() + 0.05
    while time.thread_time() < end:
        pass
    if before is not None:  # CONFIG_SCHED_INFO
        assert 0.05e9 <= task_stat.run_ns(pid, pid) - before < 0.5e9
    found = task_stat.task_stat(pid)
    assert found.cpu in range(os.cpu_count()) and found.comm in open("/proc/self/comm").read()
    assert abs(found.system_ns / 1e9 - os.times().system) < 0.1
    assert task_stat.owner(pid) == os.geteuid()
