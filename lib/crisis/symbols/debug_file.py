# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbol tables that lie outside of a stripped file, or compressed within it.

Follows GDB's rules for separate debug files (the build ID, then .gnu_debuglink) and Fedora's
MiniDebugInfo (.gnu_debugdata: a symbol table compressed by xz).
"""

from __future__ import annotations

import os

from . import targetfile
from .elf import Elf

TYPE_CHECKING = False  # mypy takes it for true
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["embedded", "separate"]

_MAX_LINK = 255  # bytes of the name in .gnu_debuglink
# of xz (its strongest preset takes 65 MB) and of what it unpacks
_XZ_MEMORY, _XZ_SIZE = 80 << 20, 64 << 20


def separate(elf: Elf, path: str, pid: int, uid: int | None) -> Elf | None:
    """The Elf of the separate debug file of `elf`, which a process has mapped from `path`.

    uid: the process's effective user ID, or None when it is not known.

    In the host's file system it must be readable by all, or the process's own; in the process's,
    where that may have bound any file over the name, its own.  Its build ID must be the same: a
    file of another build would name the wrong functions.
    """
    if not elf.build_id:
        return None
    own = targetfile.owned_by(uid)
    for name, follow in _names(elf, elf.build_id, path):
        for root in f"/proc/{pid}/root", "":
            allowed = own if root else lambda info: own(info) or targetfile.readable_by_all(info)
            try:
                fd = targetfile.open_regular(root + name, allowed, follow and not root)
            except (OSError, ValueError):  # ValueError: a name with a NUL
                continue
            try:
                other = Elf(fd)
                if other.has_symtab() and other.build_id == elf.build_id:
                    return other
            except ValueError:
                pass
            os.close(fd)
    return None


def _names(elf: Elf, build_id: str, path: str) -> Iterator[tuple[str, bool]]:
    """Yield (path of a debug file, whether it may be a symbolic link)."""
    yield f"/usr/lib/debug/.build-id/{build_id[:2]}/{build_id[2:]}.debug", True
    link = elf.section(b".gnu_debuglink").split(b"\0")[0]
    if link and len(link) <= _MAX_LINK and b"/" not in link:
        name, directory = os.fsdecode(link), os.path.dirname(path)
        yield f"/usr/lib/debug{directory}/{name}", True
        yield f"{directory}/{name}", False
        yield f"{directory}/.debug/{name}", False


def embedded(elf: Elf) -> Elf | None:
    """The Elf in .gnu_debugdata, or None."""
    raw = elf.section(b".gnu_debugdata")
    if not raw:
        return None
    import lzma

    try:
        unpacker = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
        data = unpacker.decompress(raw, _XZ_SIZE)
        return Elf(data) if unpacker.eof else None
    except (lzma.LZMAError, ValueError, MemoryError):
        return None
