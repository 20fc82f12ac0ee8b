# SPDX-License-Identifier: GPL-2.0-or-later
"""The frame of every command: the interval clock, input and output, and the exit.

Knows no tool.  This is the only module that prints an error or exits.

SIGINT and SIGTERM only set a flag, so that a command can print what it has
collected.  Python restarts a system call that a signal has interrupted (PEP
475); hence everything that can block, waits in poll(2) before, together with
the pipe into which Python's C handler writes (signal.set_wakeup_fd): no
moment is left at which a signal would be noticed too late.
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import time

from .arguments import (
    add_cgroup,
    add_pid,
    add_source,
    add_tid,
    add_timestamp,
    installed,
    parser,
    positive_float,
    positive_int,
    shown,
    type_error,
)
from .errors import Error, NotPermitted, Stopped, Unavailable, Usage, file_limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType
    from typing import Any

    from _typeshed import WriteableBuffer

    from .metrics import Exporter

__all__ = [
    "parser",
    "Ends",
    "ticks",
    "wait",
    "stopping",
    "stopped_at_input",
    "run",
    "reader",
    "out",
    "write",
    "note",
    "title",
    "verbose",
    "type_error",
    "shown",
    "positive_float",
    "positive_int",
    "add_source",
    "add_pid",
    "add_tid",
    "add_cgroup",
    "add_timestamp",
    "note_losses",
    "timestamp",
    "iso_time",
]

_POLL_LIMIT = 2000000  # seconds that one poll(2) may wait: its timeout is an int of milliseconds
_PATIENCE = 0.2  # seconds that a stop leaves to the reader of a full pipe

_stop = False  # SIGINT or SIGTERM has arrived, or nobody reads stdout any more
_stopped_at = 0.0
_at_input = False  # the stop arrived while reader() waited
_wakeup = -1  # the pipe's end that is readable when a signal has arrived
_outputs: dict[int, int] = {}  # descriptor -> the one that _output() has chosen
_verbose = False
_metrics: Exporter | None = None  # of --openmetrics
_silent = False  # under --openmetrics, reports are not printed


def _handle(signum: int, frame: FrameType | None) -> None:
    global _stop, _stopped_at
    now = time.monotonic()
    if not _stop:
        _stop, _stopped_at = True, now
    elif now - _stopped_at > 1:  # not at once: timeout(1) signals the process and then its group
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)


def _open_wakeup() -> None:
    """Make the pipe that a signal makes readable; a child after fork(2) needs its own."""
    global _wakeup
    _wakeup, ours = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(ours, warn_on_full_buffer=False)


def stopping() -> bool:
    """True once SIGINT or SIGTERM has arrived, or the reader of stdout has gone."""
    return _stop


def stopped_at_input() -> bool:
    """True when the stop arrived while the command waited for input, and so left no work undone."""
    return _at_input


def _poll(events: dict[int, int], seconds: float | None) -> list[int]:
    """The descriptors of {descriptor: poll(2) events} that are ready within `seconds`.

    None waits without limit.  The list is empty when none is ready by then, and when a signal
    arrives before.
    """
    poll = select.poll()
    for fd, event in events.items():
        poll.register(fd, event)
    # After a stop, too: the signal may have arrived just now, when the caller had found none.
    if _wakeup >= 0:
        poll.register(_wakeup, select.POLLIN)
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        left = float(_POLL_LIMIT) if deadline is None else max(0, deadline - time.monotonic())
        ready = [fd for fd, _ in poll.poll(1000 * min(left, _POLL_LIMIT))]
        if _wakeup in ready:
            os.read(_wakeup, 4096)
            return []
        if ready or left < _POLL_LIMIT:
            return ready


def wait(seconds: float | None, fds: Iterable[int] = ()) -> list[int]:
    """Sleep up to `seconds` (None: without limit), until one of `fds` is readable, or until a stop.

    Returns the list of readable descriptors, empty on a timeout and on a stop.
    A pipe on stdout whose reader has gone counts as a stop, so that
    `tool 10 | head -1` ends when head does.
    """
    global _stop
    if _metrics:
        _metrics.write()
    if _stop:
        return []
    events = {1: 0, **dict.fromkeys(fds, select.POLLIN)}
    ready = _poll(events, seconds)
    if 1 in ready and not events[1]:  # of stdout, poll reports errors only
        _stop = True
    return [] if _stop else ready


class Ends:
    """The processes of -p and the thread of -t: when the last of them ends, so does the command.

    By pidfd_open(2), Linux 5.3.  A thread other than the first has a pidfd since Linux 6.9 only;
    before, the end of its process counts.
    pids: processes.  tid: a thread.  quiet: note() prints nothing.
    Attributes: over, True when none is left of those that there were; gone, the PIDs that have
    ended.
    """

    def __init__(
        self, pids: Iterable[int] = (), tid: int | None = None, quiet: bool = False
    ) -> None:
        self._open: dict[int, int] = {}  # pidfd -> PID
        self._names: list[str] = []
        self._quiet = quiet
        self.gone: set[int] = set()
        for pid in pids:
            self._add(f"process {pid}", pid)
        if tid and not self._add(f"thread {tid}", tid, os.O_EXCL):  # PIDFD_THREAD
            from .kernel import proc

            self._add(f"the process of thread {tid}", proc.process_of(tid))
        self.over = bool(self._names) and not self._open

    def _add(self, name: str, pid: int, flags: int = 0) -> bool:
        """Watch for its end; False where the kernel does not take the flags."""
        try:
            self._open[os.pidfd_open(pid, flags)] = pid
        except ProcessLookupError:  # ended meanwhile
            self.gone.add(pid)
        except OSError as exc:
            if file_limit(exc):
                raise
            # Without flags, a seccomp filter refuses: without a pidfd, run until Ctrl-C.
            return not flags
        self._names.append(name)
        return True

    @property
    def fds(self) -> tuple[int, ...]:
        """Descriptors to wait for; pass the readable ones to ended()."""
        return tuple(self._open)

    def ended(self, fds: Iterable[int]) -> bool:
        """Forget those that have ended, by their descriptors.  True when none is left."""
        for fd in fds:
            if fd in self._open:
                self.gone.add(self._open.pop(fd))
                os.close(fd)
                self.over = not self._open
        return self.over

    def note(self) -> None:
        """Print that they have ended, if they have."""
        if not self.over or self._quiet:
            return
        if len(self._names) == 1:
            note(f"{self._names[0]} has ended")
        else:
            note(f"the {len(self._names)} processes have ended")


def ticks(
    interval: float | None,
    count: int | None = None,
    duration: float | None = None,
    ends: Ends | None = None,
) -> Iterator[float]:
    """Yield the seconds of each interval as it ends: on monotonic deadlines, without drift.

    interval: seconds, or None for one interval that lasts until a stop.
    count: number of intervals, or None for no end.
    duration: seconds in all; the last interval is what remains of them.
    ends: the end of its last process is the end.
    The interval that a stop or an end cuts short is yielded too, with its true
    length, and is the last.  A deadline that was missed by a whole interval is skipped.
    """
    start = last = time.monotonic()
    end = None if duration is None else start + duration
    number, ended = 0, ends is not None and ends.over
    while count is None or number < count:
        number += 1
        tick = None if interval is None else start + interval * number
        deadline = min((at for at in (tick, end) if at is not None), default=None)
        while not _stop and not ended:
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                ended = end is not None and now >= end
                break
            ready = wait(None if deadline is None else deadline - now, ends.fds if ends else ())
            ended = ends is not None and ends.ended(ready)
        now = time.monotonic()
        yield now - last
        last = now
        if ended and ends is not None:
            ends.note()
        if _stop or ended:
            return
        if interval is not None and tick is not None and now - tick > interval:
            start = now - interval * number


def timestamp() -> str:
    """The local time as HH:MM:SS, as the classic tools' -T prints it."""
    return time.strftime("%H:%M:%S")


