# SPDX-License-Identifier: GPL-2.0-or-later
"""What the out-of-memory killer writes to the kernel log.

Follows mm/oom_kill.c and mm/memcontrol.c.
"""

from __future__ import annotations

import os

from .. import cli
from ..errors import Error, NotPermitted
from . import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re

__all__ = ["LIMITS", "LogEntry", "Log", "opened", "past"]

# enum oom_constraint, in its order: what an allocation was limited by.
LIMITS = {
    "CONSTRAINT_NONE": "global",
    "CONSTRAINT_CPUSET": "cpuset",
    "CONSTRAINT_MEMORY_POLICY": "memory_policy",
    "CONSTRAINT_MEMCG": "memcg",
}
_OF_REPORT = (
    *("limit", "limit_cgroup", "limit_bytes", "usage_bytes", "domain", "order", "gfp", "gfp_flags"),
    *("cgroup", "by_tid", "by_comm"),
)
_KMSG = "/dev/kmsg"
_GROUP = " are going to be killed due to memory.oom.group set"
_GROUP_US = 1000000  # between two kills of a group; the next kill may be that of another one


class LogEntry:
    """What the kernel log has about one victim; None is what it does not have.

    us: when, of the kernel's log clock; kb: total VM, anonymous, file and shared memory in KiB;
    pgtables, limit_bytes, usage_bytes: in bytes; limit: a value of LIMITS; domain: pages;
    gfp_flags: names; by_tid, by_comm: the thread whose allocation failed.
    """

    us = 0
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
    gfp_flags: str | None = None
    domain: int | None = None
    by_tid: int | None = None
    by_comm: str | None = None
    ram_pages: int | None = None  # of the machine
    swap_room: int | None = None  # bytes of swap that the limit covers
    why = ""  # the text in front of "Killed process"


class _Patterns:
    """The killer's lines.  They take milliseconds to compile, so not at the start."""

    def __init__(self) -> None:
        import re

        self.invoked = re.compile(
            r"(.*) invoked oom-killer: gfp_mask=0x([0-9a-f]+)\((.*)\), order=(-?\d+), "
        )
        self.by = re.compile(r"CPU: \d+ (?:UID: \d+ )?PID: (\d+) Comm: ")
        self.swap = re.compile(r"(swap|memory\+swap): usage \d+kB, limit (\d+)kB, failcnt \d+$")
        self.pages = re.compile(r"(\d+) pages (RAM|reserved)$|Total swap = (\d+)kB$")
        self.usage = re.compile(r"memory: usage (\d+)kB, limit (\d+)kB, failcnt \d+$")
        self.choice = re.compile(r"oom-kill:constraint=(\w+),.*,task=.*,pid=(\d+),uid=\d+$")
        self.escape = re.compile(r"\\x([0-9a-f]{2})")
        self.killed = re.compile(
            r"([A-Za-z ()_.]+): Killed process (\d+) \((.*)\) total-vm:(\d+)kB, anon-rss:(\d+)kB, "
            r"file-rss:(\d+)kB, shmem-rss:(\d+)kB, UID:(\d+) pgtables:(\d+)kB "
            r"oom_score_adj:(-?\d+)$"
        )


