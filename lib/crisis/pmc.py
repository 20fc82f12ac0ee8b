# SPDX-License-Identifier: GPL-2.0-or-later
"""What the PMC commands share: arguments, which events to open where, rows per interval, and the total.

A command is its columns: Column objects over the counters named in events.py.
"""

import os

from . import cli, events, table
from .kernel import cgroup, proc, sysfs
from .perf.event import ENABLE_ON_EXEC, EXCLUDE_HV, EXCLUDE_KERNEL, Event, FLAG_PID_CGROUP, INHERIT, TYPE_HARDWARE, TYPE_HW_CACHE
from .perf.event_source import format_bits, pmu_cpus, pmu_type
from .perf.group import Counters, scaled
from .errors import Error, NotPermitted, Unavailable, Usage

__all__ = ["Column", "count", "ratio", "percent", "hit", "parser", "core_pmus", "identify", "plan", "Plan",
           "Source", "Session", "Printer", "run"]

_NO_PMU = ("cannot count CPU events: Linux sees no hardware PMU on this machine. Clouds show one on bare metal and on "
           "some large or dedicated instance sizes; a hypervisor can pass one on (QEMU: -cpu host,pmu=on)")
_DEAD_PMU = ("cannot count CPU events: the PMU is there but counts no cycles, so it is not really passed to this "
             "guest. Use an instance size that has one, or bare metal")
_HEADER_EVERY = 25              # rows on a terminal, as the classic tools did


class Column:
    """One column: its title and format as the classic tool printed it, its JSON key, and its value.

    needs: the counters (names of events.py) that it is computed from.
    value: a function of their scaled counts, called only when each is known.
    """

    def __init__(self, title, form, key, needs, value, scale=1, optional=False):
        """scale: divides the value in text.  optional: no column in text where no PMU has the counters."""
        self.title, self.form, self.key, self.needs, self.value = title, form, key, needs, value
        self.scale, self.optional = scale, optional

    def compute(self, counts):
        numbers = [counts.get(name) for name in self.needs]
        return None if None in numbers else self.value(*numbers)

    def text(self, value):
        """The cell, in the classic width."""
        return _like(self.form, "-") if value is None else self.form % (value / self.scale)


def count(title, form, key, name, scale=1, optional=False):
    """A column of one counter."""
    return Column(title, form, key, (name,), lambda value: value, scale, optional)


def ratio(title, form, key, over, under):
    """over / under; unknown when under is 0."""
    return Column(title, form, key, (over, under), lambda a, b: a / b if b else None)


def percent(title, form, key, over, under):
    """over / under, as a percentage in text and a fraction in JSON."""
    column = ratio(title, form, key, over, under)
    column.scale = .01
    return column


def hit(title, form, key, misses, references):
    """The share of references that did not miss; unknown without references.

    Misses can exceed references by what was under way at the borders of the interval: then 0.
    """
    return Column(title, form, key, (misses, references), lambda a, b: max(0, 1 - a / b) if b else None, .01)


def parser(description, epilog):
    """The arguments of a PMC command."""
    p = cli.parser(description, epilog, interval=False, cache=False)
    p.add_argument("interval", nargs="?", type=cli.positive_float, default=1.0,
                   help="seconds between two reports (default 1)")
    p.add_argument("duration", nargs="?", type=cli.positive_float,
                   help="seconds in all; without it, until Ctrl-C")
    group = p.add_mutually_exclusive_group()
    group.add_argument("-C", "--cpu", metavar="CPU", help="only these CPUs: a list such as 0,2-3")
    group.add_argument("-p", "--pid", type=cli.positive_int, metavar="PID",
                       help="only this process, until it ends, with its threads and the children that it makes from now on")
    group.add_argument("-c", "--command", metavar="COMMAND",
                       help="run this command line with sh and count it and its children, until it ends")
    group.add_argument("-G", "--cgroup", metavar="CGROUP",
                       help="only tasks in this cgroup or below it: a directory, or a path in the hierarchy")
    rows = p.add_mutually_exclusive_group()
    rows.add_argument("--per-cpu", dest="per", action="store_const", const="cpu", help="a row for each CPU")
    rows.add_argument("--per-core", dest="per", action="store_const", const="core",
                      help="a row for each core, the sum of its hardware threads")
    return p


