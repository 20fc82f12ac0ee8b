/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tasks and their cgroups, for filters and for grouping.  crisis.bpf.task computes the parameters
 * tgid, tid, cgroup, cgroup_level and cgroup_subsys, and the macro NO_SUBSYS.
 */
#ifndef CRISIS_TASK_BPF_H
#define CRISIS_TASK_BPF_H

#include <linux/sched.h>
#include <linux/cgroup.h>

/* task_struct.state was renamed in Linux 5.14. */
#ifdef HAVE___STATE
#define STATE __state
#else
#define STATE state
#endif

/*
 * A task's cgroup in the hierarchy of cgroup v1 whose controllers include the one with this index
 * of css_set.subsys; in that of cgroup v2 for NO_SUBSYS.
 */
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

/*
 * Whether a task is in the cgroup PARAM(cgroup), which is at PARAM(cgroup_level), or below it.  A
 * program that calls this for each event defines LOAD(pointer, member), by plain loads if it can:
 * then the most frequent case, a task of that very cgroup, is tested first.
 */
static __always_inline int in_cgroup(struct task_struct *p)
{
	u64 subsys = PARAM(cgroup_subsys), level = PARAM(cgroup_level), id = 0;
	struct cgroup *cgroup;

#ifdef LOAD
	if (subsys == NO_SUBSYS) {
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

#endif
