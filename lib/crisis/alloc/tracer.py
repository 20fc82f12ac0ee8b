# SPDX-License-Identifier: GPL-2.0-or-later
"""Tracing of allocators: the processes and their ends, what the programs report, and reports."""

from __future__ import annotations

import errno
import os
import time

from .. import cli, table
from ..kernel import cgroup
from ..symbols.decode import Symbols
from .blocks import Blocks, Group
from .discovery import Discovery
from .kinds import EXECED, EXITED, FORKED, MPROTECT, RESERVED, UNMAPPED
from .mappings import Mappings
from .stack_table import StackTable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from ..symbols.frame import Frame
    from ..symbols.sampled_stacks import SampledStacks
    from .blocks import Groups, Since, StackKey
    from .stack_table import End

__all__ = ["Tracer"]

# Events about processes and their mappings; the others are allocations and frees.
_STATE = frozenset((FORKED, EXECED, EXITED, UNMAPPED, RESERVED, MPROTECT))
_GONE = errno.ENOENT, errno.ESRCH
_DENIED = errno.EPERM, errno.EACCES


class Tracer:
    """A loaded program, and what user space knows beside its maps.

    args: the options; user: of processes, not of the kernel; many: see Discovery;
    program: loaded; events, samples: RingBuffers of its records, samples only with --unwind;
    depth: the most frames of a stack.
    live: {PID: comm} of the processes that are traced; several: more than one process was seen.
    """

    def __init__(
        self,
        args: Namespace,
        user: bool,
        many: bool,
        program: Any,
        events: Any,
        samples: Any = None,
        depth: int = 127,
    ) -> None:
        self.args, self.user, self.program = args, user, program
        self._events = events
        self.symbols: Any = Symbols(note=cli.note)
        self.sampled: SampledStacks | None = None
        if samples:
            from ..symbols.sampled_stacks import SampledStacks

            self.sampled = SampledStacks(samples, self.symbols, depth)
        self.fds = [ring.fd for ring in (events, samples) if ring]
        self._targets = program.maps["targets"] if user else None
        self.discovery = Discovery(program, self.symbols, args.obj, args.symbols_prefix, many)
        self.mappings = Mappings()
        self.blocks = Blocks(program.maps["blocks"], self._targets)
        self.stacks = StackTable(
            program.maps["stacks"], self.symbols, user, depth, self.is_alive, self.sampled
        )
        self.live: dict[int, str | None] = {}
        self._comms: dict[int, str | None] = {}  # also of those that have ended
        self._ended: set[int] = set()  # whose totals of --combined-only were in the last report
        self.several = False
        self._changed = False  # some processes ended or executed a program

    # Processes

    def add(self, pid: int, comm: str | None = None) -> None:
        """Begin to trace a process."""
        self.program.maps["targets"].write(pid, time.monotonic_ns())
        self._name(pid, comm or _comm(pid))

    def _name(self, pid: int, comm: str | None) -> None:
        self.live[pid] = self._comms[pid] = comm
        self.several = self.several or len(self._comms) > 1

    def drop(self, pid: int) -> None:
        """Trace a process no longer: it has ended, or may not be looked into."""
        self.live.pop(pid, None)
        self.program.maps["targets"].remove(pid)
        self._changed = True

    def comm(self, pid: int) -> str | None:
        """The last known name of a process, dead or alive."""
        return self._comms.get(pid)

    def is_alive(self, pid: int) -> bool:
        """Whether a process is traced and has not ended."""
        return pid in self.live

    def discover(self, pid: int) -> None:
        """Attach to the allocator functions of what a process has mapped by now.

        Raises OSError when it is gone, or may not be looked into (PermissionError).
        """
        self.mappings.learn(pid)
        self.discovery.look(pid)

    def _discover_if_there(self, pid: int) -> None:
        """Discover a process; drop one that is gone or may not be looked into."""
        try:
            self.discover(pid)
        except OSError as exc:
            if exc.errno in _DENIED:
                self.discovery.denied.add(pid)
            if exc.errno in _DENIED + _GONE:
                self.drop(pid)
            else:
                cli.note(f"cannot look into process {pid}: {exc.strerror}")

    def refresh(self) -> None:
        """Take in what an interval may have brought.

        That is libraries, members of the cgroup, and ends whose events were lost.
        """
        since = self.blocks.since()
        if self.args.cgroup is not None:
            members = cgroup.processes(self.args.cgroup)
            self.discovery.keep_denied(members)
            for pid in members:
                if pid not in since and pid not in self.discovery.denied and pid != os.getpid():
                    self.add(pid)
                    since[pid] = 0
        for pid in [pid for pid in self.live if pid not in since]:
            self.live.pop(pid)
            self._changed = True
        for pid in since:
            if pid not in self.live:  # its event was lost
                self._name(pid, _comm(pid))
            self._discover_if_there(pid)
        self.discovery.note_denied()
        if self.args.trace and (self._changed or self.mappings.holes):
            self.outstanding()  # which forgets what ended processes had, and what was unmapped

    # Events

    def handle(self) -> list[Any]:
        """Take in what the programs report; returns the allocation events of --trace."""
        found: list[Any] = []
        deadline = time.monotonic() + 1
        # Read before the events: the exec or fork that a sample follows is among them.
        samples = self.sampled.ring.records() if self.sampled else ()
        for event in self._events.records():
            kind = event.kind
            if kind not in _STATE:
                found.append(event)
            elif kind in (FORKED, EXECED):
                # What is left after the deadline is for the next report.
                self._begin(event, time.monotonic() < deadline)
            elif kind == EXITED:
                self.live.pop(event.tgid, None)
                self.mappings.forget(event.tgid)
                self._changed = True
            else:
                found += self._map(event)
        if samples and self.sampled:
            self.sampled.add(samples)
        return found

    def _begin(self, event: Any, look: bool) -> None:
        """Take in a process that has been forked, or executes another program."""
        pid = event.tgid
        # A PID that is known may have been another process's.
        self._forget_map(pid)
        if self.args.combined_only and pid in self._comms:
            self._forget_totals(pid)
        self.mappings.forget(pid)
        self._name(pid, table.decode(event.comm))
        self._changed = True
        self._ended.discard(pid)
        if event.kind == EXECED and not event.size:
            # By another thread than the first, which the probes were bound to.
            self.discovery.forget(pid)
        if event.kind == FORKED:
            self.symbols.inherit(pid, event.address)
            self.mappings.inherit(pid, event.address)
        if look:
            self._discover_if_there(pid)

    def _map(self, event: Any) -> list[Any]:
        """Take in a change of mappings; returns the events of it that --trace shows.

        mprotect(2) allocates what it gives access to of a reservation.
        """
        made = self.mappings.change(event)
        if event.kind != MPROTECT:
            return [event] if event.kind == UNMAPPED else []
        shown = []
        for address, size in made:
            if self.args.min_size <= size <= self.args.max_size:
                self.blocks.put_mapping(event, address, size, MPROTECT)
                shown.append(event.replace(address=address, size=size, freed=0))
        return shown

    # Reports

    def outstanding(self) -> Groups:
        """What is outstanding, by stack."""
        args = self.args
        combined = args.combined_only and not args.sample
        newest = time.monotonic_ns() - (0 if args.combined_only else args.older * 1000000)
        since = self.blocks.since()
        if self.mappings.holes:
            self.blocks.punch(self.mappings.holes)
            self.mappings.holes = {}
        seen: set[int] = set()

        def unwound(number: int) -> int:
            seen.add(number)
            return self._unwound(number)

        if combined:
            if self._changed:
                self.blocks.find_stale(since)
            self.blocks.remove_stale()
            groups = self._totals(since)
        else:
            key_of = unwound if self.sampled else None
            groups = self.blocks.groups(since, newest, args.sample, args.show_allocs, key_of)
            self.blocks.remove_stale()
        if self.sampled:
            self.sampled.keep(seen, newest)
        self._changed = False
        self._forget_ended(groups)
        return self.stacks.merge(groups) if self.user and not self.sampled else groups

    def _unwound(self, number: int) -> int:
        """The key of a sample's stack; 0 when it was lost."""
        assert self.sampled
        if number and self.sampled.key(number) is None:
            self.handle()  # the sample is submitted before its block is noted
        return self.sampled.key(number) or 0

    def _totals(self, since: Since) -> Groups:
        """The groups of --combined-only.  Those of an ended process are in one report."""
        groups = {}
        for key, nbytes, count in list(self.stacks.totals()):
            more = self.blocks.adjusted.get(key, (0, 0))
            if key[0] in self._ended:
                self.stacks.remove(key)
            elif count + more[1] > 0:
                groups[key] = Group(nbytes + more[0], count + more[1])
        self._ended = {pid for pid, _ in groups if self.user and since.get(pid) is None}
        return groups

    def _forget_totals(self, pid: int) -> None:
        """Remove what --combined-only has added up for a PID: of its last program or owner."""
        for key, _, _ in list(self.stacks.totals()):
            if key[0] == pid:
                self.stacks.remove(key)
                self.blocks.adjusted.pop(key, None)

    def _forget_map(self, pid: int) -> None:
        """Forget the memory of a process, which has ended or executes another program."""
        self.symbols.forget(pid)
        if self.sampled:
            self.sampled.forget(pid)
        self.stacks.forget(pid)

    def _forget_ended(self, groups: Groups) -> None:
        """Forget the processes that have ended and are in no report."""
        if not self.user:
            return
        reported = {pid for pid, _ in groups}
        for pid in [pid for pid in self._comms if pid not in self.live and pid not in reported]:
            del self._comms[pid]
            self.mappings.forget(pid)
            self._forget_map(pid)
            self.discovery.forget(pid)
        self.blocks.keep_adjusted(self._comms)

    def lost(self) -> dict[str, int]:
        """{name: number} of what could not be recorded."""
        lost: dict[str, int] = self.program.counters()
        lost["blocks_full"] += self.blocks.unplaced
        return lost

    def learn(self, keys: list[StackKey]) -> None:
        """Read the stacks of these keys."""
        self.stacks.learn(keys)

    def frames(self, keys: list[StackKey]) -> dict[StackKey, list[Frame] | None]:
        """The Frames of stacks: see StackTable."""
        return self.stacks.frames(keys)

    def ends(self, stacks: dict[StackKey, list[Frame] | None]) -> dict[StackKey, End | None]:
        """Where the walks of stacks ended: see StackTable."""
        return self.stacks.ends(stacks)


def _comm(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/comm", "rb") as f:
            return table.decode(f.read().rstrip(b"\n"))
    except OSError:
        return None