def iso_time(now: float | None = None) -> str:
    """The time as ISO 8601 with milliseconds and the offset from UTC, for JSON records.

    now: seconds since the epoch; by default, the present.
    """
    if now is None:
        now = time.time()
    local = time.localtime(now)
    milliseconds = int(now * 1000 % 1000)
    date, zone = time.strftime("%Y-%m-%dT%H:%M:%S", local), time.strftime("%z", local)
    return f"{date}.{milliseconds:03d}{zone}"


class _Input(io.RawIOBase):
    """A descriptor to read from, whose end is also a stop."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd, self._path = fd, path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        global _at_input
        while not _stop:
            if _poll({self._fd: select.POLLIN}, None):
                try:
                    return os.readv(self._fd, [buffer])
                except BlockingIOError:  # another process was faster
                    pass
                except OSError as exc:
                    raise OSError(exc.errno, exc.strerror, self._path) from None
            _at_input = _stop
        return 0

    def close(self) -> None:
        if not self.closed and self._fd:
            os.close(self._fd)
        super().close()


def reader(path: str) -> io.BufferedReader:
    """A file, device or FIFO, or "-" for standard input, to be read as bytes; a stop ends it.

    Raises OSError.
    """
    # Without O_NONBLOCK, the open of a FIFO would wait for a writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = 0 if path == "-" else os.open(path, flags)
    return io.BufferedReader(_Input(fd, path))


def _output(fd: int) -> int:
    """The descriptor to write to instead of 1 or 2.

    To a terminal, write(2) may block although poll(2) has reported room, because the end of a line
    takes more (n_tty_write(), drivers/tty/n_tty.c): it gets a file description of our own, with
    O_NONBLOCK.
    """
    if fd not in _outputs:
        _outputs[fd] = fd
        if os.isatty(fd):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            try:
                _outputs[fd] = os.open(f"/proc/self/fd/{fd}", flags)
            except OSError:  # after su(1), the terminal belongs to another user
                pass
    return _outputs[fd]


def write(fd: int, data: bytes) -> None:
    """Write all the bytes to 1 or 2.

    Raises OSError, and KeyboardInterrupt when nobody reads them after a stop.
    """
    fd, left = _output(fd), memoryview(data)
    until = None  # the deadline after a stop
    while left:
        if _stop and until is None:
            until = time.monotonic() + _PATIENCE
        seconds = None if until is None else max(0, until - time.monotonic())
        if _poll({fd: select.POLLOUT}, seconds):
            try:
                # A pipe that is ready takes this much without blocking.
                left = left[os.write(fd, left[: select.PIPE_BUF]) :]
                until = None
                continue
            except BlockingIOError:
                time.sleep(0.001)
        if until is not None and time.monotonic() >= until:
            raise KeyboardInterrupt


def out(text: str) -> None:
    """Write one complete record to stdout.  Raises Error, and KeyboardInterrupt as write().

    Under --openmetrics, the record goes to the file, which is written when the command waits or
    ends.
    """
    if _metrics:
        _metrics.take(text)
        if _silent:
            return
    try:
        write(1, text.encode(sys.stdout.encoding, "backslashreplace"))
    except OSError as exc:
        raise Error(f"write error: {exc.strerror}") from None


def title(text: str) -> None:
    """Write a line for the person at the terminal to stderr, so that no pipe has to skip it."""
    try:
        write(2, (text + "\n").encode(sys.stderr.encoding, "backslashreplace"))
    except OSError:
        pass


def note(text: str) -> None:
    """Write a line, such as a warning, under the command's name to stderr."""
    title(f"{_prog()}: {_printable(text)}")


