// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The time that each thread spends in each state, from sched_switch, sched_wakeup and
 * sched_wakeup_new.  An iterator over tasks adds the threads that do not switch.
 *
 * States and classes of system calls (STATE_*, CLASS_*) come from crisis.sched.states.
 */
#include "crisis.bpf.h"
#include <linux/sched.h>
#include <linux/ptrace.h>
#include <linux/fdtable.h>
#include <linux/fs.h>

#include "sched.bpf.h"

/* include/linux/sched.h; these values have not changed since Linux 4.14. */
#define TASK_INTERRUPTIBLE 1
#define TASK_UNINTERRUPTIBLE 2
#define TASK_NOLOAD 0x400
#define PF_KTHREAD 0x00200000

/* include/uapi/linux/futex.h */
#define FUTEX_WAIT 0
#define FUTEX_LOCK_PI 6
#define FUTEX_WAIT_BITSET 9
#define FUTEX_LOCK_PI2 13
#define FUTEX_COMMAND 0x7f
#define FUTEX_PRIVATE 0x80
#define FUTEX_CLOCK_REALTIME 0x100
#define FUTEX_WAITERS 0x80000000

#define KVM_RUN 0xae80 /* include/uapi/linux/kvm.h */

#define S_IFMT 0170000
#define S_IFIFO 0010000
#define S_IFCHR 0020000
#define S_IFSOCK 0140000

#define EEXIST 17

#define NO_CALL (-1) /* the task did not enter the kernel by a system call */

/*
 * A thread since it was first seen: the ns in each state, without the present one; the present
 * state, since when, and the system call that it waits in.  utime and stime are task_struct's, of
 * the last time that it left a CPU or the iterator visited it, at `seen`.
 * For PARAM(stacks): when it last left a CPU, the mean ns between two such times, and of the
 * present wait the stacks and for how many waits it stands; 0 if it has none.
 */
struct thread {
	u64 seen; /* the first member: a record has changed if the members after it have */
	u64 since, utime, stime;
	u32 tgid, state;
	s32 call;
	u32 kernel;
	u64 left, gap;
	s32 kernel_stack, user_stack;
	u64 weight;
	char comm[16];
	u64 ns[BUCKETS];
};

struct call_key {
	u32 tgid, tid;
	s32 call;
	u32 state, bank;
};

/* The waits in a system call that have ended, and their ns. */
struct call {
	u64 count, ns;
};

struct stack {
	u64 addresses[127]; /* PERF_MAX_STACK_DEPTH */
};

struct stack_key {
	u32 tgid, state;
	s32 kernel_stack, user_stack;
	u32 bank;
};

/* The time of the waits that a stack stands for. */
struct stack_time {
	u64 ns;
};

BPF_HASH(threads, u32, struct thread, 1); /* by TID; user space removes those that have ended */
BPF_ARRAY(classes, u32, CLASSES);	  /* by the number of a system call, see call_state() */
BPF_ARRAY(bank, u32, 1);
BPF_HASH(calls, struct call_key, struct call, 1);
BPF_TABLE("stacktrace", int, struct stack, stacks, 1);
BPF_HASH(stack_times, struct stack_key, struct stack_time, 1);

#ifdef HAVE_BPF_FUNC_TASK_PT_REGS
/* bpf_task_pt_regs(), Linux 5.15 */
static struct pt_regs *(*task_pt_regs)(struct task_struct *task) = (void *)175;
#define REGISTERS(p) task_pt_regs(p)
#define REG(regs, member) ((regs)->member)
#else /* they are at the end of the stack */
#define REGISTERS(p) ((struct pt_regs *)((char *)LOAD(p, stack) + PARAM(thread_size)) - 1)
#define REG(regs, member) PROBE(regs, member)
#endif

/* Of a task's registers when it entered the kernel: its system call and the call's arguments. */
#ifdef __aarch64__
#define CALL(regs) REG(regs, syscallno)
#define FROM_USER(regs) (!(REG(regs, pstate) & 0xf))	 /* user_mode() */
#define COMPAT(p) (LOAD(p, thread_info.flags) & 1 << 22) /* TIF_32BIT */
#define ARG0(regs, compat) REG(regs, orig_x0)
#define ARG1(regs, compat) REG(regs, regs[1])
#define ARG2(regs, compat) REG(regs, regs[2])
#else
#define CALL(regs) REG(regs, orig_ax)
#define FROM_USER(regs) (REG(regs, cs) & 3)	    /* user_mode() */
#define COMPAT(p) (LOAD(p, thread_info.status) & 2) /* TS_COMPAT */
#define ARG0(regs, compat) ((compat) ? REG(regs, bx) : REG(regs, di))
#define ARG1(regs, compat) ((compat) ? REG(regs, cx) : REG(regs, si))
#define ARG2(regs, compat) REG(regs, dx)
#endif