def core_pmus(root="/"):
    """[(name, type, CPUs or None for all)] of the PMUs of CPU cores: one, or one a core type on a hybrid machine.

    x86 names it cpu, or cpu_core and cpu_atom; ARM by the core.  Those of a
    core type have a file "cpus", uncore PMUs a "cpumask".
    """
    base = os.path.join(root, "sys/bus/event_source/devices")
    found = []
    try:
        names = sorted(os.listdir(base))
    except FileNotFoundError:
        names = []
    for name in names:
        if name == "cpu" or os.path.exists(os.path.join(base, name, "cpus")):
            cpus = pmu_cpus(name, root)
            if cpus != []:                      # a core type that is all offline
                found.append((name, pmu_type(name, base), cpus))
    return found


def identify(pmu, cpus, root="/"):
    """The microarchitecture's name in events.TABLES of a core PMU, or None."""
    path = "sys/devices/system/cpu/cpu%d/regs/identification/midr_el1" % (cpus[0] if cpus else 0)
    try:
        with open(os.path.join(root, path)) as f:
            return events.arm_core(int(f.read(), 16))
    except FileNotFoundError:
        pass
    fields = proc.cpuinfo(root)
    if fields.get("isa", "").startswith("rv"):
        return events.RISCV
    try:
        return events.microarchitecture(fields["vendor_id"], int(fields["cpu family"]), int(fields["model"]),
                                        int(fields.get("stepping", "0")), pmu)
    except (KeyError, ValueError):
        return None


class Plan:
    """The events of one PMU: clusters for layout, and for each counter its parts.

    parts: {counter: [(index into the flattened clusters, divisor)]}.
    """

    def __init__(self, pmu, cpus, kind=None):
        self.pmu, self.cpus, self.kind, self.clusters, self.parts, self._size = pmu, cpus, kind, [], {}, 0
        self._seen = {}

    def add(self, cluster):
        """cluster: [(counter, [(Event, divisor)])]: counters whose ratios are wanted."""
        members = []
        for counter, found in cluster:
            for event, divisor in found:
                key = event.config, event.config1
                if key not in self._seen:       # two columns may share an event
                    self._seen[key] = self._size + len(members)
                    members.append(event)
                self.parts.setdefault(counter, []).append((self._seen[key], divisor))
        if members:
            self.clusters.append(members)
            self._size += len(members)


# The fields that the codes of events.py use.
_TERMS = ("event", "umask", "cmask", "frontend")
# Intel's architectural events: the kernel hides those of which CPUID says that they do not count.
_WITNESSES = {"cycles": "cpu-cycles", "instructions": "instructions", "branches": "branch-instructions",
              "branch_misses": "branch-misses", "llc_refs": "cache-references", "llc_misses": "cache-misses"}


def _visible_events(pmu, base):
    try:
        return set(os.listdir(os.path.join(base, pmu, "events")))
    except FileNotFoundError:
        return set()


def _known_to_kernel(event, counter, kind, allowed, visible):
    """False for an event that this machine's PMU would take and count nothing for.

    The kernel takes any raw code.  What a PMU has not, as in many guests, is
    missing in its events directory: ARM's by PMCEID, Intel's by CPUID leaf 0xa.
    """
    if event.config & ~allowed["config"] or event.config1 & ~allowed["config1"]:
        return False
    if "cpu_cycles" in visible:
        return event.name.lower() in visible
    if "cpu-cycles" in visible and not kind.startswith("Zen") and counter in _WITNESSES:
        return _WITNESSES[counter] in visible
    return True


