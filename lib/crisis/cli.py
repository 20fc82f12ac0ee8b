# SPDX-License-Identifier: GPL-2.0-or-later
"""The frame of every command: shared arguments, the interval clock, input and output, and the exit.

Knows no tool.  This is the only module that prints an error or exits.

SIGINT and SIGTERM only set a flag, so that a command can print what it has
collected.  Python restarts a system call that a signal has interrupted (PEP
475); hence everything that can block, waits in poll(2) before, together with
the pipe into which Python's C handler writes (signal.set_wakeup_fd): no
moment is left at which a signal would be noticed too late.
"""

import io
import os
import select
import _signal as signal       # the signal module is this one with enumerations, for 2.5 ms
import sys
import time

from . import __version__
from .errors import Error, NotPermitted, Stopped, Unavailable, Usage, file_limit

__all__ = ["parser", "Ends", "ticks", "wait", "stopping", "stopped_at_input", "run", "reader", "out", "write", "note",
           "title", "verbose", "type_error", "shown", "positive_float", "positive_int", "timestamp", "iso_time"]

_POLL_LIMIT = 2000000   # seconds that one poll(2) may wait: its timeout is an int of milliseconds
_PATIENCE = .2          # seconds that a stop leaves to the reader of a full pipe
_SHOWN = 80             # characters of an argument that a message repeats

_stop = False           # SIGINT or SIGTERM has arrived, or nobody reads stdout any more
_stopped_at = 0.0
_at_input = False       # the stop arrived while reader() waited
_wakeup = None          # the pipe's end that is readable when a signal has arrived
_outputs = {}           # what _output() has found
_verbose = False
_quick = False          # parser() is to make an options.Quick


def shown(text):
    """An argument as an error message repeats it: escaped, and cut after 80 characters."""
    return _printable(text if len(text) <= _SHOWN else text[:_SHOWN - 3] + "...")


def type_error(text, what):
    """The ArgumentTypeError that says that the argument `text` is not `what`."""
    import argparse
    return argparse.ArgumentTypeError("'%s' is not %s" % (shown(text), what))


def positive_int(text):
    """An integer of at least 1; ArgumentTypeError otherwise."""
    try:
        value = int(text, 10)
    except ValueError:
        value = 0
    if value < 1:
        raise type_error(text, "a positive whole number")
    return value


