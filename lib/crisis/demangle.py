# SPDX-License-Identifier: GPL-2.0-or-later
"""Mangled names of C++ and Rust as their sources spell them.

C++ (Itanium C++ ABI) and Rust's legacy names go through the C++ runtime's
__cxa_demangle, Rust's v0 names through `rust_v0`.  A name of 300 bytes can ask
for gigabytes of output, and a call of __cxa_demangle cannot be interrupted:
so it is made in a child process, this file run as a program, which has no
privileges, a limit of memory, and one of CPU time for each name.
"""

import os
import re

__all__ = ["Demangler"]

_LIMIT = 4096           # bytes of a mangled name, and of what is printed of it
_NAME_SECONDS = 0.02    # of CPU time; usual names take microseconds
_MOST_REFUSED = 16      # of the names that are asked for together
_ALL_SECONDS = 5.0      # for all of them, on a machine in trouble
_MEMORY = 256 << 20
_NOBODY = 65534
_UNAVAILABLE = 69
_LIBRARIES = "libstdc++.so.6", "libc++abi.so.1"
# What compilers put behind the name of a function that they split or cloned: ".cold", ".constprop.0.isra.3".
_CLONE = re.compile(r"((?:\.[a-z_]+(?:\.\d+)*)+)$")
_LLVM = re.compile(r"\.(?:llvm|__uniq)\.\d+")           # it only makes a local name unique
_HASH = re.compile(r"::h[0-9a-f]{16}$")
_ESCAPES = {"SP": "@", "BP": "*", "RF": "&", "LT": "<", "GT": ">", "LP": "(", "RP": ")", "C": ","}


class Demangler:
    """Demangles names in batches, and keeps what it has learnt."""

    def __init__(self):
        self._known = {}        # C++ name without clone suffixes -> its text
        self._works = True

    def names(self, names):
        """{name: its text}; a name that is not mangled, cannot be demangled or asks for too much is its own text."""
        parts = {name: _split(name) for name in set(names)}
        self._learn({base for base, _ in parts.values() if base.startswith("_Z")})
        return {name: self._text(*part) for name, part in parts.items()}

    def _text(self, base, suffix):
        text = base
        if base.startswith("_Z"):
            text = self._known.get(base, base)
        elif base.startswith("_R") and len(base) <= _LIMIT:
            from . import rust_v0
            try:
                text = rust_v0.demangle(base)
            except ValueError:
                pass
        if text == base:
            return base + suffix
        return text + "".join(" [clone %s]" % clone for clone in re.findall(r"\.[a-z_]+(?:\.\d+)*", suffix))

    def _learn(self, names):
        import time
        from . import child
        # The shortest first: what asks for too much is long, and uses up the time of those behind it.
        todo = sorted((name for name in names if name not in self._known and len(name) <= _LIMIT
                       and re.fullmatch(r"[\w.$]+", name, re.ASCII)), key=lambda name: (len(name), name))
        if not todo or not self._works:
            return
        if len(self._known) > 100000:
            self._known.clear()
        begin = time.monotonic()
        try:
            output = child.run(["/usr/bin/python3", "-IS", os.path.abspath(__file__)], "\n".join(todo).encode(),
                               _ALL_SECONDS, (_LIMIT + 8) * len(todo) + 8, _MEMORY)
        except OSError:
            output = b""
        ready, *lines = output.decode("utf-8", "surrogateescape").split("\n")
        if ready != "ready":                    # there is no C++ runtime, unless it was the time
            self._works = time.monotonic() - begin >= _ALL_SECONDS
        self._known.update((name, _rust(text)) for name, text in zip(todo, lines[:-1]))


def _split(name):
    """(name without what compilers append, clone suffixes)."""
    if "." not in name:
        return name, ""
    name = _LLVM.sub("", name)
    if name.startswith("_R"):
        base, dot, rest = name.partition(".")
        return base, dot + rest
    if not name.startswith("_Z"):
        return name, ""
    suffix = _CLONE.search(name)
    return (name[:suffix.start()], suffix.group(1)) if suffix else (name, "")


def _rust(text):
    """A legacy Rust name, recognized by its hash, less that, and with its escapes undone; any other unchanged."""
    if not _HASH.search(text):
        return text
    text = re.sub(r"(^|::)_\$", r"\1$", text[:-19])
    text = re.sub(r"\$(\w+)\$", _unescape, text, 0, re.ASCII)
    return text.replace("..", "::")


def _unescape(match):
    code = match.group(1)
    if re.fullmatch("u[0-9a-f]{1,5}", code):
        return chr(int(code[1:], 16))
    return _ESCAPES.get(code, match.group(0))


def _serve():
    """The child: a name on each line of stdin, its text, cut if long, on each line of stdout."""
    import ctypes
    import mmap
    import signal
    import sys
    for library in _LIBRARIES:
        try:
            demangler = ctypes.CDLL(library).__cxa_demangle
            break
        except (OSError, AttributeError):
            continue
    else:
        return _UNAVAILABLE
    demangler.restype = ctypes.c_void_p
    libc = ctypes.CDLL(None)
    libc.free.argtypes = libc.strnlen.argtypes = [ctypes.c_void_p]
    libc.strnlen.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    out, status = sys.stdout.buffer, ctypes.c_int()
    out.write(b"ready\n")
    out.flush()
    names, answered = sys.stdin.buffer.read().split(b"\n"), mmap.mmap(-1, 4)
    for _ in range(_MOST_REFUSED):
        # Another process answers, until a name ends it.
        pid = os.fork()
        if not pid:
            for number in range(int.from_bytes(answered[:], "little"), len(names)):
                text = line = names[number]
                signal.setitimer(signal.ITIMER_VIRTUAL, _NAME_SECONDS)          # SIGVTALRM ends this process
                result = demangler(line, None, None, ctypes.byref(status))
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
                if result:
                    text = ctypes.string_at(result, libc.strnlen(result, _LIMIT + 1))
                    text = text if len(text) <= _LIMIT else text[:_LIMIT] + b"..."
                    libc.free(result)
                out.write(text + b"\n")
                out.flush()
                answered[:] = (number + 1).to_bytes(4, "little")
            os._exit(0)
        if not os.waitpid(pid, 0)[1]:
            break
        number = int.from_bytes(answered[:], "little")
        out.write(names[number] + b"\n")
        out.flush()
        answered[:] = (number + 1).to_bytes(4, "little")
    return 0


if __name__ == "__main__":
    # Skips the teardown, as everything has been flushed.
    os._exit(_serve())
