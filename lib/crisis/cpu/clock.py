# SPDX-License-Identifier: GPL-2.0-or-later
"""The cycle counters of CPUs, by whichever source this machine has.

The sources are perf's msr PMU, the msr driver, ACPI CPPC, and without counters cpufreq and a timed
loop.

Each source reads a Sample of one CPU.  Follows arch/x86/events/msr.c,
drivers/acpi/cppc_acpi.c and the Intel SDM volume 3, "Performance monitoring:
APERF and MPERF".
"""

from __future__ import annotations

import errno
import os
import time

from ..errors import NotPermitted, Unavailable
from ..kernel import rlimit, sysfs
from ..perf.event import refusal
from ..perf.event_source import named_event
from ..perf.group import Group
from . import freq, info, loop, msr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["SOURCES", "Sample", "Counters", "choose"]

_DEVICES = "sys/bus/event_source/devices"


SOURCES = "perf", "msr", "cppc", "cpufreq", "loop"
_SPAN_NS = 50000000  # the rate of the TSC is measured over no less
_LOOP_SHARE = 0.005  # of the time: what the loop may take of a CPU, or of one for each of several
_LOOP_PAIRS = 16, 32  # fewer do not agree, and more add nothing
_SLOW_NS = 200000  # three registers read in more time than this were not read together


class Sample:
    """The counters of a CPU at one instant.

    ns: of CLOCK_MONOTONIC.  tsc, mperf, aperf: counts, tsc None where it is not read.
    mhz: the clock, by cpufreq and the loop alone.

    stepped: the TSC was set since the sample before.
    """

    __slots__ = "ns", "tsc", "mperf", "aperf", "mhz", "stepped"

    def __init__(
        self,
        ns: int,
        tsc: int | None = None,
        mperf: int | None = None,
        aperf: int | None = None,
        mhz: float | None = None,
    ) -> None:
        self.ns, self.tsc, self.mperf, self.aperf, self.mhz = ns, tsc, mperf, aperf, mhz
        self.stepped = False


class Counters:
    """One way to read the counters.

    name: of SOURCES.  tsc: samples have the TSC.  known_rate: the share of time
    in C0 follows from MPERF's rate even without it.  instead: why not a better source.
    counts: whether samples have counts of cycles, and not only the clock.  caveat: of its MHz.
    unknown: why a CPU has no rate.
    """

    name = ""
    tsc = True
    known_rate = False
    instead = ""
    counts = True
    caveat = ""
    unknown = "offline or new, or its counters did not count"

    def __init__(self) -> None:
        # The first and last Sample of the CPU by which the rate of the TSC is measured.
        self._span: tuple[Sample, Sample] | None = None
        self._cpu: int | None = None
        self._before: float | None = None  # MHz of the TSC before it was set
        self._last: dict[int, Sample] = {}

    def read(self, cpu: int) -> Sample | None:
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
                self._span = self._span[0] if self._span else sample, sample
        return sample

    def _has_stepped(self, last: Sample | None, sample: Sample) -> bool:
        """True where the TSC was set between two samples.

        That is by resume, migration of the virtual machine, or a write.

        A step forward is noticed where it is more than a tenth of the time between
        them; less than that can be a late reading.
        """
        if last is None or last.tsc is None or sample.tsc is None:
            return False
        ticks, ns = sample.tsc - last.tsc, sample.ns - last.ns
        if ticks < 0:
            return True
        mhz = self._measured()
        if not mhz or ns < _SPAN_NS:
            return False
        return abs(ticks * 1e3 / ns / mhz - 1) > 0.1

    def _read(self, cpu: int) -> Sample | None:
        """read() without what is kept from sample to sample."""
        raise NotImplementedError

    def tsc_mhz(self) -> float | None:
        """MHz of the TSC by the samples read so far; None before there are two, of 50 ms at least.

        Just after a step, that by the samples before it.
        """
        return self._measured() or self._before

    def _measured(self) -> float | None:
        if self._span is None:
            return None
        first, last = self._span
        if first.tsc is None or last.tsc is None or last.ns - first.ns < _SPAN_NS:
            return None
        return (last.tsc - first.tsc) * 1e3 / (last.ns - first.ns)

    def measure_tsc(self, cpu: int) -> float | None:
        """MHz of the TSC; takes 0.1 s."""
        self.read(cpu)
        time.sleep(0.1)
        self.read(cpu)
        return self.tsc_mhz()

    def rate(self, base: float | None, cpu: int) -> float | None:
        """MHz at which a CPU's MPERF counts; None when it is unknown.

        That is the base clock as the TSC has it.  A stated base clock is
        rounded better than the TSC is measured; but where the two are apart
        (a base lowered by configuration), MPERF goes with the TSC.
        """
        tsc = self.tsc_mhz() if self.tsc else None
        if not base or tsc and abs(base / tsc - 1) > 0.02:
            return tsc or base
        return base


