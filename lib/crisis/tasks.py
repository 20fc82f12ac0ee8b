# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands that filter tasks by PID and cgroup share: what task.bpf.h needs, and the checks of the options."""

from . import compile
from .kernel import cgroup as cgroups
from .kernel import proc
from .errors import Error, Unavailable

__all__ = ["DEFINES", "HAS", "PARAMS", "CONSTANTS", "NO_SUBSYS", "subsys", "filters", "warn_of_foreign_pids"]

NO_SUBSYS = 255         # in place of an index of css_set.subsys: the hierarchy of cgroup v2
DEFINES = {"NO_SUBSYS": NO_SUBSYS}
PARAMS = ("tgid", "tid", "cgroup", "cgroup_level", "cgroup_subsys")
HAS = {"HAVE_ANCESTORS": ("cgroup.ancestors", "6.0"), "HAVE___STATE": ("task_struct.__state", "5.14")}
_CONTROLLERS = {name: name + "_cgrp_id" for name in
                ("cpuset", "cpu", "cpuacct", "memory", "devices", "freezer", "net_cls", "perf_event", "net_prio",
                 "hugetlb", "pids", "rdma", "misc")}
_CONTROLLERS["blkio"] = "io_cgrp_id"
CONSTANTS = tuple(sorted(_CONTROLLERS.values()))


def subsys(obj, controllers):
    """The index of css_set.subsys for a v1 hierarchy with these controllers; NO_SUBSYS for None, which is v2."""
    if controllers is None:
        return NO_SUBSYS
    for name in sorted(controllers):
        number = obj.constants.get(_CONTROLLERS.get(name))
        if number is not None:
            return number
    raise Unavailable("cannot find the tasks of a cgroup v1 hierarchy without a controller (%s)"
                      % ",".join(sorted(controllers)))


def warn_of_foreign_pids(note):
    """Call note(line) where the PIDs in a BPF program's output are not those that this PID namespace shows."""
    if not proc.in_initial_pid_namespace():
        note("this is a container's PID namespace: PIDs and TIDs in the output are those of the host")


def filters(pid=None, tid=None, cgroup=None, build=compile.build):
    """A function from a compiled Object to the values of PARAMS.

    pid: a process; tid: a thread; both as this PID namespace numbers them.  cgroup: as for kernel.cgroup.find.
    build: from a compile.Source to its Object.
    Raises Error when there is no such process, thread or cgroup, Unavailable where PIDs cannot be translated.
    """
    if pid:
        proc.check_process(pid)
    if tid:
        proc.check_thread(tid)
    if (pid or tid) and not proc.in_initial_pid_namespace():
        pid, tid = _translate(pid, tid, build)
    number, level, controllers, _ = cgroups.find(cgroup) if cgroup is not None else (0, 0, None, None)

    def params(obj):
        return {"tgid": pid or 0, "tid": tid or 0, "cgroup": number, "cgroup_level": level,
                "cgroup_subsys": subsys(obj, controllers)}
    return params


def _translate(pid, tid, build):
    """The kernel's own numbers of a process and a thread of this PID namespace, each may be None."""
    from . import pid_namespace
    known = pid_namespace.kernel_tids(build)
    for number in pid, tid:
        if number and number not in known:      # it ended meanwhile
            raise Error("no such process or thread: %d" % number)
    return known.get(pid), known.get(tid)
