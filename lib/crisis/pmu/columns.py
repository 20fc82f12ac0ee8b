# SPDX-License-Identifier: GPL-2.0-or-later
"""Columns of the PMC commands, and their rows as text and as JSON lines."""

from __future__ import annotations

import os

from .. import cli, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Mapping, Sequence

    from .session import Session
    from .source import Label, Row

__all__ = ["Column", "count", "ratio", "percent", "hit", "run_ratio", "Printer"]

_HEADER_EVERY = 25  # the header stands above each row whose number is a multiple, as the classic's


class Column:
    """One column: its title and format as the classic tool printed it, its JSON key, and its value.

    needs: the counters (names of codes.TABLES) that it is computed from.
    value: a function of their scaled counts, called only when each is known.
    """

    def __init__(
        self,
        title: str,
        form: str,
        key: str,
        needs: tuple[str, ...],
        value: Callable[..., float | None],
        scale: float = 1,
        optional: bool = False,
    ) -> None:
        """scale: divides the value in text.

        optional: a column that the classic tool does not have; see _shown().
        """
        self.title, self.form, self.key, self.needs, self.value = title, form, key, needs, value
        self.scale, self.optional = scale, optional

    def compute(self, counts: Mapping[str, float | None]) -> float | None:
        numbers = [counts.get(name) for name in self.needs]
        return None if None in numbers else self.value(*numbers)

    def text(self, value: float | None) -> str:
        """The cell, in the classic width."""
        return _like(self.form, "-") if value is None else self.form % (value / self.scale)


def count(
    title: str, form: str, key: str, name: str, scale: float = 1, optional: bool = False
) -> Column:
    """A column of one counter."""
    return Column(title, form, key, (name,), lambda value: value, scale, optional)


def ratio(title: str, form: str, key: str, over: str, under: str) -> Column:
    """over / under; unknown when under is 0."""
    return Column(title, form, key, (over, under), lambda a, b: a / b if b else None)


def percent(title: str, form: str, key: str, over: str, under: str) -> Column:
    """over / under, as a percentage in text and a fraction in JSON."""
    column = ratio(title, form, key, over, under)
    column.scale = 0.01
    return column


def hit(title: str, form: str, key: str, misses: str, references: str) -> Column:
    """The share of references that did not miss; unknown without references.

    Misses can exceed references by what was under way at the borders of the interval: then 0.
    """
    return Column(
        title, form, key, (misses, references), lambda a, b: max(0, 1 - a / b) if b else None, 0.01
    )


def _shown(columns: Sequence[Column], session: Session) -> list[Column]:
    """The columns of a text report: those of the classic tool, whether or not they are known.

    Where a PMU has the counters of optional columns, which no classic tool ever ran on, only the
    columns that it has: both together are wider than a terminal.
    """
    known = [c for c in columns if any(session.counted(name) for name in c.needs)]
    if any(c.optional for c in known):
        return known
    return [c for c in columns if not c.optional]


def run_ratio(row: Row) -> float | None:
    """The smallest share of the time that a counter of this row was counted.

    None when nothing was to be counted.
    """
    shares = [min(1, running / enabled) for _, enabled, running in row.values() if enabled]
    return min(shares, default=None)


class Printer:
    """Rows as text in the classic columns, or as JSON lines."""

    def __init__(self, args: Namespace, session: Session, columns: Sequence[Column]) -> None:
        self.args, self.session = args, session
        self.columns = columns if args.json else _shown(columns, session)
        self.with_run = any(len(source.counters.groups) > 1 for source in session.sources)
        self.headed = False
        self.rows = 0
        self.totals: dict[Label, Row] = {}
        self.seconds, self.reports = 0.0, 0

    def report(self, seconds: float, rows: dict[Label, Row]) -> None:
        self.reports += 1
        self.seconds += seconds
        for label, row in rows.items():
            total = self.totals.setdefault(label, {})
            for counter, (amount, enabled, running) in row.items():
                before = total.get(counter, (0, 0, 0))
                total[counter] = (
                    None if amount is None or before[0] is None else before[0] + amount,
                    before[1] + enabled,
                    before[2] + running,
                )
        cli.out(self._render("interval", seconds, rows))

    def finish(self) -> None:
        """Print the total where it is wanted.

        A JSON record names itself "total".  In text it needs --total or a terminal: a script that
        reads the classic tool's rows would take it for one.
        """
        several = self.reports > 1 and (self.args.json or os.isatty(1))
        if several or self.args.total and self.reports:
            cli.out(self._render("total", self.seconds, self.totals))

    def _render(self, record: str, seconds: float, rows: dict[Label, Row]) -> str:
        ordered = sorted(
            rows.items(), key=lambda item: tuple((part is not None, part) for part in item[0])
        )
        render = self._json if self.args.json else self._text
        return render(record, seconds, ordered)

    def _json(self, record: str, seconds: float, rows: Sequence[tuple[Label, Row]]) -> str:
        now, parts = cli.iso_time(), []
        for (pmu, unit), row in rows:
            line: dict[str, object] = {"time": now, "record": record, "seconds": seconds}
            if pmu is not None:
                line["pmu"] = pmu
            if self.args.per == "cpu":
                line["cpu"] = unit
            elif isinstance(unit, tuple):
                line["package"], line["die"], line["core"] = unit
            counts = {name: value[0] for name, value in row.items()}
            for column in self.columns:
                value = column.compute(counts)
                if value is not None and not column.key.endswith(("ratio", "ipc")):
                    value = round(value)
                line[column.key] = value
            line["run_ratio"] = run_ratio(row)
            parts.append(table.json_line(line))
        return "".join(parts)

    def _text(self, record: str, seconds: float, rows: Sequence[tuple[Label, Row]]) -> str:
        lines = []
        shares = [run_ratio(row) for _, row in rows]
        if not self.with_run and any(share is not None and share < 0.995 for share in shares):
            self.with_run, self.headed = True, False
        if record == "total":
            lines.append(f"\nTotal of {seconds:.1f} s:\n")
            self.headed, self.rows = False, 0
        for ((pmu, unit), row), share in zip(rows, shares):
            self.rows += 1
            if not self.headed or self.rows % _HEADER_EVERY == 0:
                lines.append(
                    self._line(
                        [_like(column.form, column.title) for column in self.columns],
                        "PMU",
                        self.args.per and self.args.per.upper(),
                        "%RUN",
                    )
                )
                self.headed = True
            counts = {name: value[0] for name, value in row.items()}
            lines.append(
                self._line(
                    [column.text(column.compute(counts)) for column in self.columns],
                    pmu,
                    _unit(unit),
                    "-" if share is None else f"{100 * share:.1f}",
                )
            )
        return "".join(lines)

    def _line(self, cells: list[str], pmu: str | None, unit: object, share: str) -> str:
        before = [f"{pmu:<9}"] if self.session.several else []
        if self.args.per:
            width = 4 if self.args.per == "cpu" else 10
            before.append(str(unit).ljust(width))
        return " ".join(before + cells + ([f"{share:>5}"] if self.with_run else [])).rstrip() + "\n"


def _unit(unit: object) -> object:
    """A CPU as it is; a core as perf stat --per-core prints it."""
    if isinstance(unit, tuple):
        package, die, core = unit
        return f"S{package}-D{die}-C{core}"
    return unit


def _like(form: str, text: str) -> str:
    """Text in the width of a number's format."""
    return ("%" + form.lstrip("%").rstrip("dfs").partition(".")[0] + "s") % text
