# SPDX-License-Identifier: GPL-2.0-or-later
"""The variants of progs/memleak.bpf.c, and the Tracer of a loaded one."""

from __future__ import annotations

import os

from .. import bpf, cli
from ..bpf import cache, pid_namespace, task
from ..errors import Usage
from ..kernel import proc
from .kinds import KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from ..bpf.object import Object
    from .tracer import Tracer

__all__ = ["MOST_FRAMES", "SOURCES", "start"]

MOST_FRAMES = 127  # MAX_FRAMES

_PARAMS = tuple(
    "sample every min_size max_size combined trace filter follow page depth unwind"
    " pid_level pid_namespace cookie".split()
)
_COUNTERS = tuple(
    "frees_missed blocks_full stacks_full stacks_missed untracked returns_missed"
    " events_lost".split()
)
# --unwind: bytes of a stack that are copied, and of the buffer, for 500 in a burst
_COPY, _RING = 16384, 1 << 23

_LIFE = (
    ("tp_btf/sched_process_fork:on_fork", "raw_tp/sched_process_fork:on_fork"),
    ("tp_btf/sched_process_exec:on_exec", "raw_tp/sched_process_exec:on_exec"),
    ("tp_btf/sched_process_exit:on_exit", "raw_tp/sched_process_exit:on_exit"),
)


def _point(name: str, function: str) -> tuple[str, ...]:
    return f"tp_btf/{name}:{function}", f"raw_tp/{name}:{function}"


_KERNEL = (
    _point("kfree", "on_kfree"),
    _point("kmem_cache_free", "on_cache_free"),
    _point("mm_page_free", "on_pages_free"),
    _point("kmalloc", "on_kmalloc"),
    _point("kmem_cache_alloc", "on_cache"),
    _point("mm_page_alloc", "on_pages"),
    _point("kmalloc_node", "on_kmalloc_node") + ("none",),
    _point("kmem_cache_alloc_node", "on_cache_node") + ("none",),
)


def _source(
    variant: str,
    points: Sequence[Sequence[str]],
    requires: Sequence[str] = (),
    arguments: str = "",
    kfuncs: Sequence[str] = (),
    probes: str = "",
    **defines: int,
) -> bpf.Source:
    if "USER" in defines:
        defines["COPY"] = _COPY
    return bpf.Source(
        f"memleak.{variant}",
        "memleak.bpf.c",
        points,
        _PARAMS,
        _COUNTERS,
        {**bpf.enumeration("KIND", KINDS), **defines},
        {},
        requires,
        (),
        arguments.split(),
        kfuncs,
        probes.split(),
    )


_VMA = tuple(f"bpf_iter_task_vma_{name}?" for name in ("new", "next", "destroy"))
SOURCES = {
    "session": _source(
        "session",
        _LIFE,
        ("task_struct", "return_consumer"),
        kfuncs=("bpf_session_is_return", *_VMA),
        probes="uprobe_session:on_call uprobe_multi:on_entry",
        USER=1,
        SESSION=1,
    ),
    # Linux 6.10 has this struct, and the first multi links that know a process from one of its
    # threads.
    "multi": _source(
        "multi",
        _LIFE,
        ("task_struct", "bpf_uprobe_multi_link", "bpf_session_run_ctx"),
        kfuncs=_VMA,
        probes="uprobe_multi:on_entry uretprobe_multi:on_return",
        USER=1,
    ),
    "perf": _source(
        "perf",
        _LIFE,
        ("task_struct", "BPF_FUNC_get_attach_cookie"),
        kfuncs=_VMA,
        probes="uprobe:on_entry uretprobe:on_return",
        USER=1,
    ),
    # A program for each function, which has as a constant what other sources have as a cookie.
    "functions": _source(
        "functions",
        _LIFE,
        ("task_struct",),
        kfuncs=_VMA,
        probes="uprobe:on_entry uretprobe:on_return",
        USER=1,
        FUNCTIONS=1,
    ),
    "kernel": _source(
        "kernel",
        _KERNEL,
        arguments="kmalloc.ptr kmalloc.bytes_alloc kmem_cache_alloc.ptr "
        "kmem_cache_alloc.bytes_alloc? kmem_cache_alloc.s? kmalloc_node.ptr? "
        "kmalloc_node.bytes_alloc? "
        "kmem_cache_alloc_node.ptr? kmem_cache_alloc_node.bytes_alloc? mm_page_alloc.page "
        "mm_page_alloc.order kfree.ptr kmem_cache_free.ptr mm_page_free.page",
        KERNEL=1,
    ),
    "percpu": _source(
        "percpu",
        (
            _point("percpu_free_percpu", "on_percpu_free"),
            _point("percpu_alloc_percpu", "on_percpu"),
        ),
        arguments="percpu_alloc_percpu.ptr percpu_alloc_percpu.size percpu_free_percpu.ptr",
    ),
}


