# SPDX-License-Identifier: GPL-2.0-or-later
"""One address of a stack with its name, and stacks as text."""

from __future__ import annotations

import os

from ..table import escape

__all__ = ["KERNEL", "Frame", "call_site", "folded", "line", "moved", "without_tracing"]

KERNEL = "kernel"  # the module name of what is built in


class Frame:
    """One address of a stack.

    address; name: the function, demangled, or None; offset: bytes from its
    start, or None; module: "kernel", a kernel module, or the path of the file
    that is mapped there, None when nothing is; file_offset: of the address in
    that file, or None; build_id: the file's, in hexadecimal, or None; inlined:
    True for a function that the compiler put into the one of the next frame.
    Names are str with surrogateescape, unescaped: they are as hostile as their file.
    """

    __slots__ = ("address", "name", "offset", "module", "file_offset", "build_id", "inlined")

    def __init__(
        self,
        address: int,
        name: str | None = None,
        offset: int | None = None,
        module: str | None = None,
        file_offset: int | None = None,
        build_id: str | None = None,
    ) -> None:
        self.address, self.name, self.offset, self.module = address, name, offset, module
        self.file_offset, self.build_id = file_offset, build_id
        self.inlined = False


def line(frame: Frame) -> str:
    """A frame as bcc prints it: "name+0x1d [module]", or "name (inlined) [module]", escaped."""
    text = "[unknown]" if frame.name is None else escape(frame.name)
    if frame.inlined:
        text += " (inlined)"
    elif frame.offset is not None:
        text += f"+0x{frame.offset:x}"
    if frame.module is None:
        return text
    base = escape(os.path.basename(frame.module) or frame.module)
    if frame.name is None and frame.file_offset is not None:
        base += f"+0x{frame.file_offset:x}"
    return f"{text} [{base}]"


# Functions between a tracepoint or probe and a BPF program there.
_TRACING = tuple(
    "bpf_prog_ bpf_trace_run __bpf_trace_ __traceiter_ trace_call_bpf perf_trace_"
    " kprobe_perf_func kprobe_ftrace_handler".split()
)


def without_tracing(frames: list[Frame]) -> list[Frame]:
    """A kernel stack, innermost first, less the frames that exist only because it is traced."""
    own = [i for i, frame in enumerate(frames[:8]) if (frame.name or "").startswith(_TRACING)]
    # Further out, fexit leaves its trampoline between a function and its caller.
    return [
        frame
        for frame in frames[max(own, default=-1) + 1 :]
        if not (frame.name or "").startswith("bpf_trampoline_")
    ]


def folded(frames: list[Frame], root: str | None = None) -> str:
    """A stack as flamegraph.pl takes it, without the count: names from the outermost in.

    frames: innermost first; root: a name to put in front, such as the command's.
    A ';' or line break in a name would make it another frame, and is replaced.
    """
    names = [] if root is None else [root]
    for frame in reversed(frames):
        name = frame.name
        if name is None:
            module = os.path.basename(frame.module) if frame.module else "unknown"
            name = f"[{module}]"
        names.append(name)
    return ";".join(escape(name).replace(";", ":") for name in names)


def call_site(address: int, is_return: bool | int) -> int:
    """Where to look: the call may be the last instruction of its function."""
    return address - 1 if is_return and address else address


def moved(frame: Frame, address: int) -> Frame:
    """The frame of `frame.address` as that of a nearby address."""
    by = address - frame.address
    if not by:
        return frame
    return Frame(
        address,
        frame.name,
        None if frame.offset is None else frame.offset + by,
        frame.module,
        None if frame.file_offset is None else frame.file_offset + by,
        frame.build_id,
    )
