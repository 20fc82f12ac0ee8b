# SPDX-License-Identifier: GPL-2.0-or-later
"""Which command measures with what, and whether it can here.

What a command with BPF programs needs follows from its SOURCES.  For what else the commands use,
ALSO and WAYS are the one table; tests/unit/suite compares it with what each command imports.
"""

from __future__ import annotations

import os
import re

from ..bpf import cache
from ..bpf.map import RINGBUF, STACK_TRACE, TASK_STORAGE
from ..bpf.requirements import by_btf, unusable, vmlinux
from ..errors import Error
from .answer import NO, ORDER, UNKNOWN, WORKS, Answer
from .checks import KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..bpf import Source
    from ..bpf.object import Object

    Sources = Mapping[str, Source]

__all__ = [
    "ALSO",
    "OWNERS",
    "PMC",
    "WAYS",
    "Outcome",
    "Way",
    "cached",
    "compiled",
    "for_command",
    "used",
    "ways",
]

PMC = ("cpucache", "icache", "pmcarch", "resstalls", "tlbstat")
# The module that reads a source: a command that imports it uses the source.
OWNERS = {
    "kallsyms": "symbols.kallsyms",
    "perf_map": "symbols.perfmap",
    "ptrace": "kernel.ptrace",
    "perf_events": "perf.group",
    "pmu": "pmu.plan",
    "msr_pmu": "cpu.clock",
    "msr": "cpu.msr",
    "aperf_msr": "cpu.clock",
    "thermal_msr": "cpu.thermal",
    "cppc": "cpu.clock",
    "cpufreq": "cpu.clock",
    "loop": "cpu.clock",
    "sensors": "cpu.thermal",
    "throttling": "cpu.thermal",
    "psi": "kernel.pressure",
    "psi_cgroup": "kernel.pressure",
    "taskstats": "net.taskstats",
    "delayacct": "net.taskstats",
    "proc_syscall": "sched.state_samples",
    "kmsg": "memory.oom_log",
    "cachestat": "memory.residency",
    "clear_refs": "memory.process",
    "idle_page": "memory.idle",
    "damon": "memory.damon",
    "kpagecgroup": "memory.owners",
    "cgroup": "kernel.cgroup",
    "pyroute2": "net.observer",
}
# The ways to measure without BPF, the best first, and the sources of each.
WAYS: dict[str, dict[str, tuple[str, ...]]] = {
    **{name: {"counters": ("perf_events", "pmu")} for name in PMC},
    "cpuhot": {
        "sensors": ("sensors",),
        "registers": ("msr", "thermal_msr"),
        "throttling": ("throttling",),
    },
    "cputemp": {"sensors": ("sensors",), "registers": ("msr", "thermal_msr")},
    "crisis-heat": {"records of other commands": ()},
    "crisis-merge": {"records of other commands": ()},
    "crisis-warm": {"bcc": ("bpf", "bcc")},
    "delays": {"taskstats": ("taskstats",)},
    "fincore": {"cachestat": ("cachestat",), "mincore": ()},
    "nicstat": {"netlink": ("pyroute2",)},
    "pagecache": {"cachestat": ("cachestat",), "mincore": ()},
    "psi": {"pressure files": ("psi",)},
    "showboost": {
        "perf": ("perf_events", "msr_pmu"),
        "msr": ("msr", "aperf_msr"),
        "cppc": ("cppc",),
        "cpufreq": ("cpufreq",),
        "loop": ("loop",),
    },
    "tiptop": {"counters": ("perf_events", "pmu")},
    "tsa": {"sample": ("proc_syscall",)},
    "use": {"files": ()},
    "wss": {"idle": ("idle_page",), "clear_refs": ("clear_refs",)},
}
_CGROUP = "cachesnoop cachestat delays drsnoop hardirqs irqtime memleak oomkill".split()
_CGROUP += "psi runqlat runqslower softirqs tiptop wss fincore".split()
# What only some options, columns or notes of a command take.
ALSO: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((*_CGROUP, *PMC), ("cgroup",)),
    "delays": ("delayacct", "cgroup"),
    "drsnoop": ("kallsyms", "cgroup"),
    "fincore": ("kpagecgroup", "cgroup"),
    "memleak": ("kallsyms", "perf_map", "ptrace", "cgroup"),
    "oomkill": ("kallsyms", "kmsg", "cgroup"),
    "psi": ("psi_cgroup", "cgroup"),
    "tsa": ("kallsyms", "perf_map", "cgroup"),
    "use": ("psi", "psi_cgroup", "throttling", "cgroup"),
    "wss": ("damon", "cgroup"),
}
_MAPS = {"task_storage": "TASK_STORAGE", "ringbuf": "BPF_RINGBUF", "stack_trace": "BPF_STACK_TRACE"}
_MAP_TYPES = {TASK_STORAGE: "task_storage", RINGBUF: "ringbuf", STACK_TRACE: "stack_trace"}


