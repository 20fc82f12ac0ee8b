# SPDX-License-Identifier: GPL-2.0-or-later
"""A made-up machine around a command: its files, its clock, its signals.

`run` forks, puts the machine in place of the real one, and calls
cli.run(main, get_parser) as the command itself does.  In the child:

- paths below /proc, /sys, /dev/cpu, /dev/kmsg and /boot are those of a
  fixture tree; what the tree lacks does not exist, but
  for the command's own open files.  Trees are written as
  `helpers.fixture_tree` describes, with changes at later instants.
- the clock stands still until the command waits.  poll(2) that finds nothing
  ready, and sleep(), move it on, and apply what is due: changes of the tree,
  the end of a process, records for a ring buffer, Ctrl-C.
- pidfd_open(2) knows the processes of the tree.
- a page has 4096 bytes, a second 100 clock ticks, two CPUs may be used, and the
  time zone is UTC+2.

So that the output depends neither on the machine nor on its speed.
"""

import builtins
import collections
import importlib
import io
import os
import select
import signal
import sys
import tempfile
import time
import traceback
import zlib

from helpers import fixture_instants, put

__all__ = ["World", "Result", "run", "scratch", "START"]

VIRTUAL = "/proc", "/sys", "/dev/cpu", "/dev/kmsg", "/boot"
REAL = "/proc/self/fd"
START = 1000 * 10**9  # ns of CLOCK_MONOTONIC at which the command starts
EPOCH = 1774785600 * 10**9  # ns of CLOCK_REALTIME then: 2026-03-29 12:00:00 UTC
TIMEZONE = "XXX-2"  # two hours east of Greenwich
LIMIT = 60  # real seconds that a command may take: it waits for nothing

Result = collections.namedtuple("Result", "status out err")


class World:
    """The machine: root, where its files are; now, ns of CLOCK_MONOTONIC."""

    def __init__(self, root):
        self.root, self.now = str(root), START
        self._events = []  # [(ns, serial number, function)]
        self._ends = {}  # PID: [descriptor that becomes readable, the end that makes it so]
        self._poll, self.long_waits = select.poll, 0

    # What happens when

    def at(self, seconds, function):
        """Call the function when the clock has moved on by `seconds`."""
        self._events.append((START + round(seconds * 1e9), len(self._events), function))
        self._events.sort(key=lambda event: event[:2])

    def seconds(self):
        """Seconds since the command started."""
        return (self.now - START) / 1e9

    def advance(self, until):
        """Move the clock on to `until` (ns, None: without end), or to the next event, which
        happens.  True for an event.
        """
        if self._events and (until is None or self._events[0][0] <= until):
            moment, _, function = self._events.pop(0)
            self.now = max(self.now, moment)
            function()
            return True
        if until is None:
            raise RuntimeError("the command would wait without end")
        self.now = max(self.now, until)
        return False

    def lay_out(self, trees):
        """Write the first instant of the trees, and let the others happen in their time."""
        for tree in trees:
            for seconds, entries in fixture_instants(tree):
                if seconds:
                    self.at(seconds, lambda entries=entries: self._change(entries))
                else:
                    put(entries, self.root)

    def _change(self, entries):
        put(entries, self.root)
        for pid, (_, writable) in self._ends.items():
            if not os.path.isdir(self.root + f"/proc/{pid}"):
                _os.write(writable, b"e")

    def interrupt(self):
        os.kill(os.getpid(), signal.SIGINT)

    # In place of the real machine

    def install(self):
        self._install_files()
        self._install_clock()
        os.pidfd_open, os.sched_getaffinity = self._pidfd_open, lambda pid: {0, 1}
        sysconf = os.sysconf
        os.sysconf = lambda name: (
            {"SC_PAGE_SIZE": 4096, "SC_CLK_TCK": 100}.get(name) or sysconf(name)
        )
        for name, module in list(sys.modules.items()):
            if name.startswith(("crisis.", "command_")) and hasattr(module, "PAGE"):
                module.PAGE = 4096

    def path(self, path):
        """The path of a file of the tree for one of the machine; any other path, and a descriptor,
        as it is.
        """
        if isinstance(path, (str, bytes)):
            text = os.fsdecode(path)
            if any((text + "/").startswith(top + "/") for top in VIRTUAL) and not (
                text + "/"
            ).startswith(REAL + "/"):
                return (
                    type(path)(os.fsencode(self.root + text))
                    if isinstance(path, bytes)
                    else self.root + text
                )
        return path

    def _unmapped(self, path):
        return (
            path[len(self.root) :]
            if isinstance(path, str) and path.startswith(self.root + "/")
            else path
        )

    def _redirected(self, function):
        def call(path=".", *arguments, **options):
            try:
                return function(self.path(path), *arguments, **options)
            except OSError as exc:
                exc.filename = self._unmapped(exc.filename)
                raise

        return call

    def _numbered(self, function):
        """stat(2) whose inode number of a file of the tree depends on its path alone."""

        def call(path, *arguments, **options):
            found = function(path, *arguments, **options)
            if isinstance(path, str) and self.path(path) != path:
                found = os.stat_result(
                    (found[0], 1000 + zlib.crc32(path.encode()) % 10**6) + tuple(found[2:10])
                )
            return found

        return call

    def _install_files(self):
        for name in "open", "listdir", "readlink", "access":
            setattr(os, name, self._redirected(getattr(os, name)))
        for name in "stat", "lstat":
            setattr(os, name, self._numbered(self._redirected(getattr(os, name))))
        builtins.open = io.open = self._redirected(builtins.open)
        scandir = os.scandir
        os.scandir = lambda path=".": _Listing(self, path, scandir(self.path(path)))

    def _install_clock(self):
        real_strftime, real_localtime = time.strftime, time.localtime
        wall = lambda: EPOCH + self.now - START  # noqa: E731

        def sleep(seconds):
            until = self.now + round(seconds * 1e9)
            while self.advance(until):
                pass

        time.monotonic_ns = lambda: self.now
        time.monotonic = lambda: self.now / 10**9
        time.time_ns = wall
        time.time = lambda: wall() / 10**9
        time.clock_gettime = lambda clock: (
            (wall() if clock == time.CLOCK_REALTIME else self.now) / 10**9
        )
        time.localtime = lambda seconds=None: real_localtime(
            wall() / 10**9 if seconds is None else seconds
        )
        time.strftime = lambda form, when=None: real_strftime(
            form, time.localtime() if when is None else when
        )
        time.sleep = sleep
        select.poll = lambda: _Poll(self)
        os.environ["TZ"] = TIMEZONE
        time.tzset()

    def _pidfd_open(self, pid, flags=0):
        if not os.path.isdir(f"/proc/{pid}"):
            raise ProcessLookupError(3, "No such process")
        if pid not in self._ends:
            self._ends[pid] = _os.pipe()
        return _os.dup(self._ends[pid][0])


