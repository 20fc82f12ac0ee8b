# SPDX-License-Identifier: GPL-2.0-or-later
"""Kills by the out-of-memory killer, as progs/oomkill.bpf.c sends them."""

from __future__ import annotations

from ..kernel import cgroup
from ..table import decode
from . import PAGE
from .oom_log import LIMITS, LogEntry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

__all__ = ["DEFINES", "UNKNOWN", "Kill", "cgroup_path", "in_cgroup"]

LEVELS, NAME = 12, 128  # of a cgroup: names, and bytes of each
EVENT_VICTIM, LIMIT_KNOWN, LIMIT_EXITING = 1, 2, 4  # flags
UNKNOWN = (1 << 64) - 1
# For the program.
DEFINES = {
    "LEVELS": LEVELS,
    "NAME": NAME,
    "EVENT_VICTIM": EVENT_VICTIM,
    "LIMIT_KNOWN": LIMIT_KNOWN,
    "LIMIT_EXITING": LIMIT_EXITING,
}


class Kill:
    """One victim; None is what is not known.

    end: ns of CLOCK_MONOTONIC; tgid, tid, comm, uid, oom_score_adj: of the victim; by_tgid, by_tid,
    by_comm: of the task whose allocation failed; anon, file, shmem, swap, total_vm: pages;
    pgtables: bytes; cgroup: its path; limit: a value of LIMITS; limit_cgroup: path; limit_bytes,
    usage_bytes; domain: pages; order, gfp: of the allocation; killed: False for a victim that was
    dying already; stack: addresses, innermost first; gfp_flags: names; past: read from the log.
    """

    end: int
    tgid: int
    tid: int
    comm: str | None = None
    uid: int | None = None
    oom_score_adj: int | None = None
    by_tgid: int | None = None
    by_tid: int | None = None
    by_comm: str | None = None
    anon: int | None = None
    file: int | None = None
    shmem: int | None = None
    swap: int | None = None
    total_vm: int | None = None
    pgtables: int | None = None
    cgroup: str | None = None
    limit: str | None = None
    limit_cgroup: str | None = None
    limit_bytes: int | None = None
    usage_bytes: int | None = None
    domain: int | None = None
    order: int | None = None
    gfp: int | None = None
    gfp_flags: str | None = None
    killed: bool | None = None
    has_limit = has_victim = past = False
    stack: Sequence[int] = ()

    @classmethod
    def of_event(cls, event: Any, constants: Mapping[str, int]) -> Kill:
        """event: the record of struct event; constants: the numbers of LIMITS' names."""
        kill = cls()
        kill._take_event(event, constants)
        return kill

    @classmethod
    def of_log(cls, entry: LogEntry) -> Kill:
        """A kill of the past."""
        kill = cls()
        assert entry.pid is not None
        kill.end, kill.tgid, kill.tid = entry.us * 1000, entry.pid, entry.pid
        kill.by_tid, kill.by_comm = entry.by_tid, entry.by_comm
        kill.past = True
        kill.learn(entry)
        return kill

    def _take_event(self, event: Any, constants: Mapping[str, int]) -> None:
        self.end, self.tgid, self.tid = event.ts, event.tgid, event.tid
        self.by_tgid, self.by_tid, self.by_comm = event.by_tgid, event.by_tid, decode(event.by_comm)
        self.anon, self.file, self.shmem = map(_known, (event.anon, event.file, event.shmem))
        self.swap, self.total_vm = _known(event.swap), _known(event.total_vm)
        self.pgtables = _known(event.pgtables)
        self.has_victim = bool(event.flags & EVENT_VICTIM)
        if self.has_victim:
            self.comm, self.uid = decode(event.comm), event.uid
            self.oom_score_adj = event.oom_score_adj
        self.stack = list(event.stack[: max(event.stack_size, 0) // 8])
        self.cgroup = cgroup_path(event.names_levels, event.names_of) if event.cgroup else None
        self.has_limit = bool(event.limit_flags & LIMIT_KNOWN)
        if self.has_limit:
            self._take_limit(event, constants)

    def _take_limit(self, event: Any, constants: Mapping[str, int]) -> None:
        self.killed = not event.limit_flags & LIMIT_EXITING
        self.domain, self.order = event.limit_totalpages, event.limit_order
        self.gfp = event.limit_gfp
        for name, word in LIMITS.items():
            if constants.get(name) == event.limit_constraint:
                self.limit = word
        if self.limit == "memcg":
            self.limit_cgroup = cgroup_path(event.limit_names_levels, event.limit_names_of)
            self.limit_bytes, self.usage_bytes = event.limit_max * PAGE, event.limit_usage * PAGE

    def rss(self) -> int | None:
        """Pages of all kinds in memory, or None."""
        if self.anon is None or self.file is None or self.shmem is None:
            return None
        return self.anon + self.file + self.shmem

    def learn(self, entry: LogEntry) -> None:
        """Take from the kernel log what the program could not see."""
        self.killed = True
        self.limit, self.order, self.gfp = entry.limit, entry.order, entry.gfp
        self.gfp_flags, self.domain = entry.gfp_flags, entry.domain
        self.limit_cgroup = entry.limit_cgroup
        self.limit_bytes, self.usage_bytes = entry.limit_bytes, entry.usage_bytes
        if not self.has_victim:
            self.comm, self.uid, self.oom_score_adj = entry.comm, entry.uid, entry.oom_score_adj
            self.total_vm, self.anon, self.file, self.shmem = (kb * 1024 // PAGE for kb in entry.kb)
            self.pgtables = entry.pgtables
        if self.cgroup is None:
            self.cgroup = entry.cgroup


def _known(value: int) -> int | None:
    return None if value == UNKNOWN else value


def cgroup_path(levels: int, raw: bytes) -> str:
    """A cgroup's path from the names that the program collected.

    raw: NAME bytes for each of LEVELS levels, the innermost first; levels: how many it has.
    """
    names = [decode(raw[i * NAME : (i + 1) * NAME]) for i in range(min(levels, LEVELS))]
    names.reverse()
    return ("..." if levels > LEVELS else "") + "/" + "/".join(names)


def in_cgroup(kill: Kill, path: str) -> bool:
    """Whether the victim was in a cgroup or below it, by its path.

    path: a directory, or a path in the hierarchy of the memory controller; it need not exist any
    more.
    """
    place = cgroup.controller_mount("memory")
    point = place[0].rstrip("/") if place else ""
    own = path.rstrip("/")
    if point and (own + "/").startswith(point + "/"):
        own = own[len(point) :]
    own = ("/" + own.strip("/")).rstrip("/")
    at = kill.cgroup or kill.limit_cgroup  # a victim is below the cgroup whose limit was hit
    return at is not None and (at + "/").startswith(own + "/")
