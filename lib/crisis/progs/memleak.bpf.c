// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Memory that is allocated and not yet freed, with the stack of each allocation.
 *
 * USER: uprobes on the allocator functions of processes.  SESSION: one program for the entry and
 * the return (uprobe session, Linux 6.13).  FUNCTIONS: a program for each function, which has as a
 * constant what others have as a cookie; without task storage.  The cookie of a function is its
 * kind in the low 8 bits, and a number.
 *
 * Else tracepoints of the kernel's allocators.  KERNEL: kmalloc, slab caches and pages, else
 * per-CPU allocations.
 */
#include "crisis.bpf.h"
#include "hist.bpf.h"
#include <linux/sched.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>

#define barrier() asm volatile("" : : : "memory")
#define MAX_FRAMES 127
#define NEAR 65536 /* no allocator uses more stack; a call further down is another one's */
#define FRAME 512  /* bytes in which an arm64 function saves its return address */

/* Events that user space need not see before its next report. */
#define CAN_WAIT(kind) \
	((kind) == KIND_MPROTECT || (kind) == KIND_UNMAPPED || (kind) == KIND_RESERVED)

/* Which block; tgid: 0 for the kernel's. */
struct block_key {
	u64 address, tgid;
};

/*
 * An allocation: bytes, time, the thread, and the kind of the function.  stack: a key of `stacks`,
 * or the number of a sample with PARAM(unwind).
 */
struct block {
	u64 size, ns, stack;
	u32 tid, kind;
};

/*
 * A stack of return addresses, innermost first.  count, bytes: what it has outstanding, of
 * PARAM(combined).  checked: see cut().
 */
struct stack {
	s64 count, bytes;
	u32 tgid;
	u16 frames, checked;
	u64 at[MAX_FRAMES];
};

/* What user space must know at once, and with PARAM(trace) each allocation and free. */
struct event {
	u64 ns, address, size, stack;
	u32 tgid, tid, kind, freed;
	char comm[16];
};
RECORD(event);

BPF_HASH(blocks, struct block_key, struct block, 1);
BPF_HASH(stacks, u64, struct stack, 1);
BPF_RINGBUF_OUTPUT(events, 16);

#ifdef USER

/*
 * A thread's number in memleak's own PID namespace; 0 in one that this one does not show.  struct
 * upid has a task's numbers at each level, include/linux/pid.h.
 */
static __always_inline u32 tid_of(struct task_struct *p)
{
	struct pid *pid;
	struct upid upid;

	if (!PARAM(pid_level))
		return PROBE(p, pid);
	pid = PROBE(p, thread_pid);
	if (!pid || PROBE(pid, level) < PARAM(pid_level))
		return 0;
	bpf_probe_read_kernel(&upid, sizeof(upid), &pid->numbers[PARAM(pid_level)]);
	return PROBE(upid.ns, ns.inum) == PARAM(pid_namespace) ? upid.nr : 0;
}

/* A process's number, likewise. */
static __always_inline u32 tgid_of(struct task_struct *p)
{
	return PARAM(pid_level) ? tid_of(PROBE(p, group_leader)) : PROBE(p, tgid);
}

#endif

/* As bpf_get_current_pid_tgid(), in memleak's own PID namespace. */
static __always_inline u64 current_pid_tgid(void)
{
#ifdef USER
	if (PARAM(pid_level)) {
		struct task_struct *p = (struct task_struct *)bpf_get_current_task();

		return (u64)tgid_of(p) << 32 | tid_of(p);
	}
#endif
	return bpf_get_current_pid_tgid();
}

/* Send an event. */
static __always_inline void send_event(u32 kind, u32 freed, u64 tgid, u64 address, u64 size,
				       u64 stack)
{
	struct event *e = events.ringbuf_reserve(sizeof(*e));
	u64 id = current_pid_tgid();

	if (!e) {
		COUNT(events_lost);
		return;
	}
	e->ns = bpf_ktime_get_ns();
	e->address = address;
	e->size = size;
	e->stack = stack;
#ifdef USER
	e->tgid = tgid;
#else
	e->tgid = id >> 32; /* a block of the kernel has no owner; this process makes the call */
#endif
	e->tid = id;
	e->kind = kind;
	e->freed = freed;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	events.ringbuf_submit(e, CAN_WAIT(kind) && !PARAM(trace) ? BPF_RB_NO_WAKEUP : 0);
}

