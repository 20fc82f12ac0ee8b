# SPDX-License-Identifier: GPL-2.0-or-later
"""One run of memleak: which processes to begin with, the command, and when to report."""

from __future__ import annotations

import errno
import os
import time

from .. import cli
from ..errors import Error, NotPermitted, Usage
from ..kernel import cgroup, proc
from .sampling import Sampling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from typing import Any

    from ..kernel.ptrace import Command
    from .tracer import Tracer

__all__ = ["Session", "check", "of_processes", "targets"]

_UNWIND_BYTES = 64 << 10  # the sampling of --unwind


def of_processes(args: Namespace) -> bool:
    """True when processes are traced, and not the kernel."""
    return bool(args.pid or args.command is not None or args.cgroup is not None)


def check(args: Namespace) -> None:
    """Raises Usage for options that do not go together; completes args.sample."""
    user = of_processes(args)
    if not user and (args.obj or args.follow or args.symbols_prefix):
        raise Usage("--obj, --follow and --symbols-prefix need -p, -c or --cgroup")
    if user and args.percpu:
        raise Usage("--percpu is for the kernel: not with -p, -c or --cgroup")
    if args.unwind:
        if not user:
            raise Usage("--unwind needs -p, -c or --cgroup")
        if args.combined_only or args.trace:
            other = "--combined-only" if args.combined_only else "--trace"
            raise Usage(f"--unwind is not for {other}")
        if args.sample is None:
            args.sample = Sampling(nbytes=_UNWIND_BYTES)
    if args.min_size > args.max_size:
        raise Usage("--min-size is larger than --max-size")


def targets(args: Namespace) -> list[int]:
    """The PIDs to begin with.  Raises Error when there is no such process or cgroup."""
    pids = list(dict.fromkeys(args.pid or ()))
    for pid in pids:
        proc.check_process(pid)
    if args.cgroup is not None:
        cgroup.find(args.cgroup)
        pids += [pid for pid in cgroup.processes(args.cgroup) if pid not in pids]
    return [pid for pid in pids if pid != os.getpid()]


