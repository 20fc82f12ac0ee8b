# SPDX-License-Identifier: GPL-2.0-or-later
"""Where in a program or library the allocator functions are, and where to probe them."""

from __future__ import annotations

import os
import sys

from .. import cli
from ..symbols.elf import Elf
from . import probes
from .kinds import (
    ALLOC1,
    ALLOC2,
    CALLOC,
    FREE,
    MMAP,
    MPROTECT,
    MREMAP,
    MUNMAP,
    NEW,
    OWN_NEW,
    POSIX_MEMALIGN,
    REALLOC,
    REALLOCARRAY,
    RETURN,
    THROW,
    XALLOCX,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Site", "find", "is_loader", "is_object"]

FUNCTIONS = {
    "malloc": ALLOC1,
    "calloc": CALLOC,
    "realloc": REALLOC,
    "reallocarray": REALLOCARRAY,
    "posix_memalign": POSIX_MEMALIGN,
    "aligned_alloc": ALLOC2,
    "memalign": ALLOC2,
    "valloc": ALLOC1,
    "pvalloc": ALLOC1,
    "free": FREE,
    "cfree": FREE,
    "free_sized": FREE,
    "free_aligned_sized": FREE,
    "mallocx": ALLOC1,
    "rallocx": REALLOC,
    "xallocx": XALLOCX,
    "dallocx": FREE,
    "sdallocx": FREE,
}
MAPPINGS = {
    "mmap": MMAP,
    "mmap64": MMAP,
    "munmap": MUNMAP,
    "mremap": MREMAP,
    "mprotect": MPROTECT,
    "pkey_mprotect": MPROTECT,
}
# The mangled names of operator new and new[], delete and delete[].
NEWS = [
    f"_Zn{array}m{rest}"
    for array in "wa"
    for rest in ("", "RKSt9nothrow_t", "St11align_val_t", "St11align_val_tRKSt9nothrow_t")
]
DELETES = [
    f"_Zd{array}Pv{rest}"
    for array in "la"
    for rest in (
        "",
        "m",
        "RKSt9nothrow_t",
        "St11align_val_t",
        "mSt11align_val_t",
        "St11align_val_tRKSt9nothrow_t",
    )
]
PREFIXES = ("", "je_", "tc_")
# Of glibc: until 2.31 they export a malloc of their own, for what they never free.
LOADERS = ("ld-linux", "ld-2.")
_CODE = 2048  # bytes of a function that are looked at


class Site:
    """A place to probe.

    cookie: kind in the low 8 bits, and the number of the function, 0 for a return instruction.
    name: of the function; None for a return instruction.
    """

    __slots__ = ("cookie", "name")

    def __init__(self, cookie: int, name: str | None) -> None:
        self.cookie, self.name = cookie, name

    @property
    def kind(self) -> int:
        return self.cookie & 255


def is_object(wanted: str, path: str) -> bool:
    """True when the file is what -O names.

    That is a path, a file name ("server", "libjemalloc.so.2"), or a library's name as for -l,
    dlopen(3) or its package: "c", "libc", "libc.so" and "libc.so.6" are libc.so.6, and
    libc-2.31.so, which older releases of glibc call it.
    """
    if "/" in wanted:
        return os.path.realpath(wanted) == path or wanted == path
    name = os.path.basename(path)
    if name == wanted or name.startswith((wanted + ".", f"lib{wanted}.")):
        return True
    stem, _, version = name.partition(".so")[0].rpartition("-")
    of_release = version.replace(".", "").isdigit()
    return of_release and stem in (wanted.partition(".so")[0], "lib" + wanted)


def is_loader(path: str) -> bool:
    """True for glibc's dynamic loader."""
    return os.path.basename(path).startswith(LOADERS)


def find(fd: int, path: str, prefix: str | None) -> dict[int, Site]:
    """{file offset: Site} of the allocator functions that a file defines.

    prefix: of the functions' names, None for the usual ones.
    Raises ValueError for a malformed file.
    """
    elf = Elf(fd)
    if elf.bits != 64 and sys.maxsize > 1 << 32:
        return {}  # its arguments are not where those of 64-bit code are
    search = _Search(elf, prefix)
    if search.unknown:
        cli.note(
            f"{' '.join(search.unknown)} of {path} {'is' if len(search.unknown) == 1 else 'are'} "
            "not counted: it is not known where it returns, and a return probe would end a program "
            "that catches its exception"
        )
    return search.sites


def _wanted(prefix: str | None) -> dict[bytes, int]:
    """{symbol: kind} of what to look for."""
    prefixes = PREFIXES if prefix is None else (prefix,)
    wanted = {(p + name).encode(): kind for name, kind in FUNCTIONS.items() for p in prefixes}
    if prefix is None:
        wanted.update((name.encode(), kind) for name, kind in MAPPINGS.items())
        wanted.update((name.encode(), NEW) for name in NEWS)
        wanted.update((name.encode(), FREE) for name in DELETES)
        wanted[b"__cxa_throw"] = THROW
    return wanted


class _Search:
    """The search of one file.

    sites; unknown: the names of functions whose returns are not known.
    """

    def __init__(self, elf: Elf, prefix: str | None) -> None:
        self._elf, self._wanted = elf, _wanted(prefix)
        found = elf.defined(self._wanted)
        self._own = {elf.file_offset(address) for address in found.values()}
        prefixes = PREFIXES if prefix is None else (prefix,)
        self._allocator = any((p + "free").encode() in found for p in prefixes)
        self._follow: Callable[[int], list[int] | None] | None = None
        self.sites: dict[int, Site] = {}
        self.unknown: list[str] = []
        for name in sorted(found, key=self._order):
            self._add(name, found[name])

    def _order(self, name: bytes) -> tuple[bool, bool, bytes]:
        """Of two names of one place the first is taken."""
        return self._wanted[name] == NEW, name == b"cfree", name

    def _add(self, symbol: bytes, address: int) -> None:
        offset = self._elf.file_offset(address)
        if offset is None:
            return
        code, name = self._elf.read(_CODE, offset), symbol.decode()
        kind: int | None = self._wanted[symbol]
        if name.startswith("_Z"):
            kind = self._operator(name, address, offset, code)
        at = offset + probes.place(code)
        if kind is not None and at not in self.sites:
            self.sites[at] = Site(len(self.sites) + 1 << 8 | kind, name)

    def _operator(self, name: str, address: int, offset: int, code: bytes) -> int | None:
        """The kind of a C++ operator new or delete; None for one that need not be probed."""
        jump, kind = probes.jumps(code), self._wanted[name.encode()]
        # One that only jumps to another: to free or delete, or to one in this same file.
        if jump is not None and (kind == FREE or offset + jump in self._own):
            return None
        if kind == FREE:
            return FREE if self._allocator else None  # else it calls free
        if not self._allocator:
            return NEW
        if "nothrow" in name:
            return ALLOC1
        ends = self._returns(address)
        if not ends:
            self.unknown.append(name)
            return NEW
        for end in ends:
            at = self._elf.file_offset(end)
            if at is not None:
                self.sites[at] = Site(RETURN, None)
        return OWN_NEW

    def _returns(self, address: int) -> list[int] | None:
        """The addresses of the return instructions of a function, or None."""
        if self._follow is None:
            self._follow = _follower(self._elf)
        return self._follow(address)


def _follower(elf: Elf) -> Callable[[int], list[int] | None]:
    """A function that gives the addresses of the return instructions of one at an address."""
    from ..symbols import returns

    starts, slots = returns.function_starts(elf), returns.jump_slots(elf)

    def read(address: int, size: int) -> bytes:
        offset = elf.file_offset(address)
        return b"" if offset is None else elf.read(size, offset)

    return lambda address: returns.returns(read, address, starts, slots)