/* Remove a block; what it was goes to `old` unless that is null.  0 when it was not known. */
static __always_inline int forget(u64 address, u64 tgid, struct block *old)
{
	struct block_key key = { .address = address, .tgid = tgid };
	struct block *b;

	if (!old && !PARAM(combined) && !PARAM(trace) && !PARAM(sample) && PARAM(every) <= 1)
		return !blocks.delete(&key);
	b = blocks.lookup(&key); /* when most blocks are not known, cheaper than a delete */
	if (!b)
		return 0;
	if (old)
		*old = *b;
	if (PARAM(combined)) {
		u64 stack = b->stack;
		struct stack *s = stacks.lookup(&stack);
		if (s) {
			__sync_fetch_and_add(&s->count, -1ULL);
			__sync_fetch_and_add(&s->bytes, -b->size);
		}
	}
	if (PARAM(trace))
		send_event(b->kind, 1, tgid, address, b->size, b->stack);
	blocks.delete(&key);
	return 1;
}

/* Enter a block. */
static __always_inline void remember(u64 address, u64 tgid, struct block *b)
{
	struct block_key key = { .address = address, .tgid = tgid };
	int failed = blocks.insert(&key, b);

	if (failed == -17) { /* EEXIST: it was freed where no probe saw it */
		COUNT(frees_missed);
		forget(address, tgid, 0);
		failed = blocks.insert(&key, b);
	}
	if (failed) {
		COUNT(blocks_full);
		return;
	}
	if (PARAM(combined)) {
		u64 stack = b->stack;
		struct stack *s = stacks.lookup(&stack);
		if (s) {
			__sync_fetch_and_add(&s->count, 1);
			__sync_fetch_and_add(&s->bytes, b->size);
		}
	}
	if (PARAM(trace))
		send_event(b->kind, 0, tgid, address, b->size, b->stack);
}

/*
 * Code without frame pointers keeps data in that register.  bpf_get_stack() follows it, and ends
 * with words that are no return addresses, of which each would make another stack.
 */
#ifdef USER
#define LOWEST 65536 /* mmap_min_addr, as distributions set it */
#ifdef __aarch64__
#define HIGHEST (1ULL << 48)
#else /* mmap gives higher addresses only on request: x86/x86_64/5level-paging.rst */
#define HIGHEST (1ULL << 47)
#endif
#define MAY_BE_CODE(address) ((address)-LOWEST < HIGHEST - LOWEST)
#else
#define MAY_BE_CODE(address) 1
#endif

/*
 * The key of a stack, which ends at the first frame behind the caller that cannot be code.  The
 * number of frames goes from loop to loop in the map value, which the verifier does not follow: it
 * would take each of 127 for the next.
 */
static __always_inline u64 hash(struct stack *stack, u64 key)
{
	u64 frames;
	int i;

	barrier(); /* else clang keeps it in a register */
	frames = stack->frames;
	for (i = 0; i < MAX_FRAMES; i++) {
		barrier_var(frames); /* else clang 19 tests only i != min(frames, MAX_FRAMES) */
		if ((u64)i >= frames || (i && !MAY_BE_CODE(stack->at[i])))
			break;
		key = (key ^ stack->at[i]) * 0x9e3779b97f4a7c15ULL;
		key ^= key >> 29;
	}
	stack->frames = i;
	return key;
}

#ifdef USER
#ifdef KFUNC_bpf_iter_task_vma_new /* Linux 6.7 */
/* As struct bpf_iter_task_vma. */
struct vma_iterator {
	u64 opaque;
};
KFUNC(int, bpf_iter_task_vma_new, struct vma_iterator *, struct task_struct *, u64);
KFUNC(struct vm_area_struct *, bpf_iter_task_vma_next, struct vma_iterator *);
KFUNC(void, bpf_iter_task_vma_destroy, struct vma_iterator *);
#define EXECUTABLE 4 /* VM_EXEC */
#define ACCESSIBLE 7 /* or VM_READ or VM_WRITE */

/*
 * Whether a range of the current process is in one mapping with one of these flags; -1 when their
 * lock is taken.
 */
