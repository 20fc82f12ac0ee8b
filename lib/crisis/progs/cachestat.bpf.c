// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Pages that enter, leave and are requested from the page cache, and page faults on files.
 *
 * A page that has come from disk and has not been used since is "fresh".  Pages become fresh when
 * they are added, and are so no longer when a read requests them, a page fault maps them, a write
 * has dirtied them or they are removed.  A request for a fresh page is no hit.
 *
 * Variants: TRACEPOINTS, those of mm/filemap.c; KPROBES, at the entry of functions; neither, at the
 * exit of those that read, and at the entry of others.
 */
#include "crisis.bpf.h"
#include "page.bpf.h"
#include <linux/pagemap.h>
#include <linux/mm.h>
#include <linux/uio.h>

#define TMPFS_MAGIC 0x01021994 /* include/uapi/linux/magic.h */
#define KIND_REGULAR 0100000
#define CHUNK 64	/* pages of a file, for which there is a bit each */
#define SETS 8192	/* of two chunks each */
#define FOLIO_CHUNKS 32 /* MAX_PAGECACHE_ORDER of include/linux/pagemap.h: 2048 pages */

#ifdef KPROBES
typedef struct pt_regs context;
#define ARGUMENT(ctx, number) PT_REGS_PARM##number(ctx)
#define LOAD(pointer, member) PROBE(pointer, member)
#else /* the verifier knows the types of the arguments: plain loads */
typedef u64 context;
#define ARGUMENT(ctx, number) ((ctx)[number - 1])
#define LOAD(pointer, member) ((pointer)->member)
#endif

/* Without atomic operations that return the old value, two CPUs may count the same page. */
#if defined(HAVE_FETCH) && __clang_major__ >= 12
#define FETCH_AND(pointer, value) __sync_fetch_and_and(pointer, value)
#define FETCH_OR(pointer, value) __sync_fetch_and_or(pointer, value)
#else
#define FETCH_AND(pointer, value)             \
	({                                    \
		u64 __old = *(pointer);       \
		*(pointer) = __old & (value); \
		__old;                        \
	})
#define FETCH_OR(pointer, value) (*(pointer) |= (value))
#endif

/*
 * Run a statement for each i from 1 to n.  The verifier follows an iterator (Linux 6.4) once, but a
 * plain loop turn by turn: that needs a bound, `most`, and an i of which clang knows nothing.
 */
#ifdef KFUNC_bpf_iter_num_next
#define READ_CHUNKS 8192 /* 2 GiB, the largest read there is */
KFUNC(int, bpf_iter_num_new, u64 *, int, int);
KFUNC(int *, bpf_iter_num_next, u64 *);
KFUNC(void, bpf_iter_num_destroy, u64 *);
#define REPEAT(i, n, most, statement)                            \
	do {                                                     \
		u64 __iterator;                                  \
		int *__i;                                        \
		bpf_iter_num_new(&__iterator, 1, (n) + 1);       \
		while ((__i = bpf_iter_num_next(&__iterator))) { \
			u64 i = *__i;                            \
			statement;                               \
		}                                                \
		bpf_iter_num_destroy(&__iterator);               \
	} while (0)
#else
#define READ_CHUNKS 64 /* 16 MiB */
#define REPEAT(i, n, most, statement)                               \
	do {                                                        \
		u64 __i;                                            \
		ROLLED                                              \
		for (__i = 1; __i <= (most) && __i <= (n); __i++) { \
			u64 i = __i;                                \
			barrier_var(i);                             \
			statement;                                  \
		}                                                   \
	} while (0)
#endif

struct counts {
	s64 read, read_fresh;	 /* pages requested by reads, and those of them that were fresh */
	s64 faults, fault_fresh; /* page faults, and those on a fresh page */
	s64 added, fault_added;	 /* pages added at all, and by page faults */
	s64 write, metadata;	 /* pages added for a write, and of directories and block devices */
	s64 read_miss, fault_miss; /* requested pages that were absent */
	s64 dirtied, reclaimed, dropped;
};

struct group_key {
	u64 a, b, bank;
};

struct group {
	struct counts counts;
	u64 dev, mode;
	char comm[16];
};