/* The state of a task that waits for a file to be readable, or writable. */
static __always_inline u32 file_state(struct task_struct *p, u32 fd, int reads)
{
	struct files_struct *files = LOAD(p, files);
	struct fdtable *table;
	struct file **array, *file = 0;
	struct inode *inode;
	u32 type;

	if (!files)
		return STATE_OTHER;
	table = LOAD(files, fdt);
	if (!table || fd >= (u32)LOAD(table, max_fds))
		return STATE_OTHER;
	array = LOAD(table, fd);
	bpf_probe_read_kernel(&file, sizeof(file), array + fd);
	inode = PROBE(file, f_inode);
	type = PROBE(inode, i_mode) & S_IFMT;
	if (type == S_IFSOCK)
		return STATE_NET;
	/* 0: eventfd, timerfd, inotify and the like */
	if (reads && (type == S_IFIFO || type == S_IFCHR || !type))
		return STATE_IDLE;
	return STATE_OTHER;
}

/*
 * The state of a task in futex(2).  The value that it waits for distinguishes mutexes, which
 * have one for "locked, and others wait", from semaphores, condition variables and parked
 * threads.  2: glibc, Go, Rust; FUTEX_WAITERS: robust and PI mutexes, musl; ~0 is Rust's
 * thread::park().  A condition variable of glibc from 2.41 on may wait for 2, too, but with
 * FUTEX_CLOCK_REALTIME.
 */
static __always_inline u32 futex_state(u32 op, u32 value)
{
	u32 command = op & FUTEX_COMMAND;

	if (command == FUTEX_LOCK_PI || command == FUTEX_LOCK_PI2)
		return STATE_LOCK;
	if (command == FUTEX_WAIT ||
	    (command == FUTEX_WAIT_BITSET && !(op & FUTEX_CLOCK_REALTIME))) {
		if (value == 2 || (value & FUTEX_WAITERS && value != ~0U))
			return STATE_LOCK;
	}
	return op & FUTEX_PRIVATE ? STATE_CONDITION : STATE_SHARED;
}

/*
 * The state of a task in a system call, by its class: an entry of `classes` has that of a task that
 * sleeps interruptibly in its first byte, that of any other in its second one.
 */
static __always_inline u32 call_state(struct task_struct *p, struct pt_regs *regs, int index,
				      int interruptible)
{
	u32 *entry = classes.lookup(&index), class;
	int compat = index >= COMPAT_CALLS;

	if (!entry)
		return STATE_OTHER;
	class = interruptible ? *entry & 0xff : *entry >> 8;
	if (class == CLASS_READ)
		return file_state(p, ARG0(regs, compat), 1);
	if (class == CLASS_WRITE)
		return file_state(p, ARG0(regs, compat), 0);
	if (class == CLASS_FUTEX)
		return futex_state(ARG1(regs, compat), ARG2(regs, compat));
	if (class == CLASS_IOCTL) /* a virtual CPU without work */
		return (u32)ARG1(regs, compat) == KVM_RUN ? STATE_IDLE : STATE_OTHER;
	return class;
}

/* The state of a task that leaves its CPU to sleep.  call: gets the system call that it is in. */
static __always_inline u32 sleep_state(struct task_struct *p, s32 *call)
{
	u32 state = LOAD(p, STATE);
	int idles =
		state & TASK_INTERRUPTIBLE || (state & TASK_UNINTERRUPTIBLE && state & TASK_NOLOAD);
	struct pt_regs *regs;
	u32 index;

	*call = NO_CALL;
	if (!(LOAD(p, flags) & PF_KTHREAD)) {
		regs = REGISTERS(p);
		if (!FROM_USER(regs))
			regs = 0; /* of io_uring or vhost: it never runs in user mode */
	} else {
		regs = 0;
	}
	if (regs && (s32)CALL(regs) >= 0) {
		index = (u32)CALL(regs) % COMPAT_CALLS;
		*call = COMPAT(p) ? index + COMPAT_CALLS : index;
	}
#ifdef HAVE_IN_MEMSTALL
	if (LOAD(p, in_memstall))
		return STATE_SWAP;
#endif
	if (LOAD(p, in_iowait))
		return STATE_DISK;
	if (!regs)
		return idles ? STATE_IDLE : STATE_OTHER;
	if (*call < 0)
		return STATE_OTHER;
	return call_state(p, regs, *call, !!(state & TASK_INTERRUPTIBLE));
}

