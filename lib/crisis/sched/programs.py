# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs that see when tasks wait on a run queue: those that include run_queue.bpf.h."""

from __future__ import annotations

import os

from .. import bpf
from ..bpf import task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["sources", "storage_requirements"]


def storage_requirements(machine: str) -> tuple[str, ...]:
    """Of these members the kernel must have one, so that task storage may be allocated.

    machine: uname(2)'s.  Before Linux 6.4 task storage is allocated by kmalloc(), which may wake
    kswapd and so must not be called under the run queue's lock; there a preallocated hash keeps the
    starts.  Since 6.4 it comes from BPF's own allocator (selem_ma), since 6.19 from
    kmalloc_nolock(), which always fails on machines without a compare-and-exchange of 16 bytes.  Of
    7.2 that is known by mem_charge.
    """
    found: tuple[str, ...] = ("bpf_local_storage_map.selem_ma",)
    if machine in ("x86_64", "aarch64", "s390x"):
        found += ("bpf_local_storage_map.use_kmalloc_nolock", "bpf_local_storage.mem_charge")
    return found


def sources(
    command: str,
    params: Sequence[str],
    counters: Sequence[str],
    defines: Mapping[str, int] | None = None,
) -> dict[str, bpf.Source]:
    """The variants of progs/COMMAND.bpf.c, the best first.

    params, counters, defines: as in bpf.Source, beyond those of run_queue.bpf.h.
    """

    def variant(
        name: str, kind: str, requires: Sequence[str | Sequence[str]] = (), **more: int
    ) -> bpf.Source:
        return bpf.Source(
            f"{command}.{name}",
            f"{command}.bpf.c",
            # sched_switch first: a task woken and run before it is attached would keep that start
            # until its next wait.
            (
                (f"{kind}/sched_switch:on_switch",),
                (f"{kind}/sched_wakeup:on_wakeup",),
                (f"{kind}/sched_wakeup_new:on_wakeup",),
            ),
            (*task.PARAMS, *params),
            (*counters, "untracked", "unseen"),
            {**task.DEFINES, **(defines or {}), **more},
            {**task.HAS, "HAVE_ON_CPU": ("task_struct.on_cpu", "2.6")},
            requires,
            task.CONSTANTS,
        )

    storage = storage_requirements(os.uname().machine)
    return {
        "storage": variant("storage", "tp_btf", (storage,), TYPED=1, STORAGE=1),
        "hash": variant("hash", "tp_btf", ("task_struct",), TYPED=1),
        "raw": variant("raw", "raw_tp"),
    }
