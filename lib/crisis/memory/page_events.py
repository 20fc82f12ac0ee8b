# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that enter and leave the page cache, as progs/cachesnoop.bpf.c reports them.

At 100,000 events a second there are ten microseconds for each: records are unpacked many at a time,
and what is known of a file is looked up once per batch.
"""

from __future__ import annotations

import time

from .. import bpf, cli
from ..bpf import page, task
from ..kernel import proc
from .file_names import File, Mounts, Search

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from typing import Any

    from .schedule import Schedule

    _Key = tuple[int, int, int]  # inode address, number of its name, inode number

__all__ = [
    "KINDS",
    "NAMED",
    "Batch",
    "FileNames",
    "FileSums",
    "Stamps",
    "Summary",
    "Totals",
    "Tracer",
]

KINDS = ("add", "evict")
PERIOD = 0.25  # seconds for which neighbouring pages are collected into one run
BATCH = 8192  # runs that are sorted and printed at a time
_PAUSE = 0.05  # seconds between two readings of the ring buffers
EVENTS_SIZE = 8 << 20  # bytes of the ring buffer: 95,000 runs
NAMES_SIZE = 8 << 20  # of that of names with --summary: 60,000 files, read 20 times a second
FILES = 1 << 17  # of --summary, in both banks
NAMED = 16384  # files whose names the kernel has sent and does not send again
KEPT = 65536  # names remembered here: those, and all the files of an interval of --summary
RETRY = 1  # seconds until a name that was not found is looked up again
_REGULAR = (0, 0o100000)
_TYPE = 0o170000  # S_IFMT


def _source(variant: str, kind: str, requires: tuple[str, ...] = ()) -> bpf.Source:
    return bpf.Source(
        f"cachesnoop.{variant}",
        "cachesnoop.bpf.c",
        (
            (f"{kind}/mm_filemap_add_to_page_cache:on_added",),
            (f"{kind}/mm_filemap_delete_from_page_cache:on_removed",),
        ),
        (*task.PARAMS, "evictions", "summary"),
        ("names_lost", "events_lost"),
        {**task.DEFINES, **bpf.enumeration("EVENT", KINDS)},
        page.HAS,
        requires,
        task.CONSTANTS,
    )


SOURCES = {
    "tracepoint": _source("tracepoint", "tp_btf", ("folio",)),
    "raw": _source("raw", "raw_tp"),
}


class FileNames:
    """The names of files: those that the kernel sends, and those that are found in other ways.

    The latest KEPT files are remembered.
    """

    def __init__(self, ring: Any) -> None:
        """ring: the RingBuffer of struct name_record."""
        self._ring, self.mounts = ring, Mounts()
        self._search = Search(self.mounts)
        # As the kernel sent it, or the whole path once that has been needed; the oldest first.
        self._known: dict[_Key, Any] = {}
        self._latest: dict[int, _Key] = {}  # the last name of an inode
        self._missing: dict[_Key, float] = {}  # not found; when to look again

    def read(self) -> None:
        """Take what the kernel has sent."""
        known, latest = self._known, self._latest
        for record in self._ring.records():
            key = record.inode, record.name, record.ino
            known.pop(key, None)
            known[key] = record
            latest[record.inode] = key
        excess = len(known) - KEPT
        if excess > 0:
            for key in list(known)[:excess]:
                del known[key]
                if latest.get(key[0]) == key:
                    del latest[key[0]]

    def path(self, key: _Key, dev: int, pid: int | None) -> str | None:
        """The path of a file, or None.

        dev: its kernel dev_t.  pid: a process that uses it, or None.
        A file whose dentry has been freed keeps its last name.
        """
        found = self._known.pop(key, None)
        if found is not None:
            self._known[key] = found  # the file that has not been used for longest comes first
            if isinstance(found, str):
                return found
        if self._missing and self._missing.get(key, 0) > time.monotonic():
            return None
        path = self._resolve(key, found, dev, pid)
        if path is not None:
            self._known[key] = path
            self._missing.pop(key, None)
        else:
            if len(self._missing) > KEPT:
                self._missing.clear()
            self._missing[key] = time.monotonic() + RETRY
        return path

    def _resolve(self, key: _Key, record: Any, dev: int, pid: int | None) -> str | None:
        inode, _, ino = key
        file = File(ino, dev, 0, None) if record is None else File.named(record)
        if file.path is None:
            last = self._latest.get(inode)
            other = self._known.get(last) if last is not None and last[2] == ino else None
            if isinstance(other, str):
                return other
            if other is not None:
                file = File.named(other)
        path = self.mounts.path(file, pid)
        if path is None and file.mode & _TYPE in _REGULAR and not file.deleted:
            if pid:
                path = self.mounts.find_open(pid, dev, ino)
            path = path or self._search.query(dev, ino)
        return path

    def wait(self, seconds: float) -> None:
        """Wait for the search of names that the kernel did not have, and forget what is missing."""
        self._search.wait(seconds)
        self._missing.clear()


class Stamps:
    """Times of day as text; the part down to the second is made once for each second."""

    def __init__(self, before: str, after: str = "") -> None:
        """before, after: formats of time.strftime, for what surrounds the milliseconds."""
        self._formats = before, after
        # CLOCK_MONOTONIC to the time of day
        self._offset = time.time() - time.monotonic()
        self._second = -1
        self._before = self._after = ""

    def text(self, ns: int) -> str:
        """The local time of `ns` of CLOCK_MONOTONIC, with milliseconds."""
        second, ms = divmod(int((ns / 1e9 + self._offset) * 1000), 1000)
        if second != self._second:
            local = time.localtime(second)
            self._second = second
            self._before, self._after = (time.strftime(form, local) for form in self._formats)
        return f"{self._before}.{ms:03d}{self._after}"


class FileSums:
    """A file of --summary: path (None: unknown), dev, ino, and the pages added and evicted."""

    __slots__ = "key", "path", "dev", "ino", "added", "evicted"

    def __init__(self, key: Any, sums: Any) -> None:
        """key, sums: of the map `files`."""
        self.key, self.dev, self.ino = key, sums.dev, key.ino
        self.added, self.evicted = sums.added, sums.evicted
        self.path: str | None = None


class Batch:
    """Some runs of neighbouring pages.

    rows: [(record of struct run, path of its file or None)] by the time of their begin.
    lost: {what: number} since the last batch.  seconds: of the interval, or of the whole run, that
    ends with this batch; None when none does.
    """

    __slots__ = "rows", "lost", "seconds"

    def __init__(
        self, rows: list[tuple[Any, str | None]], lost: dict[str, int], seconds: float | None
    ) -> None:
        self.rows, self.lost, self.seconds = rows, lost, seconds


class Summary:
    """The sums of an interval.

    seconds; number of files; added, evicted: pages; files: [FileSums], largest first, as many as
    are to be shown; lost: {what: number}.
    """

    __slots__ = "seconds", "number", "added", "evicted", "files", "lost"

    def __init__(self, seconds: float, files: list[FileSums], lost: dict[str, int]) -> None:
        """files: all of them."""
        self.seconds, self.number, self.lost = seconds, len(files), lost
        self.added = sum(file.added for file in files)
        self.evicted = sum(file.evicted for file in files)
        self.files = files


class Totals:
    """The sums of the batches of an interval: seconds, pages by kind, lost."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        self.added = self.evicted = 0
        self.lost: dict[str, int] = {}

    def add(self, batch: Batch) -> None:
        """Add a batch."""
        self.seconds = batch.seconds
        for run, _ in batch.rows:
            if run.kind:
                self.evicted += run.pages
            else:
                self.added += run.pages
        for name, number in batch.lost.items():
            self.lost[name] = self.lost.get(name, 0) + number


