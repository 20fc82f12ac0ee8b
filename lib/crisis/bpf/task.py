# SPDX-License-Identifier: GPL-2.0-or-later
"""What progs/task.bpf.h needs, and the checks of the options that filter tasks."""

from __future__ import annotations

from ..errors import Error, Unavailable
from ..kernel import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .object import Object
    from .source import Source

__all__ = [
    "DEFINES",
    "HAS",
    "PARAMS",
    "CONSTANTS",
    "NO_SUBSYS",
    "subsys",
    "filters",
    "warn_of_foreign_pids",
]

# In place of an index of css_set.subsys: the hierarchy of cgroup v2.
NO_SUBSYS = 255
DEFINES = {"NO_SUBSYS": NO_SUBSYS}
PARAMS = ("tgid", "tid", "cgroup", "cgroup_level", "cgroup_subsys")
HAS = {
    "HAVE_ANCESTORS": ("cgroup.ancestors", "6.0"),
    "HAVE___STATE": ("task_struct.__state", "5.14"),
}
_CONTROLLERS = {
    name: name + "_cgrp_id"
    for name in (
        "cpuset",
        "cpu",
        "cpuacct",
        "memory",
        "devices",
        "freezer",
        "net_cls",
        "perf_event",
        "net_prio",
        "hugetlb",
        "pids",
        "rdma",
        "misc",
    )
}
_CONTROLLERS["blkio"] = "io_cgrp_id"
CONSTANTS = tuple(sorted(_CONTROLLERS.values()))


def subsys(controllers: Iterable[str] | None) -> int | tuple[str, ...]:
    """The value of a parameter that is an index of css_set.subsys.

    controllers: those of the v1 hierarchy; None for v2, which is NO_SUBSYS.
    Raises Unavailable for a hierarchy without any.
    """
    if controllers is None:
        return NO_SUBSYS
    known = tuple(_CONTROLLERS[name] for name in sorted(controllers) if name in _CONTROLLERS)
    if not known:
        names = ",".join(sorted(controllers))
        raise Unavailable(
            f"cannot find the tasks of a cgroup v1 hierarchy without a controller ({names})"
        )
    return known


def warn_of_foreign_pids(note: Callable[[str], object]) -> None:
    """Call note(line) where the PIDs in a program's output are not those of this PID namespace."""
    if not proc.in_initial_pid_namespace():
        note(
            "this is a container's PID namespace: PIDs and TIDs in the output are those of the host"
        )


def filters(args: Any, build: Callable[[Source], Object]) -> dict[str, Any]:
    """{parameter: value} of PARAMS.

    args: has, or has not, pid: a process; tid: a thread; both as this PID namespace numbers them;
        cgroup: as for kernel.cgroup.find.  None for no filter.
    build: from a Source to its Object.
    Raises Error when there is no such process, thread or cgroup, Unavailable where PIDs cannot be
    translated.
    """
    pid, tid, path = (getattr(args, name, None) for name in ("pid", "tid", "cgroup"))
    if pid:
        proc.check_process(pid)
    if tid:
        proc.check_thread(tid)
    if (pid or tid) and not proc.in_initial_pid_namespace():
        pid, tid = _translate(pid, tid, build)
    number, level = 0, 0
    controllers: set[str] | None = None
    if path is not None:
        from ..kernel import cgroup

        number, level, controllers, _ = cgroup.find(path)
    return {
        "tgid": pid or 0,
        "tid": tid or 0,
        "cgroup": number,
        "cgroup_level": level,
        "cgroup_subsys": subsys(controllers),
    }


def _translate(
    pid: int | None, tid: int | None, build: Callable[[Source], Object]
) -> tuple[int | None, int | None]:
    """The kernel's own numbers of a process and a thread here, each may be None."""
    from . import pid_namespace

    known = pid_namespace.kernel_tids(build)
    for number in pid, tid:
        if number and number not in known:  # it ended meanwhile
            raise Error(f"no such process or thread: {number}")
    return known.get(pid or 0), known.get(tid or 0)
