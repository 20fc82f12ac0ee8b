# SPDX-License-Identifier: GPL-2.0-or-later
"""The processes whose working set is measured, and the three ways to measure it.

Kept out of the command so that its bytecode is cached: the command starts in
two thirds of the time.  A row is a dict: pid, comm; mark and read, each the
(begin, end) of a phase in ns of CLOCK_MONOTONIC; newborn, true where mark is
the process' birth; rss, pss, ref, huge and hugetlb in bytes; maps, the
mappings as refs.mappings gives them; touched, the frames of the pages that were,
by idle page tracking alone.  A total has also ref_min and ref_max, between
which the truth lies, and unweighted, the sum of ref.
"""

import os
import time

from . import cli, refs
from .errors import Error, NotPermitted, Unavailable

__all__ = ["ClearRefs", "Idle", "Sampled", "Watch", "choose", "collect", "times", "total", "until"]

# Reading frame after frame in Python is worth it up to here; beyond it clear_refs serves.
IDLE_RSS, IDLE_SIZE = 4 << 30, 64 << 30
BACKLOG = 64 << 20              # bytes of smaps that may wait to be parsed while others are read


class ClearRefs:
    """Accessed bits by /proc/PID/clear_refs and Referenced."""

    name, warning = "clear_refs", "clear_refs resets the referenced bits that reclaim uses"

    def __init__(self, flush):
        self.flush = flush

    def mark(self, process):
        return process.clear(self.flush)

    def read(self, process, by_mapping):
        """(begin, end, what to parse later, function of it that returns ({field: bytes}, mappings))."""
        if not by_mapping:
            found, begin, end = process.rollup()
            return begin, end, b"", lambda _: (found, [])
        raw, begin, end = process.smaps()
        return begin, end, raw, lambda raw: (refs.sum_mappings(raw), refs.mappings(raw))


class Idle:
    """The kernel's idle page tracking."""

    name, warning = "idle", None

    def __init__(self, flush):
        from . import idle
        self.flush, self.pages = flush, idle.IdlePages()

    def mark(self, process):
        frames = [frame for mapping in self.pages.resident(process) for frame in mapping[4]]
        begin, end = self.pages.mark(frames)
        if self.flush:
            process.flush()
            end = time.monotonic_ns()
        return begin, end

    def read(self, process, by_mapping):
        resident = list(self.pages.resident(process))
        touched, begin, end = self.pages.touched([frame for mapping in resident for frame in mapping[4]])
        raw = process.smaps()[0] if by_mapping else b""
        found = refs.sum_mappings(raw) if by_mapping else process.rollup()[0]
        sizes = {m[0]: m[4:] for m in refs.mappings(raw)}
        maps = []
        for start, last, perms, name, frames in resident:
            referenced = refs.PAGE * sum(touched[frame] is True for frame in frames)
            rss, pss, _, shared, file = sizes.get(start, (refs.PAGE * len(frames),) * 2 + (0, 0, b"00:00 0"))
            maps.append((start, last, perms, name, rss, pss, referenced, shared, file))
        found["Referenced"] = sum(m[6] for m in maps)
        found["touched"] = {frame for frame, state in touched.items() if state}
        return begin, end, b"", lambda _: (found, maps)

    def mark_cgroup(self, inodes):
        return self.pages.mark(self.pages.cgroup_frames(inodes))

    def read_cgroup(self, inodes, mark):
        """The row of all pages that are charged to the cgroups, mapped or not."""
        touched, begin, end = self.pages.touched(self.pages.cgroup_frames(inodes))
        known = [state for state in touched.values() if state is not None]
        return {"record": "cgroup", "pid": None, "comm": "all charged pages", "mark": mark, "read": (begin, end),
                "newborn": False, "rss": refs.PAGE * len(known), "pss": None, "ref": refs.PAGE * sum(known), "maps": [],
                "huge": None, "hugetlb": None}