/*
 * A bit for each of the pages.  For reads only those are fresh that page faults have not brought in
 * (`fault`), and for page faults only those that they have.
 */
struct chunk {
	u64 tag, fresh, fault;
};

struct set {
	struct chunk way[2];
};

/* What a thread is doing. */
struct state {
	u64 inode, index, last, size, reads;			       /* its read */
	u64 missing_inode, missing, missing_end, missing_reads;	       /* what that found absent */
	u64 fault_inode, fault_index, fault_end, fault_seq, fault_new; /* its page fault */
	u64 around, around_end; /* whether that mapped fresh pages, and up to which */
	u64 added_inode, added, added_end, added_reads; /* what it has added last, but by a fault */
};

/* Two banks of groups: one is written while user space reads and clears the other. */
BPF_ARRAY(bank, u32, 1);
BPF_PERCPU_ARRAY(totals, struct counts, 1);
BPF_HASH(groups, struct group_key, struct group, 1);
BPF_ARRAY(sets, struct set, SETS);

#ifdef TRACEPOINTS
#define CURRENT bpf_get_current_task_btf()
#define CURRENT_LOAD(member) (((struct task_struct *)CURRENT)->member)
TASK_STORAGE(states, struct state);

static __always_inline struct state *state_of(int create)
{
	return states.sk_storage_get(CURRENT, 0, create);
}
#else
#define CURRENT ((struct task_struct *)bpf_get_current_task())
#define CURRENT_LOAD(member) PROBE(CURRENT, member)
BPF_TABLE("lru_hash", u32, struct state, states, 1);

static __always_inline struct state *state_of(int create)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct state *s = states.lookup(&tid), empty = {};

	if (s || !create)
		return s;
	states.update(&tid, &empty);
	return states.lookup(&tid);
}
#endif

/* Programs of this CPU alone write `total`. */
#define ADD(field, pages)                                                \
	do {                                                             \
		u64 __n = (pages);                                       \
		total->field += __n;                                     \
		if (group)                                               \
			__sync_fetch_and_add(&group->counts.field, __n); \
	} while (0)

static __always_inline struct group *group_of(struct inode *inode)
{
	struct group_key key = {};
	struct task_struct *leader;
	struct group *g;
	int zero = 0;
	u32 *current_bank = bank.lookup(&zero);

	if (!current_bank)
		return 0;
	key.bank = *current_bank;
	if (PARAM(by) == BY_FILE) {
		key.a = (u64)inode;
		key.b = LOAD(inode, i_ino);
	} else if (PARAM(by) == BY_PROCESS)
		key.a = bpf_get_current_pid_tgid() >> 32;
	else if (PARAM(by) == BY_CGROUP)
		key.a = id_of_cgroup(cgroup_of((void *)bpf_get_current_task(), PARAM(key_subsys)));
	else
		key.a = device_of(inode), key.b = kind_of(inode) == KIND_BLOCK;
	g = groups.lookup(&key);
	if (!g) {
		struct group empty = {};

		groups.insert(&key, &empty);
		g = groups.lookup(&key);
		if (!g) {
			COUNT(groups_full);
			return 0;
		}
		g->dev = device_of(inode);
		g->mode = kind_of(inode);
		if (PARAM(by) == BY_FILE)
			send_name(inode, 0);
	}
	if (PARAM(by) == BY_PROCESS) { /* each time, since execve(2) changes the name */
		leader = PROBE((struct task_struct *)bpf_get_current_task(), group_leader);
		bpf_probe_read_kernel_str(g->comm, 16, &leader->comm);
	}
	return g;
}

static __always_inline struct counts *all_pages(void)
{
	int zero = 0;

	return totals.lookup(&zero);
}

/* The counters that an event of this file belongs to. */
#define COUNTERS_OF(inode)                                     \
	struct counts *total = all_pages();                    \
	struct group *group = PARAM(by) ? group_of(inode) : 0; \
                                                               \
	if (!total)                                            \
	return 0

/*
 * A number for a file: the tag of its first chunk, from which those of the others go on.  The probe
 * is for the verifier, which does not allow arithmetic with the pointer itself.
 */
static __always_inline u64 file_of(struct inode *inode)
{
	return (u64)PROBE(inode, i_data.host) * 0x9E3779B97F4A7C15ULL;
}