static __always_inline int mapped(u64 address, u64 end, u64 flags)
{
	struct vma_iterator iterator;
	struct vm_area_struct *vma;
	int result = -1;

	if (!bpf_iter_task_vma_new(&iterator, bpf_get_current_task_btf(), address)) {
		vma = bpf_iter_task_vma_next(&iterator); /* the first that ends behind it */
		result = vma && PROBE(vma, vm_start) <= address && PROBE(vma, vm_end) >= end &&
			 PROBE(vma, vm_flags) & flags;
	}
	bpf_iter_task_vma_destroy(&iterator);
	return result;
}
#endif

/*
 * End a stack at the first frame behind the caller that lies in the heap or in no executable
 * mapping.  Where that cannot be checked, user space does it.
 */
static __always_inline void cut(struct stack *stack)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct mm_struct *mm = PROBE(task, mm);
	u64 frames, heap = PROBE(mm, start_brk), size = PROBE(mm, brk) - heap;
	int i;

	stack->checked = 0;
	barrier();
	frames = stack->frames;
	for (i = 1; i < MAX_FRAMES; i++) {
		barrier_var(frames);
		if ((u64)i >= frames || stack->at[i] - heap < size)
			break;
#ifdef KFUNC_bpf_iter_task_vma_new
		/* Less 1: the call may end its mapping. */
		int code = mapped(stack->at[i] - 1, stack->at[i], EXECUTABLE);

		if (code < 0)
			return;
		if (!code)
			break;
#endif
	}
	stack->frames = i;
#ifdef KFUNC_bpf_iter_task_vma_new
	stack->checked = 1;
#endif
}
#endif

/* Put the stack in `scratch` into the table; its key, 0 when there is no stack. */
static __always_inline u64 stack_key(struct stack *scratch, long bytes, u32 tgid)
{
	u64 first = PARAM(combined) ? tgid + 1 : 1, key;

	if (bytes <= 0) {
		COUNT(stacks_missed);
		return 0;
	}
	scratch->frames = (u64)bytes / 8;
	key = hash(scratch, first);
#ifdef USER
	if (!stacks.lookup(&key)) { /* a stack in the table has been cut */
		cut(scratch);
		key = hash(scratch, first);
	}
#endif
	if (!stacks.lookup(&key)) {
		int failed;
		scratch->count = 0;
		scratch->bytes = 0;
		scratch->tgid = tgid;
		failed = stacks.insert(&key, scratch);
		if (failed && failed != -17)
			COUNT(stacks_full);
	}
	return key;
}

/*
 * Bytes up to the next sample: an exponential deviate, whose mean is PARAM(sample).  -ln(u) in
 * units of 2^-24, with Hastings' polynomial for ln(1 + x) (Abramowitz and Stegun 4.1.43, error
 * 1e-5).
 */
static __always_inline u64 next_sample(void)
{
	u64 r = (u64)bpf_get_prandom_u32() + 1, octave = log2_u64(r), x, ln;

	x = (r << (32 - octave) >> 8) & 0xffffff;
	ln = 539529;
	ln = 2282754 - (ln * x >> 24);
	ln = 4856581 - (ln * x >> 24);
	ln = 8252863 - (ln * x >> 24);
	ln = 16768753 - (ln * x >> 24);
	ln = (ln * x >> 24) + octave * 11629080;
	return PARAM(sample) * (32ULL * 11629080 > ln ? 32ULL * 11629080 - ln : 0) >> 24;
}

/* Whether a size is within the limits of --min-size and --max-size. */
static __always_inline int wanted(u64 size)
{
	return size >= PARAM(min_size) && size <= PARAM(max_size);
}

/* Whether an allocation is sampled; until, started: of the thread or CPU, bytes to the next sample.
 */
static __always_inline int chosen(u64 size, u64 *until, u32 *started)
{
	if (PARAM(every) > 1)
		return !(bpf_get_prandom_u32() % PARAM(every));
	if (!PARAM(sample))
		return 1;
	if (!*started) {
		*started = 1;
		*until = next_sample();
	}
	if (!size)
		size = 1;
	if (size <= *until) {
		*until -= size;
		return 0;
	}
	*until = next_sample();
	return 1;
}