def positive_float(text):
    """A finite number of seconds above 0; ArgumentTypeError otherwise."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1e9:
        raise type_error(text, "a positive number of seconds")
    return value


def parser(description, epilog="", interval=True, cache=True, every=None, lines="--json"):
    """An ArgumentParser with the arguments that every command shares.

    description: the one-sentence question that the command answers.
    epilog: usage examples, printed verbatim after the options.
    interval: add the positional `interval` (seconds) and `count`.
    every: the interval when none is given, for a command that then reports without end;
           0 for one that then reports once, at once.
    cache: add --no-cache, for a command that loads a BPF program.
    lines: the long name of -j, for a command whose --json was another thing before.
    """
    if _quick:
        from .options import Quick
        p = Quick()
    else:
        from .arguments import Formatter, Parser
        p = Parser(description=description, epilog=epilog, allow_abbrev=False, formatter_class=Formatter)
    if interval:
        p.add_argument("interval", nargs="?", type=positive_float, default=every or None,
                       help="seconds between two reports; without it, " +
                            ("one report at Ctrl-C" if every is None else "%g" % every if every else "one report now"))
        p.add_argument("count", nargs="?", type=positive_int,
                       help="number of reports; without it, until Ctrl-C")
    p.add_argument("-j", lines, dest="json", action="store_true",
                   help="print JSON lines, one object per record")
    p.add_argument("-v", "--verbose", action="store_true",
                   help="say on stderr which sources were taken and why others were not")
    if cache:
        p.add_argument("--no-cache", action="store_true",
                       help="neither read nor write the cache of compiled BPF programs")
    p.add_argument("--debug", action="store_true",
                   help="show a traceback for an error")
    p.add_argument("--version", action="version", version="%(prog)s " + __version__)
    return p


def parse(get_parser, words):
    """The arguments in the words: an object with an attribute for each.  Raises Usage, and SystemExit for --help."""
    global _quick
    _quick = True
    try:
        found = get_parser().parse(words)
    finally:
        _quick = False
    return get_parser().parse_args(words) if found is None else found


def _handle(signum, frame):
    global _stop, _stopped_at
    now = time.monotonic()
    if not _stop:
        _stop, _stopped_at = True, now
    elif now - _stopped_at > 1:     # not at once: timeout(1) signals the process and then its group
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)


def _open_wakeup():
    """Make the pipe that a signal makes readable; a child after fork(2) needs its own."""
    global _wakeup
    _wakeup, ours = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(ours, warn_on_full_buffer=False)


def stopping():
    """True once SIGINT or SIGTERM has arrived, or the reader of stdout has gone."""
    return _stop


def stopped_at_input():
    """True when the stop arrived while the command waited for more input, and so left no work undone."""
    return _at_input


def _poll(events, seconds):
    """The descriptors of {descriptor: poll(2) events} that are ready within `seconds` (None: for ever).

    An empty list when none is by then, and when a signal arrives before.
    """
    poll = select.poll()
    for fd, event in events.items():
        poll.register(fd, event)
    if _wakeup is not None and not _stop:
        poll.register(_wakeup, select.POLLIN)
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        left = _POLL_LIMIT if deadline is None else max(0, deadline - time.monotonic())
        ready = [fd for fd, _ in poll.poll(1000 * min(left, _POLL_LIMIT))]
        if _wakeup in ready:
            os.read(_wakeup, 4096)
            return []
        if ready or left < _POLL_LIMIT:
            return ready


def wait(seconds, fds=()):
    """Sleep up to `seconds` (None: for ever), until one of `fds` is readable, or until a stop.

    Returns the list of readable descriptors, empty on a timeout and on a stop.
    A pipe on stdout whose reader has gone counts as a stop, so that
    `tool 10 | head -1` ends when head does.
    """
    global _stop
    if _stop:
        return []
    ready = _poll({1: 0, **dict.fromkeys(fds, select.POLLIN)}, seconds)
    if 1 in ready and 1 not in fds:     # of stdout, poll reports errors only
        _stop = True
    return [] if _stop else ready


class Ends:
    """The processes of -p and the thread of -t: when the last of them ends, so does the command.

    Noticed by pidfd_open(2), Linux 5.3.  A thread other than the first has a pidfd
    since Linux 6.9 only; before, the end of its process counts.
    pids: processes.  tid: a thread.  quiet: note() says nothing.
    Attributes: over, True when none is left of those that there were; gone, the PIDs that have ended.
    """

    def __init__(self, pids=(), tid=None, quiet=False):
        self._open, self._names, self._quiet, self.gone = {}, [], quiet, set()
        for pid in pids:
            self._add("process %d" % pid, pid)
        if tid and not self._add("thread %d" % tid, tid, os.O_EXCL):     # PIDFD_THREAD
            from .kernel import proc
            self._add("the process of thread %d" % tid, proc.process_of(tid))
        self.over = bool(self._names) and not self._open

    def _add(self, name, pid, flags=0):
        """Watch for its end; False where the kernel does not take the flags."""
        try:
            self._open[os.pidfd_open(pid, flags)] = pid
        except ProcessLookupError:              # ended meanwhile
            self.gone.add(pid)
        except OSError as exc:
            if file_limit(exc):
                raise
            return not flags                    # a filter of system calls: without a pidfd, go on until Ctrl-C
        self._names.append(name)
        return True

    @property
    def fds(self):
        """Descriptors to wait for; pass the readable ones to ended()."""
        return tuple(self._open)

    def ended(self, fds):
        """Forget those that have ended, by their descriptors.  True when none is left."""
        for fd in fds:
            if fd in self._open:
                self.gone.add(self._open.pop(fd))
                os.close(fd)
                self.over = not self._open
        return self.over

    def note(self):
        """Say, if it is so, that they have ended."""
        if self.over and not self._quiet:
            note("%s ended" % ("%s has" % self._names[0] if len(self._names) == 1 else
                               "the %d processes have" % len(self._names)))


def ticks(interval, count=None, duration=None, ends=None):
    """Yield the seconds of each interval as it ends: on monotonic deadlines, without drift.

    interval: seconds, or None for one interval that lasts until a stop.
    count: number of intervals, or None for no end.
    duration: seconds in all; the last interval is what remains of them.
    ends: an Ends; the end of the last process is the end.
    The interval that a stop or an end cuts short is yielded too, with its true
    length, and is the last.  A deadline that was missed by a whole interval is skipped.
    """
    start = last = begin = time.monotonic()
    number, ended = 0, ends is not None and ends.over
    while count is None or number < count:
        number += 1
        while not _stop and not ended:
            now = time.monotonic()
            deadline = None if interval is None else start + interval * number
            if duration is not None:
                deadline = begin + duration if deadline is None else min(deadline, begin + duration)
            if deadline is not None and now >= deadline:
                ended = duration is not None and now >= begin + duration
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
        if interval is not None and now - (start + interval * number) > interval:
            start = now - interval * number


def timestamp():
    """The local time as HH:MM:SS, the classic tools' -T."""
    return time.strftime("%H:%M:%S")


