/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * When a task began to wait on a run queue: it was woken, or is preempted or yields while it could
 * go on.  For programs on sched_wakeup and sched_wakeup_new, which are on_wakeup(), and
 * sched_switch.
 *
 * TYPED: attached by BTF, where the verifier knows the types of the arguments.  STORAGE: the start
 * of a wait is kept in task storage, else in a hash.
 */
#ifndef CRISIS_RUN_QUEUE_BPF_H
#define CRISIS_RUN_QUEUE_BPF_H

#include "crisis.bpf.h"
#include "sched.bpf.h"

/* When each waiting task was queued, in ns; 0 while it is not waiting. */
#ifdef STORAGE
#define CREATE 1 /* BPF_LOCAL_STORAGE_GET_F_CREATE */
TASK_STORAGE(start, u64);

static __always_inline void enqueued(struct task_struct *p, int again)
{
	u64 *since = start.sk_storage_get(p, 0, CREATE);

	if (!since)
		COUNT(untracked);
	else if (again || !*since) /* one that waits already has its start */
		*since = bpf_ktime_get_ns();
}

static __always_inline u64 dequeued(struct task_struct *p)
{
	u64 *since = start.sk_storage_get(p, 0, 0), then;

	if (!since)
		return 0;
	then = *since;
	*since = 0;
	return then;
}

static __always_inline void forget(struct task_struct *p)
{
}
#else
BPF_TABLE("lru_hash", u32, u64, start, 1);

static __always_inline void enqueued(struct task_struct *p, int again)
{
	u32 tid = LOAD(p, pid);
	u64 *since = start.lookup(&tid), now;

	if (since && *since && !again)
		return;
	now = bpf_ktime_get_ns();
	if (since)
		*since = now;
	else
		start.update(&tid, &now);
}

static __always_inline u64 dequeued(struct task_struct *p)
{
	u32 tid = LOAD(p, pid);
	u64 *since = start.lookup(&tid), then;

	if (!since)
		return 0;
	then = *since;
	*since = 0;
	return then;
}

/* A task has left its CPU for the last time: others need its place. */
static __always_inline void forget(struct task_struct *p)
{
	u32 tid = LOAD(p, pid);

	if (LOAD(p, STATE) & TASK_DEAD)
		start.delete(&tid);
}
#endif

int on_wakeup(u64 *ctx)
{
	struct task_struct *p = (struct task_struct *)ctx[0];

#ifdef HAVE_ON_CPU
	if (LOAD(p, on_cpu)) /* woken before it had left the CPU: not a wait */
		return 0;
#endif
	if (wanted(p))
		enqueued(p, 0);
	return 0;
}

/*
 * Of sched_switch: note when the wait of the task begins that leaves the CPU, if it has one; when
 * that of the next task began, in ns, or 0 for one that is not wanted or not known.
 */
static __always_inline u64 waited_since(u64 *ctx)
{
	struct task_struct *prev = (struct task_struct *)ctx[1];
	struct task_struct *next = (struct task_struct *)ctx[2];
	u64 since;

	/* A task preempted on its way to sleep stays queued whatever its state says. */
	if (((u8)ctx[0] || LOAD(prev, STATE) == 0) && LOAD(prev, pid) && wanted(prev))
		enqueued(prev, 1);
	else
		forget(prev);
	if (!LOAD(next, pid) || !wanted(next))
		return 0;
	since = dequeued(next);
	if (!since)
		COUNT(unseen);
	return since;
}

#endif
