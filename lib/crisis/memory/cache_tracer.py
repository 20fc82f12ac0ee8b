# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that enter, leave and are requested from the page cache, counted by BPF programs.

The programs are those of progs/cachestat.bpf.c.
"""

from __future__ import annotations

import os

from .. import bpf, cli
from ..bpf import page, task
from ..kernel import proc
from .cache_counts import Counts, rank
from .cache_groups import GROUPINGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from typing import Any

__all__ = ["SOURCES", "Group", "Interval", "Tracer"]

_KEYS = ("none", *GROUPINGS)
# Entries of the table of --by.  One bank is full at a time: the other is emptied at once.
_GROUPS = 16384
_FILES = 65536
_NAMES = 1 << 23  # bytes of the ring buffer of names: of as many files
_FILE_ID = 16  # bytes that identify a file: inode and ino
# Atomic operations that return the old value: Linux 5.12, arm64 5.18.  Helpers of these releases
# stand for them.
_FETCH = (
    ("BPF_FUNC_check_mtu", "5.12")
    if os.uname().machine == "x86_64"
    else ("BPF_FUNC_copy_from_user_task", "5.18")
)


def _cache_events(*kinds: str) -> tuple[tuple[str, ...], ...]:
    """Points that every source has: what enters and leaves the cache and becomes dirty."""
    return tuple(
        tuple(f"{kind}/{name}:{function}" for name in names for kind in kinds)
        for names, function in (
            (("mm_filemap_add_to_page_cache",), "on_added"),
            (("mm_filemap_delete_from_page_cache",), "on_removed"),
            (("writeback_dirty_folio", "writeback_dirty_page"), "on_dirtied"),
        )
    )


_LOOP = ("bpf_iter_num_new?", "bpf_iter_num_next?", "bpf_iter_num_destroy?")


def _source(
    variant: str,
    points: Sequence[Sequence[str]],
    requires: Sequence[str | Sequence[str]] = (),
    arguments: Sequence[str] = (),
    kfuncs: Sequence[str] = _LOOP,
    **defines: int,
) -> bpf.Source:
    return bpf.Source(
        f"cachestat.{variant}",
        "cachestat.bpf.c",
        points,
        (*task.PARAMS, "by", "key_subsys"),
        ("names_lost", "groups_full"),
        {**task.DEFINES, **bpf.enumeration("BY", _KEYS), **defines},
        {
            **page.HAS,
            "HAVE_READS": ("task_io_accounting.syscr", "2.6"),
            "HAVE_FETCH": _FETCH,
            "HAVE_RACTL_RA": ("readahead_control.ra", "5.13"),
        },
        requires,
        task.CONSTANTS,
        arguments,
        kfuncs,
    )


SOURCES = {
    "tracepoint": _source(
        "tracepoint",
        _cache_events("tp_btf")
        + (
            ("tp_btf/mm_filemap_get_pages:on_get_pages",),
            ("tp_btf/page_cache_sync_ra:on_sync_ra",),
            ("tp_btf/mm_filemap_fault:on_fault",),
            ("fentry/filemap_map_pages:on_map_pages", "tp_btf/mm_filemap_map_pages:on_mapped"),
        ),
        (),
        (
            "mm_filemap_get_pages.mapping",
            "mm_filemap_get_pages.index",
            "mm_filemap_get_pages.last_index",
            "mm_filemap_map_pages.mapping",
            "mm_filemap_map_pages.index",
            "mm_filemap_map_pages.last_index",
            "mm_filemap_fault.mapping",
            "mm_filemap_fault.index",
            "page_cache_sync_ra.inode",
            "page_cache_sync_ra.index",
            "page_cache_sync_ra.req_count",
        ),
        TRACEPOINTS=1,
    ),
    "fentry": _source(
        "fentry",
        _cache_events("tp_btf")
        + (
            ("fexit/filemap_read:on_read", "fexit/generic_file_buffered_read:on_read"),
            ("fexit/filemap_splice_read:on_splice", "none"),
            ("fentry/page_cache_sync_ra:on_sync_ra",),
            ("fentry/filemap_fault:on_fault",),
            ("fentry/filemap_map_pages:on_map_pages",),
        ),
        ("readahead_control",),
    ),
    "kprobe": _source(
        "kprobe",
        _cache_events("tp_btf", "raw_tp")
        + (
            ("kprobe/filemap_read:on_read", "kprobe/generic_file_buffered_read:on_read"),
            ("kprobe/filemap_splice_read:on_splice", "none"),
            ("kprobe/page_cache_sync_ra:on_sync_ra",),
            ("kprobe/filemap_fault:on_fault",),
            ("kprobe/filemap_map_pages:on_map_pages",),
        ),
        kfuncs=(),
        KPROBES=1,
    ),
}


class Group:
    """A row of --by.

    counts; cells of the table, and members of the JSON record, that identify the group.
    """

    __slots__ = "counts", "cells", "members"

    def __init__(self, counts: Counts, cells: list[Any], members: dict[str, Any]) -> None:
        self.counts, self.cells, self.members = counts, cells, members


class Interval:
    """What happened in an interval: counts; groups, of --by; lost: {kind of loss: number}."""

    __slots__ = "counts", "groups", "lost"

    def __init__(self, counts: Counts, groups: list[Group], lost: dict[str, int | None]) -> None:
        self.counts, self.groups, self.lost = counts, groups, lost


class Tracer:
    """The program, filtered and sized by the options, and the reading of its counters."""

    def __init__(self, args: Namespace) -> None:
        """args: the options of cachestat.  Raises what bpf.load raises, and Unavailable."""
        self._top, self._grouping = args.top, GROUPINGS[args.by]() if args.by else None
        named = args.by == "file"
        params = {
            "by": _KEYS.index(args.by or "none"),
            "key_subsys": task.subsys(self._grouping.controllers if self._grouping else None),
        }
        groups = (_FILES if named else _GROUPS) if args.by else 1
        sizes = {
            "groups": {"max_entries": groups},
            "states": {"max_entries": max(16384, 2 * proc.thread_count())},
            "names": {"max_entries": _NAMES if named else page.PAGE},
        }
        self._program = bpf.load(SOURCES, args, params, sizes)
        if args.by == "process":
            task.warn_of_foreign_pids(cli.note)
        self._banks = bpf.Banks(self._program)
        self._fields = self._program.layouts["counts"].fields
        self._names: bpf.RingBuffer | None = None
        if named:
            self._names = bpf.RingBuffer(
                self._program.maps["names"], self._program.layouts["name_record"]
            )
        # No tracepoint reports page faults that map a huge page (mm/filemap.c: filemap_map_pmd).
        mapped = "tp_btf/mm_filemap_map_pages" in self._program.taken
        self._huge_faults = None if mapped else 0
        self._before = self._sums()

    def _sums(self) -> dict[str, int]:
        """{member of struct counts: sum of all CPUs}."""
        per_cpu = self._program.maps["totals"].read_per_cpu(0)
        assert per_cpu is not None, "an array has every key"
        return dict(zip(self._fields, map(sum, zip(*per_cpu))))

    def read(self, final: bool) -> Interval:
        """The Interval since the last reading; final: the last one."""
        now, before = self._sums(), self._before
        self._before = now
        groups = self._groups(final) if self._grouping else []
        lost = {**self._program.lost(), "huge_faults": self._huge_faults}
        return Interval(Counts({name: now[name] - before[name] for name in now}), groups, lost)

    def _groups(self, final: bool) -> list[Group]:
        """The Groups that missed most."""
        assert self._grouping is not None
        from heapq import nsmallest

        before_switch = self._names.end if self._names else 0
        self._banks.switch(final)
        found = nsmallest(self._top, self._banks.each("groups"), key=lambda item: rank(item[1]))
        named: Sequence[Any] = ()
        if self._names:
            # A file is named once in each bank.  Keys begin as these records: with inode and ino.
            pack = self._program.maps["groups"].key_layout.pack
            files = {pack(*key)[:_FILE_ID] for key, _ in found}
            named = self._names.matching(files, before_switch)
        labels = self._grouping.labels(found, named)
        return [
            Group(Counts(dict(zip(self._fields, group))), *label)
            for (_, group), label in zip(found, labels)
        ]