#ifdef USER

/* Functions that map memory, or change what is mapped. */
#define MAPS(kind) ((kind)-KIND_MMAP <= KIND_MPROTECT - KIND_MMAP)
#define MAP_FIXED 0x10
#define MAP_ANONYMOUS 0x20

/*
 * A thread's allocator call in progress: the outermost, by the stack pointer at its entry.  `back`:
 * where it returns to, 0 when that is a return probe.  passing_sp, passing_back: the same of the
 * last call whose return is not probed, which may be over.  new_sp, new_caller: of the last
 * operator new that calls an allocator.  skip_sp: of a reallocarray that is not recorded.
 * until, started: see chosen().  record, reserve: what to do at the return.  known: `old` is the
 * block that the call may replace.  freed: the thread has called free.
 */
struct state {
	u64 sp, back, passing_sp, passing_back;
	u64 function, size, argument, until, skip_sp, new_sp, new_caller, caller;
	u32 started, record, reserve, known, freed, tid;
	struct block old;
	struct stack stack;
};

/* Processes, and since when: an older block was another's with the same PID. */
BPF_HASH(targets, u32, u64, 1);

#ifdef FUNCTIONS /* no task storage in such programs before Linux 5.13 */
BPF_HASH(states, u32, struct state, 1);
BPF_ARRAY(blank, struct state, 1); /* too large for the stack */

static __always_inline struct state *state_of(int create)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct state *s = states.lookup(&tid), *empty;
	int zero = 0;

	if (s || !create)
		return s;
	empty = blank.lookup(&zero);
	if (!empty || states.update(&tid, empty))
		return 0;
	return states.lookup(&tid);
}
#else
TASK_STORAGE(states, struct state);

static __always_inline struct state *state_of(int create)
{
	return states.sk_storage_get(bpf_get_current_task_btf(), 0, create);
}
#endif

/* At the entry of a function, where it returns to. */
static __always_inline u64 return_address(struct pt_regs *ctx)
{
	u64 address = 0;

#ifdef __aarch64__
	address = ctx->regs[30];
#else
	probe_read_user(&address, sizeof(address), (void *)PT_REGS_SP(ctx));
#endif
	return address;
}

/*
 * Where the return probes of this process are: uprobe_get_trampoline_vaddr(),
 * kernel/events/uprobes.c.
 */
static __always_inline u64 trampoline(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct mm_struct *mm = PROBE(task, mm);
	struct xol_area *area = PROBE(mm, uprobes_state.xol_area);

	return PROBE(area, vaddr);
}

/*
 * Whether a call that was entered with the stack pointer `entry`, and returns to `back`, is still
 * in progress: its return address is where it was.  It may have been left by siglongjmp.
 */
static __always_inline int in_progress(struct pt_regs *ctx, struct state *s, u64 entry, u64 back)
{
	u64 sp = PT_REGS_SP(ctx), word = 0;

	if (!entry || entry - sp >= NEAR)
		return 0;
	if (!back)
		back = trampoline();
	if (entry == sp) /* a tail call */
		return return_address(ctx) == back;
#ifdef __aarch64__
	/* Saved somewhere in the function's frame, and perhaps signed (bits 48 and up). */
	u64 *words = s->stack.at;
	int i;

	if (probe_read_user(words, FRAME, (void *)(entry - sp < FRAME ? sp : entry - FRAME)))
		return 0;
	for (i = 0; i < FRAME / 8; i++) {
		if (!((words[i] ^ back) << 16))
			return 1;
	}
	return 0;
#else
	probe_read_user(&word, sizeof(word), (void *)entry);
	return word == back;
#endif
}

/*
 * Memory that no allocator has mapped is unmapped.  What is not the block that begins there, or its
 * first part, is left to user space.
 */
static __always_inline void unmapped(u64 address, u64 size, u32 tgid)
{
	struct block old = {};

	size = (size + PARAM(page) - 1) & ~(PARAM(page) - 1);
	if (forget(address, tgid, &old)) {
		if (old.size > size) {
			old.size -= size;
			remember(address + size, tgid, &old);
		}
		old.size = (old.size + PARAM(page) - 1) & ~(PARAM(page) - 1);
		if (old.size >= size)
			return;
	}
	send_event(KIND_UNMAPPED, 1, tgid, address, size, 0);
}