def verbose(text: str) -> None:
    """As note(), but only under -v."""
    if _verbose:
        note(text)


def note_losses(
    lost: dict[str, int], texts: dict[str, str], report: Callable[[str], None] = note
) -> None:
    """Report each kind of loss that occurred, by note() or `report`.

    lost: {kind: number}; texts: {kind: what was lost, as it follows the number}.
    """
    for kind, number in lost.items():
        if number:
            report(f"{number} {texts[kind]}")


def _printable(text: str) -> str:
    from .table import escape

    return escape(text)


def _prog() -> str:
    return os.path.basename(sys.argv[0]) or "crisis-tools"


def run(main: Callable[[Any], int | None], get_parser: Callable[[], Any]) -> None:
    """Parse the arguments, run `main(args)`, and exit with its status (None is 0).

    Errors become one line on stderr, with --debug after a traceback.  SIGINT and
    SIGTERM end the interval and not the process.  SIGPIPE has its default
    action.  A failed write to stdout is an error.
    """
    _claim_standard_fds()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    _open_wakeup()
    os.register_at_fork(after_in_child=_open_wakeup)
    signal.signal(signal.SIGTERM, _handle)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as nohup(1) and a shell's "&" leave it
        signal.signal(signal.SIGINT, _handle)
    try:
        status = _run(main, get_parser)
    except (Stopped, KeyboardInterrupt):  # of the latter: nobody reads what remains to be printed
        status = 0
    # Skips the interpreter's teardown, which would also try to flush a dead stdout again.
    os._exit(status)


