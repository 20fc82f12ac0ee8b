# SPDX-License-Identifier: GPL-2.0-or-later
"""The frame of every command: shared arguments, the interval clock, and the exit.

Knows no tool.  This is the only module that prints an error or exits.
"""

import os
import select
import _signal as signal       # the signal module is this one with enumerations, for 2.5 ms
import sys
import time

from . import __version__
from .errors import Error

__all__ = ["parser", "ticks", "wait", "stopping", "run", "out", "note", "title", "verbose",
           "positive_float", "positive_int", "timestamp", "iso_time"]

_stop = False           # SIGINT or SIGTERM has arrived, or nobody reads stdout any more
_stopped_at = 0.0
_waiting = False        # the main thread sleeps in wait() and may be interrupted
_verbose = False
_quick = False          # parser() is to make an options.Quick


class _Interrupted(Exception):
    pass


def _type_error(text):
    import argparse
    return argparse.ArgumentTypeError(text)


def positive_int(text):
    """An integer of at least 1; ArgumentTypeError otherwise."""
    try:
        value = int(text, 10)
    except ValueError:
        value = 0
    if value < 1:
        raise _type_error("'%s' is not a positive whole number" % _printable(text))
    return value


def positive_float(text):
    """A finite number of seconds above 0; ArgumentTypeError otherwise."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1e9:
        raise _type_error("'%s' is not a positive number of seconds" % _printable(text))
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
    if _waiting:
        raise _Interrupted


def stopping():
    """True once SIGINT or SIGTERM has arrived, or the reader of stdout has gone."""
    return _stop


def wait(seconds, fds=()):
    """Sleep up to `seconds` (None: for ever), until one of `fds` is readable, or until a stop.

    Returns the list of readable descriptors, empty on a timeout and on a stop.
    A pipe on stdout whose reader has gone counts as a stop, so that
    `tool 10 | head -1` ends when head does.
    """
    global _waiting
    try:
        return _poll(seconds, fds)
    except _Interrupted:
        return []
    finally:
        _waiting = False


def _poll(seconds, fds):
    global _waiting, _stop
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    poll.register(sys.stdout.fileno(), 0)       # reports errors only
    _waiting = True
    ready = [] if _stop else poll.poll(None if seconds is None else max(0, seconds) * 1000)
    _waiting = False
    if any(fd not in fds for fd, _ in ready):
        _stop = True
        return []
    return [fd for fd, _ in ready]


def ticks(interval, count=None, duration=None, until=()):
    """Yield the seconds of each interval as it ends: on monotonic deadlines, without drift.

    interval: seconds, or None for one interval that lasts until a stop.
    count: number of intervals, or None for no end.
    duration: seconds in all; the last interval is what remains of them.
    until: descriptors; when one is readable, that is the end.
    The interval that a stop or an end cuts short is yielded too, with its true
    length, and is the last.  A deadline that was missed by a whole interval is skipped.
    """
    start = last = begin = time.monotonic()
    number, ended = 0, False
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
            ended = bool(wait(None if deadline is None else deadline - now, until))
        now = time.monotonic()
        yield now - last
        last = now
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


def title(text):
    """A line for the person at the terminal, on stderr, so that no pipe has to skip it."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        pass


def out(text):
    """Write one complete record to stdout and flush it.  Raises OSError when that fails."""
    sys.stdout.write(text)
    sys.stdout.flush()


def note(text):
    """One line on stderr under the command's name: a title, a warning."""
    try:
        sys.stderr.write("%s: %s\n" % (_prog(), _printable(text)))
        sys.stderr.flush()
    except OSError:
        pass


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

    Errors become one line on stderr.  SIGINT and SIGTERM end the interval and
    not the process.  SIGPIPE has its default action.  A failed write to stdout
    is an error.
    """
    global _verbose
    debug = "--debug" in sys.argv
    _claim_standard_fds()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _handle)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:    # nohup-like parents keep their wish
        signal.signal(signal.SIGINT, _handle)
    try:
        args = parse(get_parser, sys.argv[1:])
        _verbose = getattr(args, "verbose", False)
        status = main(args) or 0
        sys.stdout.flush()
    except SystemExit as exc:       # --help, --version
        status = exc.code or 0
        try:
            sys.stdout.flush()
        except OSError as err:
            status = _write_error(err)
    except Error as exc:
        if debug:
            raise
        status = exc.status
        note(str(exc))
    except OSError as exc:
        if debug:
            raise
        status = _write_error(exc) if _stdout_failed() else _os_error(exc)
    except (_Interrupted, KeyboardInterrupt):
        status = 0
    except MemoryError:
        status = 1
        note("out of memory")
    except Exception as exc:        # a bug: still one line, and the way to see more
        if debug:
            raise
        status = 1
        note("internal error: %s: %s. Run with --debug and report it" % (type(exc).__name__, exc))
    # Skips the interpreter's teardown, which would also try to flush a dead stdout again.
    os._exit(status)


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


def _stdout_failed():
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        return True
    return False


def _write_error(exc):
    note("write error: %s" % (exc.strerror or exc))
    return 1


def _os_error(exc):
    where = "%s: " % os.fsdecode(exc.filename) if isinstance(exc.filename, (str, bytes)) else ""
    note("%s%s" % (where, exc.strerror or exc))
    return 1