/*
 * For --unwind: the registers that a call preserves, in the order of Machine.saved in
 * crisis.symbols.machine, and the top of the stack, as they are behind the allocator's return.
 * number: ktime << 8 | CPU & 255; one CPU makes one sample at a time.  size: bytes copied.
 */
struct sample {
	u64 number, ip, sp, registers[12];
	u32 tgid, size;
	char copy[COPY];
};
RECORD(sample);
BPF_RINGBUF_OUTPUT(samples, 1);

/* Copy them for user space; returns the sample's number, which stands for the stack, or 0. */
static __always_inline u64 copy_stack(struct pt_regs *ctx, u32 tgid, int at_ret)
{
	struct sample *e = samples.ringbuf_reserve(sizeof(*e));
	u64 sp = PT_REGS_SP(ctx), number, part;
	int i;

	if (!e) {
		COUNT(stacks_missed);
		return 0;
	}
	number = bpf_ktime_get_ns() << 8 | (bpf_get_smp_processor_id() & 255);
	e->number = number;
	e->tgid = tgid;
	e->ip = at_ret ? return_address(ctx) : PT_REGS_IP(ctx);
#ifdef __aarch64__
#pragma unroll
	for (i = 0; i < 12; i++)
		e->registers[i] = ctx->regs[19 + i];
#else
	if (at_ret)
		sp += 8;
	e->registers[0] = ctx->bx;
	e->registers[1] = ctx->bp;
	e->registers[2] = ctx->r12;
	e->registers[3] = ctx->r13;
	e->registers[4] = ctx->r14;
	e->registers[5] = ctx->r15;
#endif
	e->sp = sp;
	e->size = COPY;
	if (probe_read_user(e->copy, COPY, (void *)sp)) { /* the stack ends before: page by page */
		part = 4096 - (sp & 4095);
		e->size = 0;
		if (!probe_read_user(e->copy, part, (void *)sp)) {
			for (i = 0; i < COPY / 4096 - 1; i++, part += 4096)
				if (probe_read_user(e->copy + part, 4096, (void *)(sp + part)))
					break;
			e->size = part;
		}
	}
	samples.ringbuf_submit(e, 0);
	return number;
}

/* The return of a call.  at_ret: before the return instruction, not behind it. */
static __always_inline void leave(struct pt_regs *ctx, int at_ret)
{
	u64 result = PT_REGS_RC(ctx), kind, sp = PT_REGS_SP(ctx), failed, gap;
	u32 tgid = current_pid_tgid() >> 32;
	struct state *s = state_of(0);
	struct block b = {};
	long bytes;

	if (!s || !s->sp)
		return;
	gap = sp - s->sp; /* the return address has been popped, or there is none on the stack */
	kind = s->function & 255;
	if (gap > 8 || (at_ret && kind != KIND_OWN_NEW))
		return;
	s->sp = 0;
	failed = !result;
	if (kind == KIND_MMAP || kind == KIND_MREMAP) {
		failed = result > -4096ULL;
	} else if (kind == KIND_MPROTECT) {
		failed = (int)result;
		result = s->argument;
	} else if (kind == KIND_POSIX_MEMALIGN) {
		failed = result;
		if (!failed && s->record &&
		    probe_read_user(&result, sizeof(result), (void *)s->argument)) {
			COUNT(untracked);
			return;
		}
	} else if (kind == KIND_XALLOCX) {
		if (!s->known)
			return;
		b = s->old;
		if (result >= s->size)
			b.size = s->size;
		remember(s->argument, tgid, &b);
		return;
	}
	if (failed) {
		if (s->known && (s->size || kind == KIND_MREMAP)) {
			b = s->old; /* it is still there */
			remember(s->argument, tgid, &b);
		}
		return;
	}
	if (s->reserve)
		send_event(KIND_RESERVED, 1, tgid, result, s->size, 0);
	if (!s->record)
		return;
	b.size = s->size;
	b.ns = bpf_ktime_get_ns();
	b.tid = s->tid;
	b.kind = kind;
	if (PARAM(unwind)) {
		b.stack = copy_stack(ctx, tgid, at_ret);
	} else {
		bytes = bpf_get_stack(ctx, s->stack.at, PARAM(depth), BPF_F_USER_STACK);
		if (at_ret)
			s->stack.at[0] = return_address(ctx);
		else if (s->caller && s->stack.at[1] != s->caller)
			s->stack.at[0] = s->caller;
		b.stack = stack_key(&s->stack, bytes, tgid);
	}
	if (kind == KIND_MPROTECT) /* what was reserved of it becomes memory: user space knows */
		send_event(kind, 0, tgid, result, b.size, b.stack);
	else
		remember(result, tgid, &b);
}

