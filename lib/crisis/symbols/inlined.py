# SPDX-License-Identifier: GPL-2.0-or-later
"""Inlined functions, which no symbol table has: addr2line(1) reads them from the debugging
information.
"""

from __future__ import annotations

import os
import time

from ..errors import Unavailable
from .frame import Frame, call_site

TYPE_CHECKING = False  # mypy takes it for true
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .module import Module

    File = tuple[str, "str | None"]  # path, build ID
    Names = dict[int, list[str]]  # file offset: the functions inlined there, innermost first

__all__ = ["expanded"]

_ADDR2LINE = "/usr/bin/addr2line"
_SECONDS, _MAX_OUTPUT, _MEMORY = 30, 16 << 20, 4 << 30
_MAX_NAME = 4096  # bytes of a function's name


def expanded(
    stacks: Sequence[Sequence[Frame]],
    modules: Iterable[Module],
    first_is_return: bool,
    note: Callable[[str], None],
) -> list[list[Frame]]:
    """The stacks with the Frames of inlined functions put in, their names still mangled.

    modules: those that have been read; note: called with a line for what cannot be looked up.
    Raises Unavailable without addr2line.
    """
    names = _look_up(_places(stacks, first_is_return), modules, note)
    result: list[list[Frame]] = []
    for frames in stacks:
        whole: list[Frame] = []
        for site, frame in _sites(frames, first_is_return):
            for name in names.get(_file(frame), {}).get(site, ()):
                whole.append(_inline_frame(frame, name))
            whole.append(frame)
        result.append(whole)
    return result


def _file(frame: Frame) -> File:
    return frame.module or "", frame.build_id


def _sites(frames: Sequence[Frame], first_is_return: bool) -> Iterator[tuple[int, Frame]]:
    """Yield (file offset of the call, Frame)."""
    for i, frame in enumerate(frames):
        yield call_site(frame.file_offset or 0, i or first_is_return), frame


def _inline_frame(frame: Frame, name: str) -> Frame:
    inner = Frame(frame.address, name, None, frame.module, frame.file_offset, frame.build_id)
    inner.inlined = True
    return inner


def _places(stacks: Sequence[Sequence[Frame]], first_is_return: bool) -> dict[File, set[int]]:
    """{file: offsets of the calls in it}."""
    found: dict[File, set[int]] = {}
    for frames in stacks:
        for site, frame in _sites(frames, first_is_return):
            if frame.file_offset is not None:
                found.setdefault(_file(frame), set()).add(site)
    return found


def _look_up(
    wanted: dict[File, set[int]], modules: Iterable[Module], note: Callable[[str], None]
) -> dict[File, Names]:
    read = {
        (module.path, module.build_id()): module
        for module in modules
        if module.fd is not None and module.elf is not None
    }
    names: dict[File, Names] = {}
    deadline = time.monotonic() + _SECONDS
    for file, offsets in wanted.items():
        if file not in read:
            continue
        if time.monotonic() < deadline:
            try:
                names[file] = _names(read[file], sorted(offsets), deadline - time.monotonic())
            except (OSError, ValueError) as exc:
                note(f"cannot name the inlined functions of {file[0]}: {exc}")
        if time.monotonic() >= deadline:
            note(
                f"not all inlined functions are shown: addr2line takes more than {_SECONDS} seconds"
            )
            break
    return names


def _names(module: Module, offsets: list[int], seconds: float) -> Names:
    """The names, mangled, of the functions that are inlined at these offsets of a file.

    addr2line reads the file as its owner, who could have written what it reads.
    Raises Unavailable, OSError, ValueError.
    """
    from .. import child

    assert module.elf is not None and module.fd is not None
    places = {}
    for offset in offsets:
        address = module.elf.address(offset)
        if address is not None:
            places[address] = offset
    if not places:
        return {}
    if not os.access(_ADDR2LINE, os.X_OK):
        raise Unavailable(
            f"cannot name inlined functions: {_ADDR2LINE} is not there. Install binutils"
        )
    info = os.fstat(module.fd)
    text = child.run(
        [_ADDR2LINE, "-a", "-f", "-i", "-e", f"/proc/self/fd/{module.fd}"],
        "".join(f"0x{address:x}\n" for address in places).encode(),
        seconds,
        _MAX_OUTPUT,
        _MEMORY,
        [module.fd],
        (info.st_uid, info.st_gid),
    )
    found = _parsed(text.decode("utf-8", "surrogateescape"), places)
    # The last is the function of the symbol table.
    return {offset: names[:-1] for offset, names in found.items() if len(names) > 1}


def _parsed(text: str, places: dict[int, int]) -> Names:
    """The output of addr2line: an address, then pairs of lines, a function and its place.

    places: {address: file offset}.
    """
    found: Names = {}
    names: list[str] = []
    first = 0
    for i, row in enumerate(text.split("\n")):
        if row.startswith("0x") and " " not in row:
            offset = places.get(int(row, 16)) if len(row) <= 18 else None
            names = [] if offset is None else found.setdefault(offset, [])
            first = i + 1
        elif row and not (i - first) % 2:
            names.append(row[:_MAX_NAME])
    return found