class Watch:
    """The processes that are watched: found, marked, read."""

    def __init__(self, pids, args, source):
        self.pids, self.source, self.processes, self.marks, self.newborn = pids, source, {}, {}, set()
        self.tree, self.cgroup = args.tree, args.cgroup
        self.several = len(pids) != 1 or args.tree
        self.by_mapping = args.map or self.several
        self.ended, self.denied, self.joined = 0, {}, set()     # denied: {pid: why}
        self.listed, self.ends = 0.0, cli.Ends()        # a tree and a cgroup may get new processes

    def lost(self):
        """How many processes have ended, are denied to us, and joined after the clearing."""
        return {"ended": self.ended, "denied": len(self.denied), "joined": len(self.joined)}

    def find(self):
        """Open the processes that have come; raises Error for one that was named and cannot be watched."""
        first, self.listed = not self.listed, time.clock_gettime(time.CLOCK_BOOTTIME)
        if self.cgroup is not None:
            from .kernel import cgroup
            wanted = sorted(cgroup.processes(self.cgroup))
        elif self.tree:
            wanted = refs.descendants(self.pids if first else self.processes)
        else:
            wanted = self.pids if first else ()     # later, another process could have the PID
        if len(wanted) > 1:
            from .kernel import rlimit
            rlimit.raise_open_files(sum(pid not in self.processes for pid in wanted), "process directories")
        for pid in wanted:
            if pid in self.processes or pid in self.denied or pid in self.joined:
                continue
            try:
                process = refs.Process(pid)
            except (Error, ProcessLookupError):
                if first and pid in self.pids:
                    raise _no_such(pid) from None
                continue
            if process.kernel or process.state in "ZX":
                process.close()
                if pid in self.pids:
                    raise Error("process %d is a %s: it has no memory of its own" %
                                (pid, "kernel thread" if process.kernel else "zombie"))
                continue
            self.processes[pid] = process
            if first and pid in self.pids:
                process.probe()
        if first and self.cgroup is None and not self.tree:
            self.ends = cli.Ends(self.pids)

    def mark(self):
        """Clear the bits of all processes that there are now; the interval begins."""
        self.marks, self.newborn, self.joined = {}, set(), set()
        self.find()
        for pid, process in list(self.processes.items()):
            try:
                self.marks[pid] = self.source.mark(process)
            except (ProcessLookupError, NotPermitted) as exc:
                self.drop(pid, exc)
        self.check()
        if self.cgroup is not None and self.source.name == "idle":
            self.cgroup_mark = self.source.mark_cgroup(self._inodes())

    def _inodes(self):
        from .kernel import cgroup
        return cgroup.inodes(self.cgroup)

    def read_cgroup(self):
        """[the row of the cgroup's pages], or [] where the source cannot tell."""
        if self.cgroup is None or self.source.name != "idle":
            return []
        return [self.source.read_cgroup(self._inodes(), self.cgroup_mark)]

    def drop(self, pid, exc):
        """Forget a process that has ended; raise what it refused if it was named, else count it."""
        if isinstance(exc, NotPermitted):
            if pid in self.pids:
                raise exc
            self.denied[pid] = exc
        else:
            self.ended += 1
            if pid in self.pids and self.several:
                cli.note("process %d has ended" % pid)
        self.processes.pop(pid).close()

    def check(self):
        if not self.processes and self.denied:
            raise next(iter(self.denied.values()))
        if not self.processes and self.cgroup is not None:
            raise Error("there is no process in this cgroup")

    def read(self):
        """[row] of the processes that are there, with the newborn; a row is a dict."""
        listed = self.listed
        if self.tree or self.cgroup is not None:
            self.find()
        rows, backlog = [], 0
        for pid, process in list(self.processes.items()):
            mark, newborn = self.marks.get(pid), pid in self.newborn
            if mark is None:
                # Whoever was born after the list was made has touched since then all that it has touched.
                tick = 1 / os.sysconf("SC_CLK_TCK")
                if process.born + tick < listed:
                    self.joined.add(pid)
                    self.processes.pop(pid).close()
                    continue
                born = time.monotonic_ns() - int((time.clock_gettime(time.CLOCK_BOOTTIME) - process.born) * 1e9)
                mark = self.marks[pid] = born, born + int(tick * 1e9)
                newborn = True
                self.newborn.add(pid)
            try:
                begin, end, raw, parse = self.source.read(process, self.by_mapping)
                comm = process.read("comm")[:-1].decode("utf-8", "surrogateescape")
            except (ProcessLookupError, NotPermitted) as exc:
                self.drop(pid, exc)
                continue
            rows.append({"pid": pid, "comm": comm, "mark": mark, "read": (begin, end), "parse": (raw, parse),
                         "newborn": newborn})
            backlog += len(raw)
            if backlog > BACKLOG:
                _parse(rows)
                backlog = 0
        _parse(rows)
        return rows


def _parse(rows):
    """Fill in those rows whose text waits to be parsed."""
    for row in rows:
        if "parse" in row:
            raw, parse = row.pop("parse")
            found, maps = parse(raw)
            row.update(measures(found), ref=found["Referenced"], maps=maps, touched=found.get("touched"))


