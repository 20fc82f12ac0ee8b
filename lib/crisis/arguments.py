# SPDX-License-Identifier: GPL-2.0-or-later
"""argparse as every command wants it: errors in one line, options anywhere, no search for translations."""

import argparse
import os

from .errors import Usage

__all__ = ["Parser", "Formatter"]


def _untranslated(text):
    return text


class Parser(argparse.ArgumentParser):
    def __init__(self, *args, **kwargs):
        # argparse would look for a catalogue of translations in several directories at each of its messages: 2 ms.
        argparse._ = _untranslated
        super().__init__(*args, **kwargs)

    def error(self, message):
        # argparse prints its whole usage first; an engineer in a hurry needs the one line.
        raise Usage("%s. Try '%s --help'" % (message, self.prog))

    def parse_args(self, args=None, namespace=None):
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
        return int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        pass
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80
