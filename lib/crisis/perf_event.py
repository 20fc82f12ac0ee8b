# SPDX-License-Identifier: GPL-2.0-or-later
"""perf_event_open(2): a BPF program on an event; events counted in groups, on CPUs, threads and cgroups.

An Event is what perf_event_attr says of it, a Group is counted at the same
instants, and Counters is a Group (or several, when the PMU has too few
counters for one) on each of many CPUs or threads.

Follows include/uapi/linux/perf_event.h and
Documentation/ABI/testing/sysfs-bus-event_source-devices-*.
"""

import ctypes
import errno
import os
import struct
from operator import sub

from .kernel import rlimit, syscalls
from .errors import Error, NotPermitted, Unavailable

__all__ = ["open_event", "attach", "enable", "pmu_type", "retprobe_bit", "tracepoint_id",
           "tracepoint_fields", "tracepoint_file",
           "Event", "Group", "Counters", "scaled", "named_event", "format_bits",
           "layout", "refusal",
           "TYPE_HARDWARE", "TYPE_SOFTWARE", "TYPE_TRACEPOINT", "TYPE_HW_CACHE",
           "DISABLED", "INHERIT", "EXCLUDE_KERNEL", "EXCLUDE_HV", "ENABLE_ON_EXEC", "FLAG_PID_CGROUP"]

TYPE_HARDWARE, TYPE_SOFTWARE, TYPE_TRACEPOINT, TYPE_HW_CACHE = range(4)
FLAG_PID_CGROUP = 4             # pid is a descriptor of a cgroup directory
# Bits of perf_event_attr that a counter may be opened with.
DISABLED, INHERIT = 1 << 0, 1 << 1
EXCLUDE_KERNEL, EXCLUDE_HV, ENABLE_ON_EXEC = 1 << 5, 1 << 6, 1 << 12

_ATTR_SIZE = 112                # PERF_ATTR_SIZE_VER5
_FLAG_FD_CLOEXEC = 8
_FREQ = 1 << 10                 # attr.freq: sample_period is a frequency
_READ_GROUP = 1 | 2 | 8         # PERF_FORMAT_TOTAL_TIME_ENABLED, _TOTAL_TIME_RUNNING, _GROUP
_IOC_ENABLE, _IOC_DISABLE, _IOC_SET_BPF = 0x2400, 0x2401, 0x40042408
_SYSFS = "/sys/bus/event_source/devices"
_NO_CGROUP = (errno.ENOENT, errno.EBADF)    # css_tryget_online_from_dir()
_CANNOT_COUNT = (errno.ENOENT, errno.E2BIG, errno.ENODEV, errno.EINVAL, errno.ENOSPC, errno.EOPNOTSUPP)


def _attr(type_, config, config1, config2, bits, period=0, read_format=0, wakeup=0):
    """A perf_event_attr.

    period: events, or with _FREQ in bits samples a second.  wakeup: samples until a reader is woken.
    """
    return ctypes.create_string_buffer(struct.pack(
        "=IIQQQQQIIQQ", type_, _ATTR_SIZE, config, period, 0, read_format, bits, wakeup, 0, config1, config2),
        _ATTR_SIZE)


def open_event(type_, config, pid=-1, cpu=0, config1=0, config2=0, period=0, frequency=0):
    """The descriptor of one event.

    pid: thread, -1 for all; cpu: -1 for all (needs a pid).
    period: events, or frequency: samples a second.
    Raises OSError.
    """
    attr = _attr(type_, config, config1, config2, _FREQ if frequency else 0, frequency or period, wakeup=1)
    return syscalls.call("perf_event_open", attr, pid, cpu, -1, _FLAG_FD_CLOEXEC)


def attach(event, program):
    """Run the BPF program (a descriptor) on each occurrence of the event.  Raises OSError."""
    syscalls.ioctl(event, _IOC_SET_BPF, program)
    enable(event)


def enable(event):
    """Start an event that open_event made.  Raises OSError."""
    syscalls.ioctl(event, _IOC_ENABLE)


def pmu_type(name, root=_SYSFS):
    """The number of a dynamic PMU ("kprobe", "uprobe", "msr").  Raises Unavailable."""
    try:
        with open(os.path.join(root, name, "type")) as f:
            return int(f.read())
    except FileNotFoundError:
        raise Unavailable("this kernel has no %s events" % name) from None