def _run(main: Callable[[Any], int | None], get_parser: Callable[[], Any]) -> int:
    """The exit status of the command, whose error has been printed."""
    global _verbose
    try:
        try:
            args = get_parser().parse_args(sys.argv[1:])
            _verbose = getattr(args, "verbose", False)
            _export(args)
            status = main(args) or 0
            if _metrics:
                _metrics.write()
        except SystemExit as exc:  # --help, --version
            status = int(exc.code or 0)
        _flush()
        return status
    except Stopped:
        raise
    except Exception as exc:
        return _report(exc)


def _export(args: Any) -> None:
    """Begin --openmetrics: its rows are those of JSON.  Raises Error."""
    global _metrics, _silent
    path = getattr(args, "openmetrics", None)
    if path is None:
        return
    from .metrics import Exporter

    _metrics, _silent, args.json = Exporter(path, _prog(), note), not args.json, True


def _flush() -> None:
    """Write what argparse has printed.  Raises Error."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        raise Error(f"write error: {exc.strerror}") from None


def _report(error: Exception) -> int:
    """Print an error as one line; the exit status."""
    if "--debug" in sys.argv:
        import traceback

        # The cause of an expected error is of no interest.
        chain = not isinstance(error, Error)
        parts = traceback.format_exception(type(error), error, error.__traceback__, chain=chain)
        title("\n".join(map(_printable, "".join(parts).splitlines())))
    status, text = _described(file_limit(error) or _not_mounted(error) or error)
    note(installed(text))
    return status


def _described(error: Exception) -> tuple[int, str]:
    """The exit status and the line for an error."""
    if isinstance(error, Error):
        return error.status, str(error)
    if isinstance(error, OSError):
        text = str(error.strerror or error)
        if isinstance(error.filename, (str, bytes)):
            text = f"{os.fsdecode(error.filename)}: {text}"
        return 1, text
    if isinstance(error, MemoryError):
        return 1, "out of memory"
    # A bug: still one line, and the way to see more.
    kind = type(error).__name__
    return 1, f"internal error: {kind}: {error}. Run with --debug and report it"


_MOUNTS = (  # file system, where, a name that it always has there, words of errors without it
    ("proc", "/proc", "self", ("/proc", "no such process", "no such thread")),
    ("sysfs", "/sys", "kernel", ("/sys", "BTF", "PMU", "hardware monitor", "no such cgroup")),
)


def _not_mounted(error: Exception) -> Error | None:
    """The error to report instead of one that the absence of all of /proc or /sys has caused."""
    if not isinstance(error, (OSError, Error)) or isinstance(error, (Usage, NotPermitted)):
        return None
    for kind, point, member, words in _MOUNTS:
        mentioned = any(word in str(error) for word in words)
        if mentioned and not os.path.lexists(os.path.join(point, member)):
            return Unavailable(f"{point} is not mounted. Try: mount -t {kind} {kind} {point}")
    return None


def _claim_standard_fds() -> None:
    """Open the closed ones of descriptors 0, 1 and 2.

    They must not become those of a map, and a write to a closed stdout must fail.
    """
    for fd in 0, 1, 2:
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR if fd == 2 else os.O_RDONLY)
    for fd, name in (1, "stdout"), (2, "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            stream = open(fd, "w", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
        stream.reconfigure(errors="backslashreplace")
