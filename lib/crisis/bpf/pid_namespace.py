# SPDX-License-Identifier: GPL-2.0-or-later
"""From the PIDs of this PID namespace to the kernel's own, which BPF programs see.

/proc shows a process in a container only the numbers of its own namespace and
those below.  A BPF iterator (bpf_iter/task, Linux 5.8) visits the tasks of the
reader's namespace, and its program reads the numbers of every level: struct
upid, include/linux/pid.h.
"""

from __future__ import annotations

import os

from ..errors import Unavailable
from ..kernel import proc
from . import cache
from .program import Program
from .source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .object import Object

__all__ = ["kernel_tids", "place"]

SOURCE = Source(
    "pid_namespace.task",
    "pid_namespace.bpf.c",
    (("iter/task:on_task",),),
    requires=("bpf_iter__task.task",),
)


def kernel_tids(build: Callable[[Source], Object] = cache.build) -> dict[int, int]:
    """{thread's number in this PID namespace: in the kernel} of all threads here.

    The key of a process is its PID.  build: from a Source to its Object.
    Raises Unavailable where the kernel has no iterator, NotPermitted.
    """
    return {row.here: row.kernel for row in _rows(build)}


def place(build: Callable[[Source], Object] = cache.build) -> tuple[int, int]:
    """(level, inode number) of this PID namespace; (0, 0) of the initial one.

    By these a program finds a task's number here.  Raises as kernel_tids.
    """
    if proc.in_initial_pid_namespace():
        return 0, 0
    return _rows(build)[0].level, os.stat("/proc/self/ns/pid").st_ino


def _rows(build: Callable[[Source], Object]) -> list[Any]:
    """The program's records of all threads here, at least our own, with this namespace's level."""
    try:
        program = Program(build(SOURCE))
        try:
            return list(program.layouts["row"].unpack_all(program.iterate("on_task", "task")))
        finally:
            program.close()
    except Unavailable as exc:
        raise Unavailable(
            f"cannot translate PIDs of this PID namespace: {exc}. Run it in the host's: "
            "docker run --pid=host, hostPID: true in Kubernetes"
        ) from None
