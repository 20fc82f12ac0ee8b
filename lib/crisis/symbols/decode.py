# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses to symbols, for the kernel and for processes.

A place in a process is named by the symbol table of the file that is mapped there (`process`,
`module`), or by the map file that a JIT writes for perf (`perfmap`).  Nothing is loaded into the
kernel.

A symbol table has no inlined functions; `Symbols.inlined` gets them from addr2line(1), which needs
debugging information.
"""

from __future__ import annotations

import os

from .frame import Frame, call_site, moved
from .kallsyms import Kallsyms
from .process import Processes

TYPE_CHECKING = False  # mypy takes it for true
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .demangle import Demangler
    from .perfmap import PerfMap

__all__ = ["Symbols"]


class Symbols(Processes):
    """Names the addresses of this system's kernel and processes; keeps what it has read.

    root, note: see Processes.
    """

    def __init__(self, root: str = "/", note: Callable[[str], None] | None = None) -> None:
        super().__init__(root, note)
        self._kallsyms = Kallsyms(root)
        self._jit: dict[int, PerfMap] = {}  # by PID
        self._cache: dict[int, dict[int, Frame]] = {}  # PID: {address: Frame}
        self._demangler: Demangler | None = None

    # The kernel

    def learn_kernel(self, addresses: Iterable[int]) -> None:
        """Look up many kernel addresses in one pass; `kernel` does it for those not yet known."""
        self._kallsyms.learn(addresses)

    def kernel(self, addresses: Sequence[int], first_is_return: bool = False) -> list[Frame]:
        """The Frames of a kernel stack: see Kallsyms.frames."""
        return self._kallsyms.frames(addresses, first_is_return)

    # Processes

    def stacks(
        self, wanted: Iterable[tuple[int, Sequence[int]]], first_is_return: bool = False
    ) -> list[list[Frame]]:
        """[the Frames] of user stacks; see `kernel`.  The names of all are demangled together.

        wanted: [(pid, addresses)].  A process that is gone and was not held has bare addresses.
        """
        found = [self._frames(pid, addresses, first_is_return) for pid, addresses in wanted]
        self._demangle(found)
        return found

    def user(
        self, pid: int, addresses: Sequence[int], first_is_return: bool = False
    ) -> list[Frame]:
        """The Frames of one user stack: see `stacks`."""
        return self.stacks([(pid, addresses)], first_is_return)[0]

    def inlined(
        self, stacks: Sequence[Sequence[Frame]], first_is_return: bool = False
    ) -> list[list[Frame]]:
        """The user stacks with inlined functions put in, where debugging information has them.

        Raises Unavailable without addr2line(1).
        """
        from .inlined import expanded

        result = expanded(stacks, self._modules.values(), first_is_return, self._note)
        self._demangle(result)
        return result

    def is_code(self, pid: int, address: int) -> bool:
        """True when the process had executable memory there as `hold` read its map, now or before,
        or a JIT says so.
        """
        return self.mapping(pid, address) is not None or self._compiled(pid, address) is not None

    def forget(self, pid: int) -> None:
        super().forget(pid)
        self._cache.pop(pid, None)
        jit = self._jit.pop(pid, None)
        if jit is not None:
            jit.close()

    def _changed(self, pid: int) -> None:
        cache = self._cache.get(pid)
        if cache:
            for address in [a for a, frame in cache.items() if frame.name is None]:
                del cache[address]

    def _frames(self, pid: int, addresses: Sequence[int], first_is_return: bool) -> list[Frame]:
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

    def _user(self, pid: int, address: int) -> Frame:
        mapping = self.mapping(pid, address)
        if mapping is None:
            return Frame(address)
        start, end, _, offset, identity, path = mapping
        if path.startswith("/"):
            module, where = self._modules.get(identity), address - start + offset
            found = self.find(module, where, pid) if module else None
            build_id = module.build_id() if module else None
            # a JIT may map a file too
            name, distance = found or self._compiled(pid, address) or (None, None)
            return Frame(address, name, distance, path, where, build_id)
        if path == "[vdso]":
            vdso, where = self._vdso(end - start), address - start
            name, distance = (vdso.find(where) if vdso else None) or (None, None)
            return Frame(address, name, distance, path, where)
        name, distance = self._compiled(pid, address) or (None, None)
        return Frame(address, name, distance, path or None)

    def _compiled(self, pid: int, address: int) -> tuple[str, int] | None:
        """(name, offset) from /tmp/perf-PID.map, which a JIT writes for perf, or None."""
        if pid not in self._jit:
            from .perfmap import PerfMap

            self._jit[pid] = jit = PerfMap(os.path.join(self._root, f"proc/{pid}"))
            if jit.cut:
                self._note(f"the perf map of process {pid} is too large: {jit.cut}")
        return self._jit[pid].find(address)

    def _demangle(self, stacks: Iterable[Iterable[Frame]]) -> None:
        """Put the source's spelling in the place of mangled names."""
        frames = [
            (frame, frame.name)
            for frames in stacks
            for frame in frames
            if frame.name and (frame.name.startswith(("_Z", "_R")) or ".llvm." in frame.name)
        ]
        if not frames:
            return
        if self._demangler is None:
            from .demangle import Demangler

            self._demangler = Demangler()
        texts = self._demangler.names(name for _, name in frames)
        for frame, name in frames:
            frame.name = texts.get(name, name)