static __always_inline void count_call(struct thread *t, u32 tid, u32 state, u64 ns)
{
	struct call_key key = {
		.tgid = t->tgid,
		.tid = tid,
		.call = t->call,
		.state = state,
	};
	struct call blank = {}, *c;
	u32 *current_bank;
	int zero = 0;

	current_bank = bank.lookup(&zero);
	if (!current_bank)
		return;
	key.bank = *current_bank;
	if (!PARAM(by_thread))
		key.tid = 0;
	c = calls.lookup(&key);
	if (!c) {
		calls.insert(&key, &blank);
		c = calls.lookup(&key);
		if (!c) {
			COUNT(calls_full);
			return;
		}
	}
	__sync_fetch_and_add(&c->count, 1);
	__sync_fetch_and_add(&c->ns, ns);
}

/* A thread gets no more stacks than one in this time, on average. */
#define STACK_PERIOD 1000000 /* ns */

/*
 * Take the stacks of a thread that leaves its CPU, of a random selection of the waits, each of
 * which stands for as many as there were in STACK_PERIOD lately.
 */
static __always_inline void take_stacks(u64 *ctx, struct thread *t, u32 state, u64 now)
{
	u64 gap = now - t->left, weight;

	if (t->left)
		t->gap = t->gap - (t->gap >> 3) + (gap >> 3);
	else
		t->gap = STACK_PERIOD;
	t->left = now;
	if (!(PARAM(stacks) >> state & 1))
		return;
	weight = t->gap < STACK_PERIOD ? STACK_PERIOD / (t->gap | 1) : 1;
	if (weight > 1 && bpf_get_prandom_u32() % (u32)weight)
		return;
	t->kernel_stack = stacks.get_stackid(ctx, 0);
	t->user_stack = t->kernel ? -1 : stacks.get_stackid(ctx, BPF_F_USER_STACK);
	if (t->kernel_stack == -EEXIST || t->user_stack == -EEXIST)
		COUNT(stacks_full);
	t->weight = weight;
}

static __always_inline void count_stacks(struct thread *t, u32 state, u64 ns)
{
	struct stack_key key = {
		.tgid = t->tgid,
		.state = state,
		.kernel_stack = t->kernel_stack,
		.user_stack = t->user_stack,
	};
	struct stack_time blank = {}, *found;
	int zero = 0;
	u32 *current_bank = bank.lookup(&zero);

	if (!current_bank)
		return;
	key.bank = *current_bank;
	found = stack_times.lookup(&key);
	if (!found) {
		stack_times.insert(&key, &blank);
		found = stack_times.lookup(&key);
		if (!found) {
			COUNT(stacks_full);
			return;
		}
	}
	__sync_fetch_and_add(&found->ns, ns * t->weight);
	t->weight = 0;
}

/* End the present state of a thread.  Its run queue's lock orders all that calls this. */
static __always_inline void enter(struct thread *t, u32 tid, u32 state, u64 now)
{
	u64 ns = now > t->since ? now - t->since : 0;
	u32 was = t->state;

	if (was == STATE_CONDITION || was == STATE_SHARED)
		was = ns < PARAM(idle_after) ? STATE_LOCK : STATE_IDLE;
	else if (was == STATE_TIMEOUT)
		was = ns < PARAM(idle_after) / 10 ? STATE_LOCK : STATE_IDLE;
	if (PARAM(calls) && was >= STATE_DISK && was <= STATE_OTHER)
		count_call(t, tid, was, ns);
	if (PARAM(stacks) && t->weight)
		count_stacks(t, was, ns);
	barrier_var(was);
	t->ns[was & (BUCKETS - 1)] += ns;
	t->state = state;
	t->since = now;
}

static __always_inline void add(struct task_struct *p, u32 tid, u32 state, s32 call, u64 now)
{
	struct thread t = {};

	t.since = t.seen = now;
	t.utime = LOAD(p, utime);
	t.stime = LOAD(p, stime);
	t.tgid = LOAD(p, tgid);
	t.state = state;
	t.call = call;
	t.kernel = !!(LOAD(p, flags) & PF_KTHREAD);
	LOAD_COMM(t.comm, p);
	threads.insert(&tid, &t);
	if (!threads.lookup(&tid))
		COUNT(threads_full);
}

