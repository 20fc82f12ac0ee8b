# SPDX-License-Identifier: GPL-2.0-or-later
"""Mangled names of C++ and Rust as their sources spell them.

C++ (Itanium C++ ABI) and Rust's legacy names go through the C++ runtime's
__cxa_demangle, Rust's v0 names through `rust_v0`.  A name of 300 bytes can
require gigabytes of output, and a call of __cxa_demangle cannot be interrupted:
so it is made in a child process, this file run as a program, which has no
privileges, a limit of memory, and one of CPU time for each name.
"""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Demangler"]

_MAX_NAME = 4096  # bytes of a mangled name, and of what is printed of it
_NAME_SECONDS = 0.02  # CPU time for one name; usual names take microseconds
_MAX_REFUSED = 16  # names of a batch that may exceed it; after that the batch ends
_BATCH_SECONDS = 5.0  # time for a batch, on a machine in trouble
_MEMORY = 256 << 20  # RLIMIT_AS of the child, bytes
_MAX_KNOWN = 100000  # names to remember
_NOBODY = 65534
_UNAVAILABLE = 69
_LIBRARIES = "libstdc++.so.6", "libc++abi.so.1"
# What compilers append to the name of a function that they split or cloned, such as ".cold" or
# ".constprop.0.isra.3".
_CLONE = re.compile(r"((?:\.[a-z_]+(?:\.\d+)*)+)$")
_LLVM = re.compile(r"\.(?:llvm|__uniq)\.\d+")  # it only makes a local name unique
_HASH = re.compile(r"::h[0-9a-f]{16}$")
_ESCAPES = {"SP": "@", "BP": "*", "RF": "&", "LT": "<", "GT": ">", "LP": "(", "RP": ")", "C": ","}


class Demangler:
    """Demangles names in batches, and remembers them."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}  # C++ name without clone suffixes -> its text
        self._works = True  # there is a C++ runtime

    def names(self, names: Iterable[str]) -> dict[str, str]:
        """{name: its text}.

        The text of a name that is not mangled, cannot be demangled or exceeds a limit is the name.
        """
        parts = {name: _split(name) for name in set(names)}
        self._learn({base for base, _ in parts.values() if base.startswith("_Z")})
        return {name: self._text(*part) for name, part in parts.items()}

    def _text(self, base: str, suffix: str) -> str:
        text = base
        if base.startswith("_Z"):
            text = self._known.get(base, base)
        elif base.startswith("_R") and len(base) <= _MAX_NAME:
            from . import rust_v0

            try:
                text = rust_v0.demangle(base)
            except ValueError:
                pass
        if text == base:
            return base + suffix
        clones = re.findall(r"\.[a-z_]+(?:\.\d+)*", suffix)
        return text + "".join(f" [clone {clone}]" for clone in clones)

    def _learn(self, names: set[str]) -> None:
        """Demangle C++ names that are not known yet."""
        import time

        from .. import child

        new = [name for name in names if name not in self._known and _is_sane(name)]
        if not new or not self._works:
            return
        # A name that exceeds a limit is long, and uses up the time of those behind it.
        new.sort(key=lambda name: (len(name), name))
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
        begin = time.monotonic()
        command = ["/usr/bin/python3", "-I", os.path.abspath(__file__)]
        most = (_MAX_NAME + 8) * len(new) + 8
        try:
            output = child.run(command, "\n".join(new).encode(), _BATCH_SECONDS, most, _MEMORY)
        except OSError:
            output = b""
        ready, *lines = output.decode("utf-8", "surrogateescape").split("\n")
        if ready != "ready":  # there is no C++ runtime, unless the time was over
            self._works = time.monotonic() - begin >= _BATCH_SECONDS
        # The last line may have been cut short.
        self._known.update((name, _legacy_rust(text)) for name, text in zip(new, lines[:-1]))


def _is_sane(name: str) -> bool:
    return len(name) <= _MAX_NAME and re.fullmatch(r"[\w.$]+", name, re.ASCII) is not None


def _split(name: str) -> tuple[str, str]:
    """(name without what compilers append, clone suffixes)."""
    if "." not in name:
        return name, ""
    name = _LLVM.sub("", name)
    if name.startswith("_R"):
        base, dot, rest = name.partition(".")
        return base, dot + rest
    suffix = _CLONE.search(name) if name.startswith("_Z") else None
    if suffix is None:
        return name, ""
    return name[: suffix.start()], suffix.group(1)


def _legacy_rust(text: str) -> str:
    """A legacy Rust name, recognized by its hash, without that and unescaped; others unchanged."""
    if not _HASH.search(text):
        return text
    text = re.sub(r"(^|::)_\$", r"\1$", text[:-19])
    text = re.sub(r"\$(\w+)\$", _unescape, text, flags=re.ASCII)
    return text.replace("..", "::")


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    if re.fullmatch("u[0-9a-f]{1,5}", code):
        return chr(int(code[1:], 16))
    return _ESCAPES.get(code, match.group(0))


# The child process


def _runtime() -> Callable[[bytes], bytes | None] | None:
    """A function that demangles a name, or returns None for one that is not mangled.

    Returns None where no C++ runtime is installed.
    """
    import ctypes

    for library in _LIBRARIES:
        try:
            demangler = ctypes.CDLL(library).__cxa_demangle
            break
        except (OSError, AttributeError):
            continue
    else:
        return None
    demangler.restype = ctypes.c_void_p
    libc = ctypes.CDLL(None)
    libc.free.argtypes = [ctypes.c_void_p]
    libc.strnlen.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    status = ctypes.c_int()

    def demangle(name: bytes) -> bytes | None:
        result = demangler(name, None, None, ctypes.byref(status))
        if not result:
            return None
        text = ctypes.string_at(result, libc.strnlen(result, _MAX_NAME + 1))
        libc.free(result)
        return text if len(text) <= _MAX_NAME else text[:_MAX_NAME] + b"..."

    return demangle


def _serve() -> int:
    """Write a line for each name, one per line of stdin: its text, cut if it is long.

    A process of its own answers, until a name exceeds the limit of CPU time and ends it; another
    one continues behind that name.  Returns the exit status.
    """
    import mmap
    import signal
    import sys

    demangle = _runtime()
    if demangle is None:
        return _UNAVAILABLE
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    out = sys.stdout.buffer
    out.write(b"ready\n")
    out.flush()
    names = sys.stdin.buffer.read().split(b"\n")
    answered = mmap.mmap(-1, 4)  # how many; shared with the process that answers

    def answer(number: int, text: bytes) -> None:
        out.write(text + b"\n")
        out.flush()
        answered[:] = (number + 1).to_bytes(4, "little")

    for _ in range(_MAX_REFUSED):
        pid = os.fork()
        if not pid:
            for number in range(int.from_bytes(answered[:], "little"), len(names)):
                signal.setitimer(signal.ITIMER_VIRTUAL, _NAME_SECONDS)  # SIGVTALRM ends the process
                text = demangle(names[number])
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
                answer(number, names[number] if text is None else text)
            os._exit(0)
        if not os.waitpid(pid, 0)[1]:
            break
        number = int.from_bytes(answered[:], "little")
        answer(number, names[number])
    return 0


if __name__ == "__main__":
    # Skips the interpreter's teardown; everything has been flushed.
    os._exit(_serve())