def plan(clusters, root="/", shared_l3=True):
    """([Plan], unknown): what to open on this machine for clusters of counter names.

    One Plan for each core PMU, and one for AMD's L3 PMU where counters need it
    and shared_l3 allows.  unknown: names of PMUs whose CPU has no table.
    Raises Unavailable when there is no core PMU.
    """
    pmus = core_pmus(root)
    if not pmus:
        raise Unavailable(_NO_PMU)
    base = os.path.join(root, "sys/bus/event_source/devices")
    plans, unknown = [], []
    for name, type_, cpus in pmus:
        kind = identify(name, cpus, root)
        codes = events.table(kind) if kind else {}
        if kind is None:
            unknown.append(name)
        result, allowed = Plan(name, cpus, kind), format_bits(name, base, _TERMS)
        code_type = TYPE_HW_CACHE if kind == events.RISCV else type_
        visible = _visible_events(name, base)
        for cluster in clusters:
            members = []
            for counter in cluster:
                if kind in (None, events.RISCV) and counter in events.GENERIC:
                    # A hybrid kernel takes the PMU's type in the upper half (PERF_PMU_TYPE_SHIFT).
                    config = events.GENERIC[counter] | (type_ << 32 if len(pmus) > 1 else 0)
                    found = [(Event(TYPE_HARDWARE, config, name=counter), 1)]
                else:
                    found = [(Event(code_type, code, config1, name=title), divisor)
                             for code, title, divisor, config1 in codes.get(counter, ())]
                    if not all(_known_to_kernel(event, counter, kind, allowed, visible) for event, _ in found):
                        found = []
                if found:
                    members.append((counter, found))
            result.add(members)
        plans.append(result)
        shared = [(counter, codes["l3:" + counter]) for cluster in clusters for counter in cluster
                  if "l3:" + counter in codes]
        if shared and shared_l3 and os.path.isdir(os.path.join(base, "amd_l3")):
            l3 = Plan("amd_l3", pmu_cpus("amd_l3", root), kind)
            type_ = pmu_type("amd_l3", base)
            l3.add([(counter, [(Event(type_, code, name=title), divisor)
                               for code, title, divisor, _ in found]) for counter, found in shared])
            plans.append(l3)
    return plans, unknown


class Source:
    """A Plan that has been opened on its targets, and its readings summed to rows."""

    def __init__(self, plan_, targets, label_of, bits=0, flags=0, probe=None, moving=False):
        """targets: {key: (pid, cpu)}.  label_of: the row of a key.  moving: threads, that change between core types."""
        self.plan, self.label_of, self.moving = plan_, label_of, moving
        self.counters = Counters(plan_.clusters, targets, bits, flags, probe)

    def read(self, rows):
        """Add {counter: (count or None, enabled ns, running ns)} to rows[label]."""
        sums = {}
        for key, changes in self.counters.read_groups().items():
            label = self.label_of(key)
            total = sums.get(label)
            if total is None:
                total = sums[label] = Sums(self.counters)
            total.add(changes, self.moving)
        for label, total in sums.items():
            row = rows.setdefault(label, {})
            for counter, parts in self.plan.parts.items():
                row[counter] = total.counter(parts)


class Sums:
    """Group readings of several CPUs or threads, added."""

    def __init__(self, counters):
        self.groups, self.group_of = counters.groups, counters.group_of
        self.values = [None] * len(counters.events)         # None: not counted anywhere
        self.times = [[0, 0] for _ in self.groups]          # enabled, running

    def add(self, changes, moving=False):
        """changes: a value of Counters.read_groups().

        moving: of a thread; on the other core type it is enabled and cannot
        run, which is no multiplexing: what the longest running group ran is the whole.
        """
        values, most = self.values, None
        if moving:
            most = max((change[1] for change in changes if change), default=0)
        for change, indices, times in zip(changes, self.groups, self.times):
            if change is None:
                continue
            enabled, running = change[0] if most is None else most, change[1]
            times[0] += enabled
            times[1] += running
            if running >= enabled:                          # or both 0: a process that slept
                for index, value in zip(indices, change[2:]):
                    values[index] = (values[index] or 0) + value
            elif running:
                for index, value in zip(indices, change[2:]):
                    values[index] = (values[index] or 0) + scaled(value, enabled, running)

    def counter(self, parts):
        """(count or None, enabled ns, running ns) of [(index, divisor)]: the times of the part counted least."""
        amount, least = 0, None
        for index, divisor in parts:
            if index not in self.group_of:                  # refused
                return None, 0, 0
            times = self.times[self.group_of[index]]
            if least is None or times[1] * least[0] < least[1] * times[0]:
                least = times
            if amount is None or self.values[index] is None:
                amount = None
            else:
                amount += self.values[index] / divisor if divisor != 1 else self.values[index]
        return amount, least[0], least[1]


