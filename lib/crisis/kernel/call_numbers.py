# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers of the system calls that may sleep, of x86-64 and arm64 and their 32-bit programs.

From arch/x86/entry/syscalls/syscall_64.tbl and syscall_32.tbl, include/uapi/asm-generic/unistd.h
and arch/arm/tools/syscall.tbl.
"""

from __future__ import annotations

import os

__all__ = ["COMPAT", "NUMBERS", "names", "numbers"]

COMPAT = 512  # added to the number of a call by a 32-bit program: above all numbers of 64-bit calls

# By name, on x86-64, i386, arm64 and arm; None where there is no such call.
NUMBERS: dict[str, tuple[int | None, int | None, int | None, int | None]] = {
    "read": (0, 3, 63, 3),
    "write": (1, 4, 64, 4),
    "readv": (19, 145, 65, 145),
    "writev": (20, 146, 66, 146),
    "pread64": (17, 180, 67, 180),
    "pwrite64": (18, 181, 68, 181),
    "preadv": (295, 333, 69, 361),
    "pwritev": (296, 334, 70, 362),
    "preadv2": (327, 378, 286, 392),
    "pwritev2": (328, 379, 287, 393),
    "sendfile": (40, 187, 71, 187),
    "splice": (275, 313, 76, 340),
    "vmsplice": (278, 316, 75, 343),
    "copy_file_range": (326, 377, 285, 391),
    "fsync": (74, 118, 82, 118),
    "fdatasync": (75, 148, 83, 148),
    "sync": (162, 36, 81, 36),
    "syncfs": (306, 344, 267, 373),
    "msync": (26, 144, 227, 144),
    "sync_file_range": (277, 314, 84, 341),
    "io_getevents": (208, 247, 4, 245),
    "io_pgetevents": (333, 385, 292, 399),
    "io_uring_enter": (426, 426, 426, 426),
    "futex": (202, 240, 98, 240),
    "futex_wait": (455, 455, 455, 455),
    "futex_waitv": (449, 449, 449, 449),
    "flock": (73, 143, 32, 143),
    "fcntl": (72, 55, 25, 55),
    "semop": (65, None, 193, 298),
    "semtimedop": (220, None, 192, 312),
    "nanosleep": (35, 162, 101, 162),
    "clock_nanosleep": (230, 267, 115, 265),
    "poll": (7, 168, None, 168),
    "ppoll": (271, 309, 73, 336),
    "select": (23, 82, None, None),
    "pselect6": (270, 308, 72, 335),
    "epoll_wait": (232, 256, None, 252),
    "epoll_pwait": (281, 319, 22, 346),
    "epoll_pwait2": (441, 441, 441, 441),
    "accept": (43, None, 202, 285),
    "accept4": (288, 364, 242, 366),
    "wait4": (61, 114, 260, 114),
    "waitid": (247, 284, 95, 280),
    "pause": (34, 29, None, 29),
    "rt_sigsuspend": (130, 179, 133, 179),
    "rt_sigtimedwait": (128, 177, 137, 177),
    "sigsuspend": (None, 72, None, 72),
    "msgrcv": (70, 401, 188, 302),
    "msgsnd": (69, 400, 189, 301),
    "mq_timedreceive": (243, 280, 183, 277),
    "mq_timedsend": (242, 279, 182, 276),
    "restart_syscall": (219, 0, 128, 0),
    "clone": (56, 120, 220, 120),
    "clone3": (435, 435, 435, 435),
    "vfork": (58, 190, None, 190),
    "ioctl": (16, 54, 29, 54),
    "connect": (42, 362, 203, 283),
    "recvfrom": (45, 371, 207, 292),
    "recvmsg": (47, 372, 212, 297),
    "recvmmsg": (299, 337, 243, 365),
    "sendto": (44, 369, 206, 290),
    "sendmsg": (46, 370, 211, 296),
    "sendmmsg": (307, 345, 269, 374),
    "recv": (None, None, None, 291),
    "send": (None, None, None, 289),
    "socketcall": (None, 102, None, None),
    "ipc": (None, 117, None, None),
    "waitpid": (None, 7, None, None),
    "_newselect": (None, 142, None, 142),
    "sendfile64": (None, 239, None, 239),
    "fcntl64": (None, 221, None, 221),
    "clock_nanosleep_time64": (None, 407, None, 407),
    "ppoll_time64": (None, 414, None, 414),
    "pselect6_time64": (None, 413, None, 413),
    "futex_time64": (None, 422, None, 422),
    "semtimedop_time64": (None, 420, None, 420),
    "rt_sigtimedwait_time64": (None, 421, None, 421),
    "mq_timedreceive_time64": (None, 419, None, 419),
    "mq_timedsend_time64": (None, 418, None, 418),
    "recvmmsg_time64": (None, 417, None, 417),
    "io_pgetevents_time64": (None, 416, None, 416),
}
_COLUMNS = {"x86_64": (0, 1), "aarch64": (2, 3)}


def numbers(machine: str | None = None) -> dict[str, list[int]]:
    """{name: numbers} of the calls of 64-bit programs and, with COMPAT added, of 32-bit ones.

    machine: uname(2)'s, by default the running one.  Empty for one that is not known.
    """
    columns = _COLUMNS.get(machine or os.uname().machine, ())
    found: dict[str, list[int]] = {}
    for name, row in NUMBERS.items():
        for offset, column in zip((0, COMPAT), columns):
            number = row[column]
            if number is not None:
                found.setdefault(name, []).append(number + offset)
    return found


def names(machine: str | None = None) -> dict[int, str]:
    """{number: name}, as `numbers`."""
    return {number: name for name, all_ in numbers(machine).items() for number in all_}