class Session:
    """A tracer at work."""

    def __init__(self, args: Namespace, tracer: Tracer) -> None:
        self._args, self._tracer = args, tracer
        self._command: Command | None = None

    def begin(self, pids: list[int]) -> None:
        """Attach to these processes and start the command.

        Raises Error, NotPermitted when nothing can be traced, Usage.
        """
        args, tracer = self._args, self._tracer
        for pid in pids:
            self._add(pid, pids)
        tracer.discovery.note_denied()
        if args.command is not None:
            self._command = self._launch()
        if tracer.user and args.cgroup is None:
            self._check_found()
        self._print_heading()
        cli.verbose("the tracing has begun")
        if self._command is not None:
            try:
                self._command.go()
            except OSError:  # it ended while its libraries were loaded
                pass

    def _add(self, pid: int, pids: list[int]) -> None:
        """Attach to one of the processes to begin with."""
        tracer = self._tracer
        tracer.add(pid)
        try:
            tracer.discover(pid)
        except OSError as exc:
            if exc.errno in (errno.EPERM, errno.EACCES):
                tracer.discovery.denied.add(pid)
                if pid in (self._args.pid or ()) or len(tracer.discovery.denied) == len(pids):
                    raise NotPermitted(
                        f"cannot read the memory map and files of process {pid}: {exc.strerror}. "
                        "Run as root, or with CAP_SYS_PTRACE"
                    ) from None
            elif exc.errno not in (errno.ENOENT, errno.ESRCH):
                raise
            tracer.drop(pid)

    def _check_found(self) -> None:
        """Raises Error when there is nothing to trace."""
        tracer = self._tracer
        if not tracer.live:
            raise Error("cannot trace: no process is left")
        if self._command is None and not any(tracer.discovery.sites.values()):
            raise Error(
                tracer.discovery.failed
                or "cannot trace: no allocator functions were found in process "
                f"{', '.join(map(str, tracer.live))}. They may be stripped of their names, "
                "32-bit code, or need --symbols-prefix"
            )

    def _print_heading(self) -> None:
        args, tracer = self._args, self._tracer
        if args.json or args.folded:
            return
        what = "kernel allocators"
        if tracer.user and len(tracer.live) > 8:
            what = f"{len(tracer.live)} processes"
        elif tracer.user:
            what = f"pid {', '.join(map(str, tracer.live))}"
        cli.title(f"Attaching to {what}, Ctrl+C to quit.")
        if args.trace:
            cli.title(
                f"{'TIME':15} {'PID':7} {'TID':7} {'COMM':16} {'CALL':24} {'BYTES':>12} ADDRESS"
            )

    def reports(self) -> Iterator[tuple[float, list[Any] | None]]:
        """Yield (seconds, None) for each report, or with --trace (0, events) for each batch."""
        try:
            yield from self._reports()
        finally:
            if self._command is not None:
                self._command.end()

    def _reports(self) -> Iterator[tuple[float, list[Any] | None]]:
        args, tracer = self._args, self._tracer
        begin = last = time.monotonic()
        number = 0
        while args.count is None or number < args.count:
            number += 1
            deadline = begin + args.interval * number
            for events in self._batches(deadline):
                if args.trace and events:
                    yield 0, events
            if tracer.user:
                tracer.refresh()
            if self._command is not None and self._command.pid not in tracer.live:
                self._reap(self._command)
            now = time.monotonic()
            done = cli.stopping() or self._is_over()
            if not args.trace:
                yield now - last, None
            last = now
            if done:
                return
            if now - deadline > args.interval:
                begin = now - args.interval * number

    def _is_over(self) -> bool:
        """True when all processes have ended; a cgroup may get new ones."""
        return self._tracer.user and self._args.cgroup is None and not self._tracer.live

    def _batches(self, deadline: float) -> Iterator[list[Any]]:
        """Take in what the programs report until the deadline; yields the events of --trace."""
        tracer = self._tracer
        while not cli.stopping() and time.monotonic() < deadline and not self._is_over():
            # Changes of mappings do not wake it; there is room for 7,000 (see CAN_WAIT in the C).
            cli.wait(min(deadline - time.monotonic(), 0.1), tracer.fds)
            yield tracer.handle()
        yield tracer.handle()  # what came before a stop

    def _launch(self) -> Command:
        """Start the command, and attach to it before it runs."""
        from ..kernel.ptrace import Command

        words = _words(self._args.command)
        if os.path.isdir(words[0]):
            raise Usage(f"cannot run {words[0]}: it is a directory. For a cgroup, use --cgroup")
        command, tracer = Command(words), self._tracer
        tracer.add(command.pid, os.path.basename(words[0]))

        def inspect() -> bool:
            tracer.discover(command.pid)
            return False

        try:
            command.load(inspect)
        except OSError:
            pass
        return command

    def _reap(self, command: Command) -> None:
        """Report how the command ended, once.

        The event of its end comes a little before it can be waited for.
        """
        if command.reported:
            return
        status = command.ended()
        for _ in range(100):
            if status is not None or cli.stopping():
                break
            cli.wait(0.01)
            status = command.ended()
        command.reported = status is not None
        if status is None or self._args.json or self._args.folded:
            return
        if os.WIFSIGNALED(status):
            cli.title(f"the command ended by signal {os.WTERMSIG(status)}")
        else:
            cli.title(f"the command ended with status {os.WEXITSTATUS(status)}")


def _words(text: str) -> list[str]:
    """The words of a command line.  Raises Usage."""
    if any(c in text for c in "'\"\\"):
        from shlex import split

        try:
            words = split(text)
        except ValueError as exc:
            raise Usage(f"the command is malformed: {exc}") from None
    else:
        words = text.split()
    if not words:
        raise Usage("the command is empty")
    return words
