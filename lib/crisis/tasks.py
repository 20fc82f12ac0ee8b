# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands that filter tasks by PID and cgroup share: C text, its params, and their checks."""

from . import compile, proc
from .errors import Error, Unavailable

__all__ = ["TEXT", "HAS", "PARAMS", "CONSTANTS", "NO_SUBSYS", "subsys", "filters", "warn_of_foreign_pids"]

# in_cgroup() needs PARAMS.  A command that asks often defines LOAD(pointer, member), plain loads if it can.
TEXT = r"""
#include <linux/sched.h>
#include <linux/cgroup.h>

#define NO_SUBSYS 255

static __always_inline struct cgroup *cgroup_of(struct task_struct *p, u64 subsys)
{
	struct css_set *set = PROBE(p, cgroups);
	struct cgroup_subsys_state *css;

	if (subsys == NO_SUBSYS)
		return PROBE(set, dfl_cgrp);
	bpf_probe_read_kernel(&css, sizeof(css), &set->subsys[subsys]);
	return PROBE(css, cgroup);
}

static __always_inline u64 id_of_cgroup(struct cgroup *cgroup)
{
	struct kernfs_node *node = PROBE(cgroup, kn);

	return PROBE(node, id);
}

static __always_inline int in_cgroup(struct task_struct *p)
{
	u64 subsys = PARAM(cgroup_subsys), level = PARAM(cgroup_level), id = 0;
	struct cgroup *cgroup;

#ifdef LOAD
	if (subsys == NO_SUBSYS) {      /* most often it is the task's own cgroup */
		struct css_set *set = LOAD(p, cgroups);
		struct kernfs_node *node;

		cgroup = LOAD(set, dfl_cgrp);
		node = LOAD(cgroup, kn);
		if (LOAD(node, id) == PARAM(cgroup))
			return 1;
		if ((u64)LOAD(cgroup, level) <= level)
			return 0;
	} else
#endif
	{
		cgroup = cgroup_of(p, subsys);
		if ((u64)PROBE(cgroup, level) < level)
			return 0;
	}
#ifdef HAVE_ANCESTORS
	struct cgroup *above;
	bpf_probe_read_kernel(&above, sizeof(above), &cgroup->ancestors[level]);
	id = id_of_cgroup(above);
#else
	bpf_probe_read_kernel(&id, sizeof(id), &cgroup->ancestor_ids[level]);
#endif
	return id == PARAM(cgroup);
}
"""
NO_SUBSYS = 255
PARAMS = ("tgid", "tid", "cgroup", "cgroup_level", "cgroup_subsys")
HAS = {"HAVE_ANCESTORS": ("cgroup.ancestors", "6.0")}
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

    pid: a process; tid: a thread; both as this PID namespace numbers them.  cgroup: as for proc.find_cgroup.
    build: from a compile.Source to its Object.
    Raises Error when there is no such process, thread or cgroup, Unavailable where PIDs cannot be translated.
    """
    if pid:
        proc.check_process(pid)
    if tid:
        proc.check_thread(tid)
    if (pid or tid) and not proc.in_initial_pid_namespace():
        pid, tid = _translate(pid, tid, build)
    number, level, controllers, _ = proc.find_cgroup(cgroup) if cgroup is not None else (0, 0, None, None)

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
