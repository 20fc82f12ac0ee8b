// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Times hard interrupts (by line and, on x86, by vector) and softirqs, from their entry and exit
 * tracepoints.  What hard interrupts take during a softirq is not counted as the softirq's.
 *
 * Programs of irqtime, hardirqs and softirqs.  PARAM(kinds) is a mask of the KIND_* that are
 * recorded; PARAM(nanoseconds) the unit of the histogram, else microseconds.
 */
#include "crisis.bpf.h"
#include "hist.bpf.h"
#include "task.bpf.h"
#include <linux/interrupt.h>

#define MAX_SLOTS 64

/*
 * One interrupt on one CPU: kind is one of KIND_*, id the line, vector or softirq.  action is the
 * struct irqaction of a handler, of which a shared line has several, else 0.
 */
struct key {
	u32 kind, id, cpu, bank;
	u64 action;
};

/*
 * How many there were, and how long they took, in ns; the name of the handler, "" without one; user
 * space sizes the histogram.
 */
struct source {
	u64 count, total, max;
	char name[64];
	u64 slots[MAX_SLOTS];
};

/*
 * A CPU: when the hard interrupt and the softirq in progress began, 0 for none, and what hard
 * interrupts have taken of the softirq's time.
 */
struct state {
	u64 hard, soft, stolen;
};

/* Two banks: one is written while user space reads and clears the other. */
BPF_ARRAY(bank, u32, 1);
BPF_ARRAY(states, struct state, 1);		 /* [cpu] */
BPF_HASH(sources, struct key, struct source, 1); /* a key has its CPU: one writer each */
BPF_ARRAY(empty, struct source, 1);

static __always_inline struct state *this_cpu(void)
{
	int cpu = bpf_get_smp_processor_id();

	return states.lookup(&cpu);
}

static __always_inline void record(u32 kind, u32 id, struct irqaction *action, u64 ns)
{
	struct key key = {
		.kind = kind,
		.id = id,
		.cpu = bpf_get_smp_processor_id(),
		.action = (u64)action,
	};
	struct source *s, *blank;
	int zero = 0;
	u32 *current_bank;
	u64 slot, slots = PARAM(slots);

	if (!(PARAM(kinds) >> kind & 1))
		return;
	/* Filter on the task that was interrupted. */
	if (PARAM(cgroup) && !in_cgroup((void *)bpf_get_current_task()))
		return;
	current_bank = bank.lookup(&zero);
	if (!current_bank)
		return;
	key.bank = *current_bank;
	s = sources.lookup(&key);
	if (!s) {
		blank = empty.lookup(&zero);
		if (!blank)
			return;
		sources.insert(&key, blank);
		s = sources.lookup(&key);
		if (!s) {
			COUNT(full);
			return;
		}
		if (action)
			bpf_probe_read_kernel_str(s->name, sizeof(s->name), PROBE(action, name));
	}
	s->count++;
	s->total += ns;
	if (ns > s->max)
		s->max = ns;
	if (slots) {
		slot = LOG_LINEAR(PARAM(nanoseconds) ? ns : fixed_us(ns) >> 10, 0);
		BOUND_SLOT(slot, slots, 63);
		s->slots[slot]++;
	}
}

static __always_inline void hard_begins(void)
{
	struct state *s = this_cpu();

	if (s)
		s->hard = bpf_ktime_get_ns();
}

static __always_inline void hard_ends(u32 kind, u32 id, struct irqaction *action)
{
	struct state *s = this_cpu();
	u64 ns;

	if (!s || !s->hard)
		return;
	ns = bpf_ktime_get_ns() - s->hard;
	s->hard = 0;
	s->stolen += ns;
	record(kind, id, action, ns);
}

int on_line_entry(u64 *ctx)
{
	hard_begins();
	return 0;
}

int on_line_exit(u64 *ctx)
{
	hard_ends(KIND_LINE, (u32)ctx[0], (void *)ctx[1]);
	return 0;
}

int on_vector_entry(u64 *ctx)
{
	hard_begins();
	return 0;
}

int on_vector_exit(u64 *ctx)
{
	hard_ends(KIND_VECTOR, (u32)ctx[0], NULL);
	return 0;
}

int on_soft_entry(u64 *ctx)
{
	struct state *s = this_cpu();

	if (s) {
		s->stolen = 0;
		s->soft = bpf_ktime_get_ns();
	}
	return 0;
}

int on_soft_exit(u64 *ctx)
{
	struct state *s = this_cpu();
	u64 ns, stolen;

	if (!s || !s->soft)
		return 0;
	ns = bpf_ktime_get_ns() - s->soft;
	s->soft = 0;
	stolen = s->stolen;
	record(KIND_SOFT, (u32)ctx[0], NULL, ns > stolen ? ns - stolen : 0);
	return 0;
}
