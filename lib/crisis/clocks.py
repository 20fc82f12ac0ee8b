# SPDX-License-Identifier: GPL-2.0-or-later
"""The cycle counters of CPUs, from whatever this machine has: perf's msr PMU, the msr driver, CPPC, cpufreq.

Each source reads a Sample of one CPU.  Follows arch/x86/events/msr.c,
arch/x86/events/intel/cstate.c, drivers/acpi/cppc_acpi.c and the Intel SDM
volume 3, "Performance monitoring: APERF and MPERF".
"""

import errno
import os
import time

from . import msr, sensors
from .kernel import rlimit, sysfs
from .perf.event import refusal
from .perf.event_source import named_event, pmu_cpus
from .perf.group import Group
from .errors import Error, NotPermitted, Unavailable, without_remedy

__all__ = ["SOURCES", "Sample", "choose", "CStates"]

SOURCES = "perf", "msr", "cppc", "cpufreq"
_DEVICES = "sys/bus/event_source/devices"
_SPAN_NS = 50000000     # the rate of the TSC is measured over no less
_SLOW_NS = 200000       # three registers read in more time than this were not read together


class Sample:
    """ns: the monotonic time; tsc, mperf, aperf: counts, tsc None where it is not read; mhz: cpufreq's answer.

    stepped: the TSC was set since the sample before.
    """

    __slots__ = "ns", "tsc", "mperf", "aperf", "mhz", "stepped"

    def __init__(self, ns, tsc=None, mperf=None, aperf=None, mhz=None):
        self.ns, self.tsc, self.mperf, self.aperf, self.mhz = ns, tsc, mperf, aperf, mhz
        self.stepped = False


class _Counters:
    """One way to read the counters.

    name: of SOURCES.  tsc: samples have the TSC.  known_rate: the share of time
    in C0 follows from MPERF's rate even without it.  instead: why not a better source.
    """

    name, tsc, known_rate, instead = "", True, False, ""

    def __init__(self):
        self._span = None       # the first and last Sample of the CPU that tells the TSC's rate
        self._cpu = None
        self._before = None     # MHz of the TSC before it was set
        self._last = {}         # {CPU: Sample}

    def read(self, cpu):
        """The Sample of a CPU; None when it is offline or refuses."""
        sample = self._read(cpu)
        if self.tsc and sample is not None and sample.tsc is not None:
            if self._cpu is None:
                self._cpu = cpu
            sample.stepped = self._has_stepped(self._last.get(cpu), sample)
            self._last[cpu] = sample
            if cpu == self._cpu:
                if sample.stepped:
                    self._before, self._span = self.tsc_mhz(), None
                self._span = (self._span or (sample,))[0], sample
        return sample

    def _has_stepped(self, last, sample):
        """True where the TSC was set between two samples: by resume, migration of the virtual machine, or a write.

        A step forward is noticed where it is more than a tenth of the time between
        them; less than that can be a late reading.
        """
        if last is None:
            return False
        if sample.tsc < last.tsc:
            return True
        mhz, ns = self._measured(), sample.ns - last.ns
        return bool(mhz) and ns >= _SPAN_NS and abs((sample.tsc - last.tsc) * 1e3 / ns / mhz - 1) > .1

    def tsc_mhz(self):
        """MHz of the TSC by the samples read so far; None before there are two, of 50 ms at least.

        Just after a step, that by the samples before it.
        """
        return self._measured() or self._before

    def _measured(self):
        if not self._span or self._span[1].ns - self._span[0].ns < _SPAN_NS:
            return None
        first, last = self._span
        return (last.tsc - first.tsc) * 1e3 / (last.ns - first.ns)

    def measure_tsc(self, cpu):
        """MHz of the TSC; takes 0.1 s."""
        self.read(cpu)
        time.sleep(.1)
        self.read(cpu)
        return self.tsc_mhz()

    def rate(self, base, cpu):
        """MHz at which a CPU's MPERF counts; None when nothing tells it.

        That is the base clock as the TSC has it.  A stated base clock is
        rounded better than the TSC is measured; but where the two are apart
        (a base lowered by configuration), MPERF goes with the TSC.
        """
        tsc = self.tsc_mhz() if self.tsc else None
        if not base or tsc and abs(base / tsc - 1) > .02:
            return tsc or base
        return base


