# SPDX-License-Identifier: GPL-2.0-or-later
"""A survey by several processes, each with its share of the inodes."""

from __future__ import annotations

import os

from .. import cli
from ..errors import Error
from .survey import Sums, Survey
from .survey_printer import Printer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from typing import Any

__all__ = ["in_parallel"]


class _Child:
    """A process of the survey; its findings come through a pipe, by marshal."""

    def __init__(self, pid: int, readable: int) -> None:
        self.pid, self.readable, self._ended = pid, readable, False

    def end(self) -> None:
        """Kill it, unless it has ended."""
        import signal

        if not self._ended:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def findings(self) -> Any:
        """What it has found; raises Error or OSError in its place, and Error when it was killed."""
        import marshal
        import signal

        with open(self.readable, "rb") as f:
            data = f.read()
        _, status = os.waitpid(self.pid, 0)
        self._ended = True
        if not data:
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPIPE:
                os.kill(os.getpid(), signal.SIGPIPE)
            raise Error(
                f"cannot finish: a process of the walk was killed (status {status}). Try --jobs 1"
            )
        return marshal.loads(data)


def _measure(
    args: Namespace,
    columns: Sequence[str],
    paths: Sequence[tuple[str, str]],
    share: tuple[int, int],
    lock: int,
    now: str | None,
    fd: int,
) -> None:
    """Measure a share of the inodes and write the findings, or the error, to fd."""
    import marshal

    state: Any = None
    try:
        printer = Printer(args, columns, lock)
        printer.time, printer.first = now, False
        printer.fix_widths()
        survey = Survey(args, printer, share)
        try:
            survey.run(paths)
            if survey.rows is not None:
                survey.trim()
            printer.flush()
        except KeyboardInterrupt:  # a stop, and nobody reads
            pass
        state = survey.state()
    except OSError as exc:
        state = exc.errno
    except Error as exc:
        state = str(exc)
    data = marshal.dumps(state)
    while data:
        data = data[os.write(fd, data) :]


def in_parallel(
    survey: Survey,
    args: Namespace,
    columns: Sequence[str],
    paths: Sequence[tuple[str, str]],
    jobs: int,
) -> None:
    """Measure with `jobs` processes, each its share of the inodes.

    Raises Error when one of them dies.

    The survey's printer must have fixed widths, before its heading is printed.
    Raises OSError as it does.
    """
    import signal

    lock = os.memfd_create("lock")
    survey.printer.lock = lock
    children = []
    for number in range(1, jobs):
        readable, writable = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.close(readable)
                _measure(args, columns, paths, (number, jobs), lock, survey.printer.time, writable)
            finally:
                os._exit(0)
        os.close(writable)
        children.append(_Child(pid, readable))
    survey.walk.share = 0, jobs
    try:
        survey.run(paths)
        for child in children:
            while not (cli.stopping() or cli.wait(None, [child.readable])):
                pass
        if cli.stopping():
            for child in children:
                os.kill(child.pid, signal.SIGTERM)
        states = [child.findings() for child in children]
    except BaseException:  # nobody reads what they print, it cannot be written, or one was killed
        for child in children:
            child.end()
        raise
    for state in states:
        if isinstance(state, int):
            raise OSError(state, os.strerror(state))
        if isinstance(state, str):
            raise Error(state)
        survey.merge(state)
    for index, (shown, _) in enumerate(paths):
        if index in survey.sums:
            sums = Sums()
            sums.merge(survey.sums[index])
            survey.record(sums.record(shown))
