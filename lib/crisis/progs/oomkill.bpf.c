// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Kills by the OOM killer, from oom:mark_victim, which runs in the task whose allocation failed.
 *
 * TYPED: attached by BTF; reads the victim itself, and at the entry of oom_kill_process() the limit
 * that was hit.  Else: only what the tracepoint's record has.
 */
#include "crisis.bpf.h"
#include "field.bpf.h"
#include "memcg.bpf.h"
#include <linux/sched/signal.h>
#include <linux/mm.h>
#include <linux/oom.h>

#define MAX_FRAMES 64
#define UNKNOWN (~0ULL)

/*
 * The names of a cgroup and of those above it, the innermost first; levels is LEVELS + 1 where
 * there are more.
 */
struct names {
	u32 levels, unused;
	char of[LEVELS * NAME];
};

/* What oom_kill_process() was called with (struct oom_control); pages; flags of LIMIT_*. */
struct limit {
	u64 cgroup, max, usage, totalpages;
	u32 constraint;
	s32 order; /* -1 of a kill by SysRq */
	u32 gfp, flags;
	struct names names;
};

struct stack {
	s64 size;
	u64 frames[MAX_FRAMES];
	u32 tid, unused;
};

/*
 * A victim: memory in pages (pgtables in bytes), UNKNOWN for what is not known; by_tgid, by_tid and
 * by_comm: the task whose allocation failed; flags: EVENT_VICTIM where the victim was read.
 */
struct event {
	u64 ts, anon, file, shmem, swap, total_vm, pgtables, cgroup;
	u32 flags, tgid, tid, uid, by_tgid, by_tid;
	s32 oom_score_adj, unused;
	char comm[16], by_comm[16];
	s64 stack_size;
	u64 stack[MAX_FRAMES];
	struct limit limit;
	struct names names;
};
RECORD(event);
BPF_RINGBUF_OUTPUT(events, 1);

/* Reserve an event with what is known of every kill. */
static __always_inline struct event *reserve(void)
{
	struct event *e = events.ringbuf_reserve(sizeof(*e));
	u64 by = bpf_get_current_pid_tgid();

	if (!e) {
		COUNT(dropped);
		return 0;
	}
	e->ts = bpf_ktime_get_ns();
	e->anon = e->file = e->shmem = e->swap = e->total_vm = e->pgtables = UNKNOWN;
	e->cgroup = 0;
	e->flags = 0;
	e->uid = e->unused = 0;
	e->oom_score_adj = 0;
	e->by_tgid = by >> 32;
	e->by_tid = by;
	e->limit.flags = 0;
	e->limit.names.levels = e->names.levels = 0;
	__builtin_memset(e->comm, 0, sizeof(e->comm));
	bpf_get_current_comm(e->by_comm, sizeof(e->by_comm));
	e->stack_size = 0;
	return e;
}

#ifdef TYPED
#include "task.bpf.h"

/* One of each is enough: oom_lock is held, so there is one kill at a time. */
BPF_ARRAY(limits, struct limit, 1);
BPF_ARRAY(killer, u32, 1); /* the thread inside oom_kill_process(), or 0 */
BPF_ARRAY(stacks, struct stack, 1);

/*
 * Runs before on_victim(), on the same tracepoint: here the stack begins at the tracepoint's own
 * registers and need not be unwound through the program.
 */
int on_stack(void *ctx)
{
	int zero = 0;
	struct stack *s = stacks.lookup(&zero);

	if (s && PARAM(stack)) {
		s->tid = bpf_get_current_pid_tgid();
		s->size = bpf_get_stack(ctx, s->frames, sizeof(s->frames), 0);
	}
	return 0;
}

#ifdef HAVE___PARENT
#define PARENT __parent
#else
#define PARENT parent
#endif

/* Read the names from a cgroup up to its root: later the cgroup may be gone.  Returns its id. */
static __always_inline u64 name_of(struct cgroup *cgroup, struct names *names)
{
	struct kernfs_node *node, *above;
	const char *name;
	u64 id;
	u32 i;

	names->levels = 0;
	if (!cgroup)
		return 0;
	node = PROBE(cgroup, kn);
	id = PROBE(node, id);
	for (i = 0; i < LEVELS; i++) {
		above = (void *)PROBE(node, PARENT);
		if (!above)
			break;
		name = PROBE(node, name);
		bpf_probe_read_kernel_str(&names->of[i * NAME], NAME, name);
		node = above;
	}
	names->levels = i;
	if (i == LEVELS && PROBE(node, PARENT))
		names->levels = LEVELS + 1;
	return id;
}

static __always_inline struct cgroup *memory_cgroup_of(struct task_struct *p)
{
#ifdef HAVE_MEMCG
	struct cgroup_subsys_state *css = memory_state_of(p);

	return css ? PROBE(css, cgroup) : 0;
#else
	struct css_set *set = PROBE(p, cgroups);

	return PROBE(set, dfl_cgrp);
#endif
}