static __always_inline void leave(u64 *ctx, struct task_struct *p, int preempted, u64 now)
{
	u32 tid = LOAD(p, pid), state = STATE_RUNQ;
	struct thread *t = threads.lookup(&tid);
	s32 call = NO_CALL;

	/* A task preempted on its way to sleep stays queued whatever its state says. */
	if (!preempted && LOAD(p, STATE)) {
		if (LOAD(p, STATE) & TASK_DEAD)
			state = STATE_GONE;
		else
			state = sleep_state(p, &call);
	}
	if (!t) {
		if (state != STATE_GONE)
			add(p, tid, state, call, now);
		return;
	}
	enter(t, tid, state, now);
	t->call = call;
	t->utime = LOAD(p, utime);
	t->stime = LOAD(p, stime);
	if (state == STATE_GONE)
		LOAD_COMM(t->comm, p);
	else if (PARAM(stacks))
		take_stacks(ctx, t, state, now);
}

static __always_inline void arrive(struct task_struct *p, u64 now)
{
	u32 tid = LOAD(p, pid);
	struct thread *t = threads.lookup(&tid);

	if (t)
		enter(t, tid, STATE_CPU, now);
	else
		add(p, tid, STATE_CPU, NO_CALL, now);
}

int on_switch(u64 *ctx)
{
	struct task_struct *prev = (struct task_struct *)ctx[1];
	struct task_struct *next = (struct task_struct *)ctx[2];
	u64 now = bpf_ktime_get_ns();

	if (LOAD(prev, pid) && wanted(prev))
		leave(ctx, prev, (u8)ctx[0], now);
	if (LOAD(next, pid) && wanted(next))
		arrive(next, now);
	return 0;
}

/*
 * In the context of the waker, which sched_wakeup need not be in: that may come from the interrupt
 * by which ttwu_queue_wakelist() passes the wakeup to another CPU.
 */
int on_waking(u64 *ctx)
{
	struct task_struct *p = (struct task_struct *)ctx[0];
	u32 tid = LOAD(p, pid);
	struct thread *t;

	if (bpf_get_current_pid_tgid() >> 32 != (u32)LOAD(p, tgid) || !wanted(p))
		return 0;
	t = threads.lookup(&tid);
	if (t && t->state == STATE_CONDITION)
		t->state = STATE_SHARED;
	return 0;
}

int on_wakeup(u64 *ctx)
{
	struct task_struct *p = (struct task_struct *)ctx[0];
	struct thread *t;
	u32 tid;

	if (!wanted(p))
		return 0;
	tid = LOAD(p, pid);
	t = threads.lookup(&tid);
	if (!t) {
		add(p, tid, STATE_RUNQ, NO_CALL, bpf_ktime_get_ns());
		return 0;
	}
	if (t->state <= STATE_RUNQ) /* it was woken before it had left its CPU */
		return 0;
	/* A private futex is woken by a thread of the process, see on_waking(), or by a timer. */
	if (t->state == STATE_CONDITION)
		t->state = STATE_TIMEOUT;
	enter(t, tid, STATE_RUNQ, bpf_ktime_get_ns());
	return 0;
}

/* Of the iterator: add a thread that is not known, and refresh the others. */
int on_task(u64 *ctx)
{
	struct task_struct *p = (struct task_struct *)ctx[1];
	u64 now = bpf_ktime_get_ns();
	u32 tid, state = STATE_CPU;
	s32 call = NO_CALL;
	struct thread *t;

	if (!p) /* the end */
		return 0;
	if (LOAD(p, exit_state) || !wanted(p))
		return 0;
	tid = LOAD(p, pid);
	t = threads.lookup(&tid);
	if (t) {
		t->seen = now;
		t->utime = LOAD(p, utime);
		t->stime = LOAD(p, stime);
		LOAD_COMM(t->comm, p);
		return 0;
	}
	if (!LOAD(p, on_cpu)) {
		state = LOAD(p, STATE) ? sleep_state(p, &call) : STATE_RUNQ;
		/* How long it has waited so far is not known: not just now. */
		if (state == STATE_CONDITION || state == STATE_SHARED)
			state = STATE_IDLE;
	}
	add(p, tid, state, call, now);
	return 0;
}