class _Perf(Counters):
    """A group on each CPU of perf's msr PMU.

    The three counters are read on the CPU itself, at one instant.
    """

    name = "perf"

    def __init__(self, cpus: Sequence[int], root: str) -> None:
        super().__init__()
        devices = os.path.join(root, _DEVICES)
        events = [named_event("msr", name, devices) for name in ("tsc", "mperf", "aperf")]
        self._events = events
        self._groups: dict[int, Group] = {}
        rlimit.raise_open_files(3 * len(cpus), "counters")
        for cpu in cpus:
            self._open(cpu)

    def _open(self, cpu: int) -> None:
        try:
            group = Group(self._events, cpu=cpu)
            self._groups[cpu] = group
            group.enable()
        except OSError as exc:
            if exc.errno != errno.ENODEV:  # the CPU is offline
                raise refusal(exc, True) or Unavailable(
                    f"perf's msr events: {exc.strerror}"
                ) from None

    def _read(self, cpu: int) -> Sample | None:
        if cpu not in self._groups:
            self._open(cpu)
        group = self._groups.get(cpu)
        values = group.read() if group else None
        if values is None:
            if group:  # a CPU that went offline took the group apart for good
                self._groups.pop(cpu).close()
            return None
        return Sample(time.monotonic_ns(), *values[2:])


