# SPDX-License-Identifier: GPL-2.0-or-later
"""Tracepoints: their ids, records and print formats, from tracefs.

Follows Documentation/trace/events.rst.
"""

from __future__ import annotations

import errno
import os

from ..errors import Unavailable
from ..kernel import syscalls

__all__ = ["mounted", "tracepoint_id", "tracepoint_fields", "tracepoint_file"]

_ROOTS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")


def mounted() -> str | None:
    """Where tracefs is mounted, None where it is not."""
    return next((root for root in _ROOTS if os.path.exists(os.path.join(root, "events"))), None)


def tracepoint_id(category: str, name: str) -> int:
    """The id of a tracepoint.  Raises as `tracepoint_file` does."""
    return int(tracepoint_file(category, name, "id"))


def tracepoint_fields(category: str, name: str) -> tuple[dict[str, tuple[int, int]], str]:
    """({field: (offset, size)}, print format) of a tracepoint's record.

    Raises as `tracepoint_file` does.
    """
    import re

    text, _, shown = tracepoint_file(category, name, "format").partition("\nprint fmt: ")
    return {
        field: (int(offset), int(size))
        for field, offset, size in re.findall(
            r"\tfield:[^;]*?(\w+)(?:\[\w*\])?;\toffset:(\d+);\tsize:(\d+);", text
        )
    }, shown


def tracepoint_file(category: str, name: str, file: str) -> str:
    """The text of a tracepoint's file.

    From tracefs wherever it is mounted, or from a mount of our own.

    Raises Unavailable when the kernel has no such tracepoint or no tracefs,
    OSError when reading it is refused.
    """
    path = f"events/{category}/{name}/{file}"
    for root in _ROOTS:
        try:
            with open(os.path.join(root, path)) as f:
                return f.read()
        except FileNotFoundError:
            if os.path.exists(os.path.join(root, "events")):
                raise Unavailable(f"this kernel has no tracepoint {category}:{name}") from None
    try:
        mount = syscalls.detached_mount("tracefs")
    except OSError as exc:
        if exc.errno in (errno.EPERM, errno.EACCES):
            raise
        raise Unavailable(f"tracefs cannot be mounted: {exc.strerror}") from None
    try:
        fd = os.open(path, os.O_RDONLY, dir_fd=mount)
    except FileNotFoundError:
        raise Unavailable(f"this kernel has no tracepoint {category}:{name}") from None
    finally:
        os.close(mount)
    with os.fdopen(fd) as f:
        return f.read()