class Session:
    """All sources that the arguments ask for."""

    def __init__(self, args, clusters):
        self.args, self.whole = args, args.pid is None and args.command is None
        if args.per and not self.whole:
            raise Usage("--per-%s takes no process or command" % args.per)
        self.wanted = _cpu_list(args.cpu)
        whole_system = self.whole and self.wanted is None and args.cgroup is None and not args.per
        self.plans, unknown = plan(clusters, shared_l3=whole_system)
        if unknown:
            cli.note("no event codes are known for this CPU%s: only cycles, instructions, branches and branch misses "
                     "are counted" % (" (%s)" % ", ".join(unknown) if len(self.plans) > 1 else ""))
        if not any(p.clusters for p in self.plans):
            raise Unavailable("cannot count these events: %s has none of them that is known"
                              % " and ".join(p.kind or "this CPU" for p in self.plans))
        self.several = len([p for p in self.plans if p.pmu != "amd_l3"]) > 1
        self.child = self.gate = self.cgroup = None
        self.ends = cli.Ends()
        self.bits, self.sources, self.checked = 0, [], False
        self._cores = {}
        if not whole_system and any("l3:llc_refs" in events.TABLES.get(p.kind, ()) for p in self.plans) and any(
                "llc_refs" in cluster for cluster in clusters):
            cli.note("LLC columns need the whole system in one row: this CPU counts its L3 for all its cores together")
        if self.whole:
            self._open_cpus()
        else:
            self._open_tasks()
        self._tell_refused()

    def _open_cpus(self):
        online, args = sysfs.online_cpus(), self.args
        if self.wanted is not None:
            missing = [cpu for cpu in self.wanted if cpu not in online]
            if missing:
                raise Error("CPU %d is not online" % missing[0])
        if args.cgroup is not None:
            self.cgroup = _open_cgroup(args.cgroup)
        for p in self.plans:
            cpus = self._cpus(p, online)
            if cpus and p.clusters:
                self.sources.append(Source(
                    p, {cpu: self._target(cpu) for cpu in cpus}, self._label_of(p),
                    flags=0 if self.cgroup is None else FLAG_PID_CGROUP,
                    probe={"pid": -1, "cpu": cpus[0]}))
        if not self.sources:
            raise Unavailable("cannot count on these CPUs: none of them has a PMU")

    def _target(self, cpu):
        return (-1 if self.cgroup is None else self.cgroup, cpu)

    def _cpus(self, p, online):
        return [cpu for cpu in online if (self.wanted is None or cpu in self.wanted)
                and (p.cpus is None or cpu in p.cpus)]

    def _label_of(self, p):
        name, per = p.pmu if self.several else None, self.args.per
        if per == "cpu":
            return lambda cpu: (name, cpu)
        if per == "core":
            from .cpu.info import topology
            self._cores.update(topology())

            def core(cpu):
                """(PMU, (package, die, core)), as perf stat --per-core has them: a core's number is its die's own."""
                if cpu not in self._cores:
                    self._cores.update(topology())
                return name, self._cores[cpu]
            return core
        return lambda key: (name, None)

    def _open_tasks(self):
        if self.args.command is not None:
            self._fork()
            threads = [self.child]
        else:
            proc.check_process(self.args.pid)
            self.ends = cli.Ends([self.args.pid])
            threads = _threads(self.args.pid)
        bits = INHERIT | (ENABLE_ON_EXEC if self.child else 0)
        user_only = EXCLUDE_KERNEL | EXCLUDE_HV
        for self.bits in bits, bits | user_only:
            try:
                while True:
                    self._open_threads(threads)
                    # A thread that was made meanwhile is counted twice or not at all: once more, then.
                    now = threads if self.child else _threads(self.args.pid)
                    if now == threads:
                        break
                    threads = now
                    self.close()
                break
            except NotPermitted:
                self.close()
                if self.bits & user_only:
                    raise
        if self.bits & user_only:
            cli.note("user mode only: kernel.perf_event_paranoid does not let this user count the kernel")

    def _open_threads(self, threads):
        for p in self.plans:
            if not p.clusters:
                continue
            with _affinity(p.cpus):
                self.sources.append(Source(p, {tid: (tid, -1) for tid in threads}, self._label_of(p), self.bits,
                                           moving=p.cpus is not None and self.several))

    def _fork(self):
        """A child that waits until release() to become the command."""
        read, self.gate = os.pipe()
        self.child = os.fork()
        if not self.child:
            try:
                os.close(self.gate)
                if os.read(read, 1):
                    os.execv("/bin/sh", ["sh", "-c", self.args.command])
            finally:
                os._exit(127)
        os.close(read)
        self.ends = cli.Ends([self.child], quiet=True)

    def release(self):
        """The interval begins: here what was counted during the setup is left behind, and the command of -c starts."""
        if self.gate is None:
            for source in self.sources:
                source.counters.read_groups()
        else:
            os.write(self.gate, b"g")
            os.close(self.gate)
            self.gate = None

    def finish(self):
        """The exit status: 1 when the command of -c failed by itself."""
        if self.child is None:
            return 0
        pid, status = os.waitpid(self.child, os.WNOHANG)
        if not pid:
            os.kill(self.child, 15)
            return 0
        if status == 0 or cli.stopping():
            return 0
        cli.note("the command ended with %s" % ("signal %d" % (status & 127) if status & 127 else
                                                "status %d" % (status >> 8)))
        return 1

    def _tell_refused(self):
        import errno
        for source in self.sources:
            cli.verbose("%s, %s: %d events in %d groups" % (
                source.plan.pmu, source.plan.kind or "unknown CPU", len(source.counters.events),
                len(source.counters.groups)))
            refused = source.counters.refused
            if refused:
                cli.note("the %s PMU does not count %s" % (source.plan.pmu, ", ".join(
                    "%s (%s)" % (source.counters.events[i].name, errno.errorcode.get(number, number))
                    for i, number in sorted(refused.items()))))
        if all(len(s.counters.refused) == len(s.counters.events) for s in self.sources):
            raise Unavailable(_DEAD_PMU)

    def counted(self, counter):
        """True when some PMU has this counter."""
        return any(counter in p.parts for p in self.plans)

    def read(self):
        """{(pmu or None, CPU, core or None): {counter: (count or None, enabled ns, running ns)}} of the interval."""
        rows = {}
        for source in self.sources:
            source.read(rows)
        if not self.checked and self.whole and self.cgroup is None and self.wanted is None:
            self.checked = True
            cycles = [row["cycles"] for row in rows.values() if "cycles" in row]
            if cycles and not any(count_ for count_, _, _ in cycles) and any(running for _, _, running in cycles):
                raise Unavailable(_DEAD_PMU)
        if self.whole:
            self._follow_cpus()
        return rows

    def _follow_cpus(self):
        online = sysfs.online_cpus()
        for source in self.sources:
            counters, cpus = source.counters, self._cpus(source.plan, online)
            for cpu in [cpu for cpu in counters.open if cpu not in cpus or cpu in counters.dead]:
                counters.drop(cpu)
                cli.note("CPU %d went offline: its last counts are missing" % cpu)
            for cpu in cpus:
                if cpu not in counters.open:
                    try:
                        counters.add(cpu, *self._target(cpu))
                        counters.enable([cpu])
                    except OSError:             # gone again
                        counters.drop(cpu)

    def close(self):
        for source in self.sources:
            source.counters.close()
        self.sources = []