class _Registers(Counters):
    """The registers by the msr driver, one after the other; a set that took long is read again."""

    name = "msr"

    def __init__(self, cpus: Sequence[int], root: str) -> None:
        super().__init__()
        self._registers = msr.Registers(root)
        for cpu in cpus:
            if self._registers.read(cpu, msr.IA32_MPERF) is None:
                raise Unavailable(f"CPU {cpu} has no APERF and MPERF registers")

    def _read(self, cpu: int) -> Sample | None:
        best: tuple[int, Sample] | None = None
        for _ in range(5):
            begin = time.monotonic_ns()
            try:
                values = [
                    self._registers.read(cpu, r)
                    for r in (msr.IA32_TSC, msr.IA32_MPERF, msr.IA32_APERF)
                ]
            except Unavailable:  # not opened before, and offline
                return None
            took = time.monotonic_ns() - begin
            if None in values:
                return None
            if best is None or took < best[0]:
                best = took, Sample(begin + took // 3, *values)
            if took < _SLOW_NS:
                break
        return best[1] if best else None


class _Cppc(Counters):
    """ACPI's feedback counters.

    On AMD and Intel they are MPERF and APERF, on ARM the activity monitors.
    """

    name = "cppc"
    tsc = False

    def __init__(self, cpus: Sequence[int], root: str) -> None:
        super().__init__()
        self._root = root
        self._rates: dict[int, float] = {}
        # On x86 the reference counts at the base clock; the rate of ARM's is CNTFRQ_EL0, which
        # sysfs lacks.
        self.known_rate = "aperfmperf" in info.identify(root).flags
        if not any(freq.cppc_counters(cpu, root) for cpu in cpus):
            raise Unavailable("there are no ACPI CPPC counters")

    def _read(self, cpu: int) -> Sample | None:
        counters = freq.cppc_counters(cpu, self._root)
        return Sample(time.monotonic_ns(), None, *counters) if counters else None

    def rate(self, base: float | None, cpu: int) -> float | None:
        """The rate of the reference performance.

        It is on the scale on which nominal performance is the nominal clock.
        """
        if cpu not in self._rates:  # nominal and reference performance are constants of a CPU
            values = freq.cppc(cpu, self._root)
            try:
                self._rates[cpu] = (
                    values["nominal_freq"] * values["reference_perf"] / values["nominal_perf"]
                )
            except (KeyError, ZeroDivisionError):
                return base
        return self._rates[cpu]


class _Cpufreq(Counters):
    """No cycles: the clock that the cpufreq driver reports for the CPU now."""

    name = "cpufreq"
    tsc = False
    counts = False
    caveat = "MHz is only what the cpufreq driver reports at that moment"

    def __init__(self, cpus: Sequence[int], root: str) -> None:
        super().__init__()
        self._root = root
        if not any(freq.current_mhz(cpu, root) for cpu in cpus):
            raise Unavailable("there is no cpufreq driver")

    def _read(self, cpu: int) -> Sample | None:
        now = freq.current_mhz(cpu, self._root)
        return Sample(time.monotonic_ns(), mhz=now) if now else None

    def rate(self, base: float | None, cpu: int) -> float | None:
        return None


class _Loop(Counters):
    """No cycles: the clock that the CPU has now while it runs a loop of known length."""

    name = "loop"
    counts = False

    def __init__(self, cpus: Sequence[int], root: str) -> None:
        super().__init__()
        if root != "/":
            raise Unavailable("a loop measures the CPUs of the machine that it runs on")
        self._timer = loop.Timer()
        self.tsc = self._timer.has_tsc
        self._cpus = len(cpus)
        self._ended: dict[int, int] = {}  # CPU -> ns at the end of its last measurement
        if self._timer.translated:
            self.unknown = "it is emulated, and has no clock"
        else:
            self.unknown = "offline, outside of the cpuset, or the runs of the loop disagree"

    def _read(self, cpu: int) -> Sample | None:
        now, tsc = self._timer.instant()
        budget = _LOOP_SHARE * (now - self._ended.get(cpu, now - 10**9)) / self._cpus
        pairs = min(max(int(budget / loop.PAIR_NS), _LOOP_PAIRS[0]), _LOOP_PAIRS[1])
        mhz = self._timer.measure(cpu, pairs)
        self._ended[cpu] = time.monotonic_ns()
        return Sample(now, tsc, mhz=mhz)

    def rate(self, base: float | None, cpu: int) -> float | None:
        return None


_CLASSES: dict[str, Callable[[Sequence[int], str], Counters]] = {
    "perf": _Perf,
    "msr": _Registers,
    "cppc": _Cppc,
    "cpufreq": _Cpufreq,
    "loop": _Loop,
}


def choose(
    cpus: Sequence[int],
    only: str | None = None,
    log: Callable[[str], None] = lambda text: None,
    root: str = "/",
) -> Counters:
    """The first source whose counters count on those CPUs.

    only: a name of SOURCES, or None for all in their order.  log: called with the source, and with
    why a source was not taken.
    Raises NotPermitted when privileges were all that a source lacked, else Unavailable; both with
    the reason.
    """
    reasons: dict[str, Unavailable] = {}
    forbidden: NotPermitted | None = None
    for name in (only,) if only else SOURCES:
        try:
            found = _CLASSES[name](cpus, root)
            if found.counts:
                silent = [cpu for cpu in cpus if not _counts(found.read(cpu))]
                if len(silent) == len(cpus):
                    raise Unavailable(f"APERF and MPERF of CPU {sysfs.cpu_ranges(silent)} read 0")
            log(f"source {name}")
            found.instead = str(forbidden or (reasons and _diagnosis(reasons, root)[0]) or "")
            return found
        except NotPermitted as exc:
            forbidden = forbidden or exc
            log(f"not {name}: {exc}")
        except Unavailable as exc:
            reasons[name] = exc
            log(f"not {name}: {exc}")
    if forbidden:
        text = str(forbidden)
        raise NotPermitted(
            text if text.startswith("cannot") else "cannot read the cycle counters: " + text
        ) from None
    raise Unavailable(f"cannot measure the clock: {_refusal(reasons, root)}")


def _refusal(reasons: dict[str, Unavailable], root: str) -> str:
    """Why nothing measures the clock; reasons as _diagnosis() takes them."""
    loopless = reasons.pop("loop", None)
    if not reasons:
        return str(loopless)
    texts = [text for text in _diagnosis(reasons, root) if text]
    if loopless:
        texts.append(f"No timed loop either: {loopless}")
    return ". ".join(texts)


def _diagnosis(reasons: dict[str, Unavailable], root: str) -> tuple[str, str]:
    """(Why there are no counters, by the source that came closest; what would help, or "").

    reasons: {name of a source: why it is not available}.
    """
    processor = info.identify(root)
    if processor.virtual and "aperfmperf" not in processor.flags:
        return (
            "the hypervisor hides APERF and MPERF",
            "Bare-metal and some of the largest instance sizes of clouds have them",
        )
    every = list(reasons.values())
    if processor.vendor.startswith("0x"):
        return (
            str(reasons.get("cppc", every[0])),
            "On ARM it takes ACPI CPPC with activity monitors, or a cpufreq driver; most virtual "
            "machines have neither",
        )
    reason = next(
        (r for r in every if "read 0" in str(r) or "has no APERF" in str(r)),
        next((r for r in every if "/dev/cpu" in str(r)), every[0]),
    )
    return str(reason), ""


def _counts(sample: Sample | None) -> bool:
    # An idle CPU wakes up to be read, so that a counter that counts is never 0.
    return sample is not None and bool(sample.mperf) and bool(sample.aperf)
