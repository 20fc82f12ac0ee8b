# SPDX-License-Identifier: GPL-2.0-or-later
"""Control groups, in trees of files."""

import os

import pytest

from crisis.errors import Error, Unavailable
from crisis.kernel import cgroup
from helpers import write_tree as tree

MOUNTS = (
    "30 20 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "31 30 0:26 / /sys/fs/cgroup/cpu\\040x rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "32 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
)


def test_cgroups(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/self/mountinfo": MOUNTS,
            "sys/fs/cgroup/unified/a/b/cgroup.procs": "",
            "sys/fs/cgroup/cpu x/c/tasks": "",
        },
    )
    assert cgroup.mounts(root)[0] == ("/sys/fs/cgroup/cpu x", "/", {"cpu", "cpuacct"})
    number = os.stat(root + "/sys/fs/cgroup/unified/a/b").st_ino
    for path in "/sys/fs/cgroup/unified/a/b", "/a/b":
        assert cgroup.find(path, root) == (number, 2, None, "/sys/fs/cgroup/unified")
    assert cgroup.find("/sys/fs/cgroup/cpu x/c", root)[1:3] == (1, {"cpu", "cpuacct"})
    for v1, v2, best in ("1\n2\n", "1\n", 2), ("1\n", "1\n", 2), ("1\n", "1\n2\n", 1):
        tree(
            tmp_path,
            {"sys/fs/cgroup/cpu x/cgroup.procs": v1, "sys/fs/cgroup/unified/cgroup.procs": v2},
        )
        assert cgroup.task_hierarchy(root=root) == cgroup.task_hierarchy(best, root)
    assert cgroup.task_hierarchy(1, root) == ("/sys/fs/cgroup/cpu x", {"cpu", "cpuacct"})
    assert cgroup.task_hierarchy(2, root) == ("/sys/fs/cgroup/unified", None)
    assert cgroup.paths([number], "/sys/fs/cgroup/unified", root) == {number: "/a/b"}
    with pytest.raises(Error):
        cgroup.find("/nope", root)


def test_cgroup_outside_the_namespace(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/self/mountinfo": "32 30 0:27 /../x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            "sys/fs/cgroup/a/cgroup.procs": "",
        },
    )
    with pytest.raises(Unavailable):
        cgroup.find("/sys/fs/cgroup/a", root)
