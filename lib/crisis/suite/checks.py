# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands measure with, and for each whether this machine has it.

Each check is the code by which a command finds out, and raises the command's own error.  Nothing on
the system is changed: probes are attached to functions that hardly ever run, and detached at once.
"""

from __future__ import annotations

import errno
import glob
import os

from .. import bpf, cli
from ..bpf import compiler, trial
from ..bpf.btf import VMLINUX
from ..bpf.requirements import kernel_headers, vmlinux
from ..errors import NotPermitted, Stopped, Unavailable
from ..kernel import cgroup, pressure, proc, ptrace, sysfs
from ..perf import event, tracefs
from .answer import Answer, Unknown, answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["CHECKS", "KINDS", "answers"]

# What a kind of program is tried on: rare events, and a function that every kernel has.
_PLACES = {
    "tp_btf": "tp_btf/sched_process_exec",
    "raw_tp": "raw_tp/sched_process_exec",
    "tracepoint": "tracepoint/oom:mark_victim",
    "kprobe": "kprobe/out_of_memory",
    "fentry": "fentry/out_of_memory",
    "iter": "iter/task",
}
_CAP_SYS_ADMIN = 21
_DENIED = (os.strerror(errno.EPERM), os.strerror(errno.EACCES))
# bpf(2) has been permitted: where more is refused, these capabilities do not suffice.
_BPF_REMEDY = "Run as root, or with CAP_BPF and CAP_PERFMON"
_UPROBES = ("uprobe", "uprobe_multi", "uprobe_session")
# The source that a kind of program, as bpf.program.KINDS has it, needs.
KINDS = {
    **{kind: kind for kind in (*_PLACES, *_UPROBES)},
    "fexit": "fentry",
    "kretprobe": "kprobe",
    "uretprobe": "uprobe",
    "uretprobe_multi": "uprobe_multi",
    "perf_event": "perf_events",
}
# What a kernel without it was built without, or older than.
_OPTIONS = {
    "raw_tp": "CONFIG_BPF_EVENTS",
    "tracepoint": "CONFIG_BPF_EVENTS",
    "kprobe": "CONFIG_KPROBES",
    "uprobe": "CONFIG_UPROBES",
    "fentry": "CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS",
    "tp_btf": "CONFIG_DEBUG_INFO_BTF",
}
_SINCE = {
    "tp_btf": "5.5",
    "fentry": "5.5 (arm64: 6.4)",
    "iter": "5.8",
    "ringbuf": "5.8",
    "task_storage": "5.11",
    "uprobe_multi": "6.6",
    "uprobe_session": "6.13",
}


def _absent(name: str, exc: Unavailable) -> Unavailable:
    """Why the kernel has no such programs or maps, with what would help."""
    option, since = _OPTIONS.get(name), _SINCE.get(name)
    if option and proc.kernel_option(option) is False:
        return Unavailable(f"the kernel was built without {option}. Boot one that has it")
    if name == "fentry":
        exc = Unavailable(f"the kernel refuses a trampoline: {exc}")
    needs = [text for text in (since and f"Linux {since}", option) if text]
    return Unavailable(f"{exc}. It needs {' with '.join(needs)}" if needs else str(exc))


def _permitted(name: str, trial: Callable[[str], None], argument: str) -> None:
    if not bpf.permitted():
        raise NotPermitted("not permitted, see bpf")
    if name == "tracepoint":
        tracefs.tracepoint_id("oom", "mark_victim")  # which may be for root only
    try:
        trial(argument)
    except NotPermitted as exc:
        raise NotPermitted(str(exc).replace(_BPF_REMEDY, "Run as root")) from None
    except Unavailable as exc:
        if str(exc) in _DENIED and not proc.capable(_CAP_SYS_ADMIN):
            raise NotPermitted(f"{exc}. Run as root") from None
        raise _absent(name, exc) from None


def _program(name: str) -> Callable[[], None]:
    """The check of a kind of program."""
    if name in _UPROBES:
        return lambda: _permitted(name, trial.attach_uprobe, name)
    return lambda: _permitted(name, trial.attach, _PLACES[name])


def _map(name: str) -> Callable[[], None]:
    """The check of a kind of map."""
    return lambda: _permitted(name, trial.create, name)


def _btf() -> str:
    found = vmlinux()
    if found is None:
        raise Unavailable(f"there is no {VMLINUX}. Boot a kernel with CONFIG_DEBUG_INFO_BTF=y")
    return f"{os.stat(VMLINUX).st_size / 1e6:.1f} MB"


def _bpf() -> None:
    bpf.check_permission()


def _tracefs() -> str:
    tracefs.tracepoint_id("oom", "mark_victim")
    return tracefs.mounted() or "not mounted; the commands mount it for themselves alone"


def _bcc() -> str:
    directory = compiler.bcc_directory()
    if directory is None:
        raise compiler.not_installed()
    version = sysfs.text(directory, "version.py") or ""
    return ", ".join(filter(None, (version.partition("'")[2].partition("'")[0], _llvm())))


def _llvm() -> str:
    """The LLVM that bcc's library is linked with, "" where that is not known."""
    import mmap
    import re

    for path in glob.glob("/usr/lib*/libbcc.so.0") + glob.glob("/usr/lib/*/libbcc.so.0"):
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as data:
            found = re.search(rb"libLLVM[-.](?:so\.)?(\d+)|clang version (\d+)", data)
            if found:
                return "clang " + (found.group(1) or found.group(2)).decode()
    return ""


