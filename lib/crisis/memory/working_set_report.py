# SPDX-License-Identifier: GPL-2.0-or-later
"""A report of wss as text and as JSON lines; pure."""

from __future__ import annotations

from .. import cli, table
from .working_set_row import times

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from .working_set import Report
    from .working_set_row import Row

__all__ = [
    "MB",
    "header",
    "line",
    "hottest",
    "render",
    "render_text",
    "render_json",
    "remarks",
    "details",
    "point",
    "growth",
]

MB = 1 << 20


def header(args: Namespace, several: bool) -> str:
    """The names of the columns."""
    return "%s%s%-7s %10s %10s %10s %8s%s%s" % (
        "%-8s " % "TIME" if args.timestamp else "",
        "%-7s %-7s " % ("Slp(s)", "Dur(s)") if args.moretimes else "",
        "Est(s)",
        "RSS(MB)",
        "PSS(MB)",
        "Ref(MB)",
        "Err(s)",
        " %9s %9s" % ("Clear(ms)", "Read(ms)") if args.moretimes else "",
        " %7s %s" % ("PID", "COMM") if several else "",
    )


def _cell(form: str, value: float | None, unit: float) -> str:
    return "-" if value is None else form % (value / unit)


def line(args: Namespace, row: Row, slept: int, several: bool) -> str:
    """One row of the text table."""
    estimate, error, duration, clear, read = times(row)
    return "%s%s%-7.3f %10.2f %10s %10.2f %8s%s%s" % (
        "%-8s " % cli.timestamp() if args.timestamp else "",
        "%-7.3f %-7.3f " % (slept / 1e9, duration / 1e9) if args.moretimes else "",
        estimate / 1e9,
        row["rss"] / MB,
        _cell("%.2f", row["pss"], MB),
        row["ref"] / MB,
        _cell("%.4f", error, 1e9),
        " %9s %9s" % (_cell("%.3f", clear, 1e6), _cell("%.3f", read, 1e6))
        if args.moretimes
        else "",
        " %7s %s"
        % ("-" if row["pid"] is None else row["pid"], table.escape(row["comm"]) + _range(row))
        if several
        else "",
    )


def _range(row: Row) -> str:
    """What a total may be at least and at most, where that is not its Ref."""
    if "ref_min" not in row or row["ref_min"] == row["ref_max"]:
        return ""
    return " (%s-%s)" % tuple(
        "%.*f" % (2 if size < 1000 * MB else 0, size / MB)
        for size in (row["ref_min"], row["ref_max"])
    )


def hottest(rows: Iterable[Row], top: int) -> list[tuple[int, int, int, int, int, str, str, int]]:
    """[(referenced, rss, pss, start, end, permissions, name, pid)] of the mappings that were
    touched, most first.
    """
    found = [
        (ref, rss, pss, start, end, perms, name.decode("utf-8", "surrogateescape"), row["pid"])
        for row in rows
        for start, end, perms, name, rss, pss, ref, *_ in row["maps"]
        if ref
    ]
    found.sort(key=lambda m: (-m[0], m[7], m[3]))
    return found[:top]


def _shown(report: Report) -> list[Row]:
    return report.rows + ([report.total] if report.total else []) + report.cgroup


def render(args: Namespace, report: Report, first: bool) -> str:
    """The report as text, under the columns' names if it is the first, or as JSON lines."""
    return render_json(args, report) if args.json else render_text(args, report, first)


def render_text(args: Namespace, report: Report, first: bool) -> str:
    several = report.watch.several
    text = header(args, several) + "\n" if first else ""
    text += "".join(line(args, row, report.slept, several) + "\n" for row in _shown(report))
    maps = hottest(report.rows, args.top) if args.map else []
    if not maps:
        return text
    columns = [
        ("Ref(MB)", "%10.2f"),
        ("RSS(MB)", "%10.2f"),
        ("PSS(MB)", "%10.2f"),
        ("Ref%", "%5.1f"),
    ]
    if several:
        columns.append(("PID", "%7d"))
    columns += [("ADDRESS", "%-25s"), ("PERM", "%-4s"), ("MAPPING", "%-s")]
    rows = []
    for ref, rss, pss, start, end, perms, name, pid in maps:
        cells: list[Any] = [ref / MB, rss / MB, pss / MB, 100 * ref / rss if rss else None]
        if several:
            cells.append(pid)
        rows.append([*cells, "%x-%x" % (start, end), perms, name or "[anon]"])
    return text + table.text(columns, rows)


