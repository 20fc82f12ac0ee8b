# SPDX-License-Identifier: GPL-2.0-or-later
"""The states of thread state analysis, and which of them a sleep in a system call is.

The states are those of Brendan Gregg's TSA method.  A class is a state, or stands for a decision by
the call's arguments, which progs/tsa.bpf.c and `sampled_states` take.
"""

from __future__ import annotations

import stat

from ..kernel import call_numbers

__all__ = [
    "ACTIONABLE",
    "CLASSES",
    "STATES",
    "TRACED",
    "call_classes",
    "class_table",
    "file_class",
    "futex_class",
    "ioctl_class",
    "number_of",
]

# What is shown; the first two are the time on a CPU.
STATES = ("user", "sys", "runq", "disk", "swap", "net", "lock", "sleep", "idle", "other")
# The states that the program distinguishes.  A wait for a semaphore or condition variable, of a
# process or in shared memory, becomes LOCK or IDLE when it ends, as does one that ended by a timer.
TRACED = ("cpu", *STATES[2:], "condition", "shared", "timeout", "gone")
CLASSES = (*TRACED, "read", "write", "futex", "ioctl")
ACTIONABLE = ("runq", "disk", "swap", "lock")  # what the rows are ordered by

# Calls by the class of an interruptible sleep; any other sleep in them is "other".
_INTERRUPTIBLE = {
    "read": "read readv pread64 preadv preadv2 splice",
    "write": "write writev pwrite64 pwritev pwritev2 sendfile sendfile64 vmsplice",
    "futex": "futex futex_time64",
    "ioctl": "ioctl",
    "shared": "futex_wait futex_waitv",
    "lock": "flock fcntl fcntl64 semop semtimedop semtimedop_time64",
    "sleep": "nanosleep clock_nanosleep clock_nanosleep_time64",
    "net": "connect recv recvfrom recvmsg recvmmsg recvmmsg_time64 send sendto sendmsg sendmmsg"
    " socketcall",
    "idle": "poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_wait"
    " epoll_pwait epoll_pwait2 accept accept4 wait4 waitid waitpid pause sigsuspend rt_sigsuspend"
    " rt_sigtimedwait rt_sigtimedwait_time64 msgrcv mq_timedreceive mq_timedreceive_time64"
    " io_uring_enter restart_syscall",
}
# Calls with the same class for every sleep.  The journal of a file system is awaited without being
# marked as I/O wait, and the parent of vfork(2) waits uninterruptibly for its child.
_ANY = {
    "disk": "fsync fdatasync sync syncfs msync sync_file_range copy_file_range"
    " io_getevents io_pgetevents io_pgetevents_time64",
    "idle": "clone clone3 vfork",
}


def number_of(name: str) -> int:
    """The number by which programs know a class."""
    return CLASSES.index(name)


def call_classes() -> dict[str, tuple[str, str]]:
    """{system call: (class of an interruptible sleep, class of any other)}."""
    found = {
        call: (kind, "other") for kind, calls in _INTERRUPTIBLE.items() for call in calls.split()
    }
    found.update((call, (kind, kind)) for kind, calls in _ANY.items() for call in calls.split())
    return found


def class_table(machine: str | None = None) -> list[int]:
    """The entries of the map `classes`, by number of a system call, and behind them those of 32-bit
    programs: the class of an interruptible sleep, and << 8 that of any other.

    machine: as for call_numbers.numbers().
    """
    other = number_of("other")
    table = [other | other << 8] * (2 * call_numbers.COMPAT)
    known = call_numbers.numbers(machine)
    for call, (interruptible, any_other) in call_classes().items():
        for number in known.get(call, ()):
            table[number] = number_of(interruptible) | number_of(any_other) << 8
    return table


# The decisions that progs/tsa.bpf.c takes, for /proc/PID/syscall.


def file_class(mode: int, reads: bool) -> str:
    """The class of a wait for a file.  mode: its st_mode, without a type for eventfd and others."""
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFSOCK:
        return "net"
    return "idle" if reads and kind in (0, stat.S_IFIFO, stat.S_IFCHR) else "other"


def futex_class(operation: int, value: int) -> str:
    """The class of a wait in futex(2), by its second and third argument.

    See futex_state() in progs/tsa.bpf.c.
    """
    operation, value = operation & 0xFFFFFFFF, value & 0xFFFFFFFF
    command = operation & 0x7F
    if command in (6, 13):  # FUTEX_LOCK_PI, FUTEX_LOCK_PI2
        return "lock"
    # FUTEX_WAIT; FUTEX_WAIT_BITSET without FUTEX_CLOCK_REALTIME
    plain = command == 0 or command == 9 and not operation & 0x100
    if plain and (value == 2 or value & 0x80000000 and value != 0xFFFFFFFF):
        return "lock"
    return "condition" if operation & 0x80 else "shared"


def ioctl_class(request: int) -> str:
    """The class of a wait in ioctl(2): a virtual CPU without work waits in KVM_RUN."""
    return "idle" if request & 0xFFFFFFFF == 0xAE80 else "other"
