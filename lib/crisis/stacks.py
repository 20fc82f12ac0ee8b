# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses to symbols, for the kernel and for processes, and stacks as folded lines.

Follows /proc/kallsyms, proc_pid_maps(5), the ELF specification, GDB's rules
for separate debug files (build id, then .gnu_debuglink), and perf's map files
for code compiled at run time.  A process's files are opened through
/proc/PID/map_files, which finds what is deleted or in another mount namespace.
Loads nothing into the kernel.

A symbol table has no inlined functions; `Symbols.inlined` asks addr2line(1)
for them, which needs debugging information.
"""

import os
import struct
from bisect import bisect_left, bisect_right

from .errors import Unavailable

__all__ = ["Frame", "Symbols", "Elf", "mappings", "demangle", "folded", "line", "without_tracing"]

KERNEL = "kernel"       # the module name of what is built in


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

    def __init__(self, address, name=None, offset=None, module=None, file_offset=None, build_id=None):
        self.address, self.name, self.offset, self.module = address, name, offset, module
        self.file_offset, self.build_id = file_offset, build_id
        self.inlined = False


def line(frame):
    """A frame as bcc prints it: "name+0x1d [module]", or "name (inlined) [module]", escaped."""
    from .table import escape
    text = "[unknown]" if frame.name is None else escape(frame.name)
    if frame.inlined:
        text += " (inlined)"
    elif frame.offset is not None:
        text += "+0x%x" % frame.offset
    if frame.module is None:
        return text
    base = escape(os.path.basename(frame.module) or frame.module)
    if frame.name is None and frame.file_offset is not None:
        base += "+0x%x" % frame.file_offset
    return "%s [%s]" % (text, base)


# Functions between a tracepoint or probe and a BPF program there.
_TRACING = ("bpf_prog_", "bpf_trace_run", "__bpf_trace_", "__traceiter_", "trace_call_bpf",
            "perf_trace_", "kprobe_perf_func", "kprobe_ftrace_handler")


def without_tracing(frames):
    """A kernel stack, innermost first, less the frames that exist only because it is traced."""
    own = [i for i, frame in enumerate(frames[:8]) if (frame.name or "").startswith(_TRACING)]
    # Further out, fexit leaves its trampoline between a function and its caller.
    return [frame for frame in frames[max(own, default=-1) + 1:]
            if not (frame.name or "").startswith("bpf_trampoline_")]


def folded(frames, root=None):
    """A stack as flamegraph.pl takes it: names from the outermost in, joined by ';' (without the count).

    frames: innermost first; root: a name to put in front, such as the command's.
    A ';' or line break in a name would make it another frame, and is replaced.
    """
    from .table import escape
    names = [] if root is None else [root]
    for frame in reversed(frames):
        name = frame.name
        if name is None:
            name = "[%s]" % (os.path.basename(frame.module) if frame.module else "unknown")
        names.append(name)
    return ";".join(escape(name).replace(";", ":") for name in names)


_demangler = False      # False: not looked for yet; None: there is none


def demangle(name):
    """A C++ or legacy Rust name as its source spells it; any other name unchanged.

    Uses the C++ runtime's __cxa_demangle where libstdc++ or libc++abi is installed.
    """
    global _demangler
    if not name.startswith("_Z") or len(name) > 4096 or not name.isascii():
        return name
    import ctypes
    if _demangler is False:
        _demangler = None
        for library in "libstdc++.so.6", "libc++abi.so.1":
            try:
                _demangler = ctypes.CDLL(library).__cxa_demangle
                break
            except (OSError, AttributeError):
                continue
        else:
            return name
        _demangler.restype = ctypes.c_void_p
    if _demangler is None:
        return name
    status = ctypes.c_int()
    result = _demangler(name.encode(), None, None, ctypes.byref(status))
    if not result:
        return name
    try:
        text = ctypes.string_at(result).decode("utf-8", "surrogateescape")
    finally:
        free = ctypes.CDLL(None).free
        free.argtypes = [ctypes.c_void_p]
        free(result)
    if len(text) > 19 and text[-19:-16] == "::h" and all(c in "0123456789abcdef" for c in text[-16:]):
        return text[:-19]               # the hash that rustc puts behind a legacy name
    return text


_FUNC, _NOTYPE, _IFUNC = 2, 0, 10
_LIMIT = 1 << 30        # bytes of a section; no symbol table is larger, a hostile file may say so


class Elf:
    """An ELF file of this machine's byte order: its symbols and where they are loaded.

    read: a function (length, offset) -> bytes, such as one made of os.pread.
    bits: 64 or 32; build_id: hexadecimal or None; segments: the PT_LOADs as
    (file offset, virtual address, bytes in the file, flags).
    Raises ValueError for what is not an ELF file of this byte order.
    """

    def __init__(self, read):
        self._read = read
        head = read(64, 0)
        if head[:4] != b"\x7fELF" or len(head) < 52:
            raise ValueError("not an ELF file")
        self.bits = 64 if head[4] == 2 else 32
        if head[5] != (1 if struct.pack("=H", 1)[0] else 2):
            raise ValueError("an ELF file of the other byte order")
        try:
            if self.bits == 64:
                self.type, self.machine, _, _, phoff, shoff, _, _, phsize, phnum, shsize, shnum, shstr = \
                    struct.unpack_from("=HHIQQQIHHHHHH", head, 16)
            else:
                self.type, self.machine, _, _, phoff, shoff, _, _, phsize, phnum, shsize, shnum, shstr = \
                    struct.unpack_from("=HHIIIIIHHHHHH", head, 16)
            self.segments, self._notes, self.interpreter = [], [], None
            raw = read(phsize * phnum, phoff)
            for i in range(phnum):
                if self.bits == 64:
                    kind, flags, offset, address, _, size = struct.unpack_from("=IIQQQQ", raw, phsize * i)
                else:
                    kind, offset, address, _, size, _, flags = struct.unpack_from("=IIIIIII", raw, phsize * i)
                if kind == 1:
                    self.segments.append((offset, address, size, flags))
                elif kind == 3:
                    self.interpreter = read(min(size, 4096), offset).rstrip(b"\0")
                elif kind == 4:
                    self._notes.append((offset, size))
            self.sections = {}
            raw = read(shsize * shnum, shoff) if shnum else b""
            found = []
            for i in range(shnum if len(raw) == shsize * shnum else 0):
                form = "=IIQQQQIIQQ" if self.bits == 64 else "=IIIIIIIIII"
                name, kind, _, _, offset, size, link, _, _, _ = struct.unpack_from(form, raw, shsize * i)
                found.append((name, kind, offset, size, link))
            self._found = found
            if shstr < len(found):
                names = self._bytes(found[shstr][2], found[shstr][3])
                for entry in found:
                    end = names.find(b"\0", entry[0])
                    self.sections.setdefault(names[entry[0]:end], entry)
        except struct.error:
            raise ValueError("a truncated ELF file") from None
        self.build_id = self._build_id()
        self._tables = None

    def _bytes(self, offset, size):
        return self._read(size, offset) if 0 < size <= _LIMIT else b""

    def section(self, name):
        """The bytes of a section, b"" when it has none (or it is only in the debug file)."""
        entry = self.sections.get(name)
        return b"" if entry is None or entry[1] == 8 else self._bytes(entry[2], entry[3])

    def _build_id(self):
        for offset, size in self._notes or [self.sections[b".note.gnu.build-id"][2:4]] \
                if self._notes or b".note.gnu.build-id" in self.sections else ():
            raw, at = self._bytes(offset, min(size, 1 << 16)), 0
            while at + 12 <= len(raw):
                name, length, kind = struct.unpack_from("=III", raw, at)
                at += 12
                owner, at = raw[at:at + name], at + (name + 3 & ~3)
                if kind == 3 and owner == b"GNU\0" and at + length <= len(raw):
                    return raw[at:at + length].hex()
                at += length + 3 & ~3
        return None

    def tables(self):
        """[(heads, values, sizes, strings)] of .symtab and .dynsym; a head is st_name, info and shndx in 64 bits."""
        if self._tables is None:
            self._tables = []
            for _, kind, offset, size, link in self._found:
                if kind not in (2, 11) or link >= len(self._found):
                    continue
                raw = self._bytes(offset, size)
                strings = self._bytes(*self._found[link][2:4])
                if self.bits == 64 and struct.pack("=H", 1)[0]:
                    words = memoryview(raw[:len(raw) // 24 * 24]).cast("Q")
                    self._tables.append((words[0::3].tolist(), words[1::3].tolist(), words[2::3].tolist(), strings))
                else:
                    rows = [(n | i << 32 | x << 48, v, s) for n, i, _, x, v, s in
                            struct.iter_unpack("=IBBHQQ", raw[:len(raw) // 24 * 24])] if self.bits == 64 else \
                           [(n | i << 32 | x << 48, v, s) for n, v, s, i, _, x in
                            struct.iter_unpack("=IIIBBH", raw[:len(raw) // 16 * 16])]
                    self._tables.append(tuple(map(list, zip(*rows or [(0, 0, 0)]))) + (strings,))
        return self._tables

    def has_symtab(self):
        """True when the file has its full symbol table, not only the names that it exports."""
        return any(entry[1] == 2 and entry[3] for entry in self._found)

    def defined(self, names):
        """{name: virtual address} of those functions (names are bytes) that the file defines for others too."""
        found = {}
        for heads, values, _, strings in self.tables():
            by_name = None
            for name in names:
                at = strings.find(b"\0" + name + b"\0")
                at = 0 if at >= 0 or strings.startswith(name + b"\0") else -1
                if at < 0 and strings.find(name + b"\0") < 0:
                    continue
                if by_name is None:
                    by_name = {}
                    for i, head in enumerate(heads):
                        # A local one is the file's private business, whatever its name.
                        if head >> 32 & 15 == _FUNC and head >> 36 & 15 and head >> 48 and values[i]:
                            by_name[head & 0xffffffff] = i
                at = strings.find(name + b"\0")
                while at >= 0:                  # it may be the tail of a longer string
                    if at in by_name:
                        found.setdefault(name, values[by_name[at]])
                        break
                    at = strings.find(name + b"\0", at + 1)
        return found

    def file_offset(self, address):
        """The file offset of a virtual address, or None."""
        for offset, start, size, _ in self.segments:
            if start <= address < start + size:
                return address - start + offset
        return None

    def address(self, file_offset):
        """The virtual address of a file offset, or None; executable segments first."""
        for offset, start, size, _ in sorted(self.segments, key=lambda s: not s[3] & 1):
            if offset <= file_offset < offset + size:
                return file_offset - offset + start
        return None


class _Functions:
    """The functions of one or more symbol tables by address."""

    def __init__(self, *elves):
        rows = []
        self._strings = []
        for elf in elves:
            for heads, values, sizes, strings in elf.tables():
                number = len(self._strings)
                self._strings.append(strings)
                for head, value, size in zip(heads, values, sizes):
                    kind = head >> 32 & 15
                    if head >> 48 and value and (kind == _FUNC or kind == _IFUNC or kind == _NOTYPE and not size):
                        # Of several names for one place: a typed one, a global one.
                        rank = (kind == _NOTYPE) << 1 | (head >> 36 & 15 == 0)
                        rows.append((value, -rank, size, number, head & 0xffffffff))
        rows.sort()
        self._rows, self._values = rows, [row[0] for row in rows]

    def find(self, address):
        """(name, offset) or None."""
        best, best_name = None, None
        at = bisect_right(self._values, address) - 1
        first = at
        while at >= 0 and first - at < 64:
            value, rank, size, number, name_at = self._rows[at]
            if best is not None and value != best[0]:
                break
            if address < value + size or not size and at == first:
                strings = self._strings[number]
                name = strings[name_at:strings.find(b"\0", name_at)]
                choice = value, rank, -(len(name) - len(name.lstrip(b"_"))), name == b""
                if best is None or choice > best:
                    best, best_name = choice, name
            at -= 1
        if not best_name:
            return None
        text = best_name.decode("utf-8", "surrogateescape").partition("@")[0]
        return demangle(text), address - best[0]


def mappings(pid, root="/"):
    """[(start, end, executable, file offset, (device, inode), path)] of a process.

    path is str, without the kernel's " (deleted)"; "" for anonymous memory.
    Raises OSError.
    """
    with open(os.path.join(root, "proc/%d/maps" % pid), "rb") as f:
        text = f.read()
    found = []
    for row in text.splitlines():
        fields = row.split(None, 5)
        start, _, end = fields[0].partition(b"-")
        path = fields[5].decode("utf-8", "surrogateescape") if len(fields) > 5 else ""
        if path.endswith(" (deleted)"):
            path = path[:-10]
        found.append((int(start, 16), int(end, 16), fields[1][2:3] == b"x", int(fields[2], 16),
                      (fields[3], int(fields[4])), path.replace("\\012", "\n")))
    return found


def _reader(fd):
    def read(length, offset):
        try:
            return os.pread(fd, length, offset)
        except OSError:
            return b""
    return read


class _Module:
    """A file that some process has mapped: its functions, read when the first address asks."""

    def __init__(self, fd, path, pid):
        self.fd, self.path, self._pid = fd, path, pid
        self._elf = self._functions = None
        self.why = None

    def load(self):
        if self._elf is not None or self.why is not None:
            return
        try:
            if self.fd is None:
                raise ValueError("it could not be opened")
            self._elf = elf = Elf(_reader(self.fd))
            elves = [elf]
            if not elf.has_symtab():
                other = self._debug_file(elf) or self._mini_debug(elf)
                if other is not None:
                    elves.insert(0, other)
            self._functions = _Functions(*elves)
        except (ValueError, OverflowError, MemoryError) as exc:
            self.why = str(exc) or type(exc).__name__

    def _debug_file(self, elf):
        """The Elf of the separate debug file, of the process's root or of ours, or None."""
        candidates = []
        if elf.build_id and len(elf.build_id) > 2:
            candidates.append("/usr/lib/debug/.build-id/%s/%s.debug" % (elf.build_id[:2], elf.build_id[2:]))
        link = elf.section(b".gnu_debuglink").split(b"\0")[0]
        if link and b"/" not in link:
            name, directory = os.fsdecode(link), os.path.dirname(self.path)
            candidates += ["%s/%s" % (directory, name), "%s/.debug/%s" % (directory, name),
                           "/usr/lib/debug%s/%s" % (directory, name)]
        for path in candidates:
            for root in ("/proc/%d/root" % self._pid, ""):
                try:
                    fd = os.open(root + path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                except OSError:
                    continue
                try:
                    other = Elf(_reader(fd))
                    # A file of another build would name the wrong functions.
                    if other.has_symtab() and other.build_id == elf.build_id and elf.build_id:
                        other.tables()
                        return other
                except ValueError:
                    pass
                finally:
                    os.close(fd)
        return None

    @staticmethod
    def _mini_debug(elf):
        """The Elf in .gnu_debugdata (Fedora's MiniDebugInfo: a symbol table compressed by xz), or None."""
        raw = elf.section(b".gnu_debugdata")
        if not raw:
            return None
        import lzma
        try:
            data = lzma.LZMADecompressor(memlimit=1 << 28).decompress(raw, _LIMIT)
            return Elf(lambda length, offset: data[offset:offset + length])
        except (lzma.LZMAError, ValueError, MemoryError):
            return None

    def build_id(self):
        self.load()
        return self._elf.build_id if self._elf else None

    def inlined(self, offsets):
        """{file offset: names of the functions that are inlined there, innermost first}."""
        import subprocess
        self.load()
        places = {}
        for offset in offsets:
            address = self._elf.address(offset) if self._elf else None
            if address is not None:
                places[address] = offset
        if not places:
            return {}
        command = ["addr2line", "-a", "-f", "-i", "-C", "-e", "/proc/self/fd/%d" % self.fd]
        try:
            text = subprocess.run(command, input="".join("0x%x\n" % address for address in places).encode(),
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=[self.fd]).stdout
        except FileNotFoundError:
            raise Unavailable("cannot name inlined functions: addr2line is not installed. Install binutils") from None
        found, current = {}, None
        for i, row in enumerate(text.decode("utf-8", "surrogateescape").split("\n")):
            if row.startswith("0x") and " " not in row:
                current = found[places.get(int(row, 16))] = []
                first = i + 1
            elif current is not None and row and not (i - first) % 2:       # function, place, function, place
                current.append(row)
        return {offset: names[:-1] for offset, names in found.items() if len(names) > 1}

    def find(self, file_offset):
        self.load()
        if not self._functions:
            return None
        address = self._elf.address(file_offset)
        return None if address is None else self._functions.find(address)


class Symbols:
    """What names the addresses of this system's kernel and processes; keeps what it has read.

    root: "/" or a fixture tree.
    """

    def __init__(self, root="/"):
        self._root = root
        self._kernel = {}
        self._modules = {}      # (device, inode) -> _Module
        self._maps = {}         # pid -> (starts, mappings)
        self._jit = {}          # pid -> (starts, rows)
        self._cache = {}        # pid -> {address: Frame}

    # The kernel

    def learn_kernel(self, addresses):
        """Look up many kernel addresses in one pass over /proc/kallsyms; `kernel` does it for those not yet known."""
        wanted = sorted({a for a in addresses if a not in self._kernel})
        if not wanted:
            return
        keys = [b"%016x" % a for a in wanted]
        best, modules = [b""] * len(keys), []
        try:
            with open(os.path.join(self._root, "proc/kallsyms"), "rb") as f:
                before, rest = b"", b""
                while True:
                    block = rest + f.read(1 << 16)
                    if block == rest:
                        break
                    block, _, rest = block.rpartition(b"\n")
                    rows = block.split(b"\n")
                    if b"\t" in rows[-1]:       # the core's symbols, which are in order, have ended
                        modules += rows
                    elif block:
                        # Few blocks have a key between the last line of the one before and their own.
                        first = bisect_left(keys, before[:16] or rows[0][:16])
                        if first < len(keys) and keys[first] <= rows[-1][:16]:
                            _nearest(rows, before, keys, first, best)
                        before = next((row for row in reversed(rows) if row[17:18] in b"tTwW"), before)
        except OSError:
            pass
        modules.append(before)
        modules.sort()
        _nearest(modules, b"", keys, 0, best)
        for address, row in zip(wanted, best):
            if not int(row[:16] or b"0", 16):           # all are 0 where kptr_restrict hides them
                self._kernel[address] = Frame(address, module=KERNEL)
                continue
            fields = row[19:].split(b"\t")
            module = fields[1].strip(b" []").decode("utf-8", "surrogateescape") if len(fields) > 1 else KERNEL
            self._kernel[address] = Frame(address, fields[0].decode("utf-8", "surrogateescape"),
                                          address - int(row[:16], 16), module)

    def kernel(self, addresses, first_is_return=False):
        """The Frames of a kernel stack.

        addresses: innermost first, as a stack map gives them.
        first_is_return: the innermost is a return address too (from a probe's return).
        """
        looked = [_call_site(a, i or first_is_return) for i, a in enumerate(addresses)]
        self.learn_kernel(looked)
        return [_moved(self._kernel[at], address) for at, address in zip(looked, addresses)]

    # Processes

    def hold(self, pid):
        """Read a process's map, and open its executable files, so that addresses can be named after its end.

        Raises OSError when there is no such process.
        """
        rows = [m for m in mappings(pid, self._root) if m[2]]
        for start, end, _, _, identity, path in rows:
            if path.startswith("/") and identity not in self._modules:
                self._modules[identity] = _Module(self._open(pid, start, end, path), path, pid)
        old = self._maps.get(pid)
        if old is None or old[1] != rows:
            self._maps[pid] = [m[0] for m in rows], rows
            if old is not None:
                # What is gone from the map (dlclose) still names what was allocated there.
                have = {m[:2] for m in rows}
                kept = [m for m in old[1] if m[:2] not in have
                        and not any(m[0] < n[1] and n[0] < m[1] for n in rows)]
                rows = sorted(rows + kept)
                self._maps[pid] = [m[0] for m in rows], rows
            cache = self._cache.get(pid)
            if cache:
                for address in [a for a, f in cache.items() if f.name is None]:
                    del cache[address]

    def files(self, pid):
        """[(identity, path, descriptor or None)] of the executable files of a process that `hold` has read."""
        found = {}
        for _, _, _, _, identity, path in self._maps.get(pid, ((), ()))[1]:
            if path.startswith("/") and identity in self._modules:
                found[identity] = identity, path, self._modules[identity].fd
        return list(found.values())

    def _open(self, pid, start, end, path):
        process = os.path.join(self._root, "proc/%d" % pid)
        for name in ("%s/map_files/%x-%x" % (process, start, end), "%s/root%s" % (process, path)):
            try:
                return os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                continue
        return None

    def forget(self, pid):
        """Drop what is known of a process's memory: after an exec."""
        for table in self._maps, self._jit, self._cache:
            table.pop(pid, None)

    def user(self, pid, addresses, first_is_return=False):
        """The Frames of a process's stack; see `kernel`.  One that is gone and was not held has bare addresses."""
        cache = self._cache.setdefault(pid, {})
        if pid not in self._maps:
            try:
                self.hold(pid)
            except OSError:
                self._maps[pid] = [], []
        frames = []
        for i, address in enumerate(addresses):
            at = _call_site(address, i or first_is_return)
            frame = cache.get(at)
            if frame is None:
                frame = cache[at] = self._user(pid, at)
            frames.append(_moved(frame, address))
        return frames

    def _user(self, pid, address):
        starts, rows = self._maps[pid]
        i = bisect_right(starts, address) - 1
        if i < 0 or address >= rows[i][1]:
            return Frame(address)
        start, end, _, offset, identity, path = rows[i]
        if path.startswith("/"):
            module = self._modules.get(identity)
            where = address - start + offset
            found = module.find(where) if module else None
            build_id = module.build_id() if module else None
            found = found or self._compiled(pid, address) or (None, None)      # a JIT may map a file too
            return Frame(address, found[0], found[1], path, where, build_id)
        if path == "[vdso]":
            module = self._vdso(pid, start, end)
            found = module.find(address - start) if module else None
            return Frame(address, *(found or (None, None)), module=path, file_offset=address - start)
        name = self._compiled(pid, address)
        return Frame(address, *(name or (None, None)), module=path or None)

    def inlined(self, stacks, first_is_return=False):
        """The user stacks (lists of Frames) with inlined functions put in, where debugging information has them.

        Raises Unavailable without addr2line(1).
        """
        modules = {(m.path, m.build_id()): m for m in self._modules.values() if m.fd is not None}
        wanted = {}
        for frames in stacks:
            for i, frame in enumerate(frames):
                if (frame.module, frame.build_id) in modules and frame.file_offset is not None:
                    wanted.setdefault((frame.module, frame.build_id), set()).add(
                        _call_site(frame.file_offset, i or first_is_return))
        names = {key: modules[key].inlined(sorted(offsets)) for key, offsets in wanted.items()}
        result = []
        for frames in stacks:
            result.append([])
            for i, frame in enumerate(frames):
                found = names.get((frame.module, frame.build_id), {}).get(
                    _call_site(frame.file_offset or 0, i or first_is_return), ())
                for name in found:
                    extra = Frame(frame.address, name, None, frame.module, frame.file_offset, frame.build_id)
                    extra.inlined = True
                    result[-1].append(extra)
                result[-1].append(frame)
        return result

    def _vdso(self, pid, start, end):
        key = "vdso", end - start
        if key not in self._modules:
            try:
                with open(os.path.join(self._root, "proc/%d/mem" % pid), "rb", 0) as f:
                    data = os.pread(f.fileno(), end - start, start)
            except OSError:
                return None
            module = self._modules[key] = _Module(None, "[vdso]", pid)
            try:
                module._elf = Elf(lambda length, offset: data[offset:offset + length])
                module._functions = _Functions(module._elf)
            except ValueError as exc:
                module.why = str(exc)
        return self._modules[key]

    def _compiled(self, pid, address):
        """(name, offset) from /tmp/perf-PID.map, which a JIT writes for perf, or None."""
        if pid not in self._jit:
            rows = []
            process = os.path.join(self._root, "proc/%d" % pid)
            try:
                with open(process + "/status", "rb") as f:
                    status = dict(row.split(b":\t", 1) for row in f.read().splitlines() if b":\t" in row)
                inner = int(status.get(b"NSpid", b"%d" % pid).split()[-1])
                fd = os.open("%s/root/tmp/perf-%d.map" % (process, inner),
                             os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
                with os.fdopen(fd, "rb") as f:
                    if os.fstat(fd).st_uid in (0, int(status[b"Uid"].split()[1])):
                        for row in f.read(1 << 28).splitlines():
                            fields = row.split(None, 2)
                            try:
                                rows.append((int(fields[0], 16), int(fields[1], 16), fields[2]))
                            except (ValueError, IndexError):        # it may be half written
                                continue
            except (OSError, ValueError, KeyError):
                pass
            rows.sort(key=lambda r: r[0])
            self._jit[pid] = [r[0] for r in rows], rows
        starts, rows = self._jit[pid]
        i = bisect_right(starts, address) - 1
        if i >= 0 and address < rows[i][0] + rows[i][1]:
            return rows[i][2].decode("utf-8", "surrogateescape"), address - rows[i][0]
        return None


def _nearest(rows, before, keys, first, best):
    """Put into `best`, for the keys from the first on, the last function row at or below each, if that is nearer.

    rows: sorted lines of /proc/kallsyms; before: the function row in front of them, or b"".
    """
    for i in range(first, len(keys)):
        at = bisect_right(rows, keys[i] + b"~") - 1
        while at >= 0 and rows[at][17:18] not in b"tTwW":
            at -= 1
        row = rows[at] if at >= 0 else before
        if row[:16] > best[i][:16]:
            best[i] = row


def _call_site(address, is_return):
    """Where to look: the call may be the last instruction of its function."""
    return address - 1 if is_return and address else address


def _moved(frame, address):
    """The frame of `frame.address` as that of a nearby address."""
    by = address - frame.address
    if not by:
        return frame
    return Frame(address, frame.name, None if frame.offset is None else frame.offset + by, frame.module,
                 None if frame.file_offset is None else frame.file_offset + by, frame.build_id)