def _headers() -> str:
    place = kernel_headers()
    if vmlinux() is not None:
        return f"not needed beside BTF; {place or 'not installed'}"
    if place is None:
        raise Unavailable(f"not installed. Install the headers package of {os.uname().release}")
    return place


def _bpf_stats() -> str:
    state = sysfs.text("/proc/sys/kernel/bpf_stats_enabled")
    if state is None:
        raise Unavailable("there is no sysctl kernel.bpf_stats_enabled. It needs Linux 5.1")
    if state == "0":
        return "off. For the cost of programs in bpftool prog: sysctl kernel.bpf_stats_enabled=1"
    return "on"


def _lockdown() -> str:
    """lockdown_read(), security/lockdown/lockdown.c: the level in force is in brackets."""
    text = sysfs.text("/sys/kernel/security/lockdown")
    if text is None and os.path.exists("/sys/kernel/security/lsm"):
        return "the kernel has none"
    if text is None:
        raise Unknown(
            "securityfs is not mounted. Try: mount -t securityfs none /sys/kernel/security"
        )
    level = text.partition("[")[2].partition("]")[0]
    if level == "confidentiality":
        raise Unavailable(
            "the level confidentiality forbids BPF programs, perf events and probes to read "
            "kernel memory. Boot without lockdown=confidentiality"
        )
    return level


def _kallsyms() -> str:
    from ..symbols import kallsyms

    kallsyms.check()
    return f"kptr_restrict {sysfs.text('/proc/sys/kernel/kptr_restrict') or 'unknown'}"


def _perf_map() -> str:
    number = len(glob.glob("/tmp/perf-*.map"))
    return f"{number} of /tmp/perf-PID.map; runtimes with a JIT write them on request"


def _ptrace() -> str:
    level = ptrace.check()
    return f"yama.ptrace_scope {level}" if level else "no Yama"


def _perf_events() -> str:
    try:
        os.close(event.open_event(event.TYPE_SOFTWARE, 0))  # PERF_COUNT_SW_CPU_CLOCK
    except FileNotFoundError as exc:
        raise Unavailable(f"cannot count software events: {exc.strerror}") from None
    except OSError as exc:
        raise event.refusal(exc, True) or exc from None
    return f"perf_event_paranoid {sysfs.text('/proc/sys/kernel/perf_event_paranoid') or 'unknown'}"


def _pmu() -> str:
    from ..pmu import session

    return session.check()


def _clock(name: str) -> Callable[[], None]:
    """The check of a source of showboost."""

    def check() -> None:
        from ..cpu import clock

        lines: list[str] = []
        try:
            clock.choose(sysfs.online_cpus()[:1], name, lines.append)
        except Unavailable:  # the reason in it is that of all sources together
            raise Unavailable(lines[-1].partition(": ")[2]) from None

    return check


def _msr() -> None:
    from ..cpu import msr

    cpu = sysfs.online_cpus()[0]
    if msr.Registers().read(cpu, msr.IA32_TSC) is None:
        raise Unavailable(f"CPU {cpu} refuses to read a register")


def _sensors() -> str:
    from ..cpu import thermal

    found = [sensor for sensor in thermal.sensors() if sensor.read() is not None]
    if not found:
        raise Unavailable(
            f"no hardware monitor or thermal zone shows a temperature. {thermal.remedy()}"
        )
    return " ".join(dict.fromkeys(sensor.source for sensor in found))


def _thermal_msr() -> None:
    from ..cpu import msr, thermal

    found = thermal.registers(msr.Registers())
    if not any(sensor.read() is not None for sensor in found):
        raise Unavailable("no thermal register of a CPU holds a temperature")


def _throttling() -> None:
    from ..cpu import thermal

    if not thermal.throttle_counts() and not thermal.cooling():
        raise Unavailable("there are no throttle counts and no cooling devices of CPUs")


def _psi() -> str:
    return " ".join(sample for sample in next(iter(pressure.Reader().read().values())))