class _Perf(_Counters):
    """One group a CPU of perf's msr PMU: the three counters are read on the CPU itself, at one instant."""

    name = "perf"

    def __init__(self, cpus, root):
        super().__init__()
        devices = os.path.join(root, _DEVICES)
        events = [named_event("msr", name, devices) for name in ("tsc", "mperf", "aperf")]
        self._events, self._groups = events, {}
        rlimit.raise_open_files(3 * len(cpus), "counters")
        for cpu in cpus:
            self._open(cpu)

    def _open(self, cpu):
        try:
            group = self._groups[cpu] = Group(self._events, cpu=cpu)
            group.enable()
        except OSError as exc:
            if exc.errno != errno.ENODEV:       # the CPU is offline
                raise refusal(exc, True) or Unavailable("perf's msr events: %s" % exc.strerror) from None

    def _read(self, cpu):
        if cpu not in self._groups:
            self._open(cpu)
        group = self._groups.get(cpu)
        values = group.read() if group else None
        if values is None:
            if group:           # a CPU that went offline took the group apart for good
                self._groups.pop(cpu).close()
            return None
        return Sample(time.monotonic_ns(), *values[2:])


class _Registers(_Counters):
    """The registers by the msr driver, one after the other; a set that took long is read again."""

    name = "msr"

    def __init__(self, cpus, root):
        super().__init__()
        self._registers = msr.Registers(root)
        for cpu in cpus:
            if self._registers.read(cpu, msr.IA32_MPERF) is None:
                raise Unavailable("CPU %d has no APERF and MPERF registers" % cpu)

    def _read(self, cpu):
        best = None
        for _ in range(5):
            begin = time.monotonic_ns()
            try:
                values = [self._registers.read(cpu, r) for r in (msr.IA32_TSC, msr.IA32_MPERF, msr.IA32_APERF)]
            except Unavailable:         # not opened before, and offline
                return None
            took = time.monotonic_ns() - begin
            if None in values:
                return None
            if best is None or took < best[0]:
                best = took, Sample(begin + took // 3, *values)
            if took < _SLOW_NS:
                break
        return best[1]


class _Cppc(_Counters):
    """ACPI's feedback counters: AMD's and Intel's MPERF and APERF again, the activity monitors on ARM."""

    name, tsc = "cppc", False

    def __init__(self, cpus, root):
        super().__init__()
        self._root, self._rates = root, {}
        # On x86 the reference counts at the base clock; the rate of ARM's is CNTFRQ_EL0, which sysfs lacks.
        self.known_rate = bool(msr.identify(root)[3] & {"aperfmperf"})
        if not any(sensors.cppc_counters(cpu, root) for cpu in cpus):
            raise Unavailable("there are no ACPI CPPC counters")

    def _read(self, cpu):
        counters = sensors.cppc_counters(cpu, self._root)
        return Sample(time.monotonic_ns(), None, *counters) if counters else None

    def rate(self, base, cpu):
        """That of the reference performance, on the scale on which nominal performance is the nominal clock."""
        if cpu not in self._rates:      # nominal and reference performance are constants of a CPU
            values = sensors.cppc(cpu, self._root)
            try:
                self._rates[cpu] = values["nominal_freq"] * values["reference_perf"] / values["nominal_perf"]
            except (KeyError, ZeroDivisionError):
                return base
        return self._rates[cpu]


class _Cpufreq(_Counters):
    """No cycles: the clock that the cpufreq driver says the CPU has now."""

    name, tsc = "cpufreq", False

    def __init__(self, cpus, root):
        super().__init__()
        self._root = root
        if not any(sensors.current_mhz(cpu, root) for cpu in cpus):
            raise Unavailable("there is no cpufreq driver")

    def _read(self, cpu):
        now = sensors.current_mhz(cpu, self._root)
        return Sample(time.monotonic_ns(), mhz=now) if now else None

    def rate(self, base, cpu):
        return None


_CLASSES = {"perf": _Perf, "msr": _Registers, "cppc": _Cppc, "cpufreq": _Cpufreq}


def choose(cpus, only=None, tell=lambda text: None, root="/"):
    """The first source whose counters count on those CPUs.

    only: a name of SOURCES, or None for all in their order.  tell: called with why a source was not taken.
    Raises NotPermitted when rights were all that a source lacked, else Unavailable; both say why.
    """
    reasons, forbidden = [], None
    for name in (only,) if only else SOURCES:
        try:
            found = _CLASSES[name](cpus, root)
            if name != "cpufreq":
                silent = [cpu for cpu in cpus if not _counts(found.read(cpu))]
                if len(silent) == len(cpus):
                    raise Unavailable("APERF and MPERF of CPU %s read 0" % sysfs.cpu_ranges(silent))
            tell("source %s" % name)
            found.instead = str(forbidden or (reasons and _diagnosis(reasons, root)) or "")
            return found
        except NotPermitted as exc:
            forbidden = forbidden or exc
            tell("not %s: %s" % (name, exc))
        except Unavailable as exc:
            reasons.append(str(exc))
            tell("not %s: %s" % (name, exc))
    if forbidden:
        text = str(forbidden)
        raise NotPermitted(text if text.startswith("cannot") else "cannot read the cycle counters: " + text) from None
    raise Unavailable("cannot measure the clock: %s" % _diagnosis(reasons, root))


def _diagnosis(reasons, root):
    """Why there are no counters, by the source that came closest, and what would help."""
    reason = next((r for r in reasons if "read 0" in r or "has no APERF" in r),
                  next((r for r in reasons if "/dev/cpu" in r), reasons[0]))
    vendor, _, _, flags = msr.identify(root)
    if "hypervisor" in flags and "aperfmperf" not in flags:
        return ("no APERF and MPERF counters (%s). The hypervisor of this virtual machine hides them; bare-metal and "
                "some of the largest instance sizes of clouds have them" % without_remedy(reason))
    if vendor.startswith("0x"):
        return ("%s. On ARM it takes ACPI CPPC with activity monitors, or a cpufreq driver; most virtual machines "
                "have neither" % reasons[-1 if len(reasons) == 1 else -2])
    return reason


def _counts(sample):
    # An idle CPU wakes up to answer, so that a counter that counts is never 0.
    return sample is not None and sample.mperf > 0 and sample.aperf > 0


_IDLE_PMUS = (("cstate_core", "C"), ("cstate_pkg", "PC"))


def _residencies(root):
    """[(PMU, event, column)] in order of depth: ("cstate_core", "c6-residency", "C6")."""
    found = []
    for pmu, prefix in _IDLE_PMUS:
        try:
            names = os.listdir(os.path.join(root, _DEVICES, pmu, "events"))
        except OSError:
            continue
        states = sorted(int(name[1:-10]) for name in names
                        if name.startswith("c") and name.endswith("-residency") and name[1:-10].isdigit())
        found += [(pmu, "c%d-residency" % state, "%s%d" % (prefix, state)) for state in states]
    return found


class CStates:
    """Residency in the hardware's idle states of cores and packages, by the cstate PMUs (Intel and AMD server CPUs).

    A package counts in units of the TSC, and so does a core.
    columns: the states by depth: ["C1", "C6", "PC2", …].
    """

    def __init__(self, cpus, warn, root="/"):
        """Raises Unavailable without such a PMU, NotPermitted."""
        columns = _residencies(root)
        if not columns:
            raise Unavailable("cannot tell idle states: this kernel or CPU has no cstate_core and cstate_pkg PMU")
        self._groups, self._where = {}, {}
        devices = os.path.join(root, _DEVICES)
        topology = sensors.topology(root)
        rlimit.raise_open_files(sum(len(pmu_cpus(pmu, root) or ()) for pmu, _, _ in columns), "counters")
        for pmu, event, column in columns:
            readers = pmu_cpus(pmu, root) or ()
            counter = named_event(pmu, event, devices)
            for cpu in cpus:
                whole = slice(0, 2) if pmu == "cstate_pkg" else slice(0, 3)
                reader = next((r for r in readers if topology.get(r, ())[whole] == topology[cpu][whole]), None)
                self._where[cpu, column] = reader
                if reader is None or (reader, column) in self._groups:
                    continue
                try:
                    group = Group([counter], cpu=reader)
                except OSError as exc:
                    denied = refusal(exc, True)
                    if isinstance(denied, Error):
                        raise denied from None
                    warn("no %s on CPU %d: %s" % (column, reader, exc.strerror))
                    group = None
                else:
                    group.enable()
                self._groups[reader, column] = group
        self.columns = [column for _, _, column in columns]

    def read(self):
        """{(CPU, column): count} of those that answer."""
        found = {}
        for key, group in self._groups.items():
            values = group.read() if group else None
            if values:
                found[key] = values[2]
        return found

    def shares(self, cpu, before, after, first, last):
        """{column: share of the time, or None} of a CPU, between two read() and the Samples of the same instants."""
        ticks = 0
        if first and last and first.tsc is not None and last.tsc is not None and not last.stepped:
            ticks = last.tsc - first.tsc
        result = {}
        for column in self.columns:
            key = self._where.get((cpu, column)), column
            known = ticks > 0 and key in before and key in after
            result[column] = min(max((after[key] - before[key]) / ticks, 0.0), 1.0) if known else None
        return result