_os = os


class _Listing:
    """os.scandir() in the order of the names, with the machine's paths."""

    def __init__(self, world, path, entries):
        with entries:
            self._entries = iter(
                [_Entry(world, entry) for entry in sorted(entries, key=lambda e: e.name)]
            )

    def __iter__(self):
        return self._entries

    def __next__(self):
        return next(self._entries)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def close(self):
        pass


class _Entry:
    """An os.DirEntry whose path is the machine's."""

    def __init__(self, world, entry):
        self.name, self.path = entry.name, world._unmapped(entry.path)
        self.is_dir, self.is_file, self.is_symlink = entry.is_dir, entry.is_file, entry.is_symlink
        self.inode, self.stat = entry.inode, entry.stat


class _Poll:
    """select.poll() by the made-up clock."""

    def __init__(self, world):
        self._world, self._real = world, world._poll()
        self.register, self.unregister = self._real.register, self._real.unregister

    def poll(self, milliseconds=None):
        until = None
        if milliseconds is not None and milliseconds >= 0:
            # whole microseconds, rounded up
            until = self._world.now + -int(-milliseconds * 1000 // 1) * 1000
            # A command without an end waits again and again for as long as poll() takes.
            self._world.long_waits = self._world.long_waits + 1 if milliseconds >= 1e9 else 0
            if self._world.long_waits > 20:
                until = None
        while True:
            ready = self._real.poll(0)
            if ready or until is not None and until <= self._world.now:
                return ready
            self._world.advance(until)


def scratch():
    """A context manager for a directory, in memory where there is a place: trees are made and
    removed for each run.
    """
    return tempfile.TemporaryDirectory(
        dir="/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
    )


def run(
    module,
    name,
    arguments,
    directory,
    trees=(),
    seam=None,
    stop=None,
    environment=None,
    terminal=False,
):
    """The Result of a command on a made-up machine.

    module: the command, as helpers.load gives it.  directory: an empty one, for the tree (below
      "root") and as the working directory ("work", in the output always /work).
    trees: names of tests/fixtures/*.tree, one laid over the other.
    seam: called with the World and the module, to put data in place of what no file holds (see
      tests/seams.py).
    stop: seconds until Ctrl-C.  terminal: stdout passes for a terminal.
    """
    root, work = os.path.join(directory, "root"), os.path.join(directory, "work")
    os.makedirs(root, exist_ok=True)
    os.makedirs(work, exist_ok=True)
    for tree in trees:
        fixture_instants(tree)  # which are then known to each child
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            try:
                _child(
                    module,
                    name,
                    arguments,
                    root,
                    work,
                    trees,
                    seam,
                    stop,
                    environment,
                    terminal,
                    out,
                    err,
                )
            except BaseException:
                os.write(err.fileno(), traceback.format_exc().encode())
            finally:
                os._exit(70)
        _, status = os.waitpid(child, 0)
        texts = []
        for f in out, err:
            f.seek(0)
            texts.append(
                f.read()
                .decode("utf-8", "backslashreplace")
                .replace(os.path.realpath(work), "/work")
            )
    return Result(os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status), *texts)


def _child(module, name, arguments, root, work, trees, seam, stop, environment, terminal, out, err):
    # What these have found out for other tests: the terminal, its width, a stop.
    for used in "crisis.arguments", "crisis.cli":
        importlib.reload(importlib.import_module(used))
    from crisis import cli

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.alarm(LIMIT)
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, to in (null, 0), (out.fileno(), 1), (err.fileno(), 2):
        os.dup2(fd, to)
    sys.stdout, sys.stderr = (open(fd, "w", encoding="utf-8", closefd=False) for fd in (1, 2))
    os.environ.update({"COLUMNS": "80", "LC_ALL": "C.UTF-8"}, **environment or {})
    sys.argv[:] = [name, *arguments]
    os.chdir(work)
    world = World(root)
    world.lay_out(trees)
    world.install()
    if seam is not None:
        seam(world, module)
    if stop is not None:
        world.at(stop, world.interrupt)
    if terminal:
        os.isatty = lambda fd: fd == 1
    cli.run(module.main, module.get_parser)