class Log:
    """The kernel's log (/dev/kmsg), read for what the killer writes.

    The long report is rate-limited in the kernel: a kill without one has no limit here.
    victims: {pid: LogEntry} of the kills found so far.  lost: how often lines were overwritten
    before they were read.
    """

    def __init__(self, fd: int = -1) -> None:
        self.fd, self.lost = fd, 0
        self.victims: dict[int, LogEntry] = {}
        self._report: LogEntry | None = None
        self._last: LogEntry | None = None  # the last kill
        self._group = False  # the tasks of a cgroup are being killed
        self._patterns: _Patterns | None = None

    @classmethod
    def open(cls) -> Log | None:
        """The log from now on; None, and a line under -v, where it cannot be read."""
        try:
            fd = os.open(_KMSG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(fd, 0, os.SEEK_END)
        except OSError as exc:
            cli.verbose(f"kernel log not read: {_KMSG}: {exc.strerror}")
            return None
        return cls(fd)

    def read(self) -> list[LogEntry]:
        """Feed all that has arrived; the kills in it, which are added to `victims` too."""
        found: list[LogEntry] = []
        while True:
            try:
                raw = os.read(self.fd, 8192)
            except BlockingIOError:
                return found
            except BrokenPipeError:  # overtaken by the writers
                self.lost += 1
                continue
            prefix, _, text = raw.partition(b";")
            fields = prefix.split(b",")
            # Facility 0 is the kernel itself; no write to /dev/kmsg has it (devkmsg_write()).
            if int(fields[0]) >> 3 == 0:
                line = text.partition(b"\n")[0].decode("utf-8", "surrogateescape")
                entry = self.feed(line, int(fields[2]))
                if entry is not None:
                    found.append(entry)

    def feed(self, text: str, us: int = 0) -> LogEntry | None:
        """Take one line, logged at `us`; the kill, if it is the line about a victim."""
        if self._patterns is None:
            self._patterns = _Patterns()
        match = self._patterns.invoked.match(text)
        if match:
            self._report, self._group = LogEntry(), False
            self._report.by_comm = self._unescape(match.group(1))
            self._report.gfp_flags = match.group(3)
            self._report.gfp, self._report.order = int(match.group(2), 16), int(match.group(4))
            return None
        match = self._patterns.killed.match(text)
        if match:
            return self._take_victim(match, us)
        self._take_report(self._patterns, text)
        return None

    def _unescape(self, text: str) -> str:
        r"""A name without the \xNN of /dev/kmsg (msg_add_ext_text() in kernel/printk/printk.c)."""
        if "\\" not in text or self._patterns is None:
            return text
        raw = text.encode("utf-8", "surrogateescape").decode("latin-1")
        raw = self._patterns.escape.sub(lambda match: chr(int(match.group(1), 16)), raw)
        return raw.encode("latin-1").decode("utf-8", "surrogateescape")

    def _take_victim(self, match: re.Match[str], us: int) -> LogEntry:
        """The line about a victim, the last of a report, or of each member of a group."""
        entry, last = LogEntry(), self._last
        entry.us, entry.why = us, match.group(1)
        pid = entry.pid = int(match.group(2))
        entry.comm = self._unescape(match.group(3))
        entry.kb = [int(n) for n in match.group(4, 5, 6, 7)]
        entry.uid, entry.pgtables = int(match.group(8)), int(match.group(9)) * 1024
        entry.oom_score_adj = int(match.group(10))
        member = self._group and last is not None and entry.why == last.why
        member = member and last is not None and us - last.us < _GROUP_US
        if self._report is None or not (self._report.pid == pid or member):
            self._report = None  # it is rate-limited: what was reported before is not of this one
        else:
            for name in _OF_REPORT:
                setattr(entry, name, getattr(self._report, name))
            if self._report.pid != pid:
                entry.cgroup = None  # at the limit's cgroup or below it
        self.victims[pid] = self._last = entry
        return entry

    def _take_report(self, patterns: _Patterns, text: str) -> None:
        """A line of the long report, which "oom-kill:" ends, or that about a group."""
        match = patterns.choice.match(text)
        if match:
            if self._report is None or self._report.pid is not None:
                self._report = LogEntry()  # its beginning has been overwritten
            self._take_choice(self._report, match, text)
        elif text.startswith("Tasks in ") and text.endswith(_GROUP):
            # Right behind the line about the victim; without a report of that, none is of these.
            self._group = self._report is not None
        elif self._report is not None and self._report.pid is None:
            _take_line(self._report, patterns, text)

    def _take_choice(self, report: LogEntry, match: re.Match[str], text: str) -> None:
        report.pid, self._group = int(match.group(2)), False
        report.limit = LIMITS.get(match.group(1))
        head = text.partition(",task=")[0]
        head, _, path = head.rpartition(",task_memcg=")
        report.cgroup = self._unescape(path)
        report.limit_cgroup = self._unescape(head.partition(",oom_memcg=")[2]) or None
        if report.limit != "memcg":
            report.limit_cgroup = report.limit_bytes = report.usage_bytes = None
        report.domain = _domain(report)


def _take_line(report: LogEntry, patterns: _Patterns, text: str) -> None:
    """A line between the first and the last of a report."""
    if report.by_tid is None and (match := patterns.by.match(text)):
        report.by_tid = int(match.group(1))
    elif match := patterns.usage.match(text):
        report.usage_bytes, report.limit_bytes = (int(n) * 1024 for n in match.groups())
    elif match := patterns.swap.match(text):
        _take_swap(report, match.group(1), int(match.group(2)) * 1024)
    elif match := patterns.pages.match(text):
        _take_pages(report, match)


def _take_swap(report: LogEntry, kind: str, limit: int) -> None:
    """The limit on swap (v2), or on memory and swap (v1)."""
    report.swap_room = limit if kind == "swap" else limit - (report.limit_bytes or 0)


def _take_pages(report: LogEntry, match: re.Match[str]) -> None:
    """The machine's memory, of the report of a global shortage (__show_mem())."""
    if match.group(3):
        report.swap_room = int(match.group(3)) * 1024
    elif match.group(2) == "RAM":
        report.ram_pages = int(match.group(1))
    elif report.ram_pages is not None:
        report.ram_pages -= int(match.group(1))


def _domain(report: LogEntry) -> int | None:
    """The pages that the limit covers, swap included (oc->totalpages), as far as they are certain.

    Under a memcg that may swap, the machine's swap and the cgroup's swappiness decide
    (mem_cgroup_get_max()), which no report has.
    """
    if report.swap_room is None:
        return None
    if report.limit == "memcg" and report.limit_bytes is not None and report.swap_room == 0:
        return report.limit_bytes // PAGE
    if report.limit == "global" and report.ram_pages is not None:
        return report.ram_pages + report.swap_room // PAGE
    return None


def past() -> list[LogEntry]:
    """The kills of this boot that the kernel log still has, oldest first.

    Raises NotPermitted, and Error where the log cannot be read.
    """
    return Log(opened()).read()


def opened() -> int:
    """A descriptor of the kernel log.  Raises as past()."""
    try:
        return os.open(_KMSG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as exc:
        raise NotPermitted(
            f"cannot read {_KMSG}: {exc.strerror}. Run it as root or with CAP_SYSLOG"
        ) from None
    except OSError as exc:
        raise Error(f"cannot read the kernel log: {_KMSG}: {exc.strerror}") from None
