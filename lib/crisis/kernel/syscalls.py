# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls that neither Python nor libc wraps, by ctypes.

Numbers follow arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h (arm64, riscv64); ppc64le and s390x have
their own tables.  A call that fails raises OSError with the kernel's errno.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["NUMBERS", "call", "ioctl", "address", "detached_mount"]

_COMMON = {"fsopen": 430, "fsconfig": 431, "fsmount": 432}  # the same on every architecture
_NUMBERS = {
    "x86_64": {"bpf": 321, "perf_event_open": 298, "membarrier": 324},
    "aarch64": {"bpf": 280, "perf_event_open": 241, "membarrier": 283},
    "riscv64": {"bpf": 280, "perf_event_open": 241, "membarrier": 283},
    "ppc64le": {"bpf": 361, "perf_event_open": 319, "membarrier": 365},
    "s390x": {"bpf": 351, "perf_event_open": 331, "membarrier": 356},
}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
NUMBERS = dict(_COMMON, **_NUMBERS.get(os.uname().machine, {}))


def call(name: str, *arguments: Any) -> int:
    """The result of the system call; integers and ctypes objects are passed as 64-bit words.

    Raises OSError with errno ENOSYS for a call that this architecture's table lacks.
    """
    number = NUMBERS.get(name)
    if number is None:
        raise OSError(38, f"{name} is not known on {os.uname().machine}")
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def ioctl(fd: int, request: int, argument: int = 0) -> int:
    """ioctl(2) with an integer argument.  Raises OSError."""
    result: int = _libc.ioctl(fd, ctypes.c_ulong(request), ctypes.c_long(argument))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def address(buffer: Any) -> int:
    """The address of a ctypes buffer, which the caller must keep alive."""
    return ctypes.addressof(buffer)


def detached_mount(filesystem: str) -> int:
    """A descriptor of a new mount that appears nowhere in the file system (Linux 5.2).

    The mount ends with its last user.

    filesystem: "tmpfs", "tracefs".  Needs CAP_SYS_ADMIN.  Raises OSError.
    """
    context = call("fsopen", ctypes.create_string_buffer(filesystem.encode()), 1)  # FSOPEN_CLOEXEC
    try:
        call("fsconfig", context, 6, 0, 0, 0)  # FSCONFIG_CMD_CREATE
        return call("fsmount", context, 1, 0)  # FSMOUNT_CLOEXEC
    finally:
        os.close(context)
