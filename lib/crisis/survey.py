# SPDX-License-Identifier: GPL-2.0-or-later
"""The survey of fincore: records of files, their sums, and their printing, by one process or several.

A module of its own because Python keeps a module compiled and a command not.
"""

import os
import time

from . import cli, pagecache, table
from .errors import Error

__all__ = ["COLUMNS", "PAGE", "Printer", "Survey", "in_parallel", "many"]

PAGE = pagecache.PAGE
FILE, SIZE, PAGES, DIRTY, WRITEBACK, EVICTED, RECENTLY_EVICTED, MAP, CHANGE, FILES = range(10)
COLUMNS = {         # title: (field of a record, unit, what --help says)
    "RES": (PAGES, "bytes", "data of the file in memory"),
    "PAGES": (PAGES, "pages", "the same in pages"),
    "SIZE": (SIZE, "size", "size of the file"),
    "FILE": (FILE, "name", "name of the file"),
    "DIRTY_PAGES": (DIRTY, "pages", "pages not written back yet"),
    "DIRTY": (DIRTY, "bytes", "the same in bytes"),
    "WRITEBACK_PAGES": (WRITEBACK, "pages", "pages being written back now"),
    "WRITEBACK": (WRITEBACK, "bytes", "the same in bytes"),
    "EVICTED_PAGES": (EVICTED, "pages", "pages that were in memory and have been evicted"),
    "EVICTED": (EVICTED, "bytes", "the same in bytes"),
    "RECENTLY_EVICTED_PAGES": (RECENTLY_EVICTED, "pages", "evicted so recently that reading them again shows "
                                                          "memory pressure"),
    "RECENTLY_EVICTED": (RECENTLY_EVICTED, "bytes", "the same in bytes"),
    "MAP": (MAP, "map", "where in the file the pages are (see --map)"),
    "CHANGE": (CHANGE, "bytes", "with --watch: growth of RES since the report before"),
}
CELLS = 32              # of a residency map
HELD = 1000             # rows that wait for the widths of columns; later rows get the same widths
CHUNK = 1 << 15         # bytes of text written at a time
MANY = 2000             # directory entries from which on more than one process is worth its start


def _raw(text):
    return "".join(chr(b) if 0x20 < b < 0x7f and b != 0x5c else "\\x%02x" % b
                   for b in text.encode("utf-8", "surrogateescape"))


