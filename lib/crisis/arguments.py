# SPDX-License-Identifier: GPL-2.0-or-later
"""argparse as every command wants it: errors in one line, options anywhere, no search for translations."""

import argparse
import os

from .errors import Usage

__all__ = ["Parser", "Formatter"]

_LONG, _MESSAGE = 80, 400       # characters of an argument, and in all, that an error message repeats


def _untranslated(text):
    return text


class Parser(argparse.ArgumentParser):
    def __init__(self, *args, **kwargs):
        # argparse would look for a catalogue of translations in several directories at each of its messages: 2 ms.
        argparse._ = _untranslated
        super().__init__(*args, **kwargs)
        self._words = ()

    def error(self, message):
        # argparse prints its whole usage first; an engineer in a hurry needs the one line.
        for word in self._words:
            # It repeats a word, or the value in --option=value or -ovalue, as it is or as repr() shows it.
            for part in word, word.partition("=")[2], word[2:]:
                for form in part, repr(part)[1:-1]:
                    if len(form) > _LONG:
                        message = message.replace(form, form[:_LONG - 3] + "...")
        if len(message) > _MESSAGE:             # many words, then
            message = message[:_MESSAGE - 3] + "..."
        raise Usage("%s. Try '%s --help'" % (message, self.prog))

    def parse_args(self, args=None, namespace=None):
        self._words = args or ()
        # argparse gives all positionals to the first group of words: "1 -T 5" would leave the 5 over.
        found, extra = self.parse_known_args(args, namespace)
        if not extra:
            return found
        try:
            return self.parse_intermixed_args(args)
        except TypeError:       # a positional that takes the rest of the line
            self.error("unrecognized arguments: " + " ".join(extra))


class Formatter(argparse.RawDescriptionHelpFormatter):
    width = None

    def __init__(self, prog):
        # argparse makes one for each argument, and would import shutil, in 2 ms, to ask for the width.
        if self.width is None:
            Formatter.width = _width() - 2
        super().__init__(prog, width=self.width)


def _width():
    try:
        width = int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        try:
            width = os.get_terminal_size(1).columns
        except OSError:
            width = 0
    return min(max(width, 20), 1000) if width > 0 else 80
