/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Memory cgroups.  HAVE_MEMCG: the kernel has them. */
#ifndef CRISIS_MEMCG_BPF_H
#define CRISIS_MEMCG_BPF_H

#include <linux/sched.h>
#include <linux/cgroup.h>
#include <linux/memcontrol.h>

#if !defined(CRISIS_BTF) && !defined(CONFIG_MEMCG)
#undef HAVE_MEMCG
#endif

/*
 * A task's state in the hierarchy that has the memory controller, v1 or v2; NULL without one.  It
 * is the first member of the task's struct mem_cgroup, which the kernel relies on too
 * (mem_cgroup_from_css()).
 */
static __always_inline struct cgroup_subsys_state *memory_state_of(struct task_struct *p)
{
#ifdef HAVE_MEMCG
	struct css_set *set = PROBE(p, cgroups);
	struct cgroup_subsys_state *css = 0;

	bpf_probe_read_kernel(&css, sizeof(css), &set->subsys[memory_cgrp_id]);
	return css;
#else
	return 0;
#endif
}

#endif
