# SPDX-License-Identifier: GPL-2.0-or-later
"""bcc in a child process.

bcc is the compiler and only that: LLVM's memory goes away with the child.
"""

from __future__ import annotations

import os
import time

from ..errors import Error, NotPermitted, Stopped, Unavailable
from .object import MAGIC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .source import Source

__all__ = ["Compiler", "NoCompiler", "compiled", "wait", "sweep", "SCRATCH", "SCRATCH_PREFIX"]

_PYTHON = "/usr/bin/python3"  # as in the interpreter line; sys.executable follows $PYTHONEXECUTABLE
_TIME_LIMIT = 300  # seconds; a compilation takes half of one where nothing is wrong
# for the header files: memory first, since the disk may be what is on fire
SCRATCH = ("/run", "/dev/shm", "/tmp")
SCRATCH_PREFIX = ".crisis-headers-"  # of nothing else, since what has no lock is removed


def compiled(source: Source, headers: str) -> bytes:
    """The bytes of the object."""
    compiler = Compiler(source, headers)
    wait([compiler])
    return compiler.result()


class NoCompiler(Unavailable):
    """bcc is not installed."""

    code = 127  # with which the child ends


class Compiler:
    """bcc at work on one source, in a child process.

    The child is a session of its own, which a terminal's Ctrl-C does not reach.  It runs the
    system's Python, whatever the environment says, in / and with a fixed environment, and dies with
    this process.
    Attributes: source: a Source; fd: readable when the child has written, or has ended.
    """

    def __init__(self, source: Source, headers: str = "auto") -> None:
        import json
        import signal
        import subprocess

        from ..child import ENVIRONMENT

        self.source, self._data, self._late = source, b"", False
        self._errors = os.memfd_create("errors")
        request = os.memfd_create("request")
        self.fd, output = os.pipe()
        builder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "builder.py")
        # The child keeps this mask.  It is this process that a service manager's SIGTERM, sent to
        # both, is for.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            with open(request, "wb", closefd=False) as f:
                f.write(json.dumps(dict(source.request(), headers=headers)).encode())
            os.lseek(request, 0, os.SEEK_SET)
            self._child = subprocess.Popen(
                [_PYTHON, "-I", builder, str(os.getpid())],
                stdin=request,
                stdout=output,
                stderr=self._errors,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
            self.deadline = time.monotonic() + _TIME_LIMIT
        except BaseException:
            os.close(self._errors)
            os.close(self.fd)
            raise
        finally:
            os.close(output)
            os.close(request)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def read(self) -> bool:
        """Take what the child has written; True when that was all."""
        piece = os.read(self.fd, 1 << 16)
        self._data += piece
        return not piece

    def late(self) -> None:
        """End the child when its time is up."""
        if time.monotonic() >= self.deadline:
            self._late = True
            self._child.kill()
            self.deadline += _TIME_LIMIT

    def close(self) -> int:
        """End the child, unless it has ended, and release all of it; returns its status."""
        self._child.kill()
        status = self._child.wait()
        os.close(self.fd)
        os.close(self._errors)
        if status < 0:
            sweep()
        return status

    def result(self) -> bytes:
        """The bytes of the object, when `wait` has returned this one.

        Raises as cache.build() does.
        """
        self._child.wait()
        text = os.pread(self._errors, 1 << 20, 0).decode("utf-8", "backslashreplace")
        lines, status = text.strip().splitlines() or ["no message"], self.close()
        if self._data.startswith(MAGIC) and not status:
            return self._data
        for kind in Unavailable, NotPermitted:
            if status == kind.status:
                raise kind(lines[-1])
        if status == NoCompiler.code:
            raise NoCompiler(lines[-1])
        if self._late:
            raise Error(
                f"cannot compile {self.source.name}: the compiler had not ended after "
                f"{_TIME_LIMIT} seconds"
            )
        if status < 0:
            raise Error(
                f"cannot compile {self.source.name}: the compiler was ended by signal {-status}"
            )
        errors = [line for line in lines if "error:" in line]
        if not errors and lines[-1].startswith("cannot "):
            raise Error(lines[-1])
        raise Error(f"cannot compile {self.source.name}: {(errors or lines[-1:])[0]}")


def wait(compilers: Sequence[Compiler]) -> Compiler:
    """Wait until one of the Compilers has ended, and return it.

    One that exceeds the time limit is ended.  Raises Stopped at a stop, which ends all of them.
    """
    from .. import cli

    while True:
        left = min(compiler.deadline for compiler in compilers) - time.monotonic()
        ready = cli.wait(left, [compiler.fd for compiler in compilers])
        if cli.stopping():
            for compiler in compilers:
                compiler.close()
            raise Stopped
        for compiler in compilers:
            if compiler.fd in ready and compiler.read():
                return compiler
            compiler.late()


def sweep() -> None:
    """Remove the directories of header files that killed compilers have left.

    A compiler at work holds a lock on its own.
    """
    import fcntl
    import shutil

    for parent in SCRATCH:
        try:
            names = [name for name in os.listdir(parent) if name.startswith(SCRATCH_PREFIX)]
        except OSError:
            continue
        for name in names:
            path = os.path.join(parent, name)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                if os.fstat(fd).st_uid == os.geteuid():
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            except OSError:  # it is in use
                pass
            finally:
                os.close(fd)