static __always_inline int kill(struct oom_control *oc)
{
	int zero = 0;
	u32 tid = bpf_get_current_pid_tgid();
	struct limit *l = limits.lookup(&zero);
	struct task_struct *chosen = PROBE(oc, chosen);
	struct signal_struct *signal = PROBE(chosen, signal);

	if (!l)
		return 0;
	l->cgroup = 0;
	l->max = l->usage = UNKNOWN;
	l->names.levels = 0;
	l->totalpages = PROBE(oc, totalpages);
	l->constraint = PROBE(oc, constraint);
	l->order = PROBE(oc, order);
	l->gfp = PROBE(oc, gfp_mask);
	l->flags = LIMIT_KNOWN;
	if (PROBE(signal, flags) & 4) /* SIGNAL_GROUP_EXIT: it is dying, and is not killed */
		l->flags |= LIMIT_EXITING;
#ifdef HAVE_MEMCG
	struct mem_cgroup *memcg = PROBE(oc, memcg);
	if (memcg) {
		l->cgroup = name_of(PROBE(memcg, css.cgroup), &l->names);
		l->max = PROBE(memcg, memory.max);
		l->usage = PROBE(memcg, memory.usage.counter);
	}
#endif
	killer.update(&zero, &tid);
	return 0;
}

int on_kill_typed(u64 *ctx)
{
	return kill((struct oom_control *)ctx[0]);
}

int on_kill(struct pt_regs *ctx)
{
	return kill((struct oom_control *)PT_REGS_PARM1(ctx));
}

static __always_inline int done(void)
{
	int zero = 0;
	u32 none = 0;

	killer.update(&zero, &none);
	return 0;
}

int on_done_typed(u64 *ctx)
{
	return done();
}

int on_done(struct pt_regs *ctx)
{
	return done();
}

static __always_inline u64 pages(struct mm_struct *mm, int kind)
{
	s64 count = 0;

#ifdef HAVE_RSS_COUNT
	/* an atomic counter of each kind, until Linux 6.2 */
	bpf_probe_read_kernel(&count, sizeof(count), &mm->rss_stat.count[kind]);
#else
	/* a per-CPU counter, read as the OOM killer reads it */
	bpf_probe_read_kernel(&count, sizeof(count), &mm->rss_stat[kind].count);
#endif
	return count < 0 ? 0 : count;
}

int on_victim(u64 *ctx)
{
	struct task_struct *p = (void *)ARG(ctx, mark_victim, task);
	struct mm_struct *mm = PROBE(p, mm);
	struct signal_struct *signal = PROBE(p, signal);
	struct cred *cred = (void *)PROBE(p, real_cred);
	int zero = 0;
	u32 *inside = killer.lookup(&zero);
	struct limit *l = limits.lookup(&zero);
	struct stack *s = stacks.lookup(&zero);
	struct event *e;

	if (PARAM(cgroup) && !in_cgroup(p))
		return 0;
	e = reserve();
	if (!e)
		return 0;
	e->flags = EVENT_VICTIM;
	e->tgid = PROBE(p, tgid);
	e->tid = PROBE(p, pid);
	e->uid = PROBE(cred, uid.val);
	e->oom_score_adj = PROBE(signal, oom_score_adj);
	bpf_probe_read_kernel_str(e->comm, sizeof(e->comm), &p->comm);
	if (mm) {
		e->file = pages(mm, MM_FILEPAGES);
		e->anon = pages(mm, MM_ANONPAGES);
		e->swap = pages(mm, MM_SWAPENTS);
		e->shmem = pages(mm, MM_SHMEMPAGES);
		e->total_vm = PROBE(mm, total_vm);
		e->pgtables = PROBE(mm, pgtables_bytes.counter);
	}
	e->cgroup = name_of(memory_cgroup_of(p), &e->names);
	if (inside && l && *inside == e->by_tid)
		bpf_probe_read_kernel(&e->limit, sizeof(e->limit), l);
	if (PARAM(stack)) {
		if (s && s->tid == e->by_tid && s->size > 0) {
			e->stack_size = s->size;
			bpf_probe_read_kernel(e->stack, sizeof(e->stack), s->frames);
		} else {
			e->stack_size = bpf_get_stack(ctx, e->stack, sizeof(e->stack), 0);
		}
	}
	events.ringbuf_submit(e, 0);
	return 0;
}
#else
/* A field of the tracepoint's record; UNKNOWN where this kernel has none of that name. */
#define FIELD(ctx, name) known_field(ctx, PARAM(mark_victim_##name))
static __always_inline u64 known_field(void *ctx, u64 place)
{
	if (!place)
		return UNKNOWN;
	return read_field(ctx, place);
}

int on_record(void *ctx)
{
	struct event *e = reserve();
	u64 where;

	if (!e)
		return 0;
	if (PARAM(stack))
		e->stack_size = bpf_get_stack(ctx, e->stack, sizeof(e->stack), 0);
	e->tgid = e->tid = FIELD(ctx, pid);
	if (PARAM(mark_victim_anon_rss)) { /* since Linux 6.9, in KiB; here in pages as above */
		e->flags = EVENT_VICTIM;
		e->anon = FIELD(ctx, anon_rss) / PARAM(page_kb);
		e->file = FIELD(ctx, file_rss) / PARAM(page_kb);
		e->shmem = FIELD(ctx, shmem_rss) / PARAM(page_kb);
		e->total_vm = FIELD(ctx, total_vm) / PARAM(page_kb);
		e->pgtables = FIELD(ctx, pgtables) * 1024;
		e->uid = FIELD(ctx, uid);
		e->oom_score_adj = (s16)FIELD(ctx, oom_score_adj);
		where = FIELD(ctx, comm);
		bpf_probe_read_kernel_str(e->comm, sizeof(e->comm), ctx + (where & 0xffff));
	}
	events.ringbuf_submit(e, 0);
	return 0;
}
#endif
