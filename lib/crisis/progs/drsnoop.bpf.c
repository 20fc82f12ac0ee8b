// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Direct reclaim, from the begin and end tracepoints of its three kinds (KIND_GLOBAL, KIND_MEMCG,
 * KIND_NODE), and the pages scanned, from mm_vmscan_lru_isolate.  Each reclaim is an event or, with
 * PARAM(summary), counted in a histogram and in the totals of its process.
 *
 * TYPED: attached by BTF; else to the tracepoints' records.
 */
#include "crisis.bpf.h"
#include "hist.bpf.h"
#include "field.bpf.h"
#include "memcg.bpf.h"
#include "task.bpf.h"
#include <linux/mm.h>

#define UNKNOWN (~0ULL)
#define MAX_FRAMES 64
#define MAX_SLOTS 1024

#ifdef TYPED
#define FIELD(ctx, tracepoint, name) ARG(ctx, tracepoint, name)
#else
#define FIELD(ctx, tracepoint, name) read_field(ctx, PARAM(tracepoint##_##name))
#endif

/*
 * A reclaim in progress, by thread: when it began, the pages scanned so far, free pages (or
 * UNKNOWN) and the state letters of the nodes' kswapd at its begin.
 */
struct start {
	u64 ts, scanned, free;
	u32 kind, order, gfp, unused;
	char comm[16], kswapd[MAX_NODES];
};

/* A reclaim that has ended.  It is sent without the stack unless PARAM(stack). */
struct event {
	u64 ts, ns, reclaimed, scanned, free, cgroup;
	u32 kind, order, gfp, tgid, tid, uid;
	char comm[16], kswapd[MAX_NODES];
	s64 stack_size;
	u64 stack[MAX_FRAMES];
};
RECORD(event);

/* Reclaims of a kind, in ns; user space sizes the histogram. */
struct hist {
	u64 count, total, max, slots[MAX_SLOTS];
};

struct total_key {
	u32 tgid, kind, bank;
};

/* Reclaims of one kind by one process: times in ns, and pages. */
struct total {
	u64 count, total, max, reclaimed, scanned;
	char comm[16];
};

BPF_HASH(starts, u32, struct start, 1);
BPF_RINGBUF_OUTPUT(events, 1);
/* PARAM(summary): one bank is written while user space reads and clears the other. */
BPF_ARRAY(bank, u32, 1);
BPF_ARRAY(hists, struct hist, 1); /* [bank * KINDS + kind] */
BPF_HASH(totals, struct total_key, struct total, 1);

/* Whether the task's command name contains the text of up to 15 bytes in name0 and name1. */
static __always_inline int has_name(void)
{
	u64 name[2] = {};
	int i;

	bpf_get_current_comm(name, sizeof(name));
#pragma unroll
	for (i = 0; i < 16; i++) {
		if ((name[0] & PARAM(name_mask0)) == PARAM(name0) &&
		    (name[1] & PARAM(name_mask1)) == PARAM(name1))
			return 1;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
		name[0] = name[0] << 8 | name[1] >> 56;
		name[1] <<= 8;
#else
		name[0] = name[0] >> 8 | name[1] << 56;
		name[1] >>= 8;
#endif
	}
	return 0;
}

static __always_inline int wanted(void)
{
	u64 id = bpf_get_current_pid_tgid();

	if (PARAM(tgid) && id >> 32 != PARAM(tgid))
		return 0;
	if (PARAM(tid) && (u32)id != PARAM(tid))
		return 0;
	if (PARAM(by_uid) && (u32)bpf_get_current_uid_gid() != PARAM(uid))
		return 0;
	if (PARAM(name_mask0) && !has_name())
		return 0;
	if (PARAM(cgroup) && !in_cgroup((void *)bpf_get_current_task()))
		return 0;
	return 1;
}