class Tracer:
    """The programs, filtered and sized as the command's arguments say, and what they find."""

    def __init__(self, args: Namespace) -> None:
        """Raises as bpf.load."""
        sizes = {
            "runs": {"max_entries": 1 if args.summary else max(16384, 4 * proc.thread_count())},
            "named": {"max_entries": NAMED},
            "files": {"max_entries": FILES if args.summary else 1},
            "names": {"max_entries": NAMES_SIZE if args.summary else page.NAMES_SIZE // 2},
            "events": {"max_entries": page.PAGE if args.summary else EVENTS_SIZE},
        }
        params = {"evictions": args.evictions, "summary": args.summary}
        program = self._program = bpf.load(
            SOURCES, args, params, sizes, () if args.evictions else ("on_removed",)
        )
        task.warn_of_foreign_pids(cli.note)
        maps, layouts = program.maps, program.layouts
        self.names = FileNames(bpf.RingBuffer(maps["names"], layouts["name_record"]))
        self._events = None if args.summary else bpf.RingBuffer(maps["events"], layouts["run"])
        self._banks, self._pages_lost, self._top = bpf.Banks(program), 0, args.top

    def lost(self) -> dict[str, int]:
        """{what: number} lost since the last call."""
        lost, pages = dict(self._program.lost()), self._program.maps["lost_pages"].read(0)
        lost["pages_lost"], self._pages_lost = pages - self._pages_lost, pages
        return lost

    def batches(self, schedule: Schedule, ends: cli.Ends) -> Iterator[Batch]:
        """Yield what happens, without --summary.

        Ends at a stop, and with the schedule or the last process of `ends`.
        """
        last, flush = False, time.monotonic() + PERIOD
        while not last:
            raw, pending = self._gather(flush, schedule, ends), []
            last = cli.stopping() or ends.over or schedule.over()
            if last or time.monotonic() >= flush:
                # The runs that have not ended, whose threads may never add a page again.
                self._banks.switch(last)
                pending = [run for _, run in self._banks.hash("runs")]
                raw += self._read()
                flush = time.monotonic() + PERIOD
            self.names.read()
            while len(raw) > BATCH:
                yield Batch(self._rows(raw[:BATCH]), {}, None)
                del raw[:BATCH]
            yield Batch(self._rows(raw, pending), self.lost(), schedule.elapsed(last))

    def _read(self) -> list[bytes]:
        assert self._events is not None, "--summary has no events"
        return self._events.read()

    def _gather(self, flush: float, schedule: Schedule, ends: cli.Ends) -> list[bytes]:
        """The runs that end until `flush`, the end of an interval, or a whole batch."""
        raw: list[bytes] = []
        while True:
            self.names.read()
            raw += self._read()
            left = min(flush - time.monotonic(), schedule.left(PERIOD))
            if len(raw) >= BATCH or left <= 0 or cli.stopping() or ends.over:
                return raw
            ends.ended(cli.wait(min(_PAUSE, left), ends.fds))

    def _rows(
        self, raw: list[bytes], pending: list[Any] | tuple[()] = ()
    ) -> list[tuple[Any, str | None]]:
        runs = [*self._program.layouts["run"].unpack_all(b"".join(raw)), *pending]
        runs.sort(key=lambda run: run.since)
        paths: dict[_Key, str | None] = {}
        rows = []
        for run in runs:
            key = run.inode, run.name, run.ino
            if key not in paths:
                paths[key] = self.names.path(key, run.dev, run.pid)
            rows.append((run, paths[key]))
        return rows

    def summaries(self, schedule: Schedule, ends: cli.Ends) -> Iterator[Summary]:
        """Yield the sums of each interval, with --summary.  Ends as batches()."""
        last = False
        while not last:
            ends.ended(cli.wait(schedule.left(_PAUSE), ends.fds))
            self.names.read()
            last = cli.stopping() or ends.over or schedule.over()
            seconds = schedule.elapsed(last)
            if seconds is None:
                continue
            self._banks.switch(last)
            self.names.read()
            self.names.mounts.refresh()
            files = merged(self._banks.hash("files"), self.names)
            found = Summary(seconds, files, self.lost())
            found.files = largest(files, self.names, self._top)
            yield found


def merged(entries: list[tuple[Any, Any]], names: FileNames) -> list[FileSums]:
    """The files of the map's entries.

    A file that was freed and read again has several; different files have the same inode number
    when one was deleted meanwhile.
    """
    found: dict[tuple[int, int], FileSums] = {}
    others: dict[tuple[int, int, str | None], FileSums] = {}
    for key, sums in entries:
        file = FileSums(key, sums)
        first = found.setdefault((file.dev, file.ino), file)
        if first is file:
            continue
        if not first.path:
            first.path = _path(first, names)
            others[first.dev, first.ino, first.path] = first
        file.path = _path(file, names)
        same = others.setdefault((file.dev, file.ino, file.path), file)
        if same is not file:
            same.added += file.added
            same.evicted += file.evicted
    more = [file for file in others.values() if file is not found[file.dev, file.ino]]
    return [*found.values(), *more]


def largest(files: list[FileSums], names: FileNames, top: int | None) -> list[FileSums]:
    """The `top` files, None for all, to be shown, with their paths: only these are looked up."""
    files.sort(key=lambda file: -file.added - file.evicted)
    shown = files[:top]
    for file in shown:
        file.path = _path(file, names)
    missing = [file for file in shown if file.path is None]
    if missing:
        names.wait(2)
        for file in missing:
            file.path = _path(file, names)
    shown.sort(key=lambda file: (-file.added - file.evicted, file.path or ""))
    return shown


def _path(file: FileSums, names: FileNames) -> str | None:
    key = file.key
    return names.path((key.inode, key.name, key.ino), file.dev, None)
