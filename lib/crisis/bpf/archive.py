# SPDX-License-Identifier: GPL-2.0-or-later
"""Archives: the compiled programs of a kernel build, for machines that have no compiler.

An archive is JSON lines, an object for each program, so that cat(1) makes one of several kernels.
What it holds is code that root will load.  So a file must belong to root or the caller, and nobody
else may write it.  All of it must be well-formed before any of it is used, and nothing in it is
used as a path: a program is found by the digest of what this machine would compile it from.
"""

from __future__ import annotations

import os
import stat
from binascii import a2b_base64, b2a_base64
from typing import NamedTuple

from .. import __version__, cli
from ..errors import Error, Stopped, Unavailable
from ..kernel import build as kernel
from ..symbols import targetfile
from . import cache
from .object import unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import IO

    from .source import Source

__all__ = ["STANDARD", "Entry", "digest", "entry", "read", "text", "write"]

STANDARD = "-"  # the path of standard input or output
_FORMAT = "crisis-tools programs 1"
_MAX_BYTES = 1 << 28  # of an archive: some 300 kernels
_MAX_LINE = 4 << 20  # bytes; thirty times the largest program
_MAX_FIELD = 256  # characters, of all but the object
_SHOWN = 3  # kernels that a message names


class Entry(NamedTuple):
    """A program: for which kernel build, of which release of crisis-tools, made from what.

    release, version, machine, build_id: as build.running() gives them.  made_from: a digest of
    cache.made_from().  object: the bytes that object.pack() made, in base64.
    """

    format: str
    release: str
    version: str
    machine: str
    build_id: str
    tools: str
    program: str
    compiler: str
    made_from: str
    object: str


def entry(source: Source) -> Entry | None:
    """The Entry of a Source that the cache has compiled for the running kernel, or None.

    Raises Unavailable where the kernel has no build ID.
    """
    data = cache.packed(source)
    if data is None:
        return None
    return Entry(
        _FORMAT,
        *_running(),
        __version__,
        source.name,
        unpack(data).compiler,
        digest(source),
        b2a_base64(data, newline=False).decode(),
    )


def digest(source: Source) -> str:
    """Entry.made_from of a Source on the running kernel."""
    from hashlib import sha256

    return sha256(cache.made_from(source)).hexdigest()


def _running() -> tuple[str, str, str, str]:
    """kernel.running().  Raises Unavailable for a kernel that has no build ID."""
    found = kernel.running()
    if not found[-1]:
        raise Unavailable("cannot identify this kernel: /sys/kernel/notes has no GNU build ID")
    return found


def text(entries: Iterable[Entry]) -> str:
    """An archive of these programs."""
    import json

    return "".join(json.dumps(one._asdict(), separators=(",", ":")) + "\n" for one in entries)


def write(path: str, text: str) -> None:
    """Put an archive into a file, which is replaced atomically.

    Raises Error, also for a path that leads to anything but a regular file.
    """
    directory, name = os.path.split(path)
    try:
        if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            raise Error(f"cannot export to {path}: it is not a regular file")
        fd = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            cache.replace(fd, name, text.encode(), 0o644)
        finally:
            os.close(fd)
    except OSError as exc:
        raise Error(f"cannot export to {path}: {exc.strerror}") from None


def read(path: str) -> dict[str, bytes]:
    """{Entry.made_from: packed object} of an archive's programs for the running kernel.

    path: of a file, or STANDARD input.
    Raises Error for a file that must not be trusted, for one that is damaged, and for one that has
    nothing for this kernel and this release of crisis-tools; Unavailable where the kernel has no
    build ID; Stopped at a stop.
    """
    here, name = _running(), "standard input" if path == STANDARD else path
    found: dict[str, bytes] = {}
    kernels: dict[tuple[str, ...], None] = {}  # in the order of the archive
    releases: dict[str, None] = {}  # of crisis-tools
    try:
        for number, one in enumerate(_entries(path), 1):
            kernel_of_one = (one.release, one.version, one.machine, one.build_id)
            kernels[kernel_of_one] = None
            if kernel_of_one != here:
                continue
            releases[one.tools] = None
            if one.tools == __version__:
                found[one.made_from] = _object(one, number)
    except OSError as exc:
        raise Error(f"cannot import {name}: {exc.strerror}") from None
    except ValueError as exc:
        raise Error(f"cannot import {name}: {exc}") from None
    if not found:
        why = _nothing_for(here, list(kernels), list(releases))
        raise Error(f"cannot import {name}: {why}")
    return found


def _entries(path: str) -> Iterator[Entry]:
    """Yield what is in an archive.  Raises OSError; ValueError with the objection; Stopped."""
    number, size = 0, 0
    with _opened(path) as f:
        while True:
            line = f.readline(_MAX_LINE)
            if cli.stopping():
                raise Stopped
            if not line:
                return
            number, size = number + 1, size + len(line)
            if size > _MAX_BYTES:
                raise ValueError(f"it has more than {_MAX_BYTES >> 20} MiB")
            yield _parsed(line, number)


def _opened(path: str) -> IO[bytes]:
    """The file, checked, or standard input, whose writer the caller trusts."""
    if path == STANDARD:
        return cli.reader(path)
    f = os.fdopen(targetfile.open_regular(path), "rb")
    info = os.fstat(f.fileno())
    why = ""
    if info.st_uid not in (0, os.geteuid()):
        why = f"it belongs to uid {info.st_uid}. Check where it is from, and chown it to root"
    elif info.st_mode & 0o022:
        why = f"others can write it (mode {info.st_mode & 0o7777:04o}). Try: chmod go-w"
    if why:
        f.close()
        raise ValueError(why)
    return f


def _parsed(line: bytes, number: int) -> Entry:
    """The Entry in a line.  Raises ValueError."""
    import json

    try:
        # Numbers remain text: the conversion of a long one takes time by the square of its length.
        fields = json.loads(line, parse_int=str, parse_float=str)
        one = Entry(*(fields[name] for name in Entry._fields))
        if one.format == _FORMAT and all(
            isinstance(field, str) and (len(field) <= _MAX_FIELD or name == "object")
            for name, field in one._asdict().items()
        ):
            return one
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise ValueError(f"line {number} is not a program that crisis-warm --export has written")


def _object(one: Entry, number: int) -> bytes:
    """The packed object of an Entry.  Raises ValueError for a damaged one."""
    try:
        try:
            data = a2b_base64(one.object)
        except ValueError:
            raise ValueError("the object is not in base64") from None
        if unpack(data).name != one.program:
            raise ValueError("the object is another program's")
        return data
    except ValueError as exc:
        raise ValueError(f"line {number}, {one.program}: {exc}") from None


def _nothing_for(here: tuple[str, ...], kernels: list[tuple[str, ...]], releases: list[str]) -> str:
    """Why an archive has no program for this kernel and this release of crisis-tools.

    kernels: those in the archive.  releases: of crisis-tools that have written what it has for this
    kernel.
    """
    if not kernels:
        return "it is empty"
    if releases:
        names, this, remedy = releases, __version__, "this release"
        what = "it is of crisis-tools"
    else:
        same = [one for one in kernels if one[0] == here[0]]
        what, remedy = "it is for kernel", "this kernel"
        names, this = list(dict.fromkeys(one[0] for one in kernels)), here[0]
        if same:
            what = f"it is for another build of kernel {here[0]}: build ID"
            names, this = [one[3] for one in same], here[3]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (
        f"{what} {', '.join(names[:_SHOWN])}{more}, this one is {this}. "
        f"Run crisis-warm --export with {remedy}"
    )