/* Consecutive chunks of a file lie in consecutive sets, so that they do not replace each other. */
static __always_inline struct set *set_of(u64 file, u64 number)
{
	int slot = ((file >> 40) + number) & (SETS - 1);

	return sets.lookup(&slot);
}

/* 1 where a and b differ, else 0.  The verifier would follow both sides of a branch. */
static __always_inline u64 differ(u64 a, u64 b)
{
	a ^= b;
	a = (a | -a) >> 63;
	barrier_var(a);
	return a;
}

static __always_inline void mark_chunk(u64 file, u64 number, u64 mask, int fault)
{
	struct set *set = set_of(file, number);
	struct chunk *chunk;

	if (!set)
		return;
	chunk = &set->way[1 - differ(set->way[1].tag, file + number)];
	if (chunk->tag != file + number) {
		if (chunk->fresh)
			set->way[1] = *chunk; /* the older of the two is forgotten */
		chunk->fresh = chunk->fault = 0;
		chunk->tag = file + number;
	}
	chunk->fault = fault ? chunk->fault | mask : chunk->fault & ~mask;
	FETCH_OR(&chunk->fresh, mask);
}

/* Make the pages of a folio fresh.  It is aligned to its size, a power of two. */
static __always_inline void mark(u64 file, u64 index, u64 pages, int fault)
{
	u64 number = index / CHUNK, more = (pages - 1) / CHUNK;

	mark_chunk(file, number, ~0ULL >> (-pages & 63) << (index & 63), fault);
	if (more)
		REPEAT(i, more, FOLIO_CHUNKS, mark_chunk(file, number + i, ~0ULL, fault));
}

static __always_inline u64 use_chunk(u64 file, u64 number, u64 index, u64 end, int fault)
{
	struct set *set = set_of(file, number);
	s64 from = index - number * CHUNK, to = end - CHUNK - number * CHUNK;
	struct chunk *chunk;
	u64 mask, old;

	if (!set)
		return 0;
	chunk = &set->way[differ(set->way[0].tag, file + number)];
	from &= ~(from >> 63); /* max(from, 0) and min(to, 0) */
	to &= to >> 63;
	mask = differ(chunk->tag, file + number) - 1;
	mask &= (~0ULL << (from & 63)) & (~0ULL >> (-to & 63));
	if (!(chunk->fresh & mask))
		return 0;
	old = FETCH_AND(&chunk->fresh, ~mask);
	return __builtin_popcountll(old & mask & (fault ? chunk->fault : ~chunk->fault));
}

/*
 * The pages of [index, end) are fresh no longer.  Returns how many of them were: for a page fault
 * or else for a read.
 */
static __always_inline u64 use(u64 file, u64 index, u64 end, int fault, const u64 most)
{
	u64 number = index / CHUNK, more = (end - 1) / CHUNK - number, count = file;

	/* From a number unknown to the verifier, so that all turns look the same to it. */
	barrier_var(count);
	count += use_chunk(file, number, index, end, fault);
	if (more)
		REPEAT(i, more, most - 1, count += use_chunk(file, number + i, index, end, fault));
	return count - file;
}

/* The number of read system calls that the thread has completed. */
static __always_inline u64 reads_of_current(void)
{
#ifdef HAVE_READS
	return CURRENT_LOAD(ioac.syscr);
#else
	return 0;
#endif
}

/* The number of page faults that it has completed.  One that was tried again counts once. */
static __always_inline u64 faults_of_current(void)
{
	return CURRENT_LOAD(maj_flt) + CURRENT_LOAD(min_flt);
}

static __always_inline u64 overlap(u64 first, u64 end, u64 from, u64 to)
{
	if (from > first)
		first = from;
	if (to < end)
		end = to;
	return end > first ? end - first : 0;
}

/* A read of [index, end); not `first`: these pages have been counted as requested. */
static __always_inline int was_read(struct inode *inode, u64 index, u64 end, int first)
{
	u64 limit = ((u64)LOAD(inode, i_size) + PAGE_SIZE - 1) >> PAGE_SHIFT, fresh;
	COUNTERS_OF(inode);

	if (limit > index + READ_CHUNKS * CHUNK)
		limit = index + READ_CHUNKS * CHUNK;
	if (end > limit)
		end = limit;
	if (end <= index)
		return 0;
	if (first)
		ADD(read, end - index);
	fresh = use(file_of(inode), index, end, 0, READ_CHUNKS + 1);
	if (!fresh)
		return 0;
	ADD(read_fresh, fresh);
	if (kind_of(inode) == KIND_BLOCK)
		ADD(metadata, -fresh); /* as which they were added */
	return 0;
}

