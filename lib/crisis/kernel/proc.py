# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes, threads, the PID namespace and the totals of the system, from /proc.

Follows proc(5) and Documentation/filesystems/proc.rst.  Every function takes
root="/", so that a fixture tree can stand in.
"""

from __future__ import annotations

import os

from ..errors import Error
from .sysfs import read

__all__ = [
    "thread_count",
    "capable",
    "check_process",
    "check_thread",
    "process_of",
    "processes",
    "in_initial_pid_namespace",
    "kernel_option",
    "unescape_mount",
    "cpuinfo",
    "meminfo",
    "vmstat",
]

_INITIAL_PID_NS = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h


def thread_count(root: str = "/") -> int:
    """The number of threads that exist on the system: /proc/loadavg's fourth field."""
    return int(read(root, "proc/loadavg").split()[3].partition("/")[2])


def _status(pid: int, root: str) -> dict[str, str] | None:
    if pid >= 1 << 31:  # of no pid_t
        return None
    try:
        text = read(root, f"proc/{pid}/status")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def check_process(pid: int, root: str = "/") -> None:
    """Raise Error unless `pid` is a live process (and not merely a thread of one)."""
    status = _status(pid, root)
    if status is None:
        raise Error(f"no such process: {pid}")
    if int(status["Tgid"]) != pid:
        raise Error(f"{pid} is a thread of process {status['Tgid']}, not a process")


def check_thread(tid: int, root: str = "/") -> None:
    """Raise Error unless `tid` is a live thread."""
    if _status(tid, root) is None:
        raise Error(f"no such thread: {tid}")


def capable(capability: int, root: str = "/") -> bool:
    """Whether this process has a capability, by its number, in its effective set."""
    for line in read(root, "proc/self/status").splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> capability & 1)
    return False


def process_of(tid: int, root: str = "/") -> int:
    """The PID of the process that a thread is of.  Raises Error when there is no such thread."""
    status = _status(tid, root)
    if status is None:
        raise Error(f"no such thread: {tid}")
    return int(status["Tgid"])


def processes(root: str = "/") -> list[int]:
    """The PIDs of all processes, in no order.

    Raises OSError (ENOENT) where /proc is not mounted.
    """
    if root == "/":
        os.lstat("/proc/self")
    return [int(name) for name in os.listdir(os.path.join(root, "proc")) if name.isdigit()]


def in_initial_pid_namespace(root: str = "/") -> bool:
    """True where the PIDs that we see are the ones that the kernel's programs see."""
    try:
        return os.readlink(os.path.join(root, "proc/self/ns/pid")) == f"pid:[{_INITIAL_PID_NS}]"
    except OSError:
        return True


def kernel_option(name: str, root: str = "/", module: bool = False) -> bool | None:
    """Whether a CONFIG_ option is y in the kernel's configuration.

    module: or m.
    That is /boot/config-RELEASE or /proc/config.gz; None where neither can be read.
    """
    for path in "boot/config-" + os.uname().release, "proc/config.gz":
        try:
            with open(os.path.join(root, path), "rb") as f:
                raw = f.read()
        except OSError:
            continue
        if path.endswith(".gz"):
            import zlib

            try:
                raw = zlib.decompress(raw, 31)
            except zlib.error:  # hidden, in a container
                continue
        lines = raw.splitlines()
        return any(f"{name}={value}".encode() in lines for value in ("ym" if module else "y"))
    return None


def unescape_mount(text: str) -> str:
    r"""A field of /proc/PID/mountinfo with its \040-style escapes undone."""
    if "\\" not in text:
        return text
    head, *rest = text.split("\\")
    return head + "".join(
        chr(int(part[:3], 8)) + part[3:] if part[:3].isdigit() else "\\" + part for part in rest
    )


def cpuinfo(root: str = "/") -> dict[str, str]:
    """{field: text} of the first CPU in /proc/cpuinfo."""
    fields: dict[str, str] = {}
    with open(os.path.join(root, "proc/cpuinfo"), encoding="utf-8", errors="replace") as f:
        for line in f:
            name, colon, value = line.partition(":")
            if colon:
                fields.setdefault(name.strip(), value.strip())
            elif fields:
                break  # the first CPU is enough; 512 of them are long
    return fields


def meminfo(root: str = "/") -> dict[str, int]:
    """{field: bytes} of /proc/meminfo; a field without a unit (HugePages_Total) stays a number."""
    found = {}
    for line in read(root, "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        fields = value.split()
        found[name] = int(fields[0]) * (1024 if fields[1:] == ["kB"] else 1)
    return found


def vmstat(name: str, root: str = "/") -> int:
    """A counter of /proc/vmstat.  Raises KeyError for one that this kernel lacks."""
    for line in read(root, "proc/vmstat").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    raise KeyError(name)