def retprobe_bit(name, root=_SYSFS):
    """The bit of `config` that turns a kprobe or uprobe event into its return probe."""
    with open(os.path.join(root, name, "format", "retprobe")) as f:
        return 1 << int(f.read().strip().rpartition(":")[2])


def tracepoint_id(category, name):
    """The id of a tracepoint.  Raises as `tracepoint_file` does."""
    return int(tracepoint_file(category, name, "id"))


def tracepoint_fields(category, name):
    """({field: (offset, size)}, print format) of a tracepoint's record.  Raises as `tracepoint_file` does."""
    import re
    text, _, shown = tracepoint_file(category, name, "format").partition("\nprint fmt: ")
    return {field: (int(offset), int(size)) for field, offset, size in re.findall(
        r"\tfield:[^;]*?(\w+)(?:\[\w*\])?;\toffset:(\d+);\tsize:(\d+);", text)}, shown


def tracepoint_file(category, name, file):
    """The text of a tracepoint's file, from tracefs wherever it is mounted, or from a mount of our own.

    Raises Unavailable when the kernel has no such tracepoint or no tracefs,
    OSError when reading it is refused.
    """
    path = "events/%s/%s/%s" % (category, name, file)
    for root in "/sys/kernel/tracing", "/sys/kernel/debug/tracing":
        try:
            with open(os.path.join(root, path)) as f:
                return f.read()
        except FileNotFoundError:
            if os.path.exists(os.path.join(root, "events")):
                raise Unavailable("this kernel has no tracepoint %s:%s" % (category, name)) from None
    try:
        mount = syscalls.detached_mount("tracefs")
    except OSError as exc:
        if exc.errno in (errno.EPERM, errno.EACCES):
            raise
        raise Unavailable("tracefs cannot be mounted: %s" % exc.strerror) from None
    try:
        fd = os.open(path, os.O_RDONLY, dir_fd=mount)
    except FileNotFoundError:
        raise Unavailable("this kernel has no tracepoint %s:%s" % (category, name)) from None
    finally:
        os.close(mount)
    with os.fdopen(fd) as f:
        return f.read()


class Event:
    """One event: perf_event_attr's type, config, config1 and config2; the name is for people."""

    __slots__ = ("type", "config", "config1", "config2", "name")

    def __init__(self, type_, config, config1=0, config2=0, name=""):
        self.type, self.config, self.config1, self.config2, self.name = type_, config, config1, config2, name

    def __repr__(self):
        return "Event(%d, %#x, %#x, %#x, %r)" % (self.type, self.config, self.config1, self.config2, self.name)


def _bits(spec):
    """[(low, width)] of a format file such as "config:0-7,32-35"."""
    ranges = []
    for part in spec.partition(":")[2].split(","):
        low, _, high = part.partition("-")
        ranges.append((int(low), int(high or low) - int(low) + 1))
    return ranges


def _formats(pmu, root):
    """{term: (attribute, [(low, width)])} of a PMU's format directory."""
    found = {}
    directory = os.path.join(root, pmu, "format")
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return found
    for name in names:
        with open(os.path.join(directory, name)) as f:
            spec = f.read().strip()
        found[name] = spec.partition(":")[0], _bits(spec)
    return found


def format_bits(pmu, root=_SYSFS, terms=None):
    """{"config": mask, "config1": mask, "config2": mask}: the bits that the PMU's format directory names.

    terms: only of these names.
    """
    masks = {"config": 0, "config1": 0, "config2": 0}
    for term, (attribute, ranges) in _formats(pmu, root).items():
        if terms is None or term in terms:
            for low, width in ranges:
                masks[attribute] = masks.get(attribute, 0) | ((1 << width) - 1) << low
    return masks


def named_event(pmu, name, root=_SYSFS):
    """The Event that a PMU's events directory describes: named_event("msr", "aperf").

    Raises Unavailable when there is no such PMU, event, or term.
    """
    type_ = pmu_type(pmu, root)
    try:
        with open(os.path.join(root, pmu, "events", name)) as f:
            terms = f.read().strip()
    except FileNotFoundError:
        raise Unavailable("the %s PMU has no event %s here" % (pmu, name)) from None
    words, formats = {"config": 0, "config1": 0, "config2": 0}, _formats(pmu, root)
    for term in terms.split(","):
        key, _, text = term.partition("=")
        value = int(text, 0) if text else 1
        attribute, ranges = formats.get(key, (key, [(0, 64)]))
        if attribute not in words:
            raise Unavailable("event %s of the %s PMU needs %s, which is not known" % (name, pmu, key))
        for low, width in ranges:
            words[attribute] |= (value & (1 << width) - 1) << low
            value >>= width
    return Event(type_, words["config"], words["config1"], words["config2"], "%s/%s/" % (pmu, name))