/*
 * A page fault on one of [index, end), which maps the pages of [start, map_end) too.  It has
 * several events, of ranges that overlap: filemap_map_pages(), filemap_fault(), and both again
 * after a wait for I/O.
 */
static __always_inline int faulted(struct inode *inode, u64 index, u64 end, u64 start, u64 map_end)
{
	struct super_block *sb = LOAD(inode, i_sb);
	u64 file = file_of(inode), seq = faults_of_current(), fresh, around = 0;
	struct state *s;

	if ((u32)LOAD(sb, s_magic) == TMPFS_MAGIC) /* its pages are added without an event */
		return 0;
	s = state_of(1);
	COUNTERS_OF(inode);
	if (!s)
		return 0;
	fresh = !!use(file, index, end, 1, 2);
	if (map_end > start)
		around = fresh + use(file, start, map_end, 1, 2);
	if (s->fault_inode != (u64)inode || s->fault_seq != seq ||
	    !overlap(index, end, s->fault_index, s->fault_end)) {
		ADD(faults, 1);
		/*
		 * The fault before this one has left the page out, since it was being read in or
		 * was readahead's marker (mm/filemap.c: next_uptodate_folio).
		 */
		if (s->fault_inode == (u64)inode && s->around &&
		    overlap(index, end, s->fault_index + 1, s->around_end))
			fresh = 1;
		else
			s->around = 0;
		s->fault_inode = (u64)inode;
		s->fault_seq = seq;
		s->fault_new = 0;
	} else if (end - index > 1) {
		index = s->fault_index;
		end = s->fault_end;
	}
	s->fault_index = index;
	s->fault_end = end;
	if (around) {
		s->around = 1;
		s->around_end = map_end;
	}
	if (fresh && !s->fault_new) {
		s->fault_new = 1;
		ADD(fault_fresh, 1);
	}
	return 0;
}

/* page_cache_sync_ra(): a reader has found [index, index + pages) absent. */
static __always_inline int missing(struct inode *inode, u64 index, u64 pages)
{
	struct state *s = state_of(1);

	if (!s)
		return 0;
	s->missing_inode = (u64)inode;
	s->missing = index;
	s->missing_end = index + pages;
	s->missing_reads = reads_of_current();
	return 0;
}

int on_added(u64 *ctx)
{
	FOLIO *folio = (FOLIO *)ctx[0];
	struct address_space *mapping;
	struct inode *inode;
	struct state *s;
	u64 file, index, pages, reads;
	u32 kind;

	if (!wanted())
		return 0;
	mapping = LOAD(folio, mapping);
	inode = LOAD(mapping, host);
	s = state_of(1);
	COUNTERS_OF(inode);
	file = file_of(inode);
	index = LOAD(folio, index);
	pages = pages_of(folio);
	kind = LOAD(inode, i_mode) & KIND_MASK;
	ADD(added, pages);
	if (!s)
		return 0;
	if (s->fault_inode == (u64)inode && s->fault_seq == faults_of_current()) {
		ADD(fault_added, pages);
		mark(file, index, pages, 1);
		if (s->fault_index - index < pages) {
			use(file, s->fault_index, s->fault_index + 1, 1, 1);
			ADD(fault_miss, 1);
			ADD(fault_fresh, !s->fault_new);
			s->fault_new = 1;
		}
		return 0;
	}
	if (kind != KIND_REGULAR)
		ADD(metadata, pages);
	if (kind == KIND_REGULAR || kind == KIND_BLOCK)
		mark(file, index, pages, 0);
	reads = reads_of_current();
	if (s->missing_inode == (u64)inode && s->missing_reads == reads)
		ADD(read_miss, overlap(index, index + pages, s->missing, s->missing_end));
#ifdef KPROBES
	if (s->inode == (u64)inode && s->reads == reads) { /* requested already: see begin_read() */
		u64 from = index > s->index ? index : s->index;
		u64 requested = overlap(index, index + pages, s->index, s->last + 1);

		if (requested)
			ADD(read_fresh, use(file, from, from + requested, 0, FOLIO_CHUNKS));
	}
#endif
	if (s->added_inode != (u64)inode || s->added_end != index || s->added_reads != reads)
		s->added = index;
	s->added_inode = (u64)inode;
	s->added_end = index + pages;
	s->added_reads = reads;
	return 0;
}