/* Note a call whose return is not probed, for what it maps. */
static __always_inline void pass(struct pt_regs *ctx, struct state *s)
{
	s->passing_sp = PT_REGS_SP(ctx);
	s->passing_back = return_address(ctx);
}

/* The entry of a call.  0 to be called at the return. */
static __always_inline int enter(struct pt_regs *ctx)
{
#ifdef FUNCTIONS
	u64 function = PARAM(cookie);
#else
	u64 function = get_attach_cookie(ctx);
#endif
	u64 kind = function & 255, id = current_pid_tgid();
	u64 sp = PT_REGS_SP(ctx), size, gap;
	u32 tgid = id >> 32;
	struct state *s;

	if (PARAM(filter) && !targets.lookup(&tgid))
		return 1;
	if (kind == KIND_FREE && !PT_REGS_PARM1(ctx))
		return 1;
	if (kind == KIND_RETURN) {
		leave(ctx, 1);
		return 1;
	}
	s = state_of(1);
	if (kind == KIND_FREE) {
		/*
		 * It may map or unmap memory: the first of a thread, which makes its arena or
		 * cache, and that of a block which may have a mapping of its own.
		 */
		if (s && (!s->freed || (PT_REGS_PARM1(ctx) & PARAM(page) - 1) <= 64)) {
			s->freed = 1;
			pass(ctx, s);
		}
		forget(PT_REGS_PARM1(ctx), tgid, 0);
		return 1;
	}
	if (!s) {
		COUNT(untracked);
		return 1;
	}
	if (kind == KIND_THROW) {
		if ((s->function & 255) == KIND_OWN_NEW)
			s->sp = 0;
		return 1;
	}
	if (kind == KIND_NEW) {
		/*
		 * No return probe: an exception cannot be unwound through one.  But most builds of
		 * new have no frame pointer, so that the stack of the malloc inside would lack its
		 * caller.
		 */
		gap = s->new_sp - sp;
		if (!s->new_sp || gap > 128) {
			s->new_sp = sp;
			s->new_caller = return_address(ctx);
		}
		return 1;
	}
	gap = s->new_sp - sp;
	s->caller = s->new_sp && gap <= 128 ? s->new_caller : 0;
	s->new_sp = 0;
	if (s->sp) {
		if (in_progress(ctx, s, s->sp, s->back))
			return 1; /* within another call, or its tail */
		COUNT(returns_missed);
		s->sp = 0;
	}
#ifdef KFUNC_bpf_iter_task_vma_new
	/* Other access to what is accessible; a JIT compiler does that often. */
	if (kind == KIND_MPROTECT && PT_REGS_PARM3(ctx) &&
	    mapped(PT_REGS_PARM1(ctx), PT_REGS_PARM1(ctx) + PT_REGS_PARM2(ctx), ACCESSIBLE) == 1)
		return 1;
#endif
	if (MAPS(kind)) {
		if (in_progress(ctx, s, s->passing_sp, s->passing_back))
			return 1;
		if (kind == KIND_MUNMAP || (kind == KIND_MMAP && PT_REGS_PARM4(ctx) & MAP_FIXED))
			unmapped(PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), tgid);
		if (kind == KIND_MUNMAP ||
		    (kind == KIND_MMAP && !(PT_REGS_PARM4(ctx) & MAP_ANONYMOUS)))
			return 1;
	}
	if (s->skip_sp) {
		gap = s->skip_sp - sp;
		s->skip_sp = 0;
		if (gap <= 128 && function != s->function)
			return 1;
	}
	s->known = s->reserve = 0;
	size = PT_REGS_PARM1(ctx);
	if (kind == KIND_ALLOC2) {
		size = PT_REGS_PARM2(ctx);
	} else if (kind == KIND_CALLOC) {
		size = PT_REGS_PARM1(ctx) * PT_REGS_PARM2(ctx);
	} else if (kind == KIND_POSIX_MEMALIGN) {
		s->argument = PT_REGS_PARM1(ctx);
		size = PT_REGS_PARM3(ctx);
	} else if (kind == KIND_MMAP || kind == KIND_MPROTECT) {
		s->argument = PT_REGS_PARM1(ctx);
		size = PT_REGS_PARM2(ctx);
		/* Without access it is address space, and no memory. */
		s->reserve = !PT_REGS_PARM3(ctx);
	} else if (kind == KIND_REALLOC || kind == KIND_REALLOCARRAY || kind == KIND_XALLOCX ||
		   kind == KIND_MREMAP) {
		s->argument = PT_REGS_PARM1(ctx);
		size = PT_REGS_PARM2(ctx);
		if (kind == KIND_REALLOCARRAY)
			size *= PT_REGS_PARM3(ctx);
		/* Forgotten now, since another thread may get the address before the return. */
		if (s->argument && (kind != KIND_MREMAP || size))
			s->known = forget(s->argument, tgid, &s->old);
		if (kind == KIND_MREMAP)
			size = PT_REGS_PARM3(ctx);
	}
	s->function = function;
	/* Mappings are few, and are all recorded: parts of them may be unmapped. */
	if (MAPS(kind))
		s->record = !s->reserve && (kind == KIND_MPROTECT ||
					    ((kind == KIND_MMAP || s->known) && wanted(size)));
	else
		s->record = kind != KIND_XALLOCX && wanted(size) &&
			    chosen(size, &s->until, &s->started);
	if (!s->record && !s->reserve && !s->known) {
		if (kind == KIND_REALLOCARRAY) /* the realloc in it has no second chance */
			s->skip_sp = sp;
		if (!MAPS(kind))
			pass(ctx, s);
		return 1;
	}
	s->tid = id;
	s->size = size;
	s->sp = sp;
	s->back = kind == KIND_OWN_NEW ? return_address(ctx) : 0;
	return 0;
}