def render_json(args: Namespace, report: Report) -> str:
    when = cli.iso_time()
    records = [dict({"time": when}, **_record(report, row)) for row in _shown(report)]
    for ref, rss, pss, start, end, perms, name, pid in (
        hottest(report.rows, args.top) if args.map else []
    ):
        records.append(
            {
                "time": when,
                "record": "mapping",
                "pid": pid,
                "start": "0x%x" % start,
                "end": "0x%x" % end,
                "perm": perms,
                "mapping": name or None,
                "ref_bytes": ref,
                "rss_bytes": rss,
                "pss_bytes": pss,
            }
        )
    return "".join(map(table.json_line, records))


def _record(report: Report, row: Row) -> dict[str, Any]:
    """The record of a row, without the time."""
    estimate, error, duration, clear, read = times(row)
    record = {"record": row.get("record") or ("total" if row["pid"] is None else "process")}
    if row["pid"] is not None:
        record.update(pid=row["pid"], comm=row["comm"])
    lost = dict(report.watch.lost(), reclaim_scanned_pages=report.scanned)
    record.update(
        est_ns=estimate,
        err_ns=error,
        rss_bytes=row["rss"],
        pss_bytes=row["pss"],
        ref_bytes=row["ref"],
        huge_bytes=row["huge"],
        hugetlb_bytes=row["hugetlb"],
        slp_ns=report.slept,
        dur_ns=duration,
        clear_ns=clear,
        read_ns=read,
        source=report.source.name,
        tlb_flushed=report.source.flush,
        lost=lost,
    )
    if "unweighted" in row:
        record.update(
            ref_min_bytes=row["ref_min"],
            ref_max_bytes=row["ref_max"],
            ref_unweighted_bytes=row["unweighted"],
        )
    if "ref_error" in row:
        record["ref_error_bytes"] = int(row["ref_error"])
    return record


def remarks(report: Report, first: bool) -> Iterator[str]:
    """What weakens this report or was done to the target, as lines for stderr."""
    rows, watch, source, scanned = report.rows, report.watch, report.source, report.scanned
    if first:
        if source.name == "damon":
            if rows[0]["ref_error"]:
                yield "sampled: the standard error of Ref is %.2f MB" % (rows[0]["ref_error"] / MB)
        elif not source.flush:
            yield "the TLBs were not flushed: Ref may be too small. Try --flush-tlb"
        huge, hugetlb = sum(r["huge"] for r in rows), sum(r["hugetlb"] for r in rows)
        if huge:
            yield (
                "%.2f MB are mapped by huge pages: one touched byte there counts as a whole huge "
                "page" % (huge / MB)
            )
        if hugetlb:
            yield "%.2f MB of hugetlb pages are in none of the columns" % (hugetlb / MB)
    if scanned:
        yield (
            "reclaim scanned %d pages meanwhile, and cleared referenced bits: Ref may be too small"
            % scanned
        )
    if watch.denied:
        yield "%d processes are missing: %s" % (
            len(watch.denied),
            next(iter(watch.denied.values())),
        )
    if watch.joined:
        yield "%d processes are missing: they joined after the clearing" % len(watch.joined)


def details(report: Report) -> Iterator[str]:
    """What the measurement did to the target, for -v."""
    _, _, _, clear, read = max(map(times, report.rows), key=lambda t: t[3] or 0)
    if report.source.name == "clear_refs" and clear is not None and read is not None:
        yield "the mmap lock was held for %.3f ms to clear, %.3f ms to read" % (
            clear / 1e6,
            read / 1e6,
        )


def point(report: Report) -> tuple[float, int]:
    """(seconds, bytes referenced) of a report: of its one process, or of the total."""
    row = report.total or report.rows[0]
    return times(row)[0] / 1e9, row["ref"]


def growth(args: Namespace, points: Sequence[tuple[float, int]]) -> str:
    """The growth curve [(seconds, bytes)] with its knee, as text or as a JSON record."""
    from .. import plot

    found = plot.knee(points, bool(args.profile))
    if args.json:
        x, y = points[found] if found is not None else (None, None)
        return table.json_line(
            {
                "time": cli.iso_time(),
                "record": "knee",
                "est_ns": None if x is None else int(x * 1e9),
                "ref_bytes": y,
            }
        )
    text = plot.lines(
        [(x, y / MB) for x, y in points], found, bool(args.profile), ("Ref(MB)", "Est(s)")
    )
    if found is None:
        return text + "knee: none\n"
    return text + "knee: %.2f MB in %.3f s, %.0f%% of the %.2f MB touched in %.3f s\n" % (
        points[found][1] / MB,
        points[found][0],
        100 * points[found][1] / (points[-1][1] or 1),
        points[-1][1] / MB,
        points[-1][0],
    )
