# SPDX-License-Identifier: GPL-2.0-or-later
"""Options and arguments as all commands take them."""

import argparse
import os

import pytest

from crisis import arguments, cli
from crisis.errors import Usage


def test_options_may_stand_between_the_arguments():
    p = cli.parser("", cache=False)
    p.add_argument("-T", action="store_true")
    args = p.parse_args(["1", "-T", "5"])
    assert (args.interval, args.count, args.T) == (1.0, 5, True)
    for words in ["1", "-T", "5", "6"], ["1", "--no", "5"], ["1", "-T", "x"]:
        with pytest.raises(Usage):
            p.parse_args(words)
    p.add_argument("rest", nargs="...")
    assert p.parse_args(["1", "2", "a", "-b"]).rest == ["a", "-b"]


def test_arguments_in_messages_are_short_and_escaped():

    assert cli.shown("a\x1b") == r"a\x1b" and cli.shown("x" * 80) == "x" * 80
    assert cli.shown("x" * 81) == "x" * 77 + "..."
    parser = cli.parser("", cache=False)
    parser.add_argument("--kind", choices=("one", "two"))
    parser.add_argument("-n", type=int)
    long = "\n" + "y" * 5000
    for words in (
        [long],
        ["--kind", long],
        ["--kind=" + long],
        ["-n" + long],
        ["--" + long],
        [long] * 500,
        ["-n", long],
    ):
        with pytest.raises(Usage) as caught:
            parser.parse_args(words)
        assert len(str(caught.value)) < 600 and str(caught.value).endswith("--help'")
        assert "--kind" not in words[0] or "(choose from" in str(caught.value)
    for call, text in (cli.positive_int, "0"), (cli.positive_float, "x" * 5000):
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            call(text)
        assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    "columns, width",
    [("99999999999", 1000), ("100", 100), ("1", 20), ("0", 80), ("-5", 80), ("abc", 80)],
)
def test_the_width_of_help_is_bounded(columns, width, monkeypatch):

    with monkeypatch.context() as patch:  # pytest itself goes by COLUMNS when it reports the test
        patch.setenv("COLUMNS", columns)
        patch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((0, 0)))
        assert arguments.terminal_width() == width