def _counter(event, pid, cpu, leader, bits, flags):
    """The descriptor of one member of a group.  Raises OSError."""
    attr = _attr(event.type, event.config, event.config1, event.config2, bits, read_format=_READ_GROUP)
    return syscalls.call("perf_event_open", attr, pid, cpu, leader, flags | _FLAG_FD_CLOEXEC)


class Group:
    """Events that one PMU counts at the same instants, on a CPU, a thread or both."""

    def __init__(self, events, pid=-1, cpu=-1, bits=0, flags=0):
        """Opened stopped; enable() starts all members at once.

        pid: a thread (0: the caller), -1 for all; with FLAG_PID_CGROUP in
        flags, a descriptor of a cgroup directory.  cpu: -1 for any (needs a thread).
        bits: INHERIT, EXCLUDE_KERNEL and so on.
        Raises OSError; EINVAL may mean more members than the PMU has counters.
        """
        self.fds, self.whole_cpu = [], pid == -1
        try:
            for event in events:
                leader = self.fds[0] if self.fds else -1
                first = bits | DISABLED if leader < 0 else bits & ~(DISABLED | ENABLE_ON_EXEC)
                self.fds.append(_counter(event, pid, cpu, leader, first, flags))
        except OSError:
            self.close()
            raise
        count = len(self.fds)
        self._unpack, self._size = struct.Struct("=%dQ" % (count + 3)).unpack, 8 * (count + 3)

    def enable(self):
        syscalls.ioctl(self.fds[0], _IOC_ENABLE)

    def disable(self):
        syscalls.ioctl(self.fds[0], _IOC_DISABLE)

    def read(self):
        """(enabled ns, running ns, value, value ...) since enable(), of one instant, members in their order.

        running < enabled: the group shared the PMU with others, see scaled().
        None when the CPU went offline, which takes a group apart.
        """
        data = os.read(self.fds[0], self._size)
        if len(data) != self._size:
            return None
        words = self._unpack(data)
        return words[1:] if words[0] == len(self.fds) else None

    def close(self):
        for fd in reversed(self.fds):       # members first: a leader that closes makes leaders of them
            os.close(fd)
        self.fds = []


def scaled(value, enabled, running):
    """The count estimated for all of `enabled` from the share `running` of it; None when it never ran."""
    if not running:
        return None
    return value if running >= enabled else value * enabled / running


def refusal(exc, system_wide):
    """The error to raise for an OSError of perf_event_open(2) that has to do with rights; None for any other."""
    if exc.errno == errno.EMFILE:
        return Error("cannot open more counters: too many open files. Raise the limit with ulimit -n")
    if exc.errno not in (errno.EPERM, errno.EACCES):
        return None
    try:
        with open("/proc/sys/kernel/perf_event_paranoid") as f:
            level = f.read().strip()
    except OSError:
        level = "unknown"
    needed = "at most 0" if system_wide else "at most 2 for a process that one may trace"
    return NotPermitted("cannot count events: not permitted with kernel.perf_event_paranoid at %s; it takes %s, or "
                        "CAP_PERFMON. Run as root; in a container a seccomp profile may forbid it too"
                        % (level, needed))


def _runs(events, pid, cpu, bits, flags):
    """Whether the PMU counts these events at once, here and now; raises OSError when it cannot open them."""
    group = Group(events, pid, cpu, bits, flags)
    try:
        group.enable()
        reading = group.read()
        # A caller's own counters and the watchdog's are not in the kernel's check at open.
        return reading is not None and reading[1] > 0
    finally:
        group.close()


def layout(clusters, pid=0, cpu=-1, bits=0, flags=0):
    """Distribute events over as few groups as the PMU takes.

    clusters: lists of Events; those of one list are kept in one group where
    possible, because their ratio is wanted.  pid, cpu: where to try; the default is the caller.
    Returns (groups, refused): lists of indices into the flattened clusters,
    and {index: errno} of the events that this PMU does not have.
    Raises NotPermitted, and OSError for what is no matter of the event.
    """
    groups, refused, flat = [], {}, [event for cluster in clusters for event in cluster]

    def fits(indices):
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
            if isinstance(verdict, bool):       # opens; whether it has a counter free now is another matter
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


