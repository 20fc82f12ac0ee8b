# SPDX-License-Identifier: GPL-2.0-or-later
"""bcc in a child process.

bcc is the compiler and only that: LLVM's memory goes away with the child.
"""

from __future__ import annotations

import os

from ..errors import Error, NotPermitted, Stopped, Unavailable
from .object import MAGIC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Union

    from .source import Source

    Outcome = Union[bytes, Error]

__all__ = [
    "Compiler",
    "NoCompiler",
    "bcc_directory",
    "compiled",
    "not_installed",
    "sweep",
    "SCRATCH",
    "SCRATCH_PREFIX",
]

_PYTHON = "/usr/bin/python3"  # as in the interpreter line; sys.executable follows $PYTHONEXECUTABLE
_TIME_LIMIT = 300  # seconds; a compilation takes half of one where nothing is wrong
_TIMED_OUT = -14  # SIGALRM
# for the header files: memory first, since the disk may be what is on fire
SCRATCH = ("/run", "/dev/shm", "/tmp")
SCRATCH_PREFIX = ".crisis-headers-"  # of nothing else, since what has no lock is removed


def compiled(source: Source, headers: str) -> bytes:
    """The bytes of the object.  Raises as cache.build() does."""
    for _, outcome in Compiler([source], headers).outcomes():
        if isinstance(outcome, Error):
            raise outcome
        return outcome
    raise AssertionError


class NoCompiler(Unavailable):
    """bcc is not installed."""

    code = 127  # with which the child ends


def bcc_directory(root: str = "/") -> str | None:
    """The directory of bcc's Python package that the child would import, or None."""
    import glob

    for base in "usr/local/lib", "usr/lib", "usr/lib64", "usr/local/lib64":
        path = os.path.join(root, base, "python3*", "*-packages", "bcc", "__init__.py")
        for found in sorted(glob.glob(path)):
            return os.path.dirname(found)
    return None


def not_installed() -> NoCompiler:
    """The error where bcc's Python module cannot be imported."""
    package = "python3-bpfcc" if os.path.exists("/etc/debian_version") else "python3-bcc"
    return NoCompiler(
        "cannot compile the BPF program: bcc's Python module is not installed. "
        f"Install {package}, or take compiled programs: see crisis-warm --import"
    )


class Compiler:
    """bcc at work on some sources, in a child process that forks for each of their texts.

    The child is a session of its own, which a terminal's Ctrl-C does not reach.  It runs the
    system's Python, whatever the environment says, in / and with a fixed environment.  It dies with
    this process, and its forks with it.
    jobs: how many are compiled at a time.
    Attribute: left, the sources whose outcome is not known yet; the first `jobs` are at work.
    """

    def __init__(self, sources: Sequence[Source], headers: str = "auto", jobs: int = 1) -> None:
        import json
        import signal
        import subprocess

        from ..child import ENVIRONMENT

        self.left = list(sources)
        self._sources, self._data = list(sources), b""
        requests = [dict(source.request(), headers=headers) for source in sources]
        self._errors = os.memfd_create("errors")
        request = os.memfd_create("request")
        self._fd, output = os.pipe()
        builder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "builder.py")
        # The child keeps this mask.  It is this process that a service manager's SIGTERM, sent to
        # both, is for.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            with open(request, "wb", closefd=False) as f:
                f.write(json.dumps([jobs, _TIME_LIMIT, requests]).encode())
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
        except BaseException:
            os.close(self._errors)
            os.close(self._fd)
            raise
        finally:
            os.close(output)
            os.close(request)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def outcomes(self) -> Iterator[tuple[Source, Outcome]]:
        """Yield each source, as it is done, with the bytes of its object or the Error.

        The latter is one that cache.build() raises.  Raises Stopped at a stop.
        """
        from .. import cli

        try:
            while self.left:
                ready = cli.wait(None, [self._fd])
                if cli.stopping():
                    raise Stopped
                if ready:
                    piece = os.read(self._fd, 1 << 16)
                    self._data += piece
                    yield from self._done() if piece else self._abandoned()
        finally:
            self._close()

    def _done(self) -> Iterator[tuple[Source, Outcome]]:
        """Take what the child has written: builder.answer()."""
        while True:
            line, found, rest = self._data.partition(b"\n")
            if not found:
                return
            number, status, length, errors = map(int, line.split())
            if len(rest) < length + errors:
                return
            self._data = rest[length + errors :]
            source = self._sources[number]
            self.left.remove(source)
            text = rest[length : length + errors].decode("utf-8", "backslashreplace")
            yield source, _outcome(source.name, status, rest[:length], text)

    def _abandoned(self) -> Iterator[tuple[Source, Outcome]]:
        """The outcomes when the child has ended before its work was done."""
        status = self._child.wait()
        text = os.pread(self._errors, 1 << 20, 0).decode("utf-8", "backslashreplace")
        while self.left:
            source = self.left.pop(0)
            yield source, _outcome(source.name, status, b"", text)

    def _close(self) -> None:
        """End the child and its forks, unless they have ended, and release all of it."""
        self._child.kill()
        while os.read(self._fd, 1 << 16):  # until the last fork has ended, too
            pass
        self._child.wait()
        os.close(self._fd)
        os.close(self._errors)
        if self.left:
            sweep()


def _outcome(name: str, status: int, data: bytes, text: str) -> Outcome:
    """The object, or the Error, of a compilation: its exit status, output and messages."""
    if data.startswith(MAGIC) and not status:
        return data
    lines = text.strip().splitlines() or ["no message"]
    if status == NoCompiler.code:
        return NoCompiler(lines[-1])
    for kind in Unavailable, NotPermitted:
        if status == kind.status:
            return kind(lines[-1])
    if status == _TIMED_OUT:
        why = f"the compiler had not ended after {_TIME_LIMIT} seconds"
    elif status < 0:
        why = f"the compiler was ended by signal {-status}"
    else:
        errors = [line for line in lines if "error:" in line]
        if not errors and lines[-1].startswith("cannot "):
            return Error(lines[-1])
        why = (errors or lines[-1:])[0]
    return Error(f"cannot compile {name}: {why}")


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