int on_dirtied(u64 *ctx)
{
	FOLIO *folio = (FOLIO *)ctx[0];
	struct address_space *mapping = (struct address_space *)ctx[1];
	struct inode *inode;
	struct state *s;
	u64 index, pages, written;

	if (!wanted() || !mapping)
		return 0;
	inode = LOAD(mapping, host);
	COUNTERS_OF(inode);
	index = LOAD(folio, index);
	pages = pages_of(folio);
	ADD(dirtied, pages);
	s = state_of(0);
	/* Fresh pages that the thread has added last, but by a read, were added for this. */
	if (!s || s->added_inode != (u64)inode || s->added_reads != reads_of_current() ||
	    !overlap(index, index + pages, s->added, s->added_end))
		return 0;
	written = use(file_of(inode), index, index + pages, 0, FOLIO_CHUNKS);
	ADD(write, written);
	if (kind_of(inode) == KIND_BLOCK)
		ADD(metadata, -written);
	return 0;
}

int on_removed(u64 *ctx)
{
	FOLIO *folio = (FOLIO *)ctx[0];
	struct address_space *mapping = LOAD(folio, mapping);
	struct inode *inode = LOAD(mapping, host);
	struct task_struct *p = (struct task_struct *)bpf_get_current_task();
	u64 index = LOAD(folio, index), pages = pages_of(folio);

	use(file_of(inode), index, index + pages, 0, FOLIO_CHUNKS);
	if (!wanted())
		return 0;
	COUNTERS_OF(inode);
	if (PROBE(p, flags) & ALLOCATING)
		ADD(reclaimed, pages);
	else
		ADD(dropped, pages);
	return 0;
}

static __always_inline struct inode *file_inode_of(struct file *file)
{
	struct address_space *mapping = LOAD(file, f_mapping);

	return LOAD(mapping, host);
}

static __always_inline int fault(struct vm_fault *vmf, u64 start, u64 map_end)
{
	struct vm_area_struct *vma = LOAD(vmf, vma);
	u64 index = LOAD(vmf, pgoff);

	if (!wanted())
		return 0;
	return faulted(file_inode_of(LOAD(vma, vm_file)), index, index + 1, start, map_end);
}

int on_map_pages(context *ctx)
{
	return fault((struct vm_fault *)ARGUMENT(ctx, 1), ARGUMENT(ctx, 2), ARGUMENT(ctx, 3) + 1);
}

#ifdef TRACEPOINTS

/*
 * Fires for each batch of at most 31 folios, with what is left of the read, but not for a batch
 * that ends at a page still being read in (mm/filemap.c: filemap_get_pages).  Where that was the
 * first batch of a read, the read began where the one before it ended, if both are equally long
 * then.
 */
int on_get_pages(u64 *ctx)
{
	struct address_space *mapping = (void *)ARG(ctx, mm_filemap_get_pages, mapping);
	u64 index = ARG(ctx, mm_filemap_get_pages, index), from = index;
	u64 last = ARG(ctx, mm_filemap_get_pages, last_index);
	u64 reads = reads_of_current();
	struct inode *inode = LOAD(mapping, host);
	struct state *s;
	int first;

	if (!wanted())
		return 0;
	s = state_of(1);
	if (!s)
		return 0;
	first = s->inode != (u64)inode || s->last != last || s->index >= index || s->reads != reads;
	if (!first)
		from = s->index;
	else if (s->inode == (u64)inode && index > s->last + 1 && last - s->last == s->size)
		from = s->last + 1;
	if (first)
		s->size = last + 1 - from;
	s->inode = (u64)inode;
	s->index = index;
	s->last = last;
	s->reads = reads;
	return was_read(inode, from, last + 1, first);
}

