# SPDX-License-Identifier: GPL-2.0-or-later
"""Events counted in groups, on CPUs, threads and cgroups.

A Group's events are counted at the same instants, and Counters is a Group (or
several, when the PMU has too few counters for one) on each of many CPUs or
threads.  Follows perf_event_open(2) and kernel/events/core.c.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from operator import sub

from ..errors import Error, Unavailable
from ..kernel import rlimit
from .event import (
    DISABLED,
    ENABLE_ON_EXEC,
    FLAG_PID_CGROUP,
    INHERIT,
    disable,
    enable,
    open_member,
    refusal,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .event import Event

    Key = int  # a CPU or a thread

__all__ = ["GONE", "Group", "OpenGroup", "Counters", "layout", "scaled"]

# Errors of opening counters of a thread that has ended; the second one on newer kernels, where the
# leader of its group was opened before the end (PERF_EVENT_STATE_REVOKED; seen on 6.18).
GONE = (errno.ESRCH, errno.ENODEV)

_CHILD_TRIES = 1000  # reads of inherited counters, 1 ms apart: a preempted child took 50 ms
_NO_CGROUP = (errno.ENOENT, errno.EBADF)  # css_tryget_online_from_dir()
_CANNOT_COUNT = (
    errno.ENOENT,
    errno.E2BIG,
    errno.ENODEV,
    errno.EINVAL,
    errno.ENOSPC,
    errno.EOPNOTSUPP,
)


class Group:
    """Events that one PMU counts at the same instants, on a CPU, a thread or both."""

    def __init__(
        self, events: Iterable[Event], pid: int = -1, cpu: int = -1, bits: int = 0, flags: int = 0
    ) -> None:
        """Opened stopped; enable() starts all members at once.

        pid: a thread (0: the caller), -1 for all; with FLAG_PID_CGROUP in
        flags, a descriptor of a cgroup directory.  cpu: -1 for any (needs a thread).
        bits: INHERIT, EXCLUDE_KERNEL and so on.
        Raises OSError; EINVAL may mean more members than the PMU has counters.
        """
        self.fds: list[int] = []
        self.whole_cpu = pid == -1
        try:
            for event in events:
                leader = self.fds[0] if self.fds else -1
                first = bits | DISABLED if leader < 0 else bits & ~(DISABLED | ENABLE_ON_EXEC)
                self.fds.append(open_member(event, pid, cpu, leader, first, flags))
        except OSError:
            self.close()
            raise
        count = len(self.fds)
        self._unpack, self._size = struct.Struct(f"={count + 3}Q").unpack, 8 * (count + 3)

    def enable(self) -> None:
        enable(self.fds[0])

    def disable(self) -> None:
        disable(self.fds[0])

    def read(self) -> tuple[int, ...] | None:
        """(enabled ns, running ns, value, value ...) since enable(), of one instant.

        The members are in their order.

        running < enabled: the group shared the PMU with others, see scaled().
        None when the CPU went offline, which takes a group apart.

        With INHERIT, perf_read_group() refuses to add up the counters of a child that has just
        started or ends, until they are all there or gone: ECHILD.  Raises ChildProcessError where
        this lasts.
        """
        for left in reversed(range(_CHILD_TRIES)):
            try:
                data = os.read(self.fds[0], self._size)
                break
            except ChildProcessError:
                if not left:
                    raise
                time.sleep(0.001)
        if len(data) != self._size:
            return None
        words = self._unpack(data)
        return words[1:] if words[0] == len(self.fds) else None

    def close(self) -> None:
        for fd in reversed(self.fds):  # members first: a leader that closes makes leaders of them
            os.close(fd)
        self.fds = []


def scaled(value: int, enabled: int, running: int) -> float | None:
    """The count estimated for all of `enabled` from the share `running` of it.

    None when it never ran.
    """
    if not running:
        return None
    return value if running >= enabled else value * enabled / running


def _runs(events: Sequence[Event], pid: int, cpu: int, bits: int, flags: int) -> bool:
    """Whether the PMU counts these events at once, here and now.

    Raises OSError when it cannot open them.
    """
    group = Group(events, pid, cpu, bits, flags)
    try:
        group.enable()
        reading = group.read()
        # A caller's own counters and the watchdog's are not in the kernel's check at open.
        return reading is not None and reading[1] > 0
    finally:
        group.close()


def layout(
    clusters: Sequence[Sequence[Event]], pid: int = 0, cpu: int = -1, bits: int = 0, flags: int = 0
) -> tuple[list[list[int]], dict[int, int]]:
    """Distribute events over as few groups as the PMU takes.

    clusters: lists of Events; those of one list are kept in one group where
    possible, because their ratio is wanted.  pid, cpu: where to try; the default is the caller.
    Returns (groups, refused): lists of indices into the flattened clusters,
    and {index: errno} of the events that this PMU does not have.
    Raises NotPermitted, and OSError for what is no matter of the event.
    """
    groups: list[list[int]] = []
    refused: dict[int, int] = {}
    flat = [event for cluster in clusters for event in cluster]

    def fits(indices: Sequence[int]) -> bool | int:
        try:
            return _runs([flat[i] for i in indices], pid, cpu, bits, flags)
        except OSError as exc:
            if exc.errno in _CANNOT_COUNT:
                return exc.errno
            raise refusal(exc, pid == -1) or exc from None

    if fits(range(len(flat))) is True:
        return [list(range(len(flat)))], refused
    start = 0
    for cluster in clusters:
        members = []
        for index in range(start, start + len(cluster)):
            verdict = fits([index])
            if isinstance(
                verdict, bool
            ):  # opens; whether it has a counter free now is another matter
                members.append(index)
            else:
                refused[index] = verdict
        start += len(cluster)
        if groups and fits(groups[-1] + members) is True:
            groups[-1] += members
        elif members and fits(members) is True:
            groups.append(members)
        else:
            for index in members:
                if groups and fits(groups[-1] + [index]) is True:
                    groups[-1].append(index)
                else:
                    groups.append([index])
    return groups, refused


class OpenGroup:
    """An open group, and its last reading."""

    __slots__ = ("group", "last")

    def __init__(self, group: Group) -> None:
        self.group = group
        self.last: tuple[int, ...] | None = None


class Counters:
    """Groups of events on each of many CPUs or threads.

    They are read as differences from the previous reading.

    targets: {key: (pid, cpu)} as Group takes them; add() and drop() follow
    CPUs that come and go.  An event that the PMU refuses is in `refused`
    ({index: errno}) and reads None.
    """

    def __init__(
        self,
        clusters: Sequence[Sequence[Event]],
        targets: Mapping[Key, tuple[int, int]],
        bits: int = 0,
        flags: int = 0,
        probe: dict[str, int] | None = None,
    ) -> None:
        """probe: keywords of layout() that say where to try the groups.

        The default is the caller itself.
        """
        self.events = [event for cluster in clusters for event in cluster]
        self.bits, self.flags = bits, flags
        self.groups, self.refused = layout(
            clusters, **(probe or {"bits": bits & ~(INHERIT | ENABLE_ON_EXEC)})
        )
        self.group_of = {
            index: number for number, indices in enumerate(self.groups) for index in indices
        }
        # The groups of each target, in the order of self.groups.
        self.open: dict[Key, list[OpenGroup]] = {}
        # CPUs that were offline at the last read(): drop() them.
        self.dead: set[Key] = set()
        rlimit.raise_open_files(len(targets) * (len(self.events) - len(self.refused)), "counters")
        try:
            for key, (pid, cpu) in targets.items():
                self.add(key, pid, cpu)
        except BaseException:
            self.close()
            raise
        if not bits & ENABLE_ON_EXEC:
            self.enable(self.open)

    def add(self, key: Key, pid: int, cpu: int) -> None:
        """Open the groups of one target, stopped.

        Raises NotPermitted, Unavailable (cgroup), Error (no such process), OSError.
        """
        try:
            self.try_add(key, pid, cpu)
        except OSError as exc:
            if exc.errno in GONE and pid != -1 and not self.flags & FLAG_PID_CGROUP:
                raise Error(f"no such process: {pid}") from None
            if self.flags & FLAG_PID_CGROUP and exc.errno in _NO_CGROUP:
                raise Unavailable(
                    "cannot count this cgroup: perf events do not follow its hierarchy here"
                ) from None
            system_wide = pid == -1 or bool(self.flags & FLAG_PID_CGROUP)
            raise refusal(exc, system_wide) or exc from None

    def try_add(self, key: Key, pid: int, cpu: int) -> None:
        """As add(), but with the error of perf_event_open(2).  Raises OSError."""
        opened: list[OpenGroup] = []
        self.open[key] = opened
        try:
            for indices in self.groups:
                opened.append(OpenGroup(self._group([self.events[i] for i in indices], pid, cpu)))
        except OSError:
            self.drop(key)
            raise

    def _group(self, events: Sequence[Event], pid: int, cpu: int) -> Group:
        """The Group of a target.

        A parent and a child that inherited the same events trade them when one follows the
        other on a CPU (perf_event_context_sched_out).  A member that is opened just then belongs
        to another thread than its leader, which the kernel refuses with EINVAL; a second try
        succeeds.
        """
        for _ in range(50 if self.bits & INHERIT else 0):
            try:
                return Group(events, pid, cpu, self.bits, self.flags)
            except OSError as exc:
                if exc.errno != errno.EINVAL:
                    raise
        return Group(events, pid, cpu, self.bits, self.flags)

    def enable(self, keys: Iterable[Key]) -> None:
        """Start the groups of these targets."""
        for key in keys:
            for opened in self.open[key]:
                opened.group.enable()

    def drop(self, key: Key) -> None:
        """Close one target, as after its CPU went offline."""
        self.dead.discard(key)
        for opened in self.open.pop(key, ()):
            opened.group.close()

    def read_groups(self, keys: Iterable[Key] | None = None) -> dict[Key, list[list[int] | None]]:
        """The changes of each group since the last reading, by target.

        keys: only of these targets.

        [enabled ns, running ns, value, value ...], in the order of self.groups.

        None: the CPU went offline.
        """
        result: dict[Key, list[list[int] | None]] = {}
        for key in self.open if keys is None else keys:
            opened = self.open[key]
            row: list[list[int] | None] = []
            result[key] = row
            for slot in opened:
                group, last = slot.group, slot.last
                words = group.read()
                if words is None:
                    self.dead.add(key)
                    row.append(None)
                    continue
                slot.last = words
                change = list(map(sub, words, last)) if last else list(words)
                if (
                    not change[0] and group.whole_cpu
                ):  # time stands still for what a hot-unplug detached
                    self.dead.add(key)
                row.append(change)
        return result

    def read(self) -> dict[Key, list[tuple[int, int, int] | None]]:
        """{key: [(value, enabled ns, running ns), or None, for each event]} since the last reading.

        None: the event was refused, or its CPU went offline.
        """
        result: dict[Key, list[tuple[int, int, int] | None]] = {}
        for key, changes in self.read_groups().items():
            row: list[tuple[int, int, int] | None] = [None] * len(self.events)
            result[key] = row
            for change, indices in zip(changes, self.groups):
                if change is not None:
                    for index, value in zip(indices, change[2:]):
                        row[index] = value, change[0], change[1]
        return result

    def close(self) -> None:
        for key in list(self.open):
            self.drop(key)
