# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands that filter tasks by PID and cgroup share: what task.bpf.h needs, and the checks of the options."""

from ..errors import Error, Unavailable
from ..kernel import proc

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


def subsys(controllers):
    """The value of a parameter that is an index of css_set.subsys: of a v1 hierarchy with these controllers.

    controllers: their names; None for v2, which is NO_SUBSYS.  Raises Unavailable for a hierarchy without any.
    """
    if controllers is None:
        return NO_SUBSYS
    known = tuple(_CONTROLLERS[name] for name in sorted(controllers) if name in _CONTROLLERS)
    if not known:
        raise Unavailable("cannot find the tasks of a cgroup v1 hierarchy without a controller (%s)"
                          % ",".join(sorted(controllers)))
    return known


def warn_of_foreign_pids(note):
    """Call note(line) where the PIDs in a BPF program's output are not those that this PID namespace shows."""
    if not proc.in_initial_pid_namespace():
        note("this is a container's PID namespace: PIDs and TIDs in the output are those of the host")


def filters(args, build):
    """{parameter: value} of PARAMS.

    args: has, or has not, pid: a process; tid: a thread; both as this PID namespace numbers them; cgroup: as for
        kernel.cgroup.find.  None for no filter.
    build: from a Source to its Object.
    Raises Error when there is no such process, thread or cgroup, Unavailable where PIDs cannot be translated.
    """
    pid, tid, path = (getattr(args, name, None) for name in ("pid", "tid", "cgroup"))
    if pid:
        proc.check_process(pid)
    if tid:
        proc.check_thread(tid)
    if (pid or tid) and not proc.in_initial_pid_namespace():
        pid, tid = _translate(pid, tid, build)
    number, level, controllers = 0, 0, None
    if path is not None:
        from ..kernel import cgroup
        number, level, controllers, _ = cgroup.find(path)
    return {"tgid": pid or 0, "tid": tid or 0, "cgroup": number, "cgroup_level": level,
            "cgroup_subsys": subsys(controllers)}


def _translate(pid, tid, build):
    """The kernel's own numbers of a process and a thread of this PID namespace, each may be None."""
    from . import pid_namespace
    known = pid_namespace.kernel_tids(build)
    for number in pid, tid:
        if number and number not in known:      # it ended meanwhile
            raise Error("no such process or thread: %d" % number)
    return known.get(pid), known.get(tid)