def measures(found):
    """rss, pss, huge and hugetlb of a row from {field of WINDOW_FIELDS: bytes}."""
    return {"rss": found["Rss"], "pss": found["Pss"], "huge": sum(found[name] for name in refs.HUGE),
            "hugetlb": sum(found[name] for name in refs.HUGETLB)}


def _no_such(pid):
    from .kernel import proc
    where = "" if proc.in_initial_pid_namespace() else " in this PID namespace"
    return Error("no such process%s: %d" % (where, pid))


def total(rows, processes):
    """The sum of rows, in ref the pages that several touched once.

    processes: {pid: Process}, for what pagemap has of the pages that they share.
    """
    marked = [r for r in rows if not r["newborn"]] or rows
    mark, read = ((min(r[key][0] for r in marked), max(r[key][1] for r in marked)) for key in ("mark", "read"))
    row = {key: sum(r[key] for r in rows) for key in ("rss", "pss", "huge", "hugetlb")}
    if all(r["touched"] is not None for r in rows):
        least = ref = most = refs.PAGE * len(set().union(*(r["touched"] for r in rows)))
    else:
        from . import union
        least, ref, most = union.touched([union.Mapping(r["pid"], m) for r in rows for m in r["maps"]],
                                         union.reader(processes))
    return dict(row, pid=None, comm="total", mark=mark, read=read, newborn=False, ref=ref, ref_min=least, ref_max=most,
                unweighted=sum(r["ref"] for r in rows), maps=[])


def times(row):
    """(estimate, its error, duration, time to clear, time to read) in ns.

    A page was cleared and read at unknown moments inside the two phases: the
    estimate goes from the middle of the one to the middle of the other, and is
    wrong by half of their lengths at most.
    """
    (cleared, marked), (begin, end) = row["mark"], row["read"]
    if "est" in row:            # DAMON's own clock
        return row["est"], None, end - cleared, None, None
    return ((begin + end - cleared - marked) // 2, (end - begin + marked - cleared) // 2, end - cleared,
            None if row["newborn"] else marked - cleared, end - begin)


def choose(pids, args):
    """The source to measure with."""
    flush = args.flush_tlb or refs.flush_is_free()
    cli.verbose("TLB flush after clearing: " +
                ("yes" if flush else "no, it would write-protect pages; --flush-tlb does it"))
    if args.source == "clear_refs":
        return ClearRefs(flush)
    try:
        if not args.source and not os.path.exists("/sys/kernel/mm/page_idle"):      # before its code is loaded
            raise Unavailable("this kernel was built without CONFIG_IDLE_PAGE_TRACKING")
        source = Idle(flush)
        if not args.source:
            if len(pids) != 1 or args.tree:
                raise Unavailable("for several processes it is taken on request only")
            if _too_big(pids[0]):
                raise Unavailable("process %d is too large for it" % pids[0])
        cli.verbose("source: idle")
        return source
    except (Unavailable, NotPermitted) as exc:
        if args.source:
            raise
        cli.verbose("source: clear_refs. Not idle: %s" % exc)
        return ClearRefs(flush)


def _too_big(pid):
    try:
        process = refs.Process(pid)
    except (Error, ProcessLookupError):
        return False
    size, resident = (int(word) * refs.PAGE for word in process.read("statm").split()[:2])
    process.close()
    return size > IDLE_SIZE or resident > IDLE_RSS


def until(deadline, ends):
    """Sleep until a moment of the monotonic clock, a stop, or the end of the processes: ends, a cli.Ends."""
    while not (cli.stopping() or ends.over):
        left = deadline - time.monotonic()
        if left <= 0:
            return
        if left < .005:         # finer than poll's milliseconds
            time.sleep(left)
        else:
            ends.ended(cli.wait(left, ends.fds))


