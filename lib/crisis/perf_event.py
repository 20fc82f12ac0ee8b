# SPDX-License-Identifier: GPL-2.0-or-later
"""perf_event_open(2): software, tracepoint, kprobe and uprobe events, and a BPF program on each.

Follows include/uapi/linux/perf_event.h and
Documentation/ABI/testing/sysfs-bus-event_source-devices-*.
"""

import ctypes
import os
import struct

from . import syscalls
from .errors import Unavailable

__all__ = ["open_event", "attach", "pmu_type", "retprobe_bit", "tracepoint_id",
           "TYPE_SOFTWARE", "TYPE_TRACEPOINT"]

TYPE_SOFTWARE, TYPE_TRACEPOINT = 1, 2

_ATTR_SIZE = 112                # PERF_ATTR_SIZE_VER5
_FLAG_FD_CLOEXEC = 8
_FREQ = 1 << 10                 # attr.freq: sample_period is a frequency
_IOC_ENABLE, _IOC_SET_BPF = 0x2400, 0x40042408
_SYSFS = "/sys/bus/event_source/devices"


def open_event(type_, config, pid=-1, cpu=0, config1=0, config2=0, period=0, frequency=0):
    """The descriptor of one event.

    pid: thread, -1 for all; cpu: -1 for all (needs a pid).
    period: events, or frequency: samples a second.
    Raises OSError.
    """
    attr = ctypes.create_string_buffer(struct.pack(
        "=IIQQQQQIIQQ", type_, _ATTR_SIZE, config, frequency or period, 0, 0,
        _FREQ if frequency else 0, 1, 0, config1, config2), _ATTR_SIZE)
    return syscalls.call("perf_event_open", attr, pid, cpu, -1, _FLAG_FD_CLOEXEC)


def attach(event, program):
    """Run the BPF program (a descriptor) on each occurrence of the event.  Raises OSError."""
    syscalls.ioctl(event, _IOC_SET_BPF, program)
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
    """The id of a tracepoint, from tracefs wherever it is mounted, or from a mount of our own.

    Raises Unavailable when the kernel has no such tracepoint or no tracefs,
    OSError when reading it is refused.
    """
    path = "events/%s/%s/id" % (category, name)
    for root in "/sys/kernel/tracing", "/sys/kernel/debug/tracing":
        try:
            with open(os.path.join(root, path)) as f:
                return int(f.read())
        except FileNotFoundError:
            if os.path.exists(os.path.join(root, "events")):
                raise Unavailable("this kernel has no tracepoint %s:%s" % (category, name)) from None
    try:
        mount = _detached_tracefs()
    except OSError as exc:
        if exc.errno in (1, 13):
            raise
        raise Unavailable("tracefs cannot be mounted: %s" % exc.strerror) from None
    try:
        fd = os.open(path, os.O_RDONLY, dir_fd=mount)
    except FileNotFoundError:
        raise Unavailable("this kernel has no tracepoint %s:%s" % (category, name)) from None
    finally:
        os.close(mount)
    with os.fdopen(fd) as f:
        return int(f.read())


def _detached_tracefs():
    """A descriptor of a tracefs mount that appears nowhere in the file system (Linux 5.2)."""
    name = ctypes.create_string_buffer(b"tracefs")
    context = syscalls.call("fsopen", name, 1)
    try:
        syscalls.call("fsconfig", context, 6, 0, 0, 0)     # FSCONFIG_CMD_CREATE
        return syscalls.call("fsmount", context, 1, 0)
    finally:
        os.close(context)
