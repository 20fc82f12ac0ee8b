# SPDX-License-Identifier: GPL-2.0-or-later
"""A command started stopped, so that it can be probed before it has run one instruction of its own.

Follows ptrace(2) and, for where a stopped process is, proc_pid_syscall(5).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal

from ..child import die_with_parent
from ..errors import Error, Unavailable
from .maps import mappings
from .sysfs import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Command", "check"]

_TRACEME, _DETACH, _SYSCALL, _SETOPTIONS = 0, 17, 24, 0x4200
_TRACESYSGOOD, _EXITKILL = 1, 1 << 20
_STOPS = 100000  # system calls of a dynamic loader: more than any number of libraries takes


def check(root: str = "/") -> str:
    """The level of Yama's ptrace_scope, "" without Yama.

    Raises Unavailable where it forbids Command to trace its own child: yama_ptrace_traceme(),
    security/yama/yama_lsm.c.
    """
    level = text(root, "proc/sys/kernel/yama/ptrace_scope") or ""
    if level == "3":
        raise Unavailable(
            "kernel.yama.ptrace_scope is 3, which forbids ptrace(2) until the next boot. "
            "Boot with a lower one"
        )
    return level


class Command:
    """A child process that has called execve(2) and stands still.

    It is sent SIGTERM when its parent ends.

    argv: the program, found by PATH, and its arguments.
    Attributes: pid; reported, for the caller to note that it has reported the end.
    Raises Error when it cannot be run.
    """

    def __init__(self, argv: list[str]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.restype = ctypes.c_long
        ours, theirs = os.pipe()
        parent = os.getpid()
        self._status: int | None = None
        self.reported = False
        self.pid = os.fork()
        if not self.pid:
            try:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
                die_with_parent(signal.SIGTERM)
                if os.getppid() != parent:  # it has ended already
                    os._exit(127)
                self._ptrace(_TRACEME, 0)
                os.execvp(argv[0], argv)
            except BaseException as exc:
                os.write(theirs, b"%d" % (getattr(exc, "errno", None) or errno.EIO))
            os._exit(127)
        os.close(theirs)
        with os.fdopen(ours, "rb") as f:
            failed = f.read()  # ends at the execve, since the pipe is closed on it
        _, status = os.waitpid(self.pid, 0)
        if failed or not os.WIFSTOPPED(status):
            raise Error(f"cannot run {argv[0]}: {os.strerror(int(failed or b'5'))}")
        self._ptrace(_SETOPTIONS, _TRACESYSGOOD | _EXITKILL)

    def _ptrace(self, request: int, data: int, pid: int | None = None) -> None:
        result = self._libc.ptrace(
            ctypes.c_long(request),
            ctypes.c_long(self.pid if pid is None else pid),
            ctypes.c_long(0),
            ctypes.c_long(data),
        )
        if result < 0 and request != _TRACEME:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def load(self, inspect: Callable[[], bool]) -> bool:
        """Let the dynamic loader map the libraries.

        Returns before any of them, or the program, has run.

        inspect: called whenever the process's map may have changed; it returns
        True when the process need not be watched any longer.
        False is returned when the process ended meanwhile.
        """
        loader = self._loader()
        if inspect() or loader is None:
            return True
        for _ in range(_STOPS):
            send = 0
            while True:
                self._ptrace(_SYSCALL, send)
                _, status = os.waitpid(self.pid, 0)
                if not os.WIFSTOPPED(status):
                    self._status = status
                    return False
                if os.WSTOPSIG(status) == signal.SIGTRAP | 0x80:
                    break
                send = os.WSTOPSIG(status)
            if inspect():
                return True
            if not self._inside(loader):
                return True
        return True

    def _loader(self) -> str | None:
        """The path of the dynamic loader as /proc/PID/maps has it; None for a static program."""
        program = os.stat(f"/proc/{self.pid}/exe")
        for mapping in mappings(self.pid):
            if mapping.path.startswith("/") and mapping.identity[1] != program.st_ino:
                return mapping.path
        return None

    def _inside(self, loader: str) -> bool:
        with open(f"/proc/{self.pid}/syscall") as f:
            fields = f.read().split()
        if len(fields) < 2:
            return True
        counter = int(fields[-1], 16)
        return any(
            mapping.start <= counter < mapping.end and mapping.path == loader
            for mapping in mappings(self.pid)
        )

    def go(self) -> None:
        """Let it run, unwatched.  Raises OSError when it has ended."""
        self._ptrace(_SETOPTIONS, 0)
        self._ptrace(_DETACH, 0)

    def ended(self) -> int | None:
        """Its wait status once it has ended, else None."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
        return self._status

    def end(self) -> None:
        """Send it SIGTERM unless it has ended."""
        if self.ended() is None:
            os.kill(self.pid, signal.SIGTERM)
