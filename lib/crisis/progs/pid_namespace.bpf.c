// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * An iterator over tasks (bpf_iter/task, Linux 5.8) that writes the number of each in the kernel
 * and in the PID namespace of the reader: /proc shows a container only the latter.
 */
#include "crisis.bpf.h"
#include <linux/sched.h>
#include <linux/pid.h>
#include <linux/seq_file.h>

/* One thread, as read from the iterator, and the level of the reader's PID namespace. */
struct row {
	u32 kernel, here, level;
};
RECORD(row);

/* bpf_seq_write() */
static long (*seq_write)(void *seq, const void *data, u32 length) = (void *)127;

int on_task(u64 *ctx)
{
	struct bpf_iter_meta *meta = (struct bpf_iter_meta *)ctx[0];
	struct task_struct *task = (struct task_struct *)ctx[1];
	struct task_struct *reader = (struct task_struct *)bpf_get_current_task();
	struct pid *pid;
	struct row row;
	u32 level;

	if (!task) /* the end */
		return 0;
	pid = PROBE(reader, thread_pid);
	level = PROBE(pid, level);
	pid = PROBE(task, thread_pid);
	row.level = level;
	row.kernel = PROBE(task, pid);
	bpf_probe_read_kernel(&row.here, sizeof(row.here), &pid->numbers[level].nr);
	seq_write(meta->seq, &row, sizeof(row));
	return 0;
}
