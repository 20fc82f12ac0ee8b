# SPDX-License-Identifier: GPL-2.0-or-later
"""Mappings of files and of their pages: mmap(2), madvise(2), mincore(2) and mlock2(2), by ctypes.

A call that fails raises OSError with the kernel's errno.
"""

from __future__ import annotations

import ctypes
import errno
import os

from . import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

__all__ = [
    "PROT_READ",
    "libc",
    "raise_errno",
    "pages_of",
    "map_file",
    "unmap",
    "mincore",
    "keep_unused",
    "populate",
    "lock_file",
]

PROT_READ = 1
_PROT_NONE = 0
_MAP_SHARED, _MAP_PRIVATE = 1, 2
_MADV_RANDOM, _MADV_POPULATE_READ = 1, 22
_MLOCK_ONFAULT = 1
_POPULATED = 1 << 26  # bytes faulted in at a time

# PyDLL keeps the interpreter's lock: there is one thread, and the calls are as short as taking the
# lock.
libc = ctypes.PyDLL(None, use_errno=True)


_mmap = libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_munmap = libc.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_mincore = libc.mincore
_mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_madvise = libc.madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_mlock2 = libc.mlock2
_mlock2.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
_mlock = libc.mlock
_mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value


def raise_errno() -> NoReturn:
    """Raise OSError for the errno of the last call."""
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code))


def pages_of(size: int) -> int:
    """The number of pages that `size` bytes take."""
    return (size + PAGE - 1) // PAGE


def map_file(
    fd: int, offset: int, length: int, prot: int = _PROT_NONE, flags: int = _MAP_SHARED
) -> int:
    """The address of a new mapping.  Raises OSError.  unmap() it."""
    address: int = _mmap(None, length, prot, flags, fd, offset)
    if address == _FAILED:
        raise_errno()
    return address


def unmap(address: int, length: int) -> None:
    _munmap(address, length)


def mincore(fd: int, offset: int, length: int) -> bytearray:
    """A byte for each page of a range of a file: 1 is resident.  offset begins a page."""
    count = pages_of(length)
    vector = bytearray(count)
    where = (ctypes.c_char * count).from_buffer(vector)
    try:
        address = map_file(fd, offset, length)
    except OSError as exc:
        if exc.errno not in (errno.EACCES, errno.ENODEV, errno.EINVAL):
            raise
        address = map_file(fd, offset, length, flags=_MAP_PRIVATE)
    try:
        if _mincore(address, length, ctypes.addressof(where)):
            raise_errno()
    finally:
        unmap(address, length)
    return vector


def keep_unused(address: int, length: int) -> None:
    """Let unmapping this range leave no mark of use on its pages: MADV_RANDOM."""
    _madvise(address, length, _MADV_RANDOM)


def populate(address: int, length: int) -> None:
    """Fault the pages of a range in.  Raises OSError: EINVAL before Linux 5.14."""
    if _madvise(address, length, _MADV_POPULATE_READ):
        raise_errno()


def lock_file(
    fd: int,
    begin: int,
    size: int,
    ranges: Iterable[tuple[int, int]],
    advance: Callable[[int], None],
) -> None:
    """Map `size` bytes of a file for good, lock them, and fault the (offset, end) ranges in.

    begin: the first of the bytes; it begins a page.  ranges: within these bytes, from their first.
    advance: called with the bytes done after each piece; what it raises unmaps the file.
    Pages are locked as they come (MLOCK_ONFAULT): the holes stay holes, and a
    file that is cut short meanwhile is an end and no SIGBUS.  Raises OSError.
    """
    address = map_file(fd, begin, size, PROT_READ)
    try:
        if _mlock2(address, size, _MLOCK_ONFAULT):
            raise_errno()
        for start, end in ranges:
            start -= start % PAGE
            while start < end:
                length = min(_POPULATED, end - start)
                try:
                    populate(address + start, length)
                except OSError as exc:
                    if exc.errno == errno.EFAULT:  # truncated
                        return
                    if (
                        exc.errno != errno.EINVAL
                    ):  # before Linux 5.14; mlock faults in too, and never kills
                        raise
                    if _mlock(address + start, length):
                        raise_errno()
                start += length
                advance(length)
    except BaseException:
        unmap(address, size)
        raise