int on_entry(struct pt_regs *ctx)
{
	enter(ctx);
	return 0;
}

#ifdef SESSION
KFUNC(bool, bpf_session_is_return, void);

int on_call(struct pt_regs *ctx)
{
	if (!bpf_session_is_return())
		return enter(ctx);
	leave(ctx, 0);
	return 0;
}
#else
int on_return(struct pt_regs *ctx)
{
	leave(ctx, 0);
	return 0;
}
#endif

int on_fork(u64 *ctx)
{
	struct task_struct *parent = (struct task_struct *)ctx[0];
	struct task_struct *child = (struct task_struct *)ctx[1];
	u32 from = tgid_of(parent), to = tgid_of(child);
	u64 now = bpf_ktime_get_ns();

	if (!PARAM(follow) || from == to || !to || !targets.lookup(&from))
		return 0;
	if (targets.update(&to, &now))
		COUNT(untracked);
	send_event(KIND_FORKED, 0, to, from, 0, 0);
	return 0;
}

int on_exec(u64 *ctx)
{
	struct task_struct *p = (struct task_struct *)ctx[0];
	u32 tgid = tgid_of(p), by_first = (pid_t)ctx[1] == PROBE(p, tgid);
	u64 now = bpf_ktime_get_ns();

	if (targets.lookup(&tgid)) {
		targets.update(&tgid, &now); /* the memory went with the old program */
		send_event(KIND_EXECED, 0, tgid, 0, by_first, 0);
	}
	return 0;
}

int on_exit(u64 *ctx)
{
	struct task_struct *p = (struct task_struct *)ctx[0];
	u32 tgid = tgid_of(p);
	struct signal_struct *signal;

#ifdef FUNCTIONS
	u32 tid = PROBE(p, pid);

	states.delete(&tid);
#endif
	if (!targets.lookup(&tgid))
		return 0;
	signal = PROBE(p, signal);
	if (PROBE(signal, live.counter)) /* other threads live on */
		return 0;
	targets.delete(&tgid);
	send_event(KIND_EXITED, 0, tgid, 0, 0, 0);
	return 0;
}

