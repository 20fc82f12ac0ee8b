# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments are parsed as argparse parses them, with and without argparse."""

import argparse
import io
import contextlib
import os
import random
import subprocess
import sys

import pytest
from helpers import ROOT, load

from crisis import cli
from crisis.errors import Error
from crisis.options import Quick

COMMANDS = sorted(os.listdir(os.path.join(ROOT, "bin")))
WORDS = ["1", "5", "0.5", "2", "10", "185", "1,2", "all", "0-1", "x", "-", "/tmp", "k", "512K", "1e3", "", "0", "-1",
         "-5"]


def by_argparse(parser, words):
    """{name: value}, or None where argparse refuses or answers by itself."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return vars(parser.parse_args(words))
    except (Error, SystemExit):
        return None


def quick_of(get_parser):
    cli._quick = True
    try:
        return get_parser()
    finally:
        cli._quick = False


def some_words(parser, chance):
    """A call of a command, right or wrong."""
    options = [action for action in parser._actions if action.option_strings and action.dest not in ("help", "version")]
    words = []
    for _ in range(chance.choice((0, 0, 1, 1, 2, 3, 4))):
        action = chance.choice(options)
        name = chance.choice(action.option_strings)
        value = [str(chance.choice(list(action.choices)))] if action.choices and chance.random() < .9 else \
            [chance.choice(WORDS)]
        if action.nargs == 0 or action.nargs == "?" and chance.random() < .5:
            value = []
        elif name.startswith("--") and chance.random() < .3:
            name, value = "%s=%s" % (name, value[0]), []
        elif chance.random() < .03:
            value = []
        words.append([name] + value)
    for _ in range(chance.choice((0, 0, 1, 1, 2, 2, 3))):
        words.append([chance.choice(WORDS[:5] if chance.random() < .7 else WORDS)])
    positionals = [action for action in parser._actions if not action.option_strings and action.choices]
    words += [[chance.choice(list(action.choices))] for action in positionals if chance.random() < .9]
    chance.shuffle(words)
    return sum(words, [])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_as_argparse(name):
    command, chance = load(name), random.Random(name)
    parser, taken, right = command.get_parser(), 0, 0
    for _ in range(600):
        words = some_words(parser, chance)
        found, expected = quick_of(command.get_parser).parse(words), by_argparse(parser, words)
        assert found is None or vars(found) == expected, words
        right += expected is not None
        taken += found is not None
    assert right > 60 and taken > .7 * right, "argparse is asked for %d of %d right calls" % (right - taken, right)


def both(declare, words):
    """(Quick's answer, argparse's) to the same declarations."""
    quick, parser = Quick(), argparse.ArgumentParser(allow_abbrev=False)
    declare(quick)
    declare(parser)
    found = quick.parse(words)
    with contextlib.redirect_stderr(io.StringIO()):
        return found and vars(found), by_argparse(parser, words)


@pytest.mark.parametrize("words", [
    [], ["a"], ["a", "-n", "3"], ["-n", "3", "a"], ["--number=3"], ["--number="], ["--number", "-"], ["-t"], ["-t", "-t"],
    ["-o"], ["-o", "7"], ["--opt=7", "b"], ["-l", "1", "-l", "2"], ["--no-colour"], ["--kind", "one"]])
def test_what_is_taken(words):
    def declare(p):
        p.add_argument("first", nargs="?", default="none")
        p.add_argument("-n", "--number", default="4", type=lambda text: text and int(text.replace("-", "9")))
        p.add_argument("-t", action="store_true")
        p.add_argument("-o", "--opt", nargs="?", const=1, type=int)
        p.add_argument("-l", action="append", default=[])
        p.add_argument("--no-colour", dest="colour", action="store_const", const=0)
        p.add_argument("--kind", choices=("one", "two"))
    found, expected = both(declare, words)
    assert found == expected != None        # noqa: E711


@pytest.mark.parametrize("words", [
    ["--help"], ["-h"], ["--", "a"], ["-x"], ["--nonsense"], ["-n3"], ["-tn", "3"], ["-n"], ["-n", "-3"], ["-n", "x"],
    ["--t=1"], ["-t=1"], ["--num", "3"], ["a", "b"], ["--kind", "three"], ["-a", "-b"], ["--count"]])
def test_what_is_left_to_argparse(words):
    def declare(p):
        p.add_argument("first", nargs="?")
        p.add_argument("-n", "--number", type=int)
        p.add_argument("-t", "--t", action="store_true")
        p.add_argument("--kind", choices=("one", "two"))
        p.add_argument("--count", action="count")
        group = p.add_mutually_exclusive_group()
        group.add_argument("-a", action="store_true")
        group.add_argument("-b", action="store_true")
    assert both(declare, words)[0] is None


def test_required():
    def declare(p):
        group = p.add_mutually_exclusive_group(required=True)
        group.add_argument("-a", action="store_true")
        group.add_argument("-b", action="store_true")
        p.add_argument("-c", required=True)
        p.add_argument("file", nargs="+")
    assert both(declare, ["-a", "-c", "1", "x", "y"])[0] == {"a": True, "b": False, "c": "1", "file": ["x", "y"]}
    for words in ["-c", "1", "x"], ["-a", "x"], ["-a", "-c", "1"]:
        assert both(declare, words) == (None, None)


def test_an_ordinary_call_does_not_load_argparse():
    for words in ["-h"], ["-T", "5", "1"]:
        code = ("import sys\nsys.path.insert(0, %r)\nfrom crisis import cli\n"
                "def get_parser():\n p = cli.parser('', '')\n p.add_argument('-T', action='store_true')\n return p\n"
                "try:\n cli.parse(get_parser, %r)\nexcept SystemExit:\n pass\n"
                "print('argparse' in sys.modules)" % (os.path.join(ROOT, "lib"), words))
        result = subprocess.run([sys.executable, "-IS", "-c", code], stdout=subprocess.PIPE, universal_newlines=True)
        assert result.stdout.splitlines()[-1] == str(words == ["-h"])
