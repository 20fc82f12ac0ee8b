# SPDX-License-Identifier: GPL-2.0-or-later
"""From the PIDs of this PID namespace to the kernel's own, which BPF programs see.

/proc shows a process in a container only the numbers of its own namespace and
those below.  A BPF iterator (bpf_iter/task, Linux 5.8) visits the tasks of the
reader's namespace, and its program reads the numbers of every level: struct
upid, include/linux/pid.h.
"""

import os
import struct

from . import bpf, compile, proc
from .errors import Unavailable

__all__ = ["kernel_tids", "place"]

_TEXT = r"""
#include <linux/sched.h>
#include <linux/pid.h>
#include <linux/seq_file.h>

struct row { u32 kernel, here, level; };
static long (*seq_write)(void *seq, const void *data, u32 length) = (void *)127;       /* bpf_seq_write() */

int on_task(u64 *ctx)
{
	struct bpf_iter_meta *meta = (struct bpf_iter_meta *)ctx[0];
	struct task_struct *task = (struct task_struct *)ctx[1], *reader = (struct task_struct *)bpf_get_current_task();
	struct pid *pid;
	struct row row;
	u32 level;

	if (!task)              /* the end */
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
"""
SOURCE = compile.Source("pid_namespace.task", _TEXT, (("iter/task:on_task",),), requires=("bpf_iter__task.task",))


def kernel_tids(build=compile.build):
    """{thread's number in this PID namespace: in the kernel} of all threads here.  The key of a process is its PID.

    build: from a compile.Source to its Object.
    Raises Unavailable where the kernel has no iterator, NotPermitted.
    """
    return {here: kernel for kernel, here, _ in _rows(build)}


def place(build=compile.build):
    """(level, inode number) of this PID namespace, by which a program finds a task's number here; (0, 0) of the initial.

    Raises as kernel_tids.
    """
    if proc.in_initial_pid_namespace():
        return 0, 0
    return _rows(build)[0][2], os.stat("/proc/self/ns/pid").st_ino


def _rows(build):
    """[(kernel's number, number here, level of this namespace)]; at least our own."""
    try:
        program = bpf.Program(build(SOURCE))
        try:
            return list(struct.iter_unpack("=III", program.iterate("on_task", "task")))
        finally:
            program.close()
    except Unavailable as exc:
        raise Unavailable("cannot translate PIDs of this PID namespace: %s. Run it in the host's: docker run --pid=host, "
                          "hostPID: true in Kubernetes" % exc) from None
