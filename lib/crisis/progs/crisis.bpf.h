/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every program of the suite uses: parameters, counters, arguments of tracepoints, members of
 * kernel structs, and what the bcc releases from 0.18 on lack.
 *
 * The programs are written in bcc's dialect.  Macros that depend on the command and on the running
 * kernel (PARAM_*, COUNTER_*, ARG_*, KFUNC_*, HAVE_*) come from bpf.Source.
 */
#ifndef CRISIS_BPF_H
#define CRISIS_BPF_H

/*
 * A parameter is a 64-bit immediate that the loader replaces before the verifier sees it: code that
 * an unused filter guards is dead by then and costs nothing.
 */
#define PARAM_MAGIC 0x43525354ULL
#define PARAM(name)                                                                    \
	({                                                                             \
		u64 __v;                                                               \
		asm("%0 = %1 ll" : "=r"(__v) : "i"(PARAM_MAGIC << 32 | PARAM_##name)); \
		__v;                                                                   \
	})

/*
 * Where bcc does not find a helper in /proc/kallsyms, which kernel.kptr_restrict hides and which
 * bcc reads only as root, it replaces it by bpf_probe_read: by macros, and for user memory by
 * rewriting each call.  The object must not depend on that, and bpf_probe_read does not load where
 * kernel and user addresses overlap (s390x).
 */
#undef bpf_probe_read_kernel
#undef bpf_probe_read_kernel_str
#undef bpf_probe_read_user
#undef bpf_probe_read_user_str
/* bpf_probe_read_user(), Linux 5.5 */
static long (*probe_read_user)(void *to, u32 size, const void *from) = (void *)112;

/*
 * Hide from the compiler what it knows of a variable, as libbpf's barrier_var() does.  It may
 * otherwise prove a bound check redundant, or merge two into one, and the verifier, which tracks
 * less, then sees an access without a bound.
 */
#define barrier_var(variable) asm volatile("" : "+r"(variable))

/*
 * Declare a kernel function (kfunc) with the types of its arguments, as bcc declares helpers: bcc
 * 0.18 aborts at a call through a cast.  The builder replaces the number by the function's BTF id.
 */
#define KFUNC(result, name, ...) static result (*name)(__VA_ARGS__) = (void *)KFUNC_##name

/*
 * Declare a map of task storage (BPF_MAP_TYPE_TASK_STORAGE), which bcc supports only since 0.24:
 * here it is a hash, which the builder recognizes by its key and gives the right type.  bcc
 * rewrites NAME.sk_storage_get(task, value, flags), for a map of any type, to
 * bpf_sk_storage_get(NAME, ...), which here is bpf_task_storage_get(), Linux 5.11.
 */
struct task_storage_key {
	u32 unused;
};
#define TASK_STORAGE(name, type)                                                                   \
	struct name##_table_t {                                                                    \
		struct task_storage_key key;                                                       \
		type leaf;                                                                         \
		void *(*sk_storage_get)(void *, void *, u64);                                      \
		u32 max_entries;                                                                   \
		u32 flags;                                                                         \
	};                                                                                         \
	static __attribute__((section("maps/hash"))) struct name##_table_t name = { .max_entries = \
											    1 }
static void *(*task_storage_get)(void *map, void *task, void *value, u64 flags) = (void *)156;
#define bpf_sk_storage_get task_storage_get

/*
 * Declare a map, as bcc's macro of that name, from which BPF_HASH, BPF_ARRAY and BPF_TABLE are
 * made, but static: for each map that is an external symbol, bcc generates and compiles functions
 * that print and parse its keys and values, a quarter of the time of a compilation.
 */
#ifdef BPF_F_TABLE /* lint.h has none */
#undef BPF_F_TABLE
#define BPF_F_TABLE(kind, key_type, leaf_type, name, entries, map_flags)             \
	struct name##_table_t {                                                      \
		key_type key;                                                        \
		leaf_type leaf;                                                      \
		leaf_type *(*lookup)(key_type *);                                    \
		leaf_type *(*lookup_or_try_init)(key_type *, leaf_type *);           \
		int (*update)(key_type *, leaf_type *);                              \
		int (*insert)(key_type *, leaf_type *);                              \
		int (*delete)(key_type *);                                           \
		void (*increment)(key_type, ...);                                    \
		int (*get_stackid)(void *, u64);                                     \
		u32 max_entries;                                                     \
		int flags;                                                           \
	};                                                                           \
	static __attribute__((section("maps/" kind))) struct name##_table_t name = { \
		.max_entries = (entries),                                            \
		.flags = (map_flags),                                                \
	}
#endif

/* bpf_get_attach_cookie(), Linux 5.15; bcc declares it since 0.22. */
static u64 (*get_attach_cookie)(void *ctx) = (void *)174;

/* Count an event that was lost, or a table that was full: COUNT(name), for Program.counters(). */
#ifdef COUNTERS
BPF_ARRAY(counters, u64, COUNTERS);

static __always_inline void count_event(int index)
{
	u64 *counter = counters.lookup(&index);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}
#define COUNT(name) count_event(COUNTER_##name)
#endif

/*
 * Let user space know the layout of a struct that is in no map: one that is sent through a ring
 * buffer.  The builder takes it from a table of that name and drops the table.
 */
#ifndef RECORD /* lint.h has its own */
#define RECORD(name) BPF_ARRAY(record_##name, struct name, 1)
#endif

/* An argument of a BTF or raw tracepoint, by name: its position differs between releases. */
#define ARG(ctx, tracepoint, argument) ((ctx)[ARG_##tracepoint##_##argument])

/*
 * A member of a struct whose type the verifier does not know; 0 where it cannot be read.  The comma
 * operator drops a const qualifier, with which clang would take the initial 0 for the value.
 */
#define PROBE(pointer, member)                                                \
	({                                                                    \
		typeof(((void)0, (pointer)->member)) __v = 0;                 \
		bpf_probe_read_kernel(&__v, sizeof(__v), &(pointer)->member); \
		__v;                                                          \
	})

#endif
