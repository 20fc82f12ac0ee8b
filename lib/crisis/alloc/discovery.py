# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that processes have mapped, and the probes on the allocator functions in them."""

from __future__ import annotations

import errno

from .. import cli
from ..errors import NotPermitted
from . import sites
from .kinds import WITHOUT_RETURN_PROBE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .sites import Site

__all__ = ["Discovery"]

_MOST_FILES = 256  # with allocator functions, of one process


class Discovery:
    """What is probed.

    program: loaded; symbols: the Symbols that holds the maps; obj, prefix: of --obj and
    --symbols-prefix, or None; many: probe each file for all processes, not for each.
    sites: {identity of a file: {offset: Site}}; failed: why no probe may work, or None;
    denied: processes that may not be looked into, or not wholly.
    """

    def __init__(
        self, program: Any, symbols: Any, obj: str | None, prefix: str | None, many: bool
    ) -> None:
        self._program, self._symbols = program, symbols
        self._obj, self._prefix, self._many = obj, prefix, many
        self._variant = program.name.partition(".")[2]
        self._attached: set[tuple[Any, int | None]] = set()  # (identity, process or None)
        self._files: dict[int, int] = {}  # process -> files with sites that it has brought
        self._noted = 0
        self.sites: dict[Any, dict[int, Site]] = {}
        self.failed: str | None = None
        self.denied: set[int] = set()

    def look(self, pid: int) -> None:
        """Attach to the allocator functions of what a process has mapped by now.

        Raises OSError when it is gone, or may not be looked into (PermissionError).
        """
        from ..symbols.process import DENIED

        self._symbols.hold(pid)
        modules = self._symbols.modules(pid)
        denied = [module for _, module in modules if module.code in DENIED]
        if denied:
            self.denied.add(pid)
            if len(denied) == len(modules):
                raise OSError(denied[0].code, denied[0].why)
        for identity, module in modules:
            where = identity, None if self._many else pid
            # Another process may give access to a denied file later.
            if where not in self._attached and module not in denied:
                self._attached.add(where)
                self._probe(identity, module, pid)

    def _probe(self, identity: Any, module: Any, pid: int) -> None:
        """Attach to the allocator functions of a file, unless it is not wanted."""
        if self._obj and not sites.is_object(self._obj, module.path):
            return
        if not self._obj and sites.is_loader(module.path):
            return
        if module.fd is None:
            if module.code == errno.EMFILE:
                self.failed = f"cannot look for allocator functions: {module.why}"
            else:
                cli.note(f"cannot look for allocator functions in {module.path}: {module.why}")
            return
        if identity not in self.sites:
            self.sites[identity] = self._find(module)
        target = 0 if self._many else pid
        found = self.sites[identity]
        if found and not self._attach(f"/proc/self/fd/{module.fd}", module.path, found, target):
            self.sites[identity] = {}

    def _find(self, module: Any) -> dict[int, Site]:
        """The sites of a file, within the limits of the process that has brought it."""
        found: dict[int, Site] | None = self._symbols.guard(
            module, lambda: sites.find(module.fd, module.path, self._prefix)
        )
        if not found:
            return {}
        self._files[module.pid] = self._files.get(module.pid, 0) + 1
        if self._files[module.pid] > _MOST_FILES:
            why = f"process {module.pid} has more than {_MOST_FILES} files with allocator functions"
            self._symbols.skip(module.path, why)
            return {}
        return found

    def _attach(self, file: str, path: str, found: dict[int, Site], pid: int) -> bool:
        """False when the kernel refuses these places, which costs only this file's functions."""
        try:
            self._attach_all(file, found, pid)
        except OSError as exc:
            if exc.errno == errno.ESRCH:  # it has ended meanwhile
                return True
            self.failed = f"cannot attach to the allocator functions of {path}: {exc.strerror}"
            if exc.errno in (errno.EPERM, errno.EACCES):
                remedy = ". Run as root, or with CAP_BPF and CAP_PERFMON"
                raise NotPermitted(self.failed + remedy) from None
            cli.note(self.failed)
            return False
        cli.verbose(f"{path}: {' '.join(site.name for site in found.values() if site.name)}")
        return True

    def _attach_all(self, file: str, found: dict[int, Site], pid: int) -> None:
        """Attach to sites in the way of the program's variant.  Raises OSError.

        The returns come first, so that no call is noted whose return is not seen.
        """
        program = self._program
        entries = {offset: site.cookie for offset, site in found.items()}
        returns = {
            offset: site.cookie
            for offset, site in found.items()
            if site.kind not in WITHOUT_RETURN_PROBE
        }
        if self._variant == "session":
            # In a process that is not its own, such as a child of it, a session link runs no
            # program and probes the return (uprobe_multi_link_handler, kernel/trace/bpf_trace.c),
            # which no C++ exception can pass.
            only = {offset: entries[offset] for offset in entries if offset not in returns}
            if returns:
                program.attach_uprobes("uprobe_session", "on_call", file, returns, pid)
            if only:
                program.attach_uprobes("uprobe_multi", "on_entry", file, only, pid)
        elif self._variant == "multi":
            if returns:
                program.attach_uprobes("uretprobe_multi", "on_return", file, returns, pid)
            program.attach_uprobes("uprobe_multi", "on_entry", file, entries, pid)
        else:
            for offset in returns:
                program.attach_uprobe("on_return", file, offset, pid or -1, True)
            for offset, cookie in entries.items():
                program.attach_uprobe("on_entry", file, offset, pid or -1, False, cookie)

    def forget(self, pid: int) -> None:
        """Attach again to the files of a process: its probes were bound to what has ended."""
        self._attached = {where for where in self._attached if where[1] != pid}

    def keep_denied(self, pids: Iterable[int]) -> None:
        """Forget that other processes may not be looked into."""
        self.denied.intersection_update(pids)

    def note_denied(self) -> None:
        """Report how many processes may not be looked into, when their number has grown."""
        if len(self.denied) > self._noted:
            self._noted = len(self.denied)
            cli.note(
                f"{self._noted} process{' is' if self._noted == 1 else 'es are'} not traced, or "
                "not wholly: the files may not be read. Run as root, or with CAP_SYS_PTRACE"
            )
