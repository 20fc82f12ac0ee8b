# SPDX-License-Identifier: GPL-2.0-or-later
"""perf_event_open(2): single events, and BPF programs on them.

Follows include/uapi/linux/perf_event.h and kernel/events/core.c.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from ..errors import Error, NotPermitted
from ..kernel import syscalls

__all__ = [
    "TYPE_HARDWARE",
    "TYPE_SOFTWARE",
    "TYPE_TRACEPOINT",
    "TYPE_HW_CACHE",
    "FLAG_PID_CGROUP",
    "DISABLED",
    "INHERIT",
    "EXCLUDE_KERNEL",
    "EXCLUDE_HV",
    "ENABLE_ON_EXEC",
    "Event",
    "open_event",
    "open_member",
    "attach",
    "enable",
    "disable",
    "refusal",
]

TYPE_HARDWARE, TYPE_SOFTWARE, TYPE_TRACEPOINT, TYPE_HW_CACHE = range(4)
FLAG_PID_CGROUP = 4  # pid is a descriptor of a cgroup directory
# Bits of perf_event_attr that a counter may be opened with.
DISABLED, INHERIT = 1 << 0, 1 << 1
EXCLUDE_KERNEL, EXCLUDE_HV, ENABLE_ON_EXEC = 1 << 5, 1 << 6, 1 << 12
_ATTR_SIZE = 112  # PERF_ATTR_SIZE_VER5
_FLAG_FD_CLOEXEC = 8
_FREQ = 1 << 10  # attr.freq: sample_period is a frequency
_READ_GROUP = 1 | 2 | 8  # PERF_FORMAT_TOTAL_TIME_ENABLED, _TOTAL_TIME_RUNNING, _GROUP
_IOC_ENABLE, _IOC_DISABLE, _IOC_SET_BPF = 0x2400, 0x2401, 0x40042408


class Event:
    """One event: perf_event_attr's type, config, config1 and config2; the name is for messages."""

    __slots__ = ("type", "config", "config1", "config2", "name")

    def __init__(
        self, type_: int, config: int, config1: int = 0, config2: int = 0, name: str = ""
    ) -> None:
        self.type, self.config, self.config1, self.config2, self.name = (
            type_,
            config,
            config1,
            config2,
            name,
        )

    def __repr__(self) -> str:
        words = f"{self.config:#x}, {self.config1:#x}, {self.config2:#x}"
        return f"Event({self.type}, {words}, {self.name!r})"


def _attr(
    type_: int,
    config: int,
    config1: int,
    config2: int,
    bits: int,
    period: int = 0,
    read_format: int = 0,
    wakeup: int = 0,
) -> ctypes.Array[ctypes.c_char]:
    """A perf_event_attr.

    period: events, or with _FREQ in bits samples a second.  wakeup: samples until a reader is
    woken.
    """
    return ctypes.create_string_buffer(
        struct.pack(
            "=IIQQQQQIIQQ",
            type_,
            _ATTR_SIZE,
            config,
            period,
            0,
            read_format,
            bits,
            wakeup,
            0,
            config1,
            config2,
        ),
        _ATTR_SIZE,
    )


def open_event(
    type_: int,
    config: int,
    pid: int = -1,
    cpu: int = 0,
    config1: int = 0,
    config2: int = 0,
    period: int = 0,
    frequency: int = 0,
) -> int:
    """The descriptor of one event.

    pid: thread, -1 for all; cpu: -1 for all (needs a pid).
    period: events, or frequency: samples a second.
    Raises OSError.
    """
    attr = _attr(
        type_, config, config1, config2, _FREQ if frequency else 0, frequency or period, wakeup=1
    )
    return syscalls.call("perf_event_open", attr, pid, cpu, -1, _FLAG_FD_CLOEXEC)


def open_member(event: Event, pid: int, cpu: int, leader: int, bits: int, flags: int) -> int:
    """The descriptor of one member of a group.

    leader: the descriptor of its first member, -1 to open that one.
    Raises OSError.
    """
    attr = _attr(
        event.type, event.config, event.config1, event.config2, bits, read_format=_READ_GROUP
    )
    return syscalls.call("perf_event_open", attr, pid, cpu, leader, flags | _FLAG_FD_CLOEXEC)


def attach(event: int, program: int) -> None:
    """Run the BPF program (a descriptor) on each occurrence of the event.  Raises OSError."""
    syscalls.ioctl(event, _IOC_SET_BPF, program)
    enable(event)


def enable(event: int) -> None:
    """Start an event, or the group that it leads.  Raises OSError."""
    syscalls.ioctl(event, _IOC_ENABLE)


def disable(event: int) -> None:
    """Stop an event, or the group that it leads.  Raises OSError."""
    syscalls.ioctl(event, _IOC_DISABLE)


def refusal(exc: OSError, system_wide: bool) -> Error | None:
    """The error to raise for an OSError of perf_event_open(2), or None.

    It is for lack of privileges or of descriptors.

    system_wide: whether the event was to be counted for all tasks.
    """
    if exc.errno == errno.EMFILE:
        return Error(
            "cannot open more counters: too many open files. Raise the limit with ulimit -n"
        )
    if exc.errno not in (errno.EPERM, errno.EACCES):
        return None
    try:
        with open("/proc/sys/kernel/perf_event_paranoid") as f:
            level = f.read().strip()
    except OSError:
        level = "unknown"
    needed = "at most 0" if system_wide else "at most 2 for a process that one may trace"
    return NotPermitted(
        f"cannot count events: not permitted with kernel.perf_event_paranoid at {level}; it takes "
        f"{needed}, or CAP_PERFMON. Run as root; in a container a seccomp profile may forbid it too"
    )