/*
 * Free pages, and the state of each node's kswapd.  They are reached through the task's memory
 * cgroup, whose lists of pages point to their nodes: that needs no symbol's address, which
 * /proc/kallsyms may hide.
 */
static __always_inline void look_around(struct start *s)
{
	s->free = UNKNOWN;
#ifdef HAVE_MEMCG
	struct cgroup_subsys_state *css = memory_state_of((void *)bpf_get_current_task());
	struct mem_cgroup *memcg = (void *)css;
	struct mem_cgroup_per_node *of_node;
	struct task_struct *kswapd;
	pg_data_t *node;
	u64 free = 0, pages;
	u32 state;
	int i, zone;

	if (!css)
		return;
	for (i = 0; i < MAX_NODES; i++) {
		if ((u64)i >= PARAM(nodes))
			break;
		if (!(PARAM(online) >> i & 1))
			continue;
		of_node = 0;
		bpf_probe_read_kernel(&of_node, sizeof(of_node), &memcg->nodeinfo[i]);
		if (!of_node)
			continue;
		node = PROBE(of_node, lruvec.pgdat);
		for (zone = 0; zone < __MAX_NR_ZONES; zone++) {
			pages = 0;
			bpf_probe_read_kernel(&pages, sizeof(long),
					      &node->node_zones[zone].vm_stat[NR_FREE_PAGES]);
			free += pages;
		}
		kswapd = PROBE(node, kswapd);
		if (!kswapd)
			continue;
		state = PROBE(kswapd, STATE);
		s->kswapd[i] = state == 0 ? 'R' : state & 1 ? 'S' : state & 2 ? 'D' : '?';
	}
	s->free = free;
#endif
}

static __always_inline int begin(u32 kind, u32 order, u32 gfp)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct start s = {};

	if (!(PARAM(kinds) >> kind & 1) || !wanted())
		return 0;
	s.kind = kind;
	s.order = order;
	s.gfp = gfp;
	bpf_get_current_comm(s.comm, sizeof(s.comm));
	if (PARAM(around))
		look_around(&s);
	s.ts = bpf_ktime_get_ns();
	if (starts.update(&tid, &s))
		COUNT(starts_full);
	return 0;
}

static __always_inline void add(struct start *s, u64 ns, u64 reclaimed)
{
	struct total_key key = { .tgid = bpf_get_current_pid_tgid() >> 32, .kind = s->kind };
	struct total *t, blank = {};
	struct hist *h;
	int zero = 0, index;
	u32 *current_bank = bank.lookup(&zero);
	u64 slot = LOG_LINEAR(fixed_us(ns), PARAM(shift)), slots = PARAM(slots);

	if (!current_bank)
		return;
	key.bank = *current_bank;
	index = *current_bank * KINDS + s->kind;
	h = hists.lookup(&index);
	BOUND_SLOT(slot, slots, 4095);
	if (h) {
		__sync_fetch_and_add(&h->count, 1);
		__sync_fetch_and_add(&h->total, ns);
		__sync_fetch_and_add(&h->slots[slot], 1);
		raise_max(&h->max, ns);
	}
	t = totals.lookup(&key);
	if (!t) {
		bpf_probe_read_kernel(blank.comm, sizeof(blank.comm), s->comm);
		totals.insert(&key, &blank);
		t = totals.lookup(&key);
		if (!t) {
			COUNT(totals_full);
			return;
		}
	}
	__sync_fetch_and_add(&t->count, 1);
	__sync_fetch_and_add(&t->total, ns);
	__sync_fetch_and_add(&t->reclaimed, reclaimed);
	__sync_fetch_and_add(&t->scanned, s->scanned);
	raise_max(&t->max, ns);
}

