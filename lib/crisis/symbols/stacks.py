# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses to symbols, for the kernel and for processes.

Follows /proc/kallsyms, proc_pid_maps(5), the ELF specification, GDB's rules
for separate debug files (build id, then .gnu_debuglink), and perf's map files
for code compiled at run time.  A process's files are opened through
/proc/PID/map_files, which finds what is deleted or in another mount namespace.
Loads nothing into the kernel.

A symbol table has no inlined functions; `Symbols.inlined` asks addr2line(1)
for them, which needs debugging information.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from bisect import bisect_left, bisect_right

from ..errors import Unavailable
from ..kernel.maps import mappings
from . import targetfile
from .elf import Elf, Functions, NotElf
from .frame import KERNEL, Frame, call_site, moved

TYPE_CHECKING = False  # mypy takes it for true
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Symbols"]

# of xz (its strongest preset takes 65 MB) and of what it unpacks
_MINI_MEMORY, _MINI_SIZE = (80 << 20, 64 << 20)
_INLINE_SECONDS, _INLINE_OUTPUT, _INLINE_MEMORY = 30, 16 << 20, 4 << 30
_MOST_NAME = 4096  # bytes of an inlined function's name
_MOST_KEPT = 4096  # mappings that are gone
_NO_MAP = [], []
DENIED = errno.EPERM, errno.EACCES
ADDR2LINE = "/usr/bin/addr2line"


class _Module:
    """A file that some process has mapped: its functions, read when the first address asks.

    fd: None when it could not be opened, for which code is the errno or 0; pid:
    the process that is charged for it; why: why it has no symbols, or None.
    """

    def __init__(self, fd, path, pid, why=None, code=0):
        self.fd, self.path, self.pid, self.why, self.code = fd, path, pid, why, code
        self.elf = self._functions = None

    def load(self, uid=None):
        """Read the symbol tables.  uid: the process's, or None.

        Raises ValueError, OSError, MemoryError.
        """
        self.elf = elf = Elf(self.fd)
        elves = [elf]
        if not elf.has_symtab():
            other = self._debug_file(elf, uid) or self._mini_debug(elf)
            if other is not None:
                elves.insert(0, other)
        self._functions = Functions(*elves)

    def size(self):
        """The number of functions."""
        return len(self._functions or ())

    def _debug_file(self, elf, uid):
        """The Elf of the separate debug file, or None.

        In the host's file system it must be readable by all, or the process's
        own; in the process's, where that may have bound any file over the name, its own.
        """
        if not elf.build_id:
            return None
        own = targetfile.owned_by(uid)
        candidates = [
            (f"/usr/lib/debug/.build-id/{elf.build_id[:2]}/{elf.build_id[2:]}.debug", True)
        ]
        link = elf.section(b".gnu_debuglink").split(b"\0")[0]
        if link and len(link) < 256 and b"/" not in link:
            name, directory = os.fsdecode(link), os.path.dirname(self.path)
            candidates.append((f"/usr/lib/debug{directory}/{name}", True))
            candidates += [(f"{directory}/{name}", False), (f"{directory}/.debug/{name}", False)]
        for path, follow in candidates:
            for root in f"/proc/{self.pid}/root", "":
                allowed = (
                    own if root else lambda info: own(info) or targetfile.readable_by_all(info)
                )
                try:
                    fd = targetfile.open_regular(root + path, allowed, follow and not root)
                except (OSError, ValueError):  # ValueError: a name with a NUL
                    continue
                try:
                    other = Elf(fd)
                    # A file of another build would name the wrong functions.
                    if other.has_symtab() and other.build_id == elf.build_id:
                        return other
                except ValueError:
                    pass
                os.close(fd)
        return None

    @staticmethod
    def _mini_debug(elf):
        """The Elf in .gnu_debugdata (Fedora's MiniDebugInfo: a symbol table compressed by xz), or
        None.
        """
        raw = elf.section(b".gnu_debugdata")
        if not raw:
            return None
        import lzma

        try:
            unpacker = lzma.LZMADecompressor(memlimit=_MINI_MEMORY)
            data = unpacker.decompress(raw, _MINI_SIZE)
            return Elf(data) if unpacker.eof else None
        except (lzma.LZMAError, ValueError, MemoryError):
            return None

    def build_id(self):
        return self.elf.build_id if self.elf else None

    def find(self, file_offset):
        """(name, offset) of a loaded file's function, or None."""
        address = self.elf.address(file_offset) if self._functions else None
        return None if address is None else self._functions.find(address)

    def inlined(self, offsets, seconds):
        """{file offset: names of the functions that are inlined there, innermost first, mangled}.
        Raises Unavailable.

        addr2line reads the file as its owner, who could have written what it reads.
        """
        from .. import child

        places = {}
        for offset in offsets:
            address = self.elf.address(offset) if self.elf else None
            if address is not None:
                places[address] = offset
        if not places:
            return {}
        if not os.access(ADDR2LINE, os.X_OK):
            raise Unavailable(
                f"cannot name inlined functions: {ADDR2LINE} is not there. Install binutils"
            )
        info = os.fstat(self.fd)
        command = [ADDR2LINE, "-a", "-f", "-i", "-e", f"/proc/self/fd/{self.fd}"]
        text = child.run(
            command,
            "".join(f"0x{address:x}\n" for address in places).encode(),
            seconds,
            _INLINE_OUTPUT,
            _INLINE_MEMORY,
            [self.fd],
            (info.st_uid, info.st_gid),
        )
        found, current, first = {}, None, 0
        for i, row in enumerate(text.decode("utf-8", "surrogateescape").split("\n")):
            if row.startswith("0x") and " " not in row:
                offset = places.get(int(row, 16)) if len(row) <= 18 else None
                current, first = found.setdefault(offset, []), i + 1
            elif (
                current is not None and row and not (i - first) % 2
            ):  # function, place, function, place
                current.append(row[:_MOST_NAME])
        return {
            offset: names[:-1]
            for offset, names in found.items()
            if len(names) > 1 and offset is not None
        }