def _cpu_list(text):
    if text is None:
        return None
    try:
        cpus = sysfs.cpu_list(text)
    except ValueError:
        cpus = []
    if not cpus or min(cpus) < 0:
        raise Usage("'%s' is not a list of CPUs such as 0,2-3" % cli.shown(text))
    return cpus


def _open_cgroup(path):
    """A descriptor of the cgroup's directory, in the hierarchy that perf_event belongs to."""
    v1 = [point for point, _, controllers in cgroup.mounts() if controllers and "perf_event" in controllers]
    _, _, controllers, point = cgroup.find(path)
    if v1 and point not in v1 or not v1 and controllers is not None:
        raise Unavailable("cannot count cgroup %s: perf events follow the hierarchy at %s" % (
            path, v1[0] if v1 else "the cgroup v2 mount"))
    return os.open(cgroup.directory(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _threads(pid):
    try:
        return sorted(int(tid) for tid in os.listdir("/proc/%d/task" % pid))
    except FileNotFoundError:
        raise Error("no such process: %d" % pid) from None


class _affinity:
    """Run on one of these CPUs meanwhile, so that a PMU that only they have can be tried."""

    def __init__(self, cpus):
        self.cpus = cpus

    def __enter__(self):
        if self.cpus:
            self.before = os.sched_getaffinity(0)
            try:
                os.sched_setaffinity(0, self.cpus)
            except OSError:
                pass

    def __exit__(self, *exc):
        if self.cpus:
            os.sched_setaffinity(0, self.before)


def _run_ratio(row):
    """The smallest share of the time that a counter of this row was counted; None when nothing was to be counted."""
    shares = [min(1, running / enabled) for _, enabled, running in row.values() if enabled]
    return min(shares, default=None)


class Printer:
    """Rows as text in the classic columns, or as JSON lines."""

    def __init__(self, args, session, columns):
        self.args, self.session = args, session
        self.columns = columns if args.json else [
            c for c in columns if not c.optional or any(session.counted(name) for name in c.needs)]
        self.with_run = any(len(source.counters.groups) > 1 for source in session.sources)
        self.since_header = None
        self.terminal = os.isatty(1)
        self.totals, self.seconds, self.reports = {}, 0, 0

    def report(self, seconds, rows):
        self.reports += 1
        self.seconds += seconds
        for label, row in rows.items():
            total = self.totals.setdefault(label, {})
            for counter, (count_, enabled, running) in row.items():
                before = total.get(counter, (0, 0, 0))
                total[counter] = (None if count_ is None or before[0] is None else before[0] + count_,
                                  before[1] + enabled, before[2] + running)
        cli.out(self._render("interval", seconds, rows))

    def finish(self):
        if self.reports > 1:
            cli.out(self._render("total", self.seconds, self.totals))

    def _render(self, record, seconds, rows):
        ordered = sorted(rows.items(), key=lambda item: tuple((part is not None, part) for part in item[0]))
        return (self._json if self.args.json else self._text)(record, seconds, ordered)

    def _json(self, record, seconds, rows):
        now, parts = cli.iso_time(), []
        for (pmu, unit), row in rows:
            line = {"time": now, "record": record, "seconds": seconds}
            if pmu is not None:
                line["pmu"] = pmu
            if self.args.per == "cpu":
                line["cpu"] = unit
            elif self.args.per == "core":
                line["package"], line["die"], line["core"] = unit
            counts = {name: value[0] for name, value in row.items()}
            for column in self.columns:
                value = column.compute(counts)
                line[column.key] = round(value) if value is not None and not column.key.endswith(
                    ("ratio", "ipc")) else value
            line["run_ratio"] = _run_ratio(row)
            parts.append(table.json_line(line))
        return "".join(parts)

    def _text(self, record, seconds, rows):
        lines = []
        shares = [_run_ratio(row) for _, row in rows]
        if not self.with_run and any(share is not None and share < .995 for share in shares):
            self.with_run, self.since_header = True, None
        if record == "total":
            lines.append("\nTotal of %.1f s:\n" % seconds)
            self.since_header = None
        for ((pmu, unit), row), share in zip(rows, shares):
            if self.since_header is None or self.terminal and self.since_header >= _HEADER_EVERY:
                lines.append(self._line([_like(column.form, column.title) for column in self.columns],
                                        "PMU", self.args.per and self.args.per.upper(), "%RUN"))
                self.since_header = 0
            counts = {name: value[0] for name, value in row.items()}
            lines.append(self._line([column.text(column.compute(counts)) for column in self.columns], pmu,
                                    "S%d-D%d-C%d" % unit if self.args.per == "core" else unit,
                                    "-" if share is None else "%.1f" % (100 * share)))
            self.since_header += 1
        return "".join(lines)

    def _line(self, cells, pmu, unit, share):
        before = ["%-9s" % pmu] if self.session.several else []
        if self.args.per:
            before.append("%-*s" % (4 if self.args.per == "cpu" else 10, unit))
        return " ".join(before + cells + (["%5s" % share] if self.with_run else [])).rstrip() + "\n"


def _like(form, text):
    """Text in the width of a number's format."""
    return ("%" + form.lstrip("%").rstrip("dfs").partition(".")[0] + "s") % text


def run(args, columns, clusters, title=None):
    """Count and print until the end; the exit status.

    clusters: lists of counter names; a list is counted at the same instants where the PMU can.
    title: a line for the terminal before the first header.
    """
    if args.command is not None and os.path.isdir(args.command):
        raise Usage("-c takes a command; a cgroup goes with -G")
    session = Session(args, clusters)
    printer = Printer(args, session, columns)
    if title and not args.json:
        cli.title(title)
    session.release()
    for seconds in cli.ticks(args.interval, None, args.duration, session.ends):
        printer.report(seconds, session.read())
    printer.finish()
    return session.finish()
