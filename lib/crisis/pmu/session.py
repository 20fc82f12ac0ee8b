# SPDX-License-Identifier: GPL-2.0-or-later
"""All that the arguments of a PMC command select, opened and read.

CPUs, a process, a command or a cgroup.
"""

from __future__ import annotations

import errno
import os
import time

from .. import cli
from ..errors import Error, NotPermitted, Unavailable, Usage
from ..kernel import proc, sysfs
from ..perf.event import (
    ENABLE_ON_EXEC,
    EXCLUDE_HV,
    EXCLUDE_KERNEL,
    FLAG_PID_CGROUP,
    INHERIT,
    refusal,
)
from ..perf.group import Group
from . import codes
from .plan import plan
from .source import Affinity, Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterable, Sequence

    from ..perf.event import Event
    from .plan import Plan
    from .source import Label, Row

__all__ = ["Session", "check", "cpu_list"]

_DEAD_PMU = (
    "cannot count CPU events: the PMU is there but counts no cycles, so it is not really passed to "
    "this "
    "guest. Use an instance size that has one, or bare metal"
)


def check() -> str:
    """The names of the core PMUs, which count cycles now on a CPU of each.

    Raises Unavailable without one that counts, NotPermitted.
    """
    names = []
    for p in plan([["cycles"]], shared_l3=False)[0]:
        cpus = [cpu for cpu in sysfs.online_cpus() if p.cpus is None or cpu in p.cpus]
        if p.clusters and cpus and _counts_cycles(p.clusters[0], cpus[0]):
            names.append(p.pmu)
    if not names:
        raise Unavailable(_DEAD_PMU)
    return " ".join(names)


def _counts_cycles(events: Sequence[Event], cpu: int) -> bool:
    """Whether the events count anything on a CPU in a millisecond.  Raises NotPermitted."""
    try:
        group = Group(events, cpu=cpu)
    except OSError as exc:
        error = refusal(exc, True)
        if error is not None:
            raise error from None
        return False
    try:
        group.enable()
        time.sleep(0.001)
        reading = group.read()
        return reading is not None and any(reading[2:])
    finally:
        group.close()