#else

#define LEVELS 3

/*
 * What a stack is read into.  One for each kind of allocation and level: an interrupt may run
 * another program and, before Linux 6.2, the same (kernel/trace/bpf_trace.c: __bpf_trace_run).
 */
struct scratch {
	u64 until;
	u32 started, busy;
	struct stack stack;
};
BPF_PERCPU_ARRAY(scratches, struct scratch, 4 * LEVELS);

static __always_inline struct scratch *scratch_of(u32 kind)
{
	int index = (kind - KIND_KMALLOC) * LEVELS, level;
	struct scratch *scratch;

#pragma unroll
	for (level = 0; level < LEVELS; level++, index++) {
		scratch = scratches.lookup(&index);
		if (scratch && !scratch->busy)
			return scratch;
	}
	COUNT(untracked);
	return 0;
}

/* Enter an allocation of the kernel. */
static __always_inline int allocated(u64 *ctx, u64 address, u64 size, u32 kind)
{
	struct scratch *scratch = address ? scratch_of(kind) : 0;
	struct block b = {};

	if (!scratch)
		return 0;
	scratch->busy = 1;
	if (!wanted(size) || !chosen(size, &scratch->until, &scratch->started)) {
		scratch->busy = 0;
		return 0;
	}
	b.size = size;
	b.ns = bpf_ktime_get_ns();
	b.tid = (u32)bpf_get_current_pid_tgid();
	b.kind = kind;
	b.stack = stack_key(&scratch->stack, bpf_get_stack(ctx, scratch->stack.at, PARAM(depth), 0),
			    0);
	scratch->busy = 0;
	remember(address, 0, &b);
	return 0;
}

#ifdef KERNEL

int on_kmalloc(u64 *ctx)
{
	return allocated(ctx, ARG(ctx, kmalloc, ptr), ARG(ctx, kmalloc, bytes_alloc), KIND_KMALLOC);
}

int on_cache(u64 *ctx)
{
#ifdef ARG_kmem_cache_alloc_bytes_alloc
	return allocated(ctx, ARG(ctx, kmem_cache_alloc, ptr),
			 ARG(ctx, kmem_cache_alloc, bytes_alloc), KIND_KMEM_CACHE);
#else
	struct kmem_cache *cache = (struct kmem_cache *)ARG(ctx, kmem_cache_alloc, s);

	return allocated(ctx, ARG(ctx, kmem_cache_alloc, ptr), PROBE(cache, size), KIND_KMEM_CACHE);
#endif
}

#ifdef ARG_kmalloc_node_ptr /* tracepoints of their own until Linux 6.0 */
int on_kmalloc_node(u64 *ctx)
{
	return allocated(ctx, ARG(ctx, kmalloc_node, ptr), ARG(ctx, kmalloc_node, bytes_alloc),
			 KIND_KMALLOC);
}

int on_cache_node(u64 *ctx)
{
	return allocated(ctx, ARG(ctx, kmem_cache_alloc_node, ptr),
			 ARG(ctx, kmem_cache_alloc_node, bytes_alloc), KIND_KMEM_CACHE);
}
#endif

int on_pages(u64 *ctx)
{
	return allocated(ctx, ARG(ctx, mm_page_alloc, page),
			 PARAM(page) << (u32)ARG(ctx, mm_page_alloc, order), KIND_PAGES);
}

int on_kfree(u64 *ctx)
{
	forget(ARG(ctx, kfree, ptr), 0, 0);
	return 0;
}

int on_cache_free(u64 *ctx)
{
	forget(ARG(ctx, kmem_cache_free, ptr), 0, 0);
	return 0;
}

int on_pages_free(u64 *ctx)
{
	forget(ARG(ctx, mm_page_free, page), 0, 0);
	return 0;
}

#else

int on_percpu(u64 *ctx)
{
	return allocated(ctx, ARG(ctx, percpu_alloc_percpu, ptr),
			 ARG(ctx, percpu_alloc_percpu, size), KIND_PERCPU);
}

int on_percpu_free(u64 *ctx)
{
	forget(ARG(ctx, percpu_free_percpu, ptr), 0, 0);
	return 0;
}

#endif

#endif