def start(args: Namespace, user: bool, many: bool) -> Tracer:
    """A Tracer whose program is loaded, sized and filtered as the options say.

    user: of processes, not of the kernel; many: they are in the table `targets`.
    Raises Usage for a --source of the other mode, and what bpf.load raises.
    """
    from .tracer import Tracer

    usable = _usable(args, user)

    def build(source: bpf.Source) -> Object:
        return cache.build(source, not args.no_cache, cli.note)

    level, namespace = pid_namespace.place(build) if user else (0, 0)
    if not user and args.trace:
        task.warn_of_foreign_pids(cli.note)
    depth = min(args.perf_max_stack_depth, MOST_FRAMES)
    params = {
        "sample": args.sample.nbytes if args.sample else 0,
        "every": args.sample.every if args.sample else 1,
        "min_size": args.min_size,
        "max_size": args.max_size,
        "combined": args.combined_only,
        "trace": args.trace,
        "filter": many,
        "page": os.sysconf("SC_PAGE_SIZE"),
        "follow": args.follow or args.cgroup is not None,
        "unwind": args.unwind,
        "pid_level": level,
        "pid_namespace": namespace,
        "depth": 8 * depth,
    }
    # Without preallocation the tables cost the kernel memory only as they fill; but in kernel mode
    # their own allocations would be among those traced.
    flags = 1 if user else 0
    threads = max(16384, 2 * proc.thread_count())
    sizes = {
        "blocks": {"max_entries": args.entries or (1000000 if user else 1 << 18), "flags": flags},
        "stacks": {
            "max_entries": args.stack_storage_size or (32768 if user else 16384),
            "flags": flags,
        },
        "events": {"max_entries": 1 << (22 if args.trace else 19 if user else 17)},
        "samples": {"max_entries": _RING if args.unwind else os.sysconf("SC_PAGE_SIZE")},
        "targets": {"max_entries": threads},
        "states": {"max_entries": threads, "flags": 1},
    }
    program = bpf.load({name: SOURCES[name] for name in usable}, args, params, sizes)
    _raise_open_files()

    def ring(name: str, record: str) -> bpf.RingBuffer:
        return bpf.RingBuffer(program.maps[name], program.layouts[record])

    samples = ring("samples", "sample") if args.unwind else None
    return Tracer(args, user, many, program, ring("events", "event"), samples, depth)


def _usable(args: Namespace, user: bool) -> tuple[str, ...]:
    """The names of SOURCES that serve: for processes, or for the kernel."""
    usable: tuple[str, ...] = ("kernel",)
    if user:
        usable = ("session", "multi", "perf", "functions")
    elif args.percpu:
        usable = ("percpu",)
    if args.source and args.source not in usable:
        what = "processes" if user else "the kernel"
        raise Usage(f"--source {args.source} is not for {what}")
    return usable


def _raise_open_files() -> None:
    """Every library that is mapped is kept open, for its symbols after the process's end."""
    import resource

    try:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass
