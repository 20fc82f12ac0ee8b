# SPDX-License-Identifier: GPL-2.0-or-later
import ctypes
import errno
import os
import re

import pytest

from crisis.kernel import syscalls

HEADER = "/usr/include/asm-generic/unistd.h"
X86_64 = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"


def test_a_call_that_fails_has_the_kernels_errno():
    with pytest.raises(OSError) as caught:
        syscalls.call("membarrier", -1, 0)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError) as caught:
        syscalls.call("no_such_call")
    assert caught.value.errno == errno.ENOSYS and "no_such_call" in str(caught.value)


def test_a_call_returns_its_result():
    assert syscalls.call("membarrier", 0, 0) > 0  # MEMBARRIER_CMD_QUERY: a mask of commands


def test_ioctl():
    readable, writable = os.pipe()
    try:
        os.write(writable, b"12345")
        waiting = ctypes.c_int()
        assert syscalls.ioctl(readable, 0x541B, syscalls.address(waiting)) == 0  # FIONREAD
        assert waiting.value == 5
        with pytest.raises(OSError) as caught:
            syscalls.ioctl(readable, 0x5413)  # TIOCGWINSZ, of terminals
        assert caught.value.errno == errno.ENOTTY
    finally:
        os.close(readable)
        os.close(writable)


def test_numbers_are_those_of_the_headers():
    path = X86_64 if os.uname().machine == "x86_64" else HEADER
    if not os.path.exists(path):
        pytest.skip(f"{path} is not installed")
    with open(path) as f:
        numbers = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)\b", f.read()))
    assert {"bpf", "perf_event_open", "membarrier"} <= set(numbers)
    for name, number in syscalls.NUMBERS.items():
        assert numbers.get(name) in (str(number), None), name  # None: older headers


def test_a_mount_that_appears_nowhere():
    try:
        fd = syscalls.detached_mount("tmpfs")
    except OSError as exc:
        assert os.geteuid() or exc.errno in (errno.EPERM, errno.ENOSYS)
        pytest.skip(f"no mount: {exc.strerror}")
    try:
        with open(f"/proc/self/fd/{fd}/file", "w") as f:
            f.write("x")
        assert os.listdir(f"/proc/self/fd/{fd}") == ["file"]
        with open("/proc/self/mountinfo") as f:
            assert not [line for line in f if os.fstat(fd).st_dev == device(line)]
    finally:
        os.close(fd)


def device(line):
    major, minor = map(int, line.split()[2].split(":"))
    return os.makedev(major, minor)
