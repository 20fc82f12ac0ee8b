# SPDX-License-Identifier: GPL-2.0-or-later
"""Which state a sleep in a system call is."""

import stat

import pytest

from crisis.kernel import call_numbers
from crisis.sched import states, thread_states


def test_every_call_that_is_known_has_a_class():
    """Or is "other" on purpose: to send to a full queue, and what stands for many calls."""
    others = {"ipc", "msgsnd", "mq_timedsend", "mq_timedsend_time64"}
    assert set(states.call_classes()) == set(call_numbers.NUMBERS) - others
    for pair in states.call_classes().values():
        assert set(pair) <= set(states.CLASSES)


@pytest.mark.parametrize("machine, futex, read", [("x86_64", 202, 0), ("aarch64", 98, 63)])
def test_the_table_has_both_classes_of_a_call(machine, futex, read):
    table = states.class_table(machine)
    assert len(table) == 2 * call_numbers.COMPAT
    other = states.number_of("other")
    assert table[futex] == states.number_of("futex") | other << 8
    assert table[futex + 1] == other | other << 8 or futex + 1 in call_numbers.names(machine)
    assert table[read] == states.number_of("read") | other << 8
    assert table[call_numbers.COMPAT + 240] == states.number_of("futex") | other << 8
    fsync = call_numbers.numbers(machine)["fsync"][0]
    assert table[fsync] == states.number_of("disk") * 0x101
    assert table[511] == other * 0x101


def test_the_buckets_of_a_thread_hold_all_traced_states():
    defines = thread_states.SOURCES["tracing"].defines
    assert len(states.TRACED) <= defines["BUCKETS"]
    assert defines["BUCKETS"] & defines["BUCKETS"] - 1 == 0
    assert defines["STATE_CPU"] == 0 and defines["STATE_RUNQ"] == 1
    assert defines["CLASS_READ"] == len(states.TRACED)


@pytest.mark.parametrize(
    "operation, value, expected",
    [
        (0x80, 2, "lock"),  # pthread_mutex_lock(), Go's lock2()
        (0x89, 2, "lock"),  # Rust's Mutex
        (0x80, 0x80001234, "lock"),  # a robust mutex, musl
        (0x86, 0, "lock"),  # FUTEX_LOCK_PI
        (0x8D, 0, "lock"),  # FUTEX_LOCK_PI2
        (0x189, 0, "condition"),  # pthread_cond_wait(), sem_wait()
        (0x189, 2, "condition"),  # pthread_cond_wait() of glibc 2.41
        (0x89, 0xFFFFFFFF, "condition"),  # thread::park() of Rust
        (0x80, 0, "condition"),  # Go's notesleep()
        (0x109, 4711, "shared"),  # pthread_join()
        (0x189 - 0x80, 0, "shared"),  # sem_wait() between processes
        (0, 2, "lock"),  # a mutex between processes
    ],
)
def test_futexes(operation, value, expected):
    assert states.futex_class(operation, value) == expected
    # As /proc/PID/syscall may have them, and as a register has them.
    assert states.futex_class(operation, value | 0xFFFFFFFF << 32) == expected


@pytest.mark.parametrize(
    "kind, reads, writes",
    [
        (stat.S_IFSOCK, "net", "net"),
        (stat.S_IFIFO, "idle", "other"),
        (stat.S_IFCHR, "idle", "other"),
        (0, "idle", "other"),
        (stat.S_IFREG, "other", "other"),
        (stat.S_IFBLK, "other", "other"),
    ],
)
def test_files(kind, reads, writes):
    assert states.file_class(kind | 0o600, True) == reads
    assert states.file_class(kind | 0o600, False) == writes


def test_a_virtual_cpu_is_idle():
    assert states.ioctl_class(0xAE80) == "idle"
    assert states.ioctl_class(0x5401) == "other"
