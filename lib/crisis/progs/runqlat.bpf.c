// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The time that tasks wait on a run queue, from sched_wakeup, sched_wakeup_new and sched_switch.
 *
 * TYPED and STORAGE: see run_queue.bpf.h.
 */
#include "crisis.bpf.h"
#include "hist.bpf.h"
#include <linux/nsproxy.h>
#include <linux/pid_namespace.h>

#include "run_queue.bpf.h"

#define MAX_SLOTS 2752 /* hist.slots(6, BITS) */

/* Waits, of a CPU or of a key, in ns; user space sizes the histogram. */
struct hist {
	u64 count, total, max;
	char comm[16];
	u64 slots[MAX_SLOTS];
};

/* A number of the kind that PARAM(key) selects, in `a`, or a command name, in both. */
struct hist_key {
	u64 a, b;
	u64 bank;
};

struct waiter_key {
	u32 tid, bank;
};

/*
 * The waits of a thread: how many, their sum, the longest (ns), when that ended, and which thread
 * it waited for then; run: how long the thread ran.
 */
struct waiter {
	u64 count, total, max, at, run;
	u32 tgid, front_tid;
	char comm[16], front_comm[16];
};

/* Two banks: one is written while user space reads and clears the other. */
BPF_ARRAY(bank, u32, 1);
BPF_ARRAY(cpu_hists, struct hist, 1); /* [bank * cpus + cpu]: one writer each */
BPF_HASH(key_hists, struct hist_key, struct hist, 1);
BPF_ARRAY(empty, struct hist, 1);
BPF_HASH(waiters, struct waiter_key, struct waiter, 1);
BPF_PERCPU_ARRAY(switched, u64, 1); /* when the CPU last switched to another task, in ns */

static __always_inline u64 pid_namespace(struct task_struct *p)
{
	struct pid *pid = PROBE(p, thread_pid);
	u32 level = PROBE(pid, level);
	struct pid_namespace *ns;

	bpf_probe_read_kernel(&ns, sizeof(ns), &pid->numbers[level].ns);
	return PROBE(ns, ns.inum);
}

static __always_inline struct hist *key_hist(struct task_struct *p, u64 current_bank)
{
	struct hist_key key = { .bank = current_bank };
	struct hist *h, *blank;
	u64 kind = PARAM(key);
	int zero = 0;

	if (kind == KEY_PID)
		key.a = LOAD(p, tgid);
	else if (kind == KEY_TID)
		key.a = LOAD(p, pid);
	else if (kind == KEY_PIDNS)
		key.a = pid_namespace(p);
	else if (kind == KEY_CGROUP)
		key.a = id_of_cgroup(cgroup_of(p, PARAM(key_subsys)));
	else
		bpf_probe_read_kernel_str(&key.a, 16, &p->comm);
	h = key_hists.lookup(&key);
	if (!h) {
		blank = empty.lookup(&zero);
		if (!blank)
			return 0;
		key_hists.insert(&key, blank);
		h = key_hists.lookup(&key);
		if (!h)
			return 0;
	}
	/* Each time, since execve(2) changes the name, and a shell's child waits before that. */
	if (kind == KEY_COMM) {
		__builtin_memcpy(h->comm, &key.a, 16);
	} else if (kind == KEY_PID) {
		struct task_struct *leader = LOAD(p, group_leader);
		LOAD_COMM(h->comm, leader);
	} else if (kind == KEY_TID) {
		LOAD_COMM(h->comm, p);
	}
	return h;
}

static __always_inline struct waiter *waiter_of(struct task_struct *p)
{
	struct waiter blank = { .tgid = LOAD(p, tgid) }, *w;
	struct waiter_key key = { .tid = LOAD(p, pid) };
	int zero = 0;
	u32 *current_bank = bank.lookup(&zero);

	if (!current_bank)
		return 0;
	key.bank = *current_bank;
	w = waiters.lookup(&key);
	if (!w) {
		LOAD_COMM(blank.comm, p);
		waiters.insert(&key, &blank);
		w = waiters.lookup(&key);
		if (!w)
			COUNT(waiters_full);
	}
	return w;
}

static __always_inline void add_waiter(struct task_struct *p, struct task_struct *front, u64 ns,
				       u64 now)
{
	struct waiter *w = waiter_of(p);

	if (!w)
		return;
	w->count++; /* a thread waits in one place at a time */
	w->total += ns;
	if (ns >= w->max) {
		w->max = ns;
		w->at = now;
		w->front_tid = LOAD(front, pid);
		LOAD_COMM(w->comm, p);
		LOAD_COMM(w->front_comm, front);
	}
}

/* Add the time that a task has run when it leaves its CPU. */
static __always_inline void add_run(struct task_struct *prev)
{
	u64 *since, now = bpf_ktime_get_ns(), then;
	int zero = 0;
	struct waiter *w;

	since = switched.lookup(&zero);
	if (!since)
		return;
	then = *since;
	*since = now;
	if (!then || !LOAD(prev, pid) || !wanted(prev))
		return;
	w = waiter_of(prev);
	if (w)
		w->run += now - then;
}

static __always_inline void record(struct task_struct *p, struct task_struct *front, u64 since)
{
	u64 now = bpf_ktime_get_ns(), ns = now - since;
	u64 time = PARAM(milliseconds) ? fixed_ms(ns) : fixed_us(ns);
	u64 slot = LOG_LINEAR(time, PARAM(shift)), slots = PARAM(slots);
	int zero = 0, index;
	u32 *current_bank = bank.lookup(&zero);
	struct hist *h;

	if (!current_bank)
		return;
	BOUND_SLOT(slot, slots, 4095);
	if (PARAM(top))
		add_waiter(p, front, ns, now);
	if (PARAM(key)) {
		h = key_hist(p, *current_bank);
		if (!h) {
			COUNT(histograms_full);
			return;
		}
		__sync_fetch_and_add(&h->count, 1);
		__sync_fetch_and_add(&h->total, ns);
		__sync_fetch_and_add(&h->slots[slot], 1);
		raise_max(&h->max, ns);
		return;
	}
	index = *current_bank * PARAM(cpus) + bpf_get_smp_processor_id();
	h = cpu_hists.lookup(&index);
	if (!h)
		return;
	h->count++;
	h->total += ns;
	h->slots[slot]++;
	if (ns > h->max)
		h->max = ns;
}

int on_switch(u64 *ctx)
{
	struct task_struct *prev = (struct task_struct *)ctx[1];
	struct task_struct *next = (struct task_struct *)ctx[2];
	u64 since;

	if (PARAM(top))
		add_run(prev);
	since = waited_since(ctx);
	if (since)
		record(next, prev, since);
	return 0;
}