def _psi_cgroup() -> str:
    for point, _, v1 in cgroup.mounts():
        with os.scandir(point) as entries:
            below = [entry.path for entry in entries if entry.is_dir()] if v1 is None else []
        for path in below:
            return " ".join(next(iter(pressure.Reader(path).read().values())))
    if any(v1 is None for _, _, v1 in cgroup.mounts()):
        return "there is no cgroup below the root"
    raise Unavailable(
        "no cgroup v2 file system is mounted: pressure is kept for those cgroups only"
    )


def _taskstats() -> str:
    from ..net import taskstats

    source = taskstats.Taskstats()
    source.read([os.getpid()])
    return " ".join(source.names)


def _delayacct() -> str:
    from ..net import taskstats

    if proc.kernel_option("CONFIG_TASK_DELAY_ACCT") is False:
        raise Unavailable("the kernel was built without CONFIG_TASK_DELAY_ACCT")
    if not taskstats.switched_on():
        raise Unavailable(taskstats.OFF)
    return ""


def _schedstat() -> None:
    if not os.path.exists("/proc/schedstat"):
        raise Unavailable("the kernel was built without CONFIG_SCHEDSTATS. Boot one that has it")


def _cgroup() -> str:
    mounts = cgroup.mounts()
    if not mounts:
        raise Unavailable("no cgroup file system is mounted")
    parts = []
    for point, _, v1 in mounts:
        if v1 is None:
            names = (sysfs.text(point, "cgroup.controllers") or "").split()
            parts.append(f"v2 at {point}: {' '.join(names) or 'no controllers'}")
    first = sorted({name for _, _, v1 in mounts for name in v1 or ()})
    return "; ".join(parts + ([f"v1: {' '.join(first)}"] if first else []))


def _proc_syscall() -> None:
    from ..sched import state_samples

    state_samples.check()


def _kmsg() -> None:
    from ..memory import oom_log

    os.close(oom_log.opened())


def _pyroute2() -> str:
    from ..net import observer

    beside = glob.glob(observer.find_pyroute2() + "-*-info")  # pyroute2-0.5.14.egg-info
    return os.path.basename(beside[0]).split("-")[1].rpartition(".")[0] if beside else ""


def _cachestat() -> None:
    from ..memory import residency

    residency.Residency(force_cachestat=True)


def _damon() -> None:
    from ..memory import damon

    damon.check()
    if proc.kernel_option("CONFIG_DAMON_VADDR") is None:
        raise Unknown(
            "whether the kernel has CONFIG_DAMON_VADDR shows when it is set up: wss --source damon"
        )


def _idle_page() -> None:
    from ..memory import idle

    idle.IdlePages()


def _clear_refs() -> None:
    from ..memory.process import Process

    process = Process(os.getpid())
    process.probe()
    process.close()


def _kpagecgroup() -> None:
    from ..memory import owners

    owners.Owners()


# In the order of the output.
CHECKS: dict[str, Callable[[], str | None]] = {
    "bpf": _bpf,
    "btf": _btf,
    **{name: _program(name) for name in (*_PLACES, *_UPROBES)},
    **{name: _map(name) for name in trial.MAPS},
    "tracefs": _tracefs,
    "bpf_stats": _bpf_stats,
    "lockdown": _lockdown,
    "bcc": _bcc,
    "headers": _headers,
    "kallsyms": _kallsyms,
    "perf_map": _perf_map,
    "ptrace": _ptrace,
    "perf_events": _perf_events,
    "pmu": _pmu,
    "msr_pmu": _clock("perf"),
    "msr": _msr,
    "aperf_msr": _clock("msr"),
    "thermal_msr": _thermal_msr,
    "cppc": _clock("cppc"),
    "cpufreq": _clock("cpufreq"),
    "loop": _clock("loop"),
    "sensors": _sensors,
    "throttling": _throttling,
    "psi": _psi,
    "psi_cgroup": _psi_cgroup,
    "taskstats": _taskstats,
    "delayacct": _delayacct,
    "schedstat": _schedstat,
    "proc_syscall": _proc_syscall,
    "kmsg": _kmsg,
    "cachestat": _cachestat,
    "clear_refs": _clear_refs,
    "idle_page": _idle_page,
    "damon": _damon,
    "kpagecgroup": _kpagecgroup,
    "cgroup": _cgroup,
    "pyroute2": _pyroute2,
}


def answers(names: Iterable[str]) -> dict[str, Answer]:
    """{name: Answer} of checks, in the order of CHECKS.  Raises Stopped at a stop."""
    wanted, found = set(names), {}
    for name, check in CHECKS.items():
        if cli.stopping():
            raise Stopped
        if name in wanted:
            found[name] = answer(check)
    return found