static __always_inline int end(void *ctx, u32 kind, u64 reclaimed)
{
	u64 now = bpf_ktime_get_ns(), id = bpf_get_current_pid_tgid();
	u32 tid = id;
	struct cgroup_subsys_state *css;
	struct event *e;
	struct start *s;

	if (!(PARAM(kinds) >> kind & 1))
		return 0;
	s = starts.lookup(&tid);
	if (!s || s->kind != kind) {
		if (wanted())
			COUNT(unseen);
		return 0;
	}
	if (PARAM(summary)) {
		add(s, now - s->ts, reclaimed);
		starts.delete(&tid);
		return 0;
	}
	e = events.ringbuf_reserve(PARAM(stack) ? sizeof(*e)
						: __builtin_offsetof(struct event, stack));
	if (!e) {
		COUNT(dropped);
		starts.delete(&tid);
		return 0;
	}
	e->ts = now;
	e->ns = now - s->ts;
	e->reclaimed = reclaimed;
	e->scanned = s->scanned;
	e->free = s->free;
	e->kind = kind;
	e->order = s->order;
	e->gfp = s->gfp;
	e->tgid = id >> 32;
	e->tid = tid;
	e->uid = bpf_get_current_uid_gid();
	__builtin_memcpy(e->comm, s->comm, sizeof(e->comm));
	__builtin_memcpy(e->kswapd, s->kswapd, sizeof(e->kswapd));
	e->cgroup = 0;
	if (PARAM(around)) {
		css = memory_state_of((void *)bpf_get_current_task());
		if (css)
			e->cgroup = id_of_cgroup(PROBE(css, cgroup));
	}
	e->stack_size = 0;
	if (PARAM(stack))
		e->stack_size = bpf_get_stack(ctx, e->stack, sizeof(e->stack), 0);
	events.ringbuf_submit(e, 0);
	starts.delete(&tid);
	return 0;
}

int on_global_begin(u64 *ctx)
{
	return begin(KIND_GLOBAL, FIELD(ctx, mm_vmscan_direct_reclaim_begin, order),
		     FIELD(ctx, mm_vmscan_direct_reclaim_begin, gfp_flags));
}

int on_global_end(u64 *ctx)
{
	return end(ctx, KIND_GLOBAL, FIELD(ctx, mm_vmscan_direct_reclaim_end, nr_reclaimed));
}

int on_memcg_begin(u64 *ctx)
{
	return begin(KIND_MEMCG, FIELD(ctx, mm_vmscan_memcg_reclaim_begin, order),
		     FIELD(ctx, mm_vmscan_memcg_reclaim_begin, gfp_flags));
}

int on_memcg_end(u64 *ctx)
{
	return end(ctx, KIND_MEMCG, FIELD(ctx, mm_vmscan_memcg_reclaim_end, nr_reclaimed));
}

int on_node_begin(u64 *ctx)
{
	return begin(KIND_NODE, FIELD(ctx, mm_vmscan_node_reclaim_begin, order),
		     FIELD(ctx, mm_vmscan_node_reclaim_begin, gfp_flags));
}

int on_node_end(u64 *ctx)
{
	return end(ctx, KIND_NODE, FIELD(ctx, mm_vmscan_node_reclaim_end, nr_reclaimed));
}

/*
 * What the kernel adds to pgscan_direct: pages scanned on the inactive lists (0 and 2), or, of the
 * multi-generational LRU, pages isolated.
 */
int on_isolate(u64 *ctx)
{
	u64 scanned = FIELD(ctx, mm_vmscan_lru_isolate, nr_scanned);
	u64 taken = FIELD(ctx, mm_vmscan_lru_isolate, nr_taken);
	u32 tid = bpf_get_current_pid_tgid();
	struct start *s = starts.lookup(&tid);

	if (!s || FIELD(ctx, mm_vmscan_lru_isolate, lru) & 1)
		return 0;
	/* Else clang selects one of the two addresses in the context, which the verifier refuses.
	 */
	barrier_var(scanned);
	barrier_var(taken);
	s->scanned += PARAM(lru_gen) ? taken : scanned;
	return 0;
}
