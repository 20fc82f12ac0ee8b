# SPDX-License-Identifier: GPL-2.0-or-later
"""The arguments that commands share, by argparse with errors in one line and options anywhere."""

from __future__ import annotations

import argparse
import os
import re
import sys

from . import __version__
from .errors import Usage
from .table import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn

__all__ = [
    "Parser",
    "Formatter",
    "add_cgroup",
    "add_pid",
    "add_source",
    "add_tid",
    "add_timestamp",
    "installed",
    "parser",
    "positive_float",
    "positive_int",
    "shown",
    "terminal_width",
    "type_error",
]

_PREFIX, _SUFFIX = "", ""  # of the names of the installed commands; packaging/install sets them
_MAX_WORD = 80  # characters of an argument that an error message repeats
_MAX_MESSAGE = 400  # characters of an error message
_MAX_SECONDS = 1e9


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, and that takes options anywhere."""

    _words: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        """Raise Usage, instead of printing the whole usage as argparse does."""
        for word in self._words:
            # argparse repeats a word, or the value in --option=value or -ovalue, as it is or
            # as repr() shows it.
            for part in word, word.partition("=")[2], word[2:]:
                for form in part, repr(part)[1:-1]:
                    if len(form) > _MAX_WORD:
                        message = message.replace(form, _cut(form, _MAX_WORD))
        # Many short words make a long message, too.
        raise Usage(f"{_cut(message, _MAX_MESSAGE)}. Try '{self.prog} --help'")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As ArgumentParser.parse_args(), with positional arguments also behind options.

        Raises Usage, and SystemExit for --help and --version.
        """
        self._words = args or ()
        # argparse gives all positionals to the first group of words: "1 -T 5" would leave the 5.
        found, extra = self.parse_known_args(args, namespace)
        if not extra:
            return found
        try:
            return self.parse_intermixed_args(args)
        except TypeError:  # a positional that takes the rest of the line
            self.error("unrecognized arguments: " + " ".join(extra))


class Formatter(argparse.RawDescriptionHelpFormatter):
    """The description and epilog as they are, the options as wide as the terminal."""

    width = 78  # characters

    def __init__(self, prog: str) -> None:
        # argparse makes one for each argument that is added; without a width, it imports shutil to
        # query the terminal each time.
        super().__init__(prog, width=self.width)


def installed(text: str) -> str:
    """A text in which the commands of the suite have their installed names.

    Replaced are the words of a line of examples, up to its explanation, and 'NAME --help'.  What
    continues such a line is moved with the explanations.
    """
    longer = len(_PREFIX + _SUFFIX)
    if not longer:
        return text
    commands = os.listdir(os.path.dirname(os.path.realpath(sys.argv[0])))
    names = "|".join(re.escape(name) for name in commands if not name.startswith("crisis-"))

    def line(match: re.Match[str]) -> str:
        return re.sub(rf"(?<= )({names})(?=[ ;]|$)", rf"{_PREFIX}\1{_SUFFIX}", match.group())

    text = re.sub(r"^ {1,9}\S+( \S+)*", line, text, flags=re.M)
    text = re.sub(rf"'({names})(?= --help')", rf"'{_PREFIX}\1{_SUFFIX}", text)
    return re.sub(r"^(?= {10})", " " * longer, text, flags=re.M)


def terminal_width() -> int:
    """The columns of $COLUMNS or of the terminal on stdout, within 20 to 1000; else 80."""
    try:
        width = int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        try:
            width = os.get_terminal_size(1).columns
        except OSError:
            width = 0
    if width <= 0:
        return 80
    return min(max(width, 20), 1000)


def shown(text: str) -> str:
    """An argument as an error message repeats it: escaped, and cut after 80 characters."""
    if len(text) > _MAX_WORD:
        text = text[: _MAX_WORD - 3] + "..."
    return escape(text)


def type_error(text: str, what: str) -> argparse.ArgumentTypeError:
    """The error for an argument `text` that is not `what`, such as "a positive number"."""
    return argparse.ArgumentTypeError(f"'{shown(text)}' is not {what}")


def positive_int(text: str) -> int:
    """An integer of at least 1; ArgumentTypeError otherwise."""
    try:
        value = int(text, 10)
    except ValueError:
        value = 0
    if value < 1:
        raise type_error(text, "a positive whole number")
    return value


