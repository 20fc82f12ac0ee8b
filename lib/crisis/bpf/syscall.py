# SPDX-License-Identifier: GPL-2.0-or-later
"""bpf(2), and what its callers need around it.

Follows include/uapi/linux/bpf.h (union bpf_attr).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from ..errors import NotPermitted, file_limit
from ..kernel import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


__all__ = [
    "DENIED",
    "bpf",
    "opened",
    "name_of",
    "possible_cpus",
    "grace_period",
    "permitted",
    "check_permission",
    "denied",
    "raise_memlock",
]

(MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_NEXT_KEY, PROG_LOAD) = range(6)
RAW_TRACEPOINT_OPEN, BTF_LOAD, LINK_CREATE, ITER_CREATE = 17, 18, 28, 33
MAP_LOOKUP_BATCH, MAP_DELETE_BATCH = 24, 27

PROG_RAW_TRACEPOINT = 17  # a type of programs that every kernel has
DENIED = (errno.EPERM, errno.EACCES)


def bpf(command: int, attr: bytes) -> tuple[int, bytes]:
    """bpf(2); returns (result, the attr bytes as the kernel left them)."""
    buffer = ctypes.create_string_buffer(attr, max(len(attr), 144))
    return opened(syscalls.call, "bpf", command, buffer, len(buffer)), buffer.raw


def opened(function: Callable[..., int], *arguments: Any, **options: Any) -> int:
    """The result of a function that opens a file.

    Raises as it does, and Error with the remedy when no more may be open.
    """
    try:
        return function(*arguments, **options)
    except OSError as exc:
        raise file_limit(exc) or exc from None


def name_of(text: str) -> bytes:
    """A name as the kernel takes it: 15 of [A-Za-z0-9_.]."""
    known = [c if (c.isalnum() and c.isascii()) or c in "_." else "_" for c in text]
    return "".join(known)[:15].encode()


def possible_cpus(root: str = "/") -> int:
    """How many CPUs per-CPU maps have values for: the highest possible number plus one."""
    with open(os.path.join(root, "sys/devices/system/cpu/possible")) as f:
        return int(f.read().strip().rpartition("-")[2].rpartition(",")[2]) + 1


def grace_period() -> None:
    """Return when every BPF program that was running has ended (an RCU grace period).

    membarrier(2)'s MEMBARRIER_CMD_GLOBAL is synchronize_rcu, and a tracing
    program runs inside an RCU read section.
    """
    try:
        syscalls.call("membarrier", 1, 0, 0)
    except OSError:  # nohz_full CPUs: refused.  A program runs for microseconds.
        import time

        time.sleep(0.02)


def permitted() -> bool:
    """True when this process may load a tracing program."""
    code = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0), 16)
    licence = ctypes.create_string_buffer(b"GPL")
    try:
        fd, _ = bpf(
            PROG_LOAD,
            struct.pack(
                "=IIQQ", PROG_RAW_TRACEPOINT, 2, syscalls.address(code), syscalls.address(licence)
            ),
        )
    except OSError as exc:
        return exc.errno not in DENIED
    os.close(fd)
    return True


def check_permission() -> None:
    """Raises NotPermitted unless this process may load a tracing program."""
    if not permitted():
        raise denied("load BPF programs", None)


def raise_memlock() -> None:
    """Kernels before 5.11 charge maps to RLIMIT_MEMLOCK.  A refusal is no error by itself."""
    import resource

    try:
        resource.setrlimit(
            resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
    except (OSError, ValueError):
        pass


def denied(what: str, exc: OSError | None) -> NotPermitted:
    """The exception for what the kernel does not permit."""
    reason = exc.strerror if exc is not None else os.strerror(errno.EPERM)
    return NotPermitted(f"cannot {what}: {reason}. Run as root, or with CAP_BPF and CAP_PERFMON")