def iso_time(now=None):
    """The time as ISO 8601 with milliseconds and the offset from UTC, for JSON records.

    now: seconds since the epoch; the present without it.
    """
    if now is None:
        now = time.time()
    return "%s.%03d%s" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now)), now * 1000 % 1000,
                          time.strftime("%z", time.localtime(now)))


class _Input(io.RawIOBase):
    """A descriptor to read from, whose end is also a stop."""

    def __init__(self, fd, path):
        self._fd, self._path = fd, path

    def readable(self):
        return True

    def readinto(self, buffer):
        global _at_input
        while not _stop:
            if _poll({self._fd: select.POLLIN}, None):
                try:
                    return os.readv(self._fd, [buffer])
                except BlockingIOError:         # another process was faster
                    pass
                except OSError as exc:
                    raise OSError(exc.errno, exc.strerror, self._path) from None
            _at_input = _stop
        return 0

    def close(self):
        if not self.closed and self._fd:
            os.close(self._fd)
        super().close()


def reader(path):
    """A file, device or FIFO, or "-" for standard input, opened to be read as bytes; a stop ends it.  Raises OSError."""
    # O_NONBLOCK: or the open of a FIFO would wait for a writer.
    fd = 0 if path == "-" else os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return io.BufferedReader(_Input(fd, path))


def _output(fd):
    """The descriptor to write to instead of 1 or 2.

    Of a terminal, write(2) may block when poll(2) has said that there is room, for a line's end takes
    more (n_tty_write(), drivers/tty/n_tty.c): it gets a file description of our own, with O_NONBLOCK.
    """
    if fd not in _outputs:
        _outputs[fd] = fd
        if os.isatty(fd):
            try:
                _outputs[fd] = os.open("/proc/self/fd/%d" % fd, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY |
                                       os.O_CLOEXEC)
            except OSError:             # after su(1), somebody else's
                pass
    return _outputs[fd]


def write(fd, data):
    """Write all the bytes to 1 or 2.  Raises OSError; KeyboardInterrupt when a stop finds nobody who reads them."""
    fd, data, until = _output(fd), memoryview(data), None
    while data:
        if _stop and until is None:
            until = time.monotonic() + _PATIENCE
        if _poll({fd: select.POLLOUT}, until and max(0, until - time.monotonic())):
            try:
                # A pipe that is ready takes this much without blocking.
                data, until = data[os.write(fd, data[:select.PIPE_BUF]):], None
                continue
            except BlockingIOError:
                time.sleep(.001)
        if until is not None and time.monotonic() >= until:
            raise KeyboardInterrupt