class Way:
    """A way to measure.

    lacks: why it cannot work on this kernel even where all its sources do, or "".
    needs: [(source, ...)]: of each, one must work.
    """

    def __init__(self, name: str, needs: Iterable[tuple[str, ...]], lacks: str = "") -> None:
        self.name, self.needs, self.lacks = name, list(dict.fromkeys(needs)), lacks

    def outcome(self, answers: Mapping[str, Answer]) -> Outcome:
        """What comes of it; answers: of the sources.  Its note names the sources, or says why."""
        if self.lacks:
            return Outcome(self, Answer(NO, self.lacks), ())
        chosen = []  # of each need, the best source
        for group in self.needs:
            chosen.append(min(group, key=lambda name: ORDER.index(answers[name].state)))
        missing = [name for name in chosen if answers[name].state != WORKS]
        if not missing:
            return Outcome(self, Answer(WORKS, " ".join(dict.fromkeys(chosen))), ())
        decisive = max(missing, key=lambda name: ORDER.index(answers[name].state))
        answer = answers[decisive]
        return Outcome(self, Answer(answer.state, f"{decisive}: {answer.note}"), (decisive,))


class Outcome:
    """Whether a command runs here.

    way: by which Way.  state, note: as of an Answer.  missing: the sources for lack of which not.
    """

    def __init__(self, way: Way | None, answer: Answer, missing: Iterable[str]) -> None:
        self.way, self.state, self.note = way, answer.state, answer.note
        self.missing = tuple(missing)


def _kinds(candidates: Iterable[str]) -> tuple[str, ...]:
    """The sources of "kind/target:function" and "kind:function" candidates, without "none"."""
    kinds = [re.split("[/:]", candidate)[0] for candidate in candidates if candidate != "none"]
    return tuple(dict.fromkeys(KINDS[kind] for kind in kinds))


def cached(sources: Iterable[Source]) -> dict[str, Object]:
    """{name of the program: its Object} of those that are in the cache of compiled programs."""
    found = {}
    for source in sources:
        obj = cache.cached(source)
        if obj is not None:
            found[source.name] = obj
    return found


def compiled(sources: Iterable[Source], objects: Mapping[str, Object]) -> Answer:
    """Whether all programs are compiled for this kernel; objects: as cached() has them."""
    if os.path.isdir(cache.CACHE) and not os.access(cache.CACHE, os.R_OK | os.X_OK):
        return Answer(UNKNOWN, f"{cache.CACHE}: Permission denied. Run as root")
    names = [source.name for source in sources]
    note = f"{sum(name in objects for name in names)} of {len(names)}"
    if set(names) <= objects.keys():
        return Answer(WORKS, note)
    return Answer(NO, f"{note}; the first start of others takes seconds. Run crisis-warm")


def ways(command: str, sources: Sources, objects: Mapping[str, Object]) -> list[Way]:
    """The Ways of a command to measure, the best first.

    sources: its SOURCES.  objects: as cached() has them; what is not there has to be compiled.
    """
    found = [_of_program(source, objects.get(source.name)) for source in sources.values()]
    for name, needs in WAYS.get(command, {}).items():
        found.append(Way(name, [(source,) for source in needs]))
    return found


def _of_program(source: Source, obj: Object | None) -> Way:
    """The Way of a BPF program, compiled or not."""
    try:
        btf = vmlinux()
    except Error:  # no /sys, which the sources' own answers report
        btf = None
    lacks = obj.unusable if obj is not None else unusable(source.request(), btf)
    needs: list[tuple[str, ...]] = [("bpf",)]
    for point in source.points:
        if point[-1] == "none":
            continue
        there = [
            candidate
            for candidate in point
            if obj is None or not by_btf(candidate) or obj.ids.get(candidate.rpartition(":")[0])
        ]
        needs.append(_kinds(there or point))
    needs += [(KINDS[probe.partition(":")[0]],) for probe in source.probes]
    if source.fields:
        needs.append(("tracefs",))
    if obj is None:
        needs.append(("bcc",))
        needs.append(("btf", "headers"))
    else:
        needs += [(_MAP_TYPES[entry[1]],) for entry in obj.maps if entry[1] in _MAP_TYPES]
    return Way(source.name, needs, lacks or "")


def used(command: str, sources: Sources) -> set[str]:
    """The names of all sources that a command uses, in any way and with any option."""
    found = set(ALSO.get(command, ()))
    for needs in WAYS.get(command, {}).values():
        found.update(needs)
    for source in sources.values():
        text, kinds = source.text, _kinds(c for point in source.points for c in point)
        found.update(("bpf", "btf", "headers", "bcc", "lockdown", *kinds))
        found.update(_kinds(source.probes))
        found.update(name for name, macro in _MAPS.items() if re.search(rf"^{macro}", text, re.M))
        if source.fields or "tracepoint" in kinds:
            found.add("tracefs")
        if "tgid" in source.params:  # -p in a container: bpf.pid_namespace
            found.add("iter")
    return found


def for_command(found: list[Way], answers: Mapping[str, Answer]) -> Outcome:
    """The Outcome of a command.

    found: as ways() has them; [] for a command that needs nothing in particular.
    """
    if not found:
        return Outcome(None, Answer(WORKS), ())
    outcomes = [way.outcome(answers) for way in found]
    for outcome in outcomes:  # bpf.load, too, goes no further
        if outcome.state == UNKNOWN and outcome.missing == ("bpf",):
            return Outcome(None, Answer(UNKNOWN, outcome.note), outcome.missing)
    first = min(outcomes, key=lambda outcome: ORDER.index(outcome.state))
    if first.state == WORKS:
        return first
    same = [outcome for outcome in outcomes if outcome.state == first.state]
    note = "; ".join(dict.fromkeys(outcome.note for outcome in same))
    missing = dict.fromkeys(name for outcome in same for name in outcome.missing)
    return Outcome(None, Answer(first.state, note), missing)
