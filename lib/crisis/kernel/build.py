# SPDX-License-Identifier: GPL-2.0-or-later
"""Which build of the kernel is running, and the note that identifies a build."""

from __future__ import annotations

import os
import struct

__all__ = ["FIELDS", "build_id", "running"]

FIELDS = ("release", "version", "machine", "build_id")
_NT_GNU_BUILD_ID = 3
_MAX_NOTES = 1 << 16  # bytes


def build_id(notes: bytes) -> str | None:
    """The GNU build ID, in hexadecimal, among ELF notes of this machine's byte order, or None."""
    at = 0
    while at + 12 <= len(notes):
        name_size, length, kind = struct.unpack_from("=III", notes, at)
        owner = notes[at + 12 : at + 12 + name_size]
        at += 12 + _align4(name_size)
        whole = 0 < length <= 64 and at + length <= len(notes)
        if kind == _NT_GNU_BUILD_ID and owner == b"GNU\0" and whole:
            return notes[at : at + length].hex()
        at += _align4(length)
    return None


def running() -> tuple[str, str, str, str]:
    """FIELDS of the running kernel; the build ID is "" where /sys/kernel/notes has none.

    The other notes do not identify it: KASLR relocates those for Xen at each boot, in kernels
    without aaa8736370db ("x86, relocs: Ignore relocations in .notes section").
    """
    try:
        with open("/sys/kernel/notes", "rb") as f:
            notes = f.read(_MAX_NOTES)
    except OSError:
        notes = b""
    uname = os.uname()
    return uname.release, uname.version, uname.machine, build_id(notes) or ""


def _align4(size: int) -> int:
    return (size + 3) & ~3
