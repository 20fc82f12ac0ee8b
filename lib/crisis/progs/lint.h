/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bcc's dialect as far as a check by plain clang needs it: see tests/tools/check_c.  Compiled into
 * nothing.
 */
#define LINT_MAP(name, key_type, leaf_type)                                                        \
	static struct {                                                                            \
		leaf_type *(*lookup)(key_type *);                                                  \
		leaf_type *(*lookup_or_try_init)(key_type *, leaf_type *);                         \
		long (*update)(key_type *, leaf_type *);                                           \
		long (*insert)(key_type *, leaf_type *);                                           \
		long (*delete)(key_type *);                                                        \
		void *(*ringbuf_reserve)(unsigned long long size);                                 \
		void (*ringbuf_submit)(void *record, unsigned long long flags);                    \
		void (*ringbuf_discard)(void *record, unsigned long long flags);                   \
		int (*get_stackid)(void *, unsigned long long flags);                              \
		long (*ringbuf_output)(void *, unsigned long long size, unsigned long long flags); \
	} name
#define BPF_ARRAY(name, leaf_type, entries) LINT_MAP(name, int, leaf_type)
#define BPF_PERCPU_ARRAY(name, leaf_type, entries) LINT_MAP(name, int, leaf_type)
#define BPF_HASH(name, key_type, leaf_type, entries) LINT_MAP(name, key_type, leaf_type)
#define BPF_TABLE(kind, key_type, leaf_type, name, entries) LINT_MAP(name, key_type, leaf_type)
#define BPF_RINGBUF_OUTPUT(name, pages) LINT_MAP(name, int, char)

/* Not a map, which would be reported as unused. */
#define RECORD(name) extern struct name record_##name

/* Of the helpers those that the programs call. */
extern u64 bpf_ktime_get_ns(void);
extern u64 bpf_get_current_pid_tgid(void);
extern u64 bpf_get_current_uid_gid(void);
extern u64 bpf_get_current_task(void);
extern void *bpf_get_current_task_btf(void);
extern long bpf_get_current_comm(void *to, u32 size);
extern u32 bpf_get_smp_processor_id(void);
extern u32 bpf_get_prandom_u32(void);
extern long bpf_get_stack(void *ctx, void *to, u32 size, u64 flags);
extern long bpf_probe_read_kernel(void *to, u32 size, const void *from);
extern long bpf_probe_read_kernel_str(void *to, u32 size, const void *from);
#define BPF_F_USER_STACK 256
#define BPF_RB_NO_WAKEUP 1

/* Registers, whose names in struct pt_regs depend on the architecture. */
extern unsigned long lint_register(struct pt_regs *ctx);
#define PT_REGS_PARM1(ctx) lint_register(ctx)
#define PT_REGS_PARM2(ctx) lint_register(ctx)
#define PT_REGS_PARM3(ctx) lint_register(ctx)
#define PT_REGS_PARM4(ctx) lint_register(ctx)
#define PT_REGS_SP(ctx) lint_register(ctx)
#define PT_REGS_IP(ctx) lint_register(ctx)
#define PT_REGS_RC(ctx) lint_register(ctx)
