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

    from .smaps import Vma
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
    cells = ["TIME    "] if args.timestamp else []
    if args.moretimes:
        cells.append(f"{'Slp(s)':<7} {'Dur(s)':<7}")
    cells.append(f"{'Est(s)':<7} {'RSS(MB)':>10} {'PSS(MB)':>10} {'Ref(MB)':>10} {'Err(s)':>8}")
    if args.moretimes:
        cells.append(f"{'Clear(ms)':>9} {'Read(ms)':>9}")
    if several:
        cells.append(f"{'PID':>7} COMM")
    return " ".join(cells)


def _cell(value: float | None, unit: float, digits: int) -> str:
    return "-" if value is None else f"{value / unit:.{digits}f}"


def line(args: Namespace, row: Row, slept: int, several: bool) -> str:
    """One row of the text table.  slept: ns."""
    estimate, error, duration, clear, read = times(row)
    cells = [f"{cli.timestamp():<8}"] if args.timestamp else []
    if args.moretimes:
        cells.append(f"{slept / 1e9:<7.3f} {duration / 1e9:<7.3f}")
    cells.append(f"{estimate / 1e9:<7.3f} {row['rss'] / MB:10.2f} {_cell(row['pss'], MB, 2):>10}")
    cells.append(f"{row['ref'] / MB:10.2f} {_cell(error, 1e9, 4):>8}")
    if args.moretimes:
        cells.append(f"{_cell(clear, 1e6, 3):>9} {_cell(read, 1e6, 3):>9}")
    if several:
        pid = "-" if row["pid"] is None else row["pid"]
        cells.append(f"{pid:>7} {table.escape(row['comm'])}{_range(row)}")
    return " ".join(cells)


def _range(row: Row) -> str:
    """What a total may be at least and at most, where that is not its Ref."""
    if "ref_min" not in row or row["ref_min"] == row["ref_max"]:
        return ""
    low, high = (
        _cell(size, MB, 2 if size < 1000 * MB else 0) for size in (row["ref_min"], row["ref_max"])
    )
    return f" ({low}-{high})"


def hottest(rows: Iterable[Row], top: int) -> list[tuple[int, Vma]]:
    """[(PID, mapping)] of the mappings that were touched, most first."""
    found = [(row["pid"], vma) for row in rows for vma in row["maps"] if vma.referenced]
    found.sort(key=lambda found: (-found[1].referenced, found[0], found[1].start))
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
    for pid, vma in maps:
        share = 100 * vma.referenced / vma.rss if vma.rss else None
        cells: list[Any] = [vma.referenced / MB, vma.rss / MB, vma.pss / MB, share]
        if several:
            cells.append(pid)
        name = table.decode(vma.name) or "[anon]"
        rows.append([*cells, f"{vma.start:x}-{vma.end:x}", vma.permissions, name])
    return text + table.text(columns, rows)


def render_json(args: Namespace, report: Report) -> str:
    when = cli.iso_time()
    records = [dict({"time": when}, **_record(report, row)) for row in _shown(report)]
    for pid, vma in hottest(report.rows, args.top) if args.map else []:
        records.append(
            {
                "time": when,
                "record": "mapping",
                "pid": pid,
                "start": f"0x{vma.start:x}",
                "end": f"0x{vma.end:x}",
                "perm": vma.permissions,
                "mapping": table.decode(vma.name) or None,
                "ref_bytes": vma.referenced,
                "rss_bytes": vma.rss,
                "pss_bytes": vma.pss,
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
                yield f"sampled: the standard error of Ref is {rows[0]['ref_error'] / MB:.2f} MB"
        elif not source.flush:
            yield "the TLBs were not flushed: Ref may be too small. Try --flush-tlb"
        huge, hugetlb = sum(r["huge"] for r in rows), sum(r["hugetlb"] for r in rows)
        if huge:
            yield f"{huge / MB:.2f} MB are huge pages: one touched byte counts as a whole one"
        if hugetlb:
            yield f"{hugetlb / MB:.2f} MB of hugetlb pages are in none of the columns"
    if scanned:
        yield f"reclaim scanned {scanned} pages meanwhile: Ref may be too small"
    if watch.denied:
        yield f"{len(watch.denied)} processes are missing: {next(iter(watch.denied.values()))}"
    if watch.joined:
        yield f"{len(watch.joined)} processes are missing: they joined after the clearing"


def details(report: Report) -> Iterator[str]:
    """What the measurement did to the target, for -v."""
    _, _, _, clear, read = max(map(times, report.rows), key=lambda t: t[3] or 0)
    if report.source.name == "clear_refs" and clear is not None and read is not None:
        held = f"{clear / 1e6:.3f} ms to clear, {read / 1e6:.3f} ms to read"
        yield f"the mmap lock was held for {held}"


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
    (seconds, size), (all_seconds, all_size) = points[found], points[-1]
    share = 100 * size / (all_size or 1)
    return text + (
        f"knee: {size / MB:.2f} MB in {seconds:.3f} s, {share:.0f}% of the {all_size / MB:.2f} MB "
        f"touched in {all_seconds:.3f} s\n"
    )
