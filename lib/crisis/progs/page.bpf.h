/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The page cache: folios, the files that they belong to, and the names of these.
 *
 * Needs the parameters of task.bpf.h and the counter names_lost.  Layouts follow
 * include/linux/mm_types.h (struct folio), include/linux/fs.h and include/linux/dcache.h.
 */
#ifndef CRISIS_PAGE_BPF_H
#define CRISIS_PAGE_BPF_H

#include "task.bpf.h"
#include <linux/fs.h>
#include <linux/mm_types.h>
#include <linux/page-flags.h>
#include <linux/dcache.h>

#define DEPTH 40 /* components of a path; a deeper one is cut at its front */
#define PATH_ROOM 4096
#define KIND_MASK 0170000 /* S_IFMT, S_IFBLK and S_IFDIR of include/uapi/linux/stat.h */
#define KIND_BLOCK 0060000
#define KIND_DIRECTORY 0040000
#define ALLOCATING 0x800 /* PF_MEMALLOC: the task reclaims memory */

/* Do not unroll a loop: unrolled, it needs more stack than there is. */
#define ROLLED _Pragma("clang loop unroll(disable)")

/* Before Linux 5.16 tracepoints pass pages, of which a huge one came as many. */
#ifdef HAVE_FOLIO
#define FOLIO struct folio
#else
#define FOLIO struct page
#endif

/*
 * A file and its name, sent once for each: `inode` and `name` (see name_of()) identify it in the
 * commands' other records.  Only `length` bytes of the path are sent.
 */
struct name_record {
	u64 inode, ino, name;
	u32 dev, rdev, mode, deleted, cut, length;
	char path[2 * PATH_ROOM]; /* the components, last one first, each with its NUL */
};
BPF_PERCPU_ARRAY(name_room, struct name_record, 1);
BPF_RINGBUF_OUTPUT(names, 1); /* of struct name_record */

static __always_inline u64 pages_of(FOLIO *folio)
{
#ifdef HAVE_FOLIO
	unsigned long flags = 0, order = 0;

	bpf_probe_read_kernel(&flags, sizeof(flags), &folio->flags);
	if (!(flags >> PG_head & 1))
		return 1;
#ifdef HAVE_FOLIO_ORDER
	bpf_probe_read_kernel(&order, 1, &folio->_folio_order);
#else
	bpf_probe_read_kernel(&order, sizeof(order), &folio->_flags_1);
#endif
	return 1ULL << (order & 31);
#else
	return 1;
#endif
}

static __always_inline struct inode *inode_of(FOLIO *folio)
{
	struct address_space *mapping = PROBE(folio, mapping);

	return PROBE(mapping, host);
}

static __always_inline u32 kind_of(struct inode *inode)
{
	return PROBE(inode, i_mode) & KIND_MASK;
}

/*
 * The device of a file's file system.  A block device's own pages belong to an inode of the
 * internal file system "bdev"; for these it is the block device itself.
 */
static __always_inline u32 device_of(struct inode *inode)
{
	struct super_block *sb;

	if (kind_of(inode) == KIND_BLOCK)
		return PROBE(inode, i_rdev);
	sb = PROBE(inode, i_sb);
	return PROBE(sb, s_dev);
}

/* Whether the current task passes the filters -p and -c. */
static __always_inline int wanted(void)
{
	if (PARAM(tgid) && bpf_get_current_pid_tgid() >> 32 != PARAM(tgid))
		return 0;
	if (PARAM(cgroup) && !in_cgroup((void *)bpf_get_current_task()))
		return 0;
	return 1;
}

static __always_inline struct dentry *dentry_of(struct inode *inode)
{
	struct hlist_node *first = PROBE(inode, i_dentry.first);

	if (!first)
		return 0;
#ifdef HAVE_D_ALIAS
	return (struct dentry *)((char *)first - __builtin_offsetof(struct dentry, d_alias));
#else
	return (struct dentry *)((char *)first - __builtin_offsetof(struct dentry, d_u.d_alias));
#endif
}

/*
 * A number that changes when a file is renamed: the dentry's hash of the name, and its directory.
 */
static __always_inline u64 name_of(struct inode *inode)
{
	struct dentry *dentry = dentry_of(inode);

	return dentry ? PROBE(dentry, d_name.hash_len) ^ (u64)PROBE(dentry, d_parent) : 0;
}

/*
 * Send the name of a file.  Returns 0 when there was room for it.  The caller makes sure that a
 * name is sent once.
 */
static __always_inline int send_name(struct inode *inode, u64 name)
{
	int zero = 0, i;
	struct name_record *r = name_room.lookup(&zero);
	struct dentry *dentry = dentry_of(inode), *parent;
	u64 at = 0;
	long length;

	if (!r)
		return 1;
	r->inode = (u64)inode;
	r->name = name;
	r->ino = PROBE(inode, i_ino);
	r->mode = PROBE(inode, i_mode);
	r->rdev = PROBE(inode, i_rdev);
	r->dev = device_of(inode);
	r->deleted = !PROBE(inode, i_nlink);
	r->cut = 0;
	ROLLED
	for (i = 0; i < DEPTH && dentry; i++) {
		parent = PROBE(dentry, d_parent);
		if (parent == dentry)
			break;
		if (i == DEPTH - 1 || at >= PATH_ROOM) {
			r->cut = 1;
			break;
		}
		barrier_var(at); /* else clang drops the mask, which is redundant to it */
		length = bpf_probe_read_kernel_str(&r->path[at & (PATH_ROOM - 1)], 256,
						   (void *)PROBE(dentry, d_name.name));
		if (length <= 0)
			break;
		at += length;
		dentry = parent;
	}
	r->length = at;
	at &= 2 * PATH_ROOM - 1;
	if (names.ringbuf_output(r, __builtin_offsetof(struct name_record, path) + at, 0)) {
		COUNT(names_lost);
		return 1;
	}
	return 0;
}

#endif