class Sampled:
    """Accessed bits sampled by DAMON: an estimate, one process at a time.  Close it."""

    name, warning, flush = "damon", None, False

    def __init__(self):
        from . import damon
        self.damon, self.kdamond = damon, damon.Damon()

    def close(self):
        self.kdamond.close()

    def measure(self, process, seconds, ends):
        """The row of one window, with est (ns) and ref_error (bytes); None after a stop."""
        try:
            return self._measure(process, seconds, ends)
        except ProcessLookupError:
            raise Error("the process ended before its memory was read") from None

    def _measure(self, process, seconds, ends):
        regions = self.damon.regions_of(process.resident_runs())
        if not regions:
            raise ProcessLookupError(3, "No such process")
        marked = self.kdamond.start(process.pid, regions, seconds)
        until(marked[1] / 1e9 + seconds, ends)
        watched = 0
        while not watched:
            if cli.stopping():
                return None
            touched, watched = self.kdamond.result()
        read = time.monotonic_ns()
        self.kdamond.stop()
        found, _, _ = process.rollup()
        # Where the kdamond answered late, the sums are of several windows.
        windows = max(1, round(watched / sum(end - start for start, end in regions)))
        touched //= windows
        return dict(measures(found), pid=process.pid, comm=process.comm, mark=marked, read=(read, read),
                    newborn=False, est=int(seconds * 1e9), ref=touched, maps=[],
                    ref_error=self.damon.standard_error(regions, touched))


def collect(args, pids, interval, count):
    """Yield the data of each report: a dict of rows, total (a row, or None for one process), cgroup (rows), slept (ns),
    scanned, watch, source.

    scanned: pages that reclaim looked at meanwhile, or None.
    args: parsed arguments of the command; interval in seconds, or None until a stop; count: of reports, or None.
    """
    if args.source == "damon":
        yield from _sampled(args, pids, interval, count)
        return
    source = choose(pids, args)
    watch = Watch(pids, args, source)
    growing, slept = args.cumulative or args.profile, 0
    pause = args.snapshot or 0.0
    limit = args.profile or count or (1 if not growing and args.snapshot is None else None)
    watch.find()
    if not args.json:
        _announce(args, watch, interval)
    if source.warning:
        cli.verbose(source.warning)
    start, number, base = time.monotonic(), 0, None
    while True:
        if base is None or not growing:
            scanned = refs.reclaim_scanned()
            watch.mark()
            slept = 0
        now = time.monotonic()
        if base is None:
            base = now
        if not watch.processes:
            pass
        elif interval is None:
            until(float("inf"), watch.ends)
        else:
            until(base + (interval * 2 ** number if args.profile else
                          interval * (number + 1) if growing else interval + number * (interval + pause)), watch.ends)
        slept += int((time.monotonic() - now) * 1e9)
        rows = watch.read()
        if not rows:
            if not number:
                raise Error("process %d ended before its memory was read" % pids[0] if not watch.several else
                            "every process ended before its memory was read")
            cli.note("every process has ended" if watch.several else "process %d has ended" % pids[0])
            return
        after = refs.reclaim_scanned()
        yield {"rows": rows, "total": total(rows, watch.processes) if watch.several else None,
               "cgroup": watch.read_cgroup(), "slept": slept, "watch": watch, "source": source,
               "scanned": None if scanned is None or after is None else after - scanned}
        number += 1
        now = time.monotonic()
        if cli.stopping() or number == limit or args.duration and now - start >= args.duration:
            return
        if not growing:
            # What has been missed by whole periods is skipped; the others stay where they were.
            while now > base + interval + number * (interval + pause):
                base += interval + pause
            until(base + number * (interval + pause), watch.ends)
            if cli.stopping():
                return
        elif not args.profile:
            while now > base + interval * (number + 1):
                base += interval


def _sampled(args, pids, interval, count):
    """collect() by DAMON."""
    watch = Watch(pids, args, None)
    watch.find()
    source = Sampled()
    try:
        if not args.json:
            _announce(args, watch, interval)
        limit = count or (1 if args.snapshot is None else None)
        number, base = 0, time.monotonic()
        while not cli.stopping():
            row = source.measure(watch.processes[pids[0]], interval, watch.ends)
            if row is None:
                return
            yield {"rows": [row], "total": None, "cgroup": [], "slept": int(interval * 1e9), "watch": watch,
                   "source": source, "scanned": None}
            number += 1
            if number == limit or args.duration and time.monotonic() - base >= args.duration:
                return
            until(base + number * (interval + (args.snapshot or 0.0)), watch.ends)
    finally:
        source.close()


def _announce(args, watch, interval):
    pids = list(watch.processes)
    what = "PID %d" % pids[0] if len(pids) == 1 else "%d processes" % len(pids)
    how = "until Ctrl-C" if interval is None else "during %g seconds" % interval
    if args.profile:
        how = "grow, profile beginning with %g seconds, %d steps" % (interval, args.profile)
    elif args.cumulative:
        how = "grow, output every %g seconds" % interval
    elif args.snapshot:
        how = "for %g seconds, once every %g seconds" % (interval, args.snapshot)
    cli.out("Watching %s page references %s...\n" % (what, how))
