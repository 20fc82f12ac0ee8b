// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Pages that enter and leave the page cache, from mm_filemap_add_to_page_cache and
 * mm_filemap_delete_from_page_cache.  Neighbouring pages of a thread are collected into runs; with
 * PARAM(summary) pages are counted per file instead.
 */
#include "crisis.bpf.h"
#include "page.bpf.h"

#define NO_WAKEUP 1 /* BPF_RB_NO_WAKEUP: user space reads the ring buffer by the clock */

struct file_key {
	u64 inode, ino, name;
	u64 bank;
};

struct run_key {
	u32 tid, kind, bank, unused;
};

/* Neighbouring pages that a thread added or removed; kind is one of EVENT_*. */
struct run {
	u64 since, inode, ino, name, first, pages;
	u32 pid, tid, dev, kind;
	char comm[16];
};

/* The pages of a file in an interval. */
struct sums {
	u64 added, evicted, dev;
};

/* Two banks: one is written while user space reads and clears the other. */
BPF_ARRAY(bank, u32, 1);
BPF_HASH(runs, struct run_key, struct run, 1);
BPF_TABLE("lru_hash", struct file_key, u8, named, 1); /* files whose names have been sent */
BPF_HASH(files, struct file_key, struct sums, 1);
BPF_ARRAY(lost_pages, u64, 1);
BPF_RINGBUF_OUTPUT(events, 1);

static __always_inline void lose(u64 pages)
{
	int zero = 0;
	u64 *lost = lost_pages.lookup(&zero);

	if (lost)
		__sync_fetch_and_add(lost, pages);
}

/* Fill in the key of a file, and send its name if that has not been sent. */
static __always_inline u64 know(struct inode *inode, struct file_key *key)
{
	u8 one = 1;

	key->inode = (u64)inode;
	key->ino = PROBE(inode, i_ino);
	key->name = name_of(inode);
	if (!named.lookup(key) && !send_name(inode, key->name))
		named.update(key, &one);
	return key->name;
}

static __always_inline int moved(FOLIO *folio, u32 kind)
{
	u64 who = bpf_get_current_pid_tgid(), index, pages;
	struct run_key key = { .tid = who, .kind = kind };
	struct run *r, blank = {};
	struct file_key file = {};
	struct inode *inode;
	int zero = 0;
	u32 *current_bank = bank.lookup(&zero);

	if (!current_bank || !wanted())
		return 0;
	inode = inode_of(folio);
	index = PROBE(folio, index);
	pages = pages_of(folio);
	key.bank = *current_bank;
	if (PARAM(summary)) {
		struct sums *s, fresh = {};

		know(inode, &file);
		file.bank = *current_bank;
		s = files.lookup(&file);
		if (!s) {
			fresh.dev = device_of(inode);
			files.insert(&file, &fresh);
			s = files.lookup(&file);
		}
		if (!s) {
			COUNT(events_lost);
			lose(pages);
			return 0;
		}
		if (kind == EVENT_ADD)
			__sync_fetch_and_add(&s->added, pages);
		else
			__sync_fetch_and_add(&s->evicted, pages);
		return 0;
	}
	r = runs.lookup(&key);
	if (r && r->inode == (u64)inode && r->first + r->pages == index) {
		r->pages += pages;
		return 0;
	}
	if (!r) {
		runs.insert(&key, &blank);
		r = runs.lookup(&key);
		if (!r) {
			COUNT(events_lost);
			lose(pages);
			return 0;
		}
	} else if (r->pages && events.ringbuf_output(r, sizeof(*r), NO_WAKEUP)) {
		COUNT(events_lost);
		lose(r->pages);
	}
	know(inode, &file);
	r->since = bpf_ktime_get_ns();
	r->inode = file.inode;
	r->ino = file.ino;
	r->name = file.name;
	r->first = index;
	r->pages = pages;
	r->pid = who >> 32;
	r->tid = who;
	r->dev = device_of(inode);
	r->kind = kind;
	bpf_get_current_comm(r->comm, sizeof(r->comm));
	return 0;
}

int on_added(u64 *ctx)
{
	return moved((FOLIO *)ctx[0], EVENT_ADD);
}

int on_removed(u64 *ctx)
{
	return PARAM(evictions) ? moved((FOLIO *)ctx[0], EVENT_EVICT) : 0;
}