def positive_float(text: str) -> float:
    """A finite number of seconds above 0; ArgumentTypeError otherwise."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= _MAX_SECONDS:
        raise type_error(text, "a positive number of seconds")
    return value


def parser(
    description: str,
    epilog: str = "",
    interval: bool = True,
    cache: bool = True,
    every: float | None = None,
    without: str = "",
    lines: str = "--json",
    verbose: tuple[str, ...] = ("-v", "--verbose"),
    version: tuple[str, ...] = ("-V", "--version"),
    metrics: bool = True,
) -> argparse.ArgumentParser:
    """An ArgumentParser with the arguments that every command shares.

    description: the one-sentence question that the command answers.
    epilog: usage examples, printed verbatim after the options.
    interval: add the positional `interval` (seconds) and `count`.
    every: the interval when none is given, for a command that then reports without end;
           0 for one that then reports once, at once.
    without: what the command does without an interval, for its help, where `every` does not say it.
    cache: add --no-cache, for a command that loads a BPF program.
    lines: the long name of -j, for a command whose --json was another thing before.
    verbose, version: the names of these options, for a command whose classic has other letters.
    metrics: add --openmetrics, for a command that reports by intervals.
    """
    Formatter.width = terminal_width() - 2
    p = Parser(
        description=description,
        epilog=installed(epilog),
        allow_abbrev=False,
        formatter_class=Formatter,
    )
    if interval:
        p.add_argument(
            "interval",
            nargs="?",
            type=positive_float,
            default=every or None,
            help=f"seconds between two reports; without it, {without or _without_interval(every)}",
        )
        p.add_argument(
            "count",
            nargs="?",
            type=positive_int,
            help="number of reports; without it, until Ctrl-C",
        )
    p.add_argument(
        "-j",
        lines,
        dest="json",
        action="store_true",
        help="print JSON lines, one object per record",
    )
    if metrics:
        p.add_argument(
            "--openmetrics",
            metavar="FILE",
            help="write each report to FILE, for the textfile collector of node_exporter; without "
            "-j, print nothing",
        )
    p.add_argument(
        *verbose,
        action="store_true",
        help="report on stderr which data sources are used, and why others are not",
    )
    if cache:
        p.add_argument(
            "--no-cache",
            action="store_true",
            help="neither read nor write the cache of compiled BPF programs",
        )
    p.add_argument("--debug", action="store_true", help="show a traceback for an error")
    p.add_argument(*version, action="version", version="%(prog)s " + __version__)
    return p


def _without_interval(every: float | None) -> str:
    """What a command does without an interval, for its help."""
    if every is None:
        return "one report at Ctrl-C"
    return f"{every:g}" if every else "one report now"


def add_source(
    p: argparse.ArgumentParser, sources: Iterable[str], purpose: str = "measure"
) -> None:
    """Add --source.  sources: the names that it takes, those of the command's SOURCES."""
    p.add_argument(
        "--source", choices=tuple(sources), help=f"{purpose} with this data source only (see -v)"
    )


def add_pid(p: argparse.ArgumentParser, what: str = "this process") -> None:
    """Add -p.  what: what it restricts the command to."""
    p.add_argument(
        "-p", "--pid", type=positive_int, metavar="PID", help=f"only {what}, until it ends"
    )


def add_tid(p: argparse.ArgumentParser, more: str = "") -> None:
    """Add -t.  more: the end of its help."""
    p.add_argument(
        "-t",
        "--tid",
        type=positive_int,
        metavar="TID",
        help=f"only this thread, until it ends{more}",
    )


def add_cgroup(p: argparse.ArgumentParser, what: str = "tasks in this cgroup or below it") -> None:
    """Add -c.  what: what it restricts the command to."""
    p.add_argument(
        "-c",
        "--cgroup",
        metavar="CGROUP",
        help=f"only {what}: a directory, or a path in the hierarchy",
    )


def add_timestamp(p: argparse.ArgumentParser, how: str = " with each report") -> None:
    """Add -T.  how: the end of its help."""
    p.add_argument("-T", "--timestamp", action="store_true", help=f"print the time{how}")