class Counters:
    """Groups of events on each of many CPUs or threads, read as differences from the previous reading.

    targets: {key: (pid, cpu)} as Group takes them; add() and drop() follow
    CPUs that come and go.  An event that the PMU refuses is in `refused`
    ({index: errno}) and reads None.
    """

    def __init__(self, clusters, targets, bits=0, flags=0, probe=None):
        """probe: keywords of layout() that say where to try the groups; the default is the caller itself."""
        self.events = [event for cluster in clusters for event in cluster]
        self.bits, self.flags = bits, flags
        self.groups, self.refused = layout(clusters, **(probe or {"bits": bits & ~(INHERIT | ENABLE_ON_EXEC)}))
        self.group_of = {index: number for number, indices in enumerate(self.groups) for index in indices}
        self.open = {}          # key: [[Group, last reading], ...] in the order of self.groups
        self.dead = set()       # keys of CPUs that were offline since the last read(): drop() them
        rlimit.raise_open_files(len(targets) * (len(self.events) - len(self.refused)), "counters")
        try:
            for key, (pid, cpu) in targets.items():
                self.add(key, pid, cpu)
        except BaseException:
            self.close()
            raise
        if not bits & ENABLE_ON_EXEC:
            self.enable(self.open)

    def add(self, key, pid, cpu):
        """Open the groups of one target, stopped.

        Raises NotPermitted, Unavailable (cgroup), Error (no such process), OSError.
        """
        opened = self.open[key] = []
        try:
            for indices in self.groups:
                opened.append([self._group([self.events[i] for i in indices], pid, cpu), None])
        except OSError as exc:
            self.drop(key)
            if exc.errno == errno.ESRCH:
                raise Error("no such process: %d" % pid) from None
            if self.flags & FLAG_PID_CGROUP and exc.errno in _NO_CGROUP:
                raise Unavailable("cannot count this cgroup: perf events do not follow its hierarchy here") from None
            raise refusal(exc, pid == -1 or self.flags & FLAG_PID_CGROUP) or exc from None

    def _group(self, events, pid, cpu):
        """The Group of a target.

        A parent and a child that inherited the same events trade them when one follows the
        other on a CPU (perf_event_context_sched_out); a member that is opened just then is of another
        thread than its leader, and the answer is EINVAL.  The next try is another moment.
        """
        for _ in range(50 if self.bits & INHERIT else 0):
            try:
                return Group(events, pid, cpu, self.bits, self.flags)
            except OSError as exc:
                if exc.errno != errno.EINVAL:
                    raise
        return Group(events, pid, cpu, self.bits, self.flags)

    def enable(self, keys):
        """Start the groups of these targets."""
        for key in keys:
            for group, _ in self.open[key]:
                group.enable()

    def drop(self, key):
        """Close one target, as after its CPU went offline."""
        self.dead.discard(key)
        for group, _ in self.open.pop(key, ()):
            group.close()

    def read_groups(self):
        """{key: [[enabled ns, running ns, value, value ...] or None, for each of self.groups]} since the last reading.

        None: the CPU went offline.
        """
        result = {}
        for key, opened in self.open.items():
            row = result[key] = []
            for slot in opened:
                group, last = slot
                words = group.read()
                if words is None:
                    self.dead.add(key)
                    row.append(None)
                    continue
                slot[1] = words
                change = list(map(sub, words, last)) if last else list(words)
                if not change[0] and group.whole_cpu:       # time stands still for what a hot-unplug detached
                    self.dead.add(key)
                row.append(change)
        return result

    def read(self):
        """{key: [(value, enabled ns, running ns), or None, for each event]} since the last reading.

        None: the event was refused, or its CPU went offline.
        """
        result, count = {}, len(self.events)
        for key, changes in self.read_groups().items():
            row = result[key] = [None] * count
            for change, indices in zip(changes, self.groups):
                if change is not None:
                    for index, value in zip(indices, change[2:]):
                        row[index] = value, change[0], change[1]
        return result

    def close(self):
        for key in list(self.open):
            self.drop(key)
