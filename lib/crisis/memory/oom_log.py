# SPDX-License-Identifier: GPL-2.0-or-later
"""What the out-of-memory killer writes to the kernel log.

Follows mm/oom_kill.c and mm/memcontrol.c.
"""

from __future__ import annotations

import os

from .. import cli

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re

__all__ = ["LIMITS", "LogEntry", "Log"]

# enum oom_constraint, in its order: what an allocation was limited by.
LIMITS = {
    "CONSTRAINT_NONE": "global",
    "CONSTRAINT_CPUSET": "cpuset",
    "CONSTRAINT_MEMORY_POLICY": "memory_policy",
    "CONSTRAINT_MEMCG": "memcg",
}
_OF_REPORT = ("limit", "limit_cgroup", "limit_bytes", "usage_bytes", "order", "gfp", "cgroup")


class LogEntry:
    """What the kernel log said of one victim; None is what it did not say.

    kb: total VM, anonymous, file and shared memory in KiB; pgtables, limit_bytes, usage_bytes: in
    bytes; limit: a value of LIMITS.
    """

    pid: int | None = None
    comm: str | None = None
    uid: int | None = None
    oom_score_adj: int | None = None
    kb: list[int]
    pgtables: int | None = None
    cgroup: str | None = None
    limit: str | None = None
    limit_cgroup: str | None = None
    limit_bytes: int | None = None
    usage_bytes: int | None = None
    order: int | None = None
    gfp: int | None = None


class _Patterns:
    """The killer's lines.  They take milliseconds to compile, so not at the start."""

    def __init__(self) -> None:
        import re

        self.invoked = re.compile(
            r".*invoked oom-killer: gfp_mask=0x([0-9a-f]+)\(.*\), order=(-?\d+), "
        )
        self.usage = re.compile(r"memory: usage (\d+)kB, limit (\d+)kB, failcnt \d+$")
        self.choice = re.compile(r"oom-kill:constraint=(\w+),.*,task=.*,pid=(\d+),uid=\d+$")
        self.killed = re.compile(
            r"[A-Za-z ()_.]+: Killed process (\d+) \((.*)\) total-vm:(\d+)kB, anon-rss:(\d+)kB, "
            r"file-rss:(\d+)kB, shmem-rss:(\d+)kB, UID:(\d+) pgtables:(\d+)kB "
            r"oom_score_adj:(-?\d+)$"
        )


class Log:
    """The kernel's log from now on (/dev/kmsg), read for what the killer writes.

    The long report is rate-limited in the kernel: a kill without one has no limit here.
    victims: {pid: LogEntry} of the kills found so far.  lost: how often lines were overwritten
    before they were read.
    """

    def __init__(self, fd: int = -1) -> None:
        self.fd, self.lost = fd, 0
        self.victims: dict[int, LogEntry] = {}
        self._report: LogEntry | None = None
        self._group = False
        self._patterns: _Patterns | None = None

    @classmethod
    def open(cls) -> Log | None:
        """The log; None, and a line under -v, where it cannot be read."""
        try:
            fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(fd, 0, os.SEEK_END)
        except OSError as exc:
            cli.verbose(f"kernel log not read: /dev/kmsg: {exc.strerror}")
            return None
        return cls(fd)

    def read(self) -> None:
        """Feed all that has arrived."""
        while True:
            try:
                raw = os.read(self.fd, 8192)
            except BlockingIOError:
                return
            except BrokenPipeError:  # overtaken by the writers
                self.lost += 1
                continue
            prefix, _, text = raw.partition(b";")
            # Facility 0 is the kernel itself, whom nobody can imitate.
            if int(prefix.split(b",")[0]) >> 3 == 0:
                self.feed(text.partition(b"\n")[0].decode("utf-8", "surrogateescape"))

    def feed(self, text: str) -> None:
        """Take one line."""
        if self._patterns is None:
            self._patterns = _Patterns()
        match = self._patterns.invoked.match(text)
        if match:
            self._report, self._group = LogEntry(), False
            self._report.gfp, self._report.order = int(match.group(1), 16), int(match.group(2))
            return
        match = self._patterns.killed.match(text)
        if match:
            self._take_victim(match)
        elif self._report is not None:
            self._take_report(self._report, self._patterns, text)

    def _take_victim(self, match: re.Match[str]) -> None:
        """The line about a victim, the last of a report, or of each member of a group."""
        entry, report = LogEntry(), self._report
        pid = entry.pid = int(match.group(1))
        entry.comm = match.group(2)
        entry.kb = [int(n) for n in match.group(3, 4, 5, 6)]
        entry.uid, entry.pgtables = int(match.group(7)), int(match.group(8)) * 1024
        entry.oom_score_adj = int(match.group(9))
        if report is not None and (report.pid == pid or self._group):
            for name in _OF_REPORT:
                setattr(entry, name, getattr(report, name))
        self.victims[pid] = entry

    def _take_report(self, report: LogEntry, patterns: _Patterns, text: str) -> None:
        """A line of the long report, between its first line and that about the victim."""
        if report.pid is not None:
            group = " are going to be killed due to memory.oom.group set"
            if text.startswith("Tasks in ") and text.endswith(group):
                self._group = True
            return
        match = patterns.usage.match(text)
        if match:
            report.usage_bytes, report.limit_bytes = (int(n) * 1024 for n in match.groups())
            return
        match = patterns.choice.match(text)
        if match:
            report.pid = int(match.group(2))
            report.limit = LIMITS.get(match.group(1))
            head = text.partition(",task=")[0]
            head, _, report.cgroup = head.rpartition(",task_memcg=")
            report.limit_cgroup = head.partition(",oom_memcg=")[2] or None
            if report.limit != "memcg":
                report.limit_cgroup = report.limit_bytes = report.usage_bytes = None