class Session:
    """All sources that the arguments select."""

    def __init__(self, args: Namespace, clusters: Sequence[Sequence[str]]) -> None:
        self.args, self.whole = args, args.pid is None and args.command is None
        if args.per and not self.whole:
            raise Usage(f"--per-{args.per} takes no process or command")
        self.wanted = cpu_list(args.cpu)
        whole_system = self.whole and self.wanted is None and args.cgroup is None and not args.per
        self.plans, unknown = plan(clusters, shared_l3=whole_system)
        if unknown:
            which = f" ({', '.join(unknown)})" if len(self.plans) > 1 else ""
            cli.note(
                f"no event codes are known for this CPU{which}: only cycles, instructions, "
                "branches and branch misses are counted"
            )
        if not any(p.clusters for p in self.plans):
            kinds = " and ".join(p.kind or "this CPU" for p in self.plans)
            raise Unavailable(f"cannot count these events: {kinds} has none of them that is known")
        self.several = len([p for p in self.plans if p.pmu != "amd_l3"]) > 1
        self.child: int | None = None
        self.gate: int | None = None
        self.cgroup: int | None = None
        self.ends = cli.Ends()
        self.bits, self.checked = 0, False
        self.sources: list[Source] = []
        self._cores: dict[int, tuple[int, int, int | None]] = {}
        if (
            not whole_system
            and any("l3:llc_refs" in codes.TABLES.get(p.kind or "", ()) for p in self.plans)
            and any("llc_refs" in cluster for cluster in clusters)
        ):
            cli.note(
                "LLC columns need the whole system in one row: this CPU counts its L3 for all its "
                "cores together"
            )
        if self.whole:
            self._open_cpus()
        else:
            self._open_tasks()
        self._report_refused()

    def _open_cpus(self) -> None:
        online, args = sysfs.online_cpus(), self.args
        if self.wanted is not None:
            missing = [cpu for cpu in self.wanted if cpu not in online]
            if missing:
                raise Error(f"CPU {missing[0]} is not online")
        if args.cgroup is not None:
            self.cgroup = _open_cgroup(args.cgroup)
        for p in self.plans:
            cpus = self._cpus(p, online)
            if cpus and p.clusters:
                self.sources.append(
                    Source(
                        p,
                        {cpu: self._target(cpu) for cpu in cpus},
                        self._label_of(p),
                        flags=0 if self.cgroup is None else FLAG_PID_CGROUP,
                        probe={"pid": -1, "cpu": cpus[0]},
                    )
                )
        if not self.sources:
            raise Unavailable("cannot count on these CPUs: none of them has a PMU")

    def _target(self, cpu: int) -> tuple[int, int]:
        return (-1 if self.cgroup is None else self.cgroup, cpu)

    def _cpus(self, p: Plan, online: Iterable[int]) -> list[int]:
        return [
            cpu
            for cpu in online
            if (self.wanted is None or cpu in self.wanted) and (p.cpus is None or cpu in p.cpus)
        ]

    def _label_of(self, p: Plan) -> Callable[[int], Label]:
        name, per = p.pmu if self.several else None, self.args.per
        if per == "cpu":
            return lambda cpu: (name, cpu)
        if per == "core":
            from ..cpu.info import topology

            self._cores.update(topology())

            def core(cpu: int) -> Label:
                """(PMU, (package, die, core)), as perf stat --per-core has them.

                A core's number is its die's own.
                """
                if cpu not in self._cores:
                    self._cores.update(topology())
                return name, self._cores[cpu]

            return core
        return lambda key: (name, None)

    def _open_tasks(self) -> None:
        if self.args.command is not None:
            threads = [self._fork()]
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
                    # A thread that was made meanwhile is counted twice or not at all: once more,
                    # then.
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
            cli.note(
                "user mode only: kernel.perf_event_paranoid does not let this user count the kernel"
            )

    def _open_threads(self, threads: Iterable[int]) -> None:
        for p in self.plans:
            if not p.clusters:
                continue
            with Affinity(p.cpus):
                self.sources.append(
                    Source(
                        p,
                        {tid: (tid, -1) for tid in threads},
                        self._label_of(p),
                        self.bits,
                        moving=p.cpus is not None and self.several,
                    )
                )

    def _fork(self) -> int:
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
        return self.child

    def release(self) -> None:
        """Begin the interval.

        What was counted during the setup is left behind, and the command of -c starts.
        """
        if self.gate is None:
            for source in self.sources:
                source.counters.read_groups()
        else:
            os.write(self.gate, b"g")
            os.close(self.gate)
            self.gate = None

    def finish(self) -> int:
        """The exit status: 1 when the command of -c failed by itself."""
        if self.child is None:
            return 0
        pid, status = os.waitpid(self.child, os.WNOHANG)
        if not pid:
            import signal

            os.kill(self.child, signal.SIGTERM)
            return 0
        if status == 0 or cli.stopping():
            return 0
        end = f"signal {status & 127}" if status & 127 else f"status {status >> 8}"
        cli.note(f"the command ended with {end}")
        return 1

    def _report_refused(self) -> None:
        for source in self.sources:
            cli.verbose(
                f"{source.plan.pmu}, {source.plan.kind or 'unknown CPU'}: "
                f"{len(source.counters.events)} events in {len(source.counters.groups)} groups"
            )
            refused = [
                f"{source.counters.events[i].name} ({errno.errorcode.get(number, number)})"
                for i, number in sorted(source.counters.refused.items())
            ]
            if refused:
                cli.note(f"the {source.plan.pmu} PMU does not count {', '.join(refused)}")
        if all(len(s.counters.refused) == len(s.counters.events) for s in self.sources):
            raise Unavailable(_DEAD_PMU)

    def counted(self, counter: str) -> bool:
        """True when some PMU has this counter."""
        return any(counter in p.parts for p in self.plans)

    def read(self) -> dict[Label, Row]:
        """{label: {counter: (count or None, enabled ns, running ns)}} of the interval.

        A label is (PMU or None, CPU or core or None).
        """
        rows: dict[Label, Row] = {}
        for source in self.sources:
            source.read(rows)
        if not self.checked and self.whole and self.cgroup is None and self.wanted is None:
            self.checked = True
            cycles = [row["cycles"] for row in rows.values() if "cycles" in row]
            if (
                cycles
                and not any(count for count, _, _ in cycles)
                and any(running for _, _, running in cycles)
            ):
                raise Unavailable(_DEAD_PMU)
        if self.whole:
            self._follow_cpus()
        return rows

    def _follow_cpus(self) -> None:
        online = sysfs.online_cpus()
        for source in self.sources:
            counters, cpus = source.counters, self._cpus(source.plan, online)
            for cpu in [cpu for cpu in counters.open if cpu not in cpus or cpu in counters.dead]:
                counters.drop(cpu)
                cli.note(f"CPU {cpu} went offline: its last counts are missing")
            for cpu in cpus:
                if cpu not in counters.open:
                    try:
                        counters.add(cpu, *self._target(cpu))
                        counters.enable([cpu])
                    except OSError:  # gone again
                        counters.drop(cpu)

    def close(self) -> None:
        for source in self.sources:
            source.counters.close()
        self.sources = []


def cpu_list(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        cpus = sysfs.cpu_list(text)
    except ValueError:
        cpus = []
    if not cpus or min(cpus) < 0:
        raise Usage(f"'{cli.shown(text)}' is not a list of CPUs such as 0,2-3")
    return cpus


def _open_cgroup(path: str) -> int:
    """A descriptor of the cgroup's directory, in the hierarchy that perf_event belongs to."""
    from ..kernel import cgroup

    v1 = [
        point
        for point, _, controllers in cgroup.mounts()
        if controllers and "perf_event" in controllers
    ]
    _, _, controllers, point = cgroup.find(path)
    if v1 and point not in v1 or not v1 and controllers is not None:
        where = v1[0] if v1 else "the cgroup v2 mount"
        raise Unavailable(
            f"cannot count cgroup {path}: perf events follow the hierarchy at {where}"
        )
    return os.open(cgroup.directory(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _threads(pid: int) -> list[int]:
    try:
        return sorted(int(tid) for tid in os.listdir(f"/proc/{pid}/task"))
    except FileNotFoundError:
        raise Error(f"no such process: {pid}") from None