int on_sync_ra(u64 *ctx)
{
	struct inode *inode = (void *)ARG(ctx, page_cache_sync_ra, inode);
	u64 index = ARG(ctx, page_cache_sync_ra, index);

	return wanted() ? missing(inode, index, ARG(ctx, page_cache_sync_ra, req_count)) : 0;
}

int on_fault(u64 *ctx)
{
	struct address_space *mapping = (void *)ARG(ctx, mm_filemap_fault, mapping);
	u64 index = ARG(ctx, mm_filemap_fault, index);

	return wanted() ? faulted(LOAD(mapping, host), index, index + 1, 0, 0) : 0;
}

/* After filemap_map_pages(), which does not report which of these pages it maps. */
int on_mapped(u64 *ctx)
{
	struct address_space *mapping = (void *)ARG(ctx, mm_filemap_map_pages, mapping);
	u64 start = ARG(ctx, mm_filemap_map_pages, index);
	u64 end = ARG(ctx, mm_filemap_map_pages, last_index) + 1;

	return wanted() ? faulted(LOAD(mapping, host), start, end, start, end) : 0;
}

#else

int on_fault(context *ctx)
{
	return fault((struct vm_fault *)ARGUMENT(ctx, 1), 0, 0);
}

int on_sync_ra(context *ctx)
{
	struct readahead_control *ractl = (struct readahead_control *)ARGUMENT(ctx, 1);
	struct address_space *mapping = LOAD(ractl, mapping);
#ifdef HAVE_RACTL_RA
	u64 pages = ARGUMENT(ctx, 2);
#else /* (ractl, ra, req_count) before Linux 5.13 */
	u64 pages = ARGUMENT(ctx, 3);
#endif

	return wanted() ? missing(LOAD(mapping, host), LOAD(ractl, _index), pages) : 0;
}

#ifdef KPROBES

/* What the thread adds of these pages, as long as the read goes on, has been requested by it. */
static __always_inline int begin_read(struct file *file, u64 position, u64 bytes)
{
	u64 index = position >> PAGE_SHIFT, last = (position + bytes - 1) >> PAGE_SHIFT;
	struct inode *inode;
	struct state *s;

	if (!wanted() || !bytes)
		return 0;
	inode = file_inode_of(file);
	s = state_of(1);
	if (s) {
		s->inode = (u64)inode;
		s->index = index;
		s->last = last;
		s->reads = reads_of_current();
	}
	return was_read(inode, index, last + 1, 1);
}

int on_read(struct pt_regs *ctx)
{
	struct kiocb *iocb = (struct kiocb *)PT_REGS_PARM1(ctx);
	struct iov_iter *iter = (struct iov_iter *)PT_REGS_PARM2(ctx);

	return begin_read(PROBE(iocb, ki_filp), PROBE(iocb, ki_pos), PROBE(iter, count));
}

int on_splice(struct pt_regs *ctx)
{
	u64 position = 0;

	bpf_probe_read_kernel(&position, sizeof(position), (void *)PT_REGS_PARM2(ctx));
	return begin_read((struct file *)PT_REGS_PARM1(ctx), position, PT_REGS_PARM4(ctx));
}

#else

static __always_inline int end_read(struct file *file, u64 end, s64 bytes)
{
	u64 index = (end - bytes) >> PAGE_SHIFT, last = (end - 1) >> PAGE_SHIFT;

	return wanted() && bytes > 0 ? was_read(file_inode_of(file), index, last + 1, 1) : 0;
}

/* ssize_t filemap_read(struct kiocb *iocb, struct iov_iter *iter, ssize_t already_read) */
int on_read(u64 *ctx)
{
	struct kiocb *iocb = (struct kiocb *)ctx[0];

	return end_read(iocb->ki_filp, iocb->ki_pos, (s64)ctx[3] - (s64)ctx[2]);
}

/* ssize_t filemap_splice_read(file, loff_t *ppos, pipe, size_t len, unsigned int flags) */
int on_splice(u64 *ctx)
{
	u64 position = 0;

	bpf_probe_read_kernel(&position, sizeof(position), (void *)ctx[1]);
	return end_read((struct file *)ctx[0], position, ctx[5]);
}

#endif
#endif
