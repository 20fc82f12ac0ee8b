/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tasks as the programs on sched_switch and sched_wakeup see them, and their filter.
 *
 * TYPED: attached by BTF, where the verifier knows the types of the arguments.
 */
#ifndef CRISIS_SCHED_BPF_H
#define CRISIS_SCHED_BPF_H

#include "crisis.bpf.h"

#define TASK_DEAD 0x80 /* of task_struct.__state, include/linux/sched.h, since Linux 4.14 */

#ifdef TYPED /* plain loads */
#define LOAD(pointer, member) ((pointer)->member)
#define LOAD_COMM(to, task) __builtin_memcpy(to, (task)->comm, 16)
#else
#define LOAD(pointer, member) PROBE(pointer, member)
#define LOAD_COMM(to, task) bpf_probe_read_kernel_str(to, 16, &(task)->comm)
#endif
#include "task.bpf.h"

/* Whether the filters select a task: the one that waits, not its waker nor the one it replaces. */
static __always_inline int wanted(struct task_struct *p)
{
	if (PARAM(tgid) && (u32)LOAD(p, tgid) != PARAM(tgid))
		return 0;
	if (PARAM(tid) && (u32)LOAD(p, pid) != PARAM(tid))
		return 0;
	if (PARAM(cgroup) && !in_cgroup(p))
		return 0;
	return 1;
}

#endif