class Symbols:
    """What names the addresses of this system's kernel and processes; keeps what it has read.

    root: "/" or a fixture tree; note: called with a line for a file that is
    skipped.  A file's fault costs its own symbols, and the files of one process
    cost a bounded time and memory.
    """

    SECONDS, FUNCTIONS = 20, 1 << 24  # for the files of a process
    ALL_FUNCTIONS = 1 << 26  # 8 bytes each
    NOTES = 20

    def __init__(self, root: str = "/", note: Callable[[str], None] | None = None) -> None:
        self._root, self._note, self._notes = root, note or (lambda text: None), 0
        self._kernel = {}
        self._modules = {}  # (device, inode) -> _Module
        self._maps = {}  # pid -> (starts, mappings)
        self._jit = {}  # pid -> PerfMap
        self._cache = {}  # pid -> {address: Frame}
        self._spent = {}  # pid -> [seconds, functions] of its files
        self._demangler = self._room = None

    # The kernel

    def learn_kernel(self, addresses):
        """Look up many kernel addresses in one pass over /proc/kallsyms; `kernel` does it for those
        not yet known.
        """
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
                    if b"\t" in rows[-1]:  # the core's symbols, which are in order, have ended
                        modules += rows
                    elif block:
                        # Few blocks have a key between the last line of the one before and their
                        # own.
                        first = bisect_left(keys, before[:16] or rows[0][:16])
                        if first < len(keys) and keys[first] <= rows[-1][:16]:
                            _nearest(rows, before, keys, first, best)
                        before = next(
                            (row for row in reversed(rows) if row[17:18] in b"tTwW"), before
                        )
        except OSError:
            pass
        modules.append(before)
        modules.sort()
        _nearest(modules, b"", keys, 0, best)
        for address, row in zip(wanted, best):
            if not int(row[:16] or b"0", 16):  # all are 0 where kptr_restrict hides them
                self._kernel[address] = Frame(address, module=KERNEL)
                continue
            fields = row[19:].split(b"\t")
            module = (
                fields[1].strip(b" []").decode("utf-8", "surrogateescape")
                if len(fields) > 1
                else KERNEL
            )
            self._kernel[address] = Frame(
                address,
                fields[0].decode("utf-8", "surrogateescape"),
                address - int(row[:16], 16),
                module,
            )

    def kernel(self, addresses, first_is_return=False):
        """The Frames of a kernel stack.

        addresses: innermost first, as a stack map gives them.
        first_is_return: the innermost is a return address too (from a probe's return).
        """
        looked = [call_site(a, i or first_is_return) for i, a in enumerate(addresses)]
        self.learn_kernel(looked)
        return [moved(self._kernel[at], address) for at, address in zip(looked, addresses)]

    # Processes

    def hold(self, pid: int) -> None:
        """Read a process's map, and open its executable files, so that addresses can be named after
        its end.

        Raises OSError when there is no such process.
        """
        rows = [m for m in mappings(pid, self._root) if m[2]]
        for start, end, _, _, identity, path in rows:
            if not path.startswith("/"):
                continue
            known = self._modules.get(identity)
            if known is None or known.code in DENIED and known.pid != pid:
                self._modules[identity] = self._open(pid, start, end, identity, path)
        old = self._maps.get(pid)
        if old is None or old[1] != rows:
            if old is not None:
                # What is gone from the map (dlclose) still names what was allocated there.
                rows = sorted(rows + _apart(old[1], rows)[:_MOST_KEPT])
            self._maps[pid] = [m[0] for m in rows], rows
            cache = self._cache.get(pid)
            if cache:
                for address in [a for a, f in cache.items() if f.name is None]:
                    del cache[address]

    def inherit(self, pid, parent):
        """Take a process's map to be that of its parent, as it is after fork(2)."""
        if parent in self._maps:
            self._maps[pid] = self._maps[parent]

    def modules(self, pid):
        """[(identity, _Module)] of the executable files of a process that `hold` has read."""
        found = {
            identity: self._modules[identity]
            for _, _, _, _, identity, path in self._maps.get(pid, ((), ()))[1]
            if path.startswith("/") and identity in self._modules
        }
        return list(found.items())

    def mapped(self, pid: int) -> list[tuple[int, int, bool, int, Any, str]]:
        """The executable mappings of a process that `hold` has read, as of `mappings`; another list
        after a change.
        """
        return self._maps.get(pid, _NO_MAP)[1]

    def file(self, identity: Any) -> tuple[Elf, Callable[[int, int], bytes]] | None:
        """(Elf, read) of a file that `hold` has met, or of "[vdso]": read(length, offset) returns
        bytes of it.

        None when there is none.  Raises ValueError for a malformed file, and so does read; OSError.
        """
        if identity == "[vdso]":
            own = [row for row in mappings(os.getpid()) if row[5] == "[vdso]"]
            module = self._vdso(os.getpid(), *own[0][:2]) if own else None
            return (module.elf, module.elf.read) if module and module.elf else None
        module = self._modules.get(identity)
        if module is None or module.fd is None:
            return None
        return Elf(module.fd), lambda length, offset: os.pread(module.fd, length, offset)

    def _open(self, pid, start, end, identity, path):
        """The _Module of a mapped file.

        It must be a regular one: a device, such as /dev/zero, can be mapped, too.
        """
        process = os.path.join(self._root, f"proc/{pid}")
        if self._room is None:
            import resource

            self._room = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 64, 8)
        if self._room <= 0:
            return self._full(path, pid)
        try:
            fd = targetfile.open_regular(f"{process}/map_files/{start:x}-{end:x}", follow=True)
        except OSError as exc:
            # Without CAP_CHECKPOINT_RESTORE by its name: the process may have another file there by
            # now.
            try:
                fd = targetfile.open_regular(
                    f"{process}/root{path}",
                    lambda info: info.st_ino == identity[1] or targetfile.readable_by_all(info),
                )
            except OSError as again:
                if again.errno in (errno.EMFILE, errno.ENFILE):
                    return self._full(path, pid)
                why = again if exc.errno in DENIED else exc
                return _Module(None, path, pid, why.strerror, why.errno)
        self._room -= 1
        return _Module(fd, path, pid)

    def _full(self, path, pid):
        """The _Module of a file for which no descriptor is left, which is noted once."""
        import resource

        why = (
            "the limit of open files is %d. Raise it with ulimit -n"
            % resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        )
        if self._room is not False:
            self._note(f"not all files of process {pid} are looked into: {why}")
        self._room = False
        return _Module(None, path, pid, why, errno.EMFILE)

    def guard(self, module, read):
        """What read() returns of a module's file; None when the file is at fault, which is noted
        once.

        The time is charged to the process that has brought the file.
        """
        spent, begin = self._spent.setdefault(module.pid, [0, 0]), time.monotonic()
        if module.why is None and (
            spent[0] > self.SECONDS
            or spent[1] > self.FUNCTIONS
            or sum(s[1] for s in self._spent.values()) > self.ALL_FUNCTIONS
        ):
            module.why = self.skip(
                module.path, f"the files of process {module.pid} take too much time or memory"
            )
        if module.why is not None:
            return None
        try:
            return read()
        except NotElf as exc:  # a JIT's, or Windows', or data
            module.why = str(exc)
        except (ValueError, OverflowError, OSError, struct.error) as exc:
            module.why = self.skip(module.path, getattr(exc, "strerror", None) or str(exc))
        except MemoryError:
            module.why = self.skip(module.path, "out of memory")
        finally:
            spent[0] += time.monotonic() - begin
        return None

    def skip(self, path, why):
        """Say that a file is left out; returns the reason."""
        self._notes += 1
        if self._notes <= self.NOTES:
            self._note(
                "skipped %s: %s%s"
                % (
                    path,
                    why,
                    ". Further files are skipped without a note"
                    if self._notes == self.NOTES
                    else "",
                )
            )
        return why

    def forget(self, pid):
        """Drop what is known of a process's memory: after an exec, or its end."""
        jit = self._jit.pop(pid, None)
        if jit is not None:
            jit.close()
        for table in self._maps, self._cache:
            table.pop(pid, None)

    def stacks(self, wanted, first_is_return=False):
        """[the Frames] of user stacks; see `kernel`.  The names of all are demangled together.

        wanted: [(pid, addresses)].  A process that is gone and was not held has bare addresses.
        """
        found = [self._frames(pid, addresses, first_is_return) for pid, addresses in wanted]
        self._demangle(found)
        return found

    def user(self, pid, addresses, first_is_return=False):
        """The Frames of one user stack: see `stacks`."""
        return self.stacks([(pid, addresses)], first_is_return)[0]

    def _demangle(self, stacks):
        """Put the source's spelling in the place of mangled names."""
        frames = [
            frame
            for frames in stacks
            for frame in frames
            if frame.name and (frame.name.startswith(("_Z", "_R")) or ".llvm." in frame.name)
        ]
        if not frames:
            return
        if self._demangler is None:
            from .demangle import Demangler

            self._demangler = Demangler()
        texts = self._demangler.names(frame.name for frame in frames)
        for frame in frames:
            frame.name = texts.get(frame.name, frame.name)

    def _frames(self, pid, addresses, first_is_return):
        cache = self._cache.setdefault(pid, {})
        if pid not in self._maps:
            try:
                self.hold(pid)
            except OSError:
                self._maps[pid] = [], []
        frames = []
        for i, address in enumerate(addresses):
            at = call_site(address, i or first_is_return)
            frame = cache.get(at)
            if frame is None:
                frame = cache[at] = self._user(pid, at)
            frames.append(moved(frame, address))
        return frames

    def _find(self, module, file_offset, pid):
        """(name, offset) of a place in a mapped file, or None."""
        if module.elf is None and module.why is None:

            def load():
                uid = None
                try:
                    directory = os.open(
                        os.path.join(self._root, f"proc/{pid}"), os.O_PATH | os.O_DIRECTORY
                    )
                    try:
                        uid = targetfile.credentials(directory)[0]
                    finally:
                        os.close(directory)
                except (OSError, ValueError):  # it has ended: only what all may read
                    pass
                module.load(uid)

            self.guard(module, load)
            self._spent[module.pid][1] += module.size()
        return self.guard(module, lambda: module.find(file_offset))

    def is_code(self, pid, address):
        """True when the process had executable memory there as `hold` read its map, now or before,
        or a JIT says so.
        """
        starts, rows = self._maps.get(pid, ((), ()))
        i = bisect_right(starts, address) - 1
        return i >= 0 and address < rows[i][1] or self._compiled(pid, address) is not None

    def _user(self, pid, address):
        starts, rows = self._maps[pid]
        i = bisect_right(starts, address) - 1
        if i < 0 or address >= rows[i][1]:
            return Frame(address)
        start, end, _, offset, identity, path = rows[i]
        if path.startswith("/"):
            module = self._modules.get(identity)
            where = address - start + offset
            found = self._find(module, where, pid) if module else None
            build_id = module.build_id() if module else None
            # a JIT may map a file too
            found = found or self._compiled(pid, address) or (None, None)
            return Frame(address, found[0], found[1], path, where, build_id)
        if path == "[vdso]":
            module = self._vdso(pid, start, end)
            found = module.find(address - start) if module else None
            return Frame(
                address, *(found or (None, None)), module=path, file_offset=address - start
            )
        name = self._compiled(pid, address)
        return Frame(address, *(name or (None, None)), module=path or None)

    def inlined(self, stacks, first_is_return=False):
        """The user stacks (lists of Frames) with inlined functions put in, where debugging
        information has them.

        Raises Unavailable without addr2line(1).
        """
        modules = {
            (m.path, m.build_id()): m
            for m in self._modules.values()
            if m.fd is not None and m.elf is not None
        }
        wanted = {}
        for frames in stacks:
            for i, frame in enumerate(frames):
                if (frame.module, frame.build_id) in modules and frame.file_offset is not None:
                    wanted.setdefault((frame.module, frame.build_id), set()).add(
                        call_site(frame.file_offset, i or first_is_return)
                    )
        names, deadline = {}, time.monotonic() + _INLINE_SECONDS
        for key, offsets in wanted.items():
            if time.monotonic() < deadline:
                try:
                    names[key] = modules[key].inlined(sorted(offsets), deadline - time.monotonic())
                except (OSError, ValueError) as exc:
                    self._note(f"cannot name the inlined functions of {key[0]}: {exc}")
            if time.monotonic() >= deadline:
                self._note(
                    "not all inlined functions are shown: addr2line takes more than "
                    f"{_INLINE_SECONDS} seconds"
                )
                break
        result = []
        for frames in stacks:
            result.append([])
            for i, frame in enumerate(frames):
                found = names.get((frame.module, frame.build_id), {}).get(
                    call_site(frame.file_offset or 0, i or first_is_return), ()
                )
                for name in found:
                    extra = Frame(
                        frame.address, name, None, frame.module, frame.file_offset, frame.build_id
                    )
                    extra.inlined = True
                    result[-1].append(extra)
                result[-1].append(frame)
        self._demangle(result)
        return result

    def _vdso(self, pid, start, end):
        """The _Module of the vDSO: ours where it is as large, since a process can write to its own."""
        key = "vdso", end - start
        if key in self._modules:
            return self._modules[key]
        own = [
            row
            for row in mappings(os.getpid())
            if row[5] == "[vdso]" and row[1] - row[0] == end - start
        ]
        if not own or end - start > 1 << 20:
            return None
        module = self._modules[key] = _Module(None, "[vdso]", os.getpid())
        try:
            with open("/proc/self/mem", "rb", 0) as f:
                module.elf = Elf(os.pread(f.fileno(), end - start, own[0][0]))
            module._functions = Functions(module.elf)
        except (OSError, ValueError) as exc:
            module.why = str(exc)
        return module

    def _compiled(self, pid, address):
        """(name, offset) from /tmp/perf-PID.map, which a JIT writes for perf, or None."""
        if pid not in self._jit:
            from .perfmap import PerfMap

            self._jit[pid] = jit = PerfMap(os.path.join(self._root, f"proc/{pid}"))
            if jit.cut:
                self._note(f"the perf map of process {pid} is too large: {jit.cut}")
        return self._jit[pid].find(address)


def _apart(old, rows):
    """Those of the old mappings that overlap none of the present ones, which are in order of their
    starts.
    """
    starts = [row[0] for row in rows]
    apart = []
    for row in old:
        i = bisect_left(starts, row[1]) - 1  # the last that begins before its end
        if i < 0 or rows[i][1] <= row[0]:
            apart.append(row)
    return apart


def _nearest(rows, before, keys, first, best):
    """Put into `best`, for the keys from the first on, the last function row at or below each, if
    that is nearer.

    rows: sorted lines of /proc/kallsyms; before: the function row in front of them, or b"".
    """
    for i in range(first, len(keys)):
        at = bisect_right(rows, keys[i] + b"~") - 1
        while at >= 0 and rows[at][17:18] not in b"tTwW":
            at -= 1
        row = rows[at] if at >= 0 else before
        if row[:16] > best[i][:16]:
            best[i] = row
