// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Each long wait on a run queue, and with PARAM(timehist) each time that a task leaves its CPU.
 *
 * TYPED and STORAGE: see run_queue.bpf.h.
 */
#include "crisis.bpf.h"
#include "run_queue.bpf.h"

/*
 * A wait, when it has ended: the task got the CPU `at`, after `wait`, from `prev`, which had run
 * for `run`.  Times are in ns.
 */
struct event {
	u64 at, wait, run;
	u32 tgid, tid, prev_tgid, prev_tid, cpu;
	char comm[16], prev_comm[16];
};
RECORD(event);

/*
 * A task that has left its CPU `at`, after `run`, and whether it is still runnable.  Before that it
 * was off the CPU for `off`, of which it waited for `wait`: for all of it if it had been preempted.
 */
struct slice {
	u64 at, off, wait, run;
	u32 tgid, tid, cpu;
	u16 runnable, preempted;
	char comm[16];
};
RECORD(slice);

/* What a CPU does: since when, and of its task what struct slice has. */
struct current {
	u64 since, off, wait, preempted;
};

/* When a task left its CPU, and whether it was runnable. */
struct departure {
	u64 at, runnable;
};

BPF_RINGBUF_OUTPUT(events, 1);
BPF_PERCPU_ARRAY(currents, struct current, 1);

#ifdef STORAGE
TASK_STORAGE(left, struct departure); /* for struct slice */

static __always_inline void leave(struct task_struct *p, struct departure *departure)
{
	struct departure *d = left.sk_storage_get(p, 0, CREATE);

	if (d)
		*d = *departure;
	else
		COUNT(untracked);
}

static __always_inline struct departure *departure_of(struct task_struct *p)
{
	return left.sk_storage_get(p, 0, 0);
}
#else
BPF_TABLE("lru_hash", u32, struct departure, left, 1); /* by TID, for struct slice */

static __always_inline void leave(struct task_struct *p, struct departure *departure)
{
	u32 tid = LOAD(p, pid);
	struct departure *d = left.lookup(&tid);

	if (LOAD(p, STATE) & TASK_DEAD)
		left.delete(&tid);
	else if (d) /* an update would take a new element: every 128th of them for 0.1 ms */
		*d = *departure;
	else
		left.update(&tid, departure);
}

static __always_inline struct departure *departure_of(struct task_struct *p)
{
	u32 tid = LOAD(p, pid);

	return left.lookup(&tid);
}
#endif

static __always_inline void emit_wait(struct task_struct *p, struct task_struct *prev, u64 now,
				      u64 wait, u64 run)
{
	struct event *e = events.ringbuf_reserve(sizeof(*e));

	if (!e) {
		COUNT(dropped);
		return;
	}
	e->at = now;
	e->wait = wait;
	e->run = run;
	e->tgid = LOAD(p, tgid);
	e->tid = LOAD(p, pid);
	e->prev_tgid = LOAD(prev, tgid);
	e->prev_tid = LOAD(prev, pid);
	e->cpu = bpf_get_smp_processor_id();
	LOAD_COMM(e->comm, p);
	LOAD_COMM(e->prev_comm, prev);
	events.ringbuf_submit(e, 0);
}

static __always_inline void emit_slice(struct task_struct *prev, struct current *c, u64 now,
				       int runnable)
{
	struct slice *s = events.ringbuf_reserve(sizeof(*s));

	if (!s) {
		COUNT(dropped);
		return;
	}
	s->at = now;
	s->off = c->off;
	s->wait = c->wait;
	s->run = now - c->since;
	s->tgid = LOAD(prev, tgid);
	s->tid = LOAD(prev, pid);
	s->cpu = bpf_get_smp_processor_id();
	s->runnable = runnable;
	s->preempted = c->preempted;
	LOAD_COMM(s->comm, prev);
	events.ringbuf_submit(s, BPF_RB_NO_WAKEUP);
}

/* Note when one task leaves the CPU, and how long the next one has been off it. */
static __always_inline void replace(struct task_struct *prev, struct task_struct *next,
				    struct current *c, u64 now, int runnable)
{
	struct departure leaves = { .at = now, .runnable = runnable }, *then;

	if (LOAD(prev, pid) && wanted(prev))
		leave(prev, &leaves);
	then = LOAD(next, pid) && wanted(next) ? departure_of(next) : 0;
	c->off = then && then->at < now ? now - then->at : 0;
	c->preempted = then && then->runnable;
}

int on_switch(u64 *ctx)
{
	struct task_struct *prev = (struct task_struct *)ctx[1];
	struct task_struct *next = (struct task_struct *)ctx[2];
	u64 since = waited_since(ctx), now = bpf_ktime_get_ns(), wait;
	int zero = 0, runnable = (u8)ctx[0] || LOAD(prev, STATE) == 0;
	struct current *c = currents.lookup(&zero);

	if (!c)
		return 0;
	wait = since && since < now ? now - since : 0;
	if (PARAM(timehist)) {
		if (c->since && LOAD(prev, pid) && wanted(prev))
			emit_slice(prev, c, now, runnable);
		replace(prev, next, c, now, runnable);
		c->wait = wait;
	} else if (wait > PARAM(min_ns)) {
		emit_wait(next, prev, now, wait, c->since ? now - c->since : 0);
	}
	c->since = now;
	return 0;
}
