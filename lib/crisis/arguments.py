# SPDX-License-Identifier: GPL-2.0-or-later
"""argparse with errors in one line, and options anywhere among the positional arguments."""

from __future__ import annotations

import argparse
import os
import re
import sys

from .errors import Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

__all__ = ["Parser", "Formatter", "installed", "terminal_width"]

_MAX_WORD = 80  # characters of an argument that an error message repeats
_MAX_MESSAGE = 400  # characters of an error message


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
    """A text in which the command has the name under which it was started.

    Its plain name is replaced where a command line begins: at the start of a line, and after a
    quotation mark.  What continues a line of a table of examples is moved with it.
    """
    plain, name = (os.path.basename(path) for path in (os.path.realpath(sys.argv[0]), sys.argv[0]))
    if plain == name:
        return text
    text = re.sub(rf"^( *|.*'){re.escape(plain)}(?= )", rf"\1{name}", text, flags=re.M)
    return re.sub(r"^(?= {10})", " " * (len(name) - len(plain)), text, flags=re.M)


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
