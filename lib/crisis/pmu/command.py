# SPDX-License-Identifier: GPL-2.0-or-later
"""What the PMC commands have in common: all but the columns.

The arguments, and the report of every interval and of the total.
"""

from __future__ import annotations

import os

from .. import cli
from ..errors import Usage
from .columns import Printer
from .session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from .columns import Column

__all__ = ["parser", "run"]


def parser(description: str, epilog: str) -> ArgumentParser:
    """The arguments of a PMC command."""
    p = cli.parser(description, epilog, interval=False, cache=False)
    p.add_argument(
        "interval",
        nargs="?",
        type=cli.positive_float,
        default=1.0,
        help="seconds between two reports (default 1)",
    )
    p.add_argument(
        "duration",
        nargs="?",
        type=cli.positive_float,
        help="seconds in all; without it, until Ctrl-C",
    )
    group = p.add_mutually_exclusive_group()
    group.add_argument("-C", "--cpu", metavar="CPU", help="only these CPUs: a list such as 0,2-3")
    group.add_argument(
        "-p",
        "--pid",
        type=cli.positive_int,
        metavar="PID",
        help="only this process, until it ends, with its threads and the children that it creates "
        "from now on",
    )
    group.add_argument(
        "-c",
        "--command",
        metavar="COMMAND",
        help="run this command line with sh, and count it and its children until it ends",
    )
    group.add_argument(
        "-G",
        "--cgroup",
        metavar="CGROUP",
        help="only tasks in this cgroup or below it: a directory, or a path in the hierarchy",
    )
    rows = p.add_mutually_exclusive_group()
    rows.add_argument(
        "--per-cpu", dest="per", action="store_const", const="cpu", help="a row for each CPU"
    )
    rows.add_argument(
        "--per-core",
        dest="per",
        action="store_const",
        const="core",
        help="a row for each core, the sum of its hardware threads",
    )
    p.add_argument(
        "--total",
        action="store_true",
        help="print the total at the end, also after one report or in a pipe",
    )
    return p


def run(
    args: Namespace,
    columns: Sequence[Column],
    clusters: Sequence[Sequence[str]],
    title: str | None = None,
) -> int:
    """Count and print until the end; the exit status.

    clusters: lists of counter names; a list is counted at the same instants where the PMU can.
    title: the classic tool's line above the first header, or None.
    """
    if args.command is not None and os.path.isdir(args.command):
        raise Usage("-c takes a command; a cgroup goes with -G")
    session = Session(args, clusters)
    printer = Printer(args, session, columns)
    if title and not args.json:
        cli.out(title + "\n")
    session.release()
    for seconds in cli.ticks(args.interval, None, args.duration, session.ends):
        printer.report(seconds, session.read())
    printer.finish()
    return session.finish()
