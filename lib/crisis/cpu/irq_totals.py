# SPDX-License-Identifier: GPL-2.0-or-later
"""What hardirqs and softirqs have in common: the arguments and the reports.

Names, options, columns and their order are those of bcc's hardirqs and softirqs, and those of
libbpf-tools where they do not contradict.
"""

from __future__ import annotations

from argparse import Action

from .. import bpf, cli, hist, table
from ..errors import Error, Usage
from . import irqs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ..bpf import Source
    from .irqs import Interrupt, Losses

__all__ = ["parser", "run"]

_WIDTHS = {"hard": 26, "soft": 16}  # of the first column, bcc's


class _CgroupOrCpu(Action):
    """-c: a number is a CPU, as for bcc; all else a cgroup, as for libbpf-tools' hardirqs."""

    def __call__(self, p: Any, args: Namespace, value: Any, option: str | None = None) -> None:
        if option == "-c" and value.isascii() and value.isdigit():
            args.cpu = int(value)
        else:
            args.cgroup = value


def _cpu(text: str) -> int:
    """The number of a CPU."""
    if not (text.isascii() and text.isdigit()):
        raise cli.type_error(text, "the number of a CPU")
    return int(text)


def parser(kind: str, examples: str, sources: Mapping[str, Source]) -> ArgumentParser:
    """The arguments of the command for one kind of interrupts, "hard" or "soft"."""
    p = cli.parser(f"Summarize {kind} interrupt time by name, as totals or histograms.", examples)
    cli.add_timestamp(p)
    p.add_argument(
        "-N", "--nanoseconds", action="store_true", help="times in nanoseconds, not microseconds"
    )
    p.add_argument(
        "-C", "--count", "--events", dest="events", action="store_true", help="only their number"
    )
    p.add_argument(
        "-d", "--dist", "--distributed", action="store_true", help="histograms of their times"
    )
    p.add_argument(
        "-P", "--per-cpu", "--CPU", action="store_true", help="a row or histogram for each CPU too"
    )
    p.add_argument("-s", "--cpu", type=_cpu, metavar="CPU", help="only this CPU")
    p.add_argument(
        "-c",
        "--cgroup",
        action=_CgroupOrCpu,
        metavar="CGROUP",
        help="only interrupts of tasks in this cgroup or below it: a directory, or a path in the "
        "hierarchy; -c with a number means --cpu, as for bcc's command",
    )
    cli.add_source(p, sources)
    return p


def _check(args: Namespace) -> None:
    """Raise Usage or Error for options that do not go together or with this machine."""
    if args.events and (args.dist or args.nanoseconds):
        raise Usage("-C counts interrupts: it cannot be used with -d or -N, which are about time")
    if args.cpu is not None and args.cpu >= bpf.possible_cpus():
        raise Error(f"no such CPU: {args.cpu}")


def run(args: Namespace, kind: str, sources: Mapping[str, Source]) -> None:
    """Trace and print until the end.  Raises as bpf.load, Usage for options, Error for a CPU."""
    _check(args)
    tracer = irqs.Tracer(args, sources, irqs.HARD if kind == "hard" else irqs.SOFT)
    if not args.json:
        what = "events" if args.events else "event time"
        cli.out(f"Tracing {kind} irq {what}... Hit Ctrl-C to end.\n")
    noted = args.json or args.events
    for seconds, found, lost in irqs.collect(args, tracer):
        rows = _rows(args, kind, found)
        render = render_json if args.json else render_text
        cli.out(render(args, kind, seconds, rows, lost))
        if not args.json:
            irqs.note_losses(lost)
        unseen = sum(row.unseen for row in rows)
        if unseen and not noted:
            noted = True
            how = "the histograms lack them" if args.dist else "their time is estimated"
            cli.note(f"the kernel ran no BPF program for some interrupts ({unseen}): {how}")


def _rows(args: Namespace, kind: str, found: Sequence[Interrupt]) -> list[Interrupt]:
    """Those of this kind, by name as the command prints it, most first."""
    chosen = [one for one in found if one.kind == kind and args.cpu in (None, one.cpu)]
    if kind == "soft":
        for one in chosen:
            one.name = one.name.lower()
    rows = irqs.grouped(chosen, args.per_cpu, by_name=True)
    if args.events:
        rows.sort(key=lambda row: -row.number())
    return rows


def render_text(
    args: Namespace, kind: str, seconds: float, rows: Sequence[Interrupt], lost: Losses
) -> str:
    """bcc's table of totals, with more columns behind its own; with --dist, its histograms."""
    parts = ["\n"]
    if args.timestamp:
        parts.append(cli.timestamp() + "\n")
    unit = "nsecs" if args.nanoseconds else "usecs"
    if args.dist:
        parts += [_histogram(kind, row, unit) for row in rows if row.count]
    else:
        parts += _table(args, kind, rows, unit)
    return "".join(parts)


def _histogram(kind: str, row: Interrupt, unit: str) -> str:
    where = "" if row.cpu is None else f"cpu = {row.cpu} "
    lines = hist.lines(hist.log2_rows(row.slots, 0), unit)
    return f"\n{where}{kind}irq = {table.escape(row.name)}\n{lines}"


def _table(args: Namespace, kind: str, rows: Sequence[Interrupt], unit: str) -> list[str]:
    """The lines of the table."""
    scale, width = 1 if args.nanoseconds else 1000, _WIDTHS[kind]
    titles = ["TOTAL_count"]
    if not args.events:
        titles = [f"TOTAL_{unit}", "TOTAL_count", f"MAX_{unit}"]
    if args.per_cpu:
        titles.append("CPU")
    lines = [_line(width, f"{kind}irq".upper(), titles)]
    for row in rows:
        cells: list[int | None] = [row.number()]
        if not args.events:
            most = row.max // scale if row.count else None
            cells = [None if row.time is None else row.time // scale, row.number(), most]
        if args.per_cpu:
            cells.append(row.cpu)
        texts = ["-" if cell is None else str(cell) for cell in cells]
        lines.append(_line(width, table.escape(row.name), texts))
    return lines


def _line(width: int, name: str, cells: Sequence[str]) -> str:
    return f"{name:<{width}}" + "".join(f" {cell:>11}" for cell in cells) + "\n"


def render_json(
    args: Namespace, kind: str, seconds: float, rows: Sequence[Interrupt], lost: Losses
) -> str:
    """The same as JSON lines: "irq" records, then a "total" record."""
    head = {"time": cli.iso_time(), "record": "irq", "seconds": seconds, "type": kind}
    parts = []
    for row in rows:
        record: dict[str, object] = {**head, "name": row.name}
        if args.per_cpu:
            record["cpu"] = row.cpu
        parts.append(table.json_line({**record, **row.record(args, seconds)}))
    total = irqs.totals(rows)[kind == "soft"]
    lost = {"full": lost["full"], "unseen": None if args.cgroup else total.unseen}
    record = {**head, "record": "total", **total.record(args, seconds), "lost": lost}
    return "".join(parts) + table.json_line(record)