def out(text):
    """Write one complete record to stdout.  Raises Error, and KeyboardInterrupt as write()."""
    try:
        write(1, text.encode(sys.stdout.encoding, "backslashreplace"))
    except OSError as exc:
        raise Error("write error: %s" % exc.strerror) from None


def title(text):
    """A line for the person at the terminal, on stderr, so that no pipe has to skip it."""
    try:
        write(2, (text + "\n").encode(sys.stderr.encoding, "backslashreplace"))
    except OSError:
        pass


def note(text):
    """One line on stderr under the command's name: a title, a warning."""
    title("%s: %s" % (_prog(), _printable(text)))


def verbose(text):
    """One line on stderr, only under -v."""
    if _verbose:
        note(text)


def _printable(text):
    from .table import escape
    return escape(text)


def _prog():
    return os.path.basename(sys.argv[0]) or "crisis-tools"


def run(main, get_parser):
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
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:    # nohup-like parents keep their wish
        signal.signal(signal.SIGINT, _handle)
    try:
        status = _run(main, get_parser)
    except (Stopped, KeyboardInterrupt):    # of the latter: nobody reads what remains to be printed
        status = 0
    # Skips the interpreter's teardown, which would also try to flush a dead stdout again.
    os._exit(status)


def _run(main, get_parser):
    """The exit status of the command, whose error has been printed."""
    global _verbose
    try:
        try:
            args = parse(get_parser, sys.argv[1:])
            _verbose = getattr(args, "verbose", False)
            status = main(args) or 0
        except SystemExit as exc:       # --help, --version
            status = exc.code or 0
        _flush()
        return status
    except Stopped:
        raise
    except Exception as exc:
        return _report(exc)


def _flush():
    """What argparse has printed.  Raises Error."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        raise Error("write error: %s" % exc.strerror) from None


def _report(error):
    """Print an error as one line; the exit status."""
    if "--debug" in sys.argv:
        import traceback
        # Of an expected error, the one that it was made from is no news.
        lines = "".join(traceback.format_exception(type(error), error, error.__traceback__,
                                                   chain=not isinstance(error, Error))).splitlines()
        title("\n".join(map(_printable, lines)))
    error = file_limit(error) or _not_mounted(error) or error
    if isinstance(error, Error):
        status, text = error.status, str(error)
    elif isinstance(error, OSError):
        where = "%s: " % os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
        status, text = 1, "%s%s" % (where, error.strerror or error)
    elif isinstance(error, MemoryError):
        status, text = 1, "out of memory"
    else:                           # a bug: still one line, and the way to see more
        status, text = 1, "internal error: %s: %s. Run with --debug and report it" % (type(error).__name__, error)
    note(text)
    return status


_MOUNTS = (     # file system, where, a name that it always has there, words of errors that its absence causes
    ("proc", "/proc", "self", ("/proc", "no such process", "no such thread")),
    ("sysfs", "/sys", "kernel", ("/sys", "BTF", "PMU", "hardware monitor", "no such cgroup")))


def _not_mounted(error):
    """The error to report instead of one that says that something is missing in /proc or /sys, when all of it is."""
    if isinstance(error, (OSError, Error)) and not isinstance(error, (Usage, NotPermitted)):
        for kind, point, member, words in _MOUNTS:
            if any(word in str(error) for word in words) and not os.path.lexists(os.path.join(point, member)):
                return Unavailable("%s is not mounted. Try: mount -t %s %s %s" % (point, kind, kind, point))
    return None


def _claim_standard_fds():
    """A closed descriptor 0, 1 or 2 must not become a map's; writing to a closed stdout must fail."""
    for fd in 0, 1, 2:
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR if fd == 2 else os.O_RDONLY)
    for fd, name in (1, "stdout"), (2, "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w", closefd=False))
        getattr(sys, name).reconfigure(errors="backslashreplace")