class Printer:
    """Records to text, util-linux's JSON or JSON lines, in bounded memory."""

    def __init__(self, args, columns, lock=None):
        self.args, self.lock = args, lock
        self.fields = [(name,) + COLUMNS[name][:2] for name in columns]
        self.parts, self.length, self.held = [], 0, None
        self.first = True
        self.widths = None
        self.time = None
        if args.json:
            self.line = self._json_line
        elif args.document:
            self.line = self._json_item
        elif args.raw:
            self.line = lambda record: " ".join(map(_raw, self.cells(record))) + "\n"
        else:
            self.line, self.held = self._aligned, []

    def fix_widths(self):
        """Columns as wide as numbers in general are, for lines printed before the last is known."""
        self.widths = [max(len(name), {"pages": 8, "name": 0, "map": 0}.get(unit, 13 if self.args.bytes else 6))
                       for name, _, unit in self.fields]
        self.held = None

    def begin(self, time):
        self.time, self.first = time, True
        if self.args.json:
            return
        if self.args.document:
            self._text('{\n   "fincore": [')
        elif not self.args.noheadings:
            titles = [name for name, _, _ in self.fields]
            if self.held is not None:
                self.held.append(titles)
            else:
                self._text(" ".join(titles) + "\n" if self.args.raw else self._align(titles))

    def add(self, record):
        if self.held is None:
            self._text(self.line(record))
        else:
            self.held.append(self.cells(record))
            if len(self.held) >= HELD:
                self._release()

    def end(self):
        if self.args.document:
            self._text("\n   ]\n}\n")
        if self.held is not None:
            self._release()
        self.flush()
        if self.line == self._aligned:
            self.held = []

    def raw_line(self, text):
        self._text(text)

    def flush(self):
        data = "".join(self.parts)
        self.parts, self.length = [], 0
        if self.lock is None:
            cli.out(data)
            return
        import fcntl
        until = None
        while True:             # not F_SETLKW: who holds the lock may wait for the reader of a pipe
            try:
                fcntl.lockf(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                until = until or cli.stopping() and time.monotonic() + .5
                if until and time.monotonic() > until:
                    raise KeyboardInterrupt from None
                time.sleep(.001)
        try:
            cli.out(data)
        finally:
            fcntl.lockf(self.lock, fcntl.LOCK_UN)

    def _text(self, text):
        self.parts.append(text)
        self.length += len(text)
        if self.length > CHUNK:
            self.flush()

    def _release(self):
        rows, self.held = self.held, None
        self.widths = [max(len(name), max([len(row[i]) for row in rows] or [0]))
                       for i, (name, _, _) in enumerate(self.fields)]
        for row in rows:
            self._text(self._align(row))

    def _align(self, cells):
        return " ".join([cell.ljust(width) if unit in ("name", "map") else cell.rjust(width)
                         for cell, width, (_, _, unit) in zip(cells, self.widths, self.fields)]).rstrip() + "\n"

    def _aligned(self, record):
        return self._align(self.cells(record))

    def cells(self, record):
        in_bytes, found = self.args.bytes, []
        for _, field, unit in self.fields:
            value = record[field]
            if value is None:
                found.append("-")
            elif unit == "name":
                found.append(value if self.args.raw else table.escape(value))
            elif unit == "map":
                found.append(value)
            elif unit == "pages":
                found.append(str(value))
            else:
                if unit == "bytes":
                    value *= PAGE
                found.append(str(value) if in_bytes else table.size(value) if value >= 0 else "-" + table.size(-value))
        return found

    def _json_line(self, record):
        values = {"time": self.time, "record": "file"}
        if record[FILES] is not None:
            values.update(record="total" if record[FILE] is None else "sum", files=record[FILES][0],
                          unknown=record[FILES][1], interrupted=cli.stopping())
        for name, field, unit in self.fields:
            value = record[field]
            if unit == "bytes" and value is not None:
                value *= PAGE
            values[name.lower() + ("_bytes" if unit in ("bytes", "size") else "")] = value
        return table.json_line(values)

    def _json_item(self, record):
        lines = []
        for name, field, unit in self.fields:
            value = record[field]
            if value is not None and unit in ("bytes", "size"):
                value = value if unit == "size" else value * PAGE
                value = value if self.args.bytes else table.size(value)
            lines.append('         "%s": %s' % (name.lower(), table.json_line(value).rstrip("\n")))
        head = "\n      {\n" if self.first else ",{\n"
        self.first = False
        return head + ",\n".join(lines) + "\n      }"


class Sums:
    """The sum of records: a column of which one file is not known has no sum, but residency leaves such files out."""

    def __init__(self):
        self.files = self.unknown = self.size = self.pages = 0
        self.rest = [0, 0, 0, 0]

    def add(self, size, counts):
        self.files += 1
        self.size += size
        if counts is None:
            self.unknown += 1
            return
        pages, dirty, writeback, evicted, recent = counts
        self.pages += pages
        if dirty is None:
            self.rest = [None] * 4
        elif (dirty or writeback or evicted or recent) and self.rest[0] is not None:
            self.rest = [a + b for a, b in zip(self.rest, counts[1:])]

    def merge(self, state):
        files, unknown, size, pages, rest = state
        self.files += files
        self.unknown += unknown
        self.size += size
        self.pages += pages
        self.rest = [None if a is None or b is None else a + b for a, b in zip(self.rest, rest)]

    def state(self):
        return self.files, self.unknown, self.size, self.pages, self.rest

    def record(self, name):
        nothing = self.files == self.unknown and self.files
        return (name, self.size, None if nothing else self.pages, *([None] * 4 if nothing else self.rest),
                None, None, (self.files, self.unknown))


class Survey:
    """One pass over the files: records to a printer, sums, and what could not be read."""

    def __init__(self, args, printer, share=(0, 1)):
        self.args, self.printer = args, printer
        self.residency = pagecache.Residency(args.cachestat)
        self.walk = pagecache.Walk(args.exclude, args.one_file_system, args.dereference, share,
                                   self.failed, cli.stopping)
        self.failures = 0
        self.total = Sums()
        self.rows = [] if args.sort or args.top or args.watch else None
        self.sums = {}
        name = args.sort or "RES"
        field = COLUMNS[name][0]
        self.key = (lambda r: r[FILE] or "") if field == FILE else \
            lambda r: (-(r[field] if isinstance(r[field], int) else -1 << 62), r[FILE])
        self.before, self.now = None, None      # {name: pages} with --watch

    def failed(self, path, what, why):
        self.failures += 1
        if isinstance(why, OSError):
            cli.note("failed to %s: %s: %s" % (what, path, why.strerror))
        else:
            cli.note("failed to %s: %s: %s" % (what, path, why))

    def run(self, paths):
        """Measure all paths: (name shown, path opened) pairs."""
        summarize, measured = self.args.summarize, self.residency.measure
        for index, (shown, path) in enumerate(paths):
            sums = Sums() if summarize else None
            for prefix, name, fd, st, size, again in self.walk.files((path,)):
                try:
                    counts = measured(fd, st, size)
                    where = bar(self.residency, fd, st, size) if self.args.map and counts and not summarize else None
                except OSError as exc:
                    self.failed(prefix + name, "measure", exc)
                    continue
                if summarize:
                    sums.add(size, counts)
                else:
                    if not again:
                        self.total.add(size, counts)
                    self.record((prefix + name if prefix else shown, size) + (counts or (None,) * 5) +
                                (where, None, None))
            if summarize and sums.files and not again:
                self.total.merge(sums.state())
            if summarize and (sums.files or os.path.isdir(path)):
                if self.walk.share[1] > 1:
                    self.sums[index] = sums.state()
                else:
                    self.record(sums.record(shown))

    def record(self, record):
        if self.now is not None:
            record = self.changed(record)
            if record[CHANGE] == 0:
                return
        if self.rows is None:
            self.printer.add(record)
            return
        self.rows.append(record)
        if self.args.top and len(self.rows) > 4 * self.args.top + 1000:
            self.trim()

    def changed(self, record):
        """The record with CHANGE since the report before."""
        name, pages = record[FILE], record[PAGES]
        self.now[name] = pages
        if self.before is None:
            return record
        old = self.before.get(name, 0)
        change = None if pages is None or old is None else pages - old
        return record[:CHANGE] + (change,) + record[CHANGE + 1:]

    def trim(self):
        if self.args.sort or self.args.top:
            self.rows.sort(key=self.key)
        if self.args.top:
            del self.rows[self.args.top:]

    def finish(self):
        """Print what waited for the end.  The exit status."""
        if self.args.watch:
            if self.rows or self.args.total or self.before is None:
                if not self.args.json:
                    self.printer.raw_line("%s%s\n" % ("" if self.before is None else "\n", cli.timestamp()))
                self.printer.begin(cli.iso_time())
        if self.rows is not None:
            self.trim()
            for row in self.rows:
                self.printer.add(row)
        if self.args.total:
            total = self.total.record(None if self.args.json else "TOTAL")
            self.printer.add(total if self.now is None else self.changed(total))
        self.printer.end()
        if cli.stopping():
            cli.note("interrupted: not all files have been counted")
        if self.walk.vanished:
            cli.verbose("%d files went away before they could be opened" % self.walk.vanished)
        if self.total.unknown:
            cli.note("%d of %d files are not counted: the kernel tells only who owns a file or may write it. "
                     "Run as its owner or as root" % (self.total.unknown, self.total.files))
        return 1 if self.failures or self.total.unknown else 0

    def state(self):
        return (self.failures, self.walk.vanished, self.total.state(), self.rows, self.sums)

    def merge(self, state):
        failures, vanished, total, rows, sums = state
        self.failures += failures
        self.walk.vanished += vanished
        self.total.merge(total)
        if rows:
            self.rows += rows
        for index, one in sums.items():
            merged = Sums()
            merged.merge(self.sums.get(index, Sums().state()))
            merged.merge(one)
            self.sums[index] = merged.state()


def bar(residency, fd, st, size):
    """The residency map: at most CELLS characters, each for an equal part of the file."""
    pages = pagecache.pages_of(size)
    cells = min(CELLS, pages)
    edges = [pages * i // cells for i in range(cells + 1)] if cells else []
    spans = list(zip(edges, edges[1:]))
    if residency.counts_ranges(fd, st):
        counts = [residency.range(fd, low * PAGE, min(high * PAGE, size) - low * PAGE) for low, high in spans]
    elif not residency.is_hugetlb(fd, st):
        resident = [0] * cells
        for offset, vector in residency.vectors(fd, size):
            first = offset // PAGE
            for i, (low, high) in enumerate(spans):
                resident[i] += vector.count(1, max(low - first, 0), max(high - first, 0))
        counts = [(n, 0, 0, 0, 0) for n in resident]
    else:
        return None
    if None in counts:
        return None
    return "".join("D" if dirty or writeback else "O" if n >= high - low else "o" if n else "e" if evicted else "."
                   for (low, high), (n, dirty, writeback, evicted, _) in zip(spans, counts))


def many(paths):
    """True when there are directories with so many entries that several processes are worth it."""
    pending, seen = [path for _, path in paths if os.path.isdir(path)], 0
    while pending and seen < MANY:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    seen += 1
                    if seen >= MANY:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except OSError:
            pass
    return False


def _child(args, columns, paths, share, lock, now, fd):
    import marshal
    state = None
    try:
        printer = Printer(args, columns, lock)
        printer.time = now
        printer.fix_widths()
        survey = Survey(args, printer, share)
        try:
            survey.run(paths)
            if survey.rows is not None:
                survey.trim()
            printer.flush()
        except KeyboardInterrupt:       # a stop, and nobody reads
            pass
        state = survey.state()
    except OSError as exc:
        state = exc.errno
    except Error as exc:
        state = str(exc)
    data = marshal.dumps(state)
    while data:
        data = data[os.write(fd, data):]


def in_parallel(survey, args, columns, paths, jobs):
    """Measure with `jobs` processes, each its share of the inodes.  Raises Error when one of them dies.

    The survey's printer has had fix_widths(), before its heading was printed.
    """
    import marshal
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
                _child(args, columns, paths, (number, jobs), lock, survey.printer.time, writable)
            finally:
                os._exit(0)
        os.close(writable)
        children.append((pid, readable))
    survey.walk.share = 0, jobs
    try:
        survey.run(paths)
        for _, readable in children:
            while not (cli.stopping() or cli.wait(None, [readable])):
                pass
    finally:
        if cli.stopping():
            for pid, _ in children:
                os.kill(pid, signal.SIGTERM)
    states = []
    for pid, readable in children:
        with open(readable, "rb") as f:
            data = f.read()
        _, status = os.waitpid(pid, 0)
        if not data:
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPIPE:
                os.kill(os.getpid(), signal.SIGPIPE)
            raise Error("cannot finish: a process of the walk was killed (status %d). Try --jobs 1" % status)
        states.append(marshal.loads(data))
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
