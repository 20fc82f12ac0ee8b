# SPDX-License-Identifier: GPL-2.0-or-later
"""wss: its usage errors."""

import pytest

from helpers import load, run


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["x"],
        ["0", "1"],
        ["-1", "1"],
        ["1,x", "1"],
        ["1", "0"],
        ["1", "nan"],
        ["1", "1", "0"],
        ["-C", "1"],
        ["-P", "3", "1"],
        ["-s", "1", "1"],
        ["-s", "-1", "1", "1"],
        ["-s", "x", "1", "1"],
        ["-C", "-P", "3", "1", "1"],
        ["-d", "3", "1", "1"],
        ["--plot", "1", "1"],
        ["-P", "0", "1", "1"],
        ["-P", "99", "1", "1"],
        ["-P", "3", "1", "1", "2"],
        ["-c", "/", "1", "1", "1"],
        ["-c", "/", "--tree", "1"],
        ["--source", "damon", "1"],
        ["--source", "damon", "-C", "1", "1"],
        ["--source", "x", "1", "1"],
        ["1\x1b\n", "1"],
        ["1", "1", "1", "1"],
    ],
)
def test_usage_errors(arguments):
    result = run("wss", *arguments)
    assert result.returncode == 2 and result.stdout == ""
    assert (
        result.stderr.count("\n") == 1
        and result.stderr.startswith("wss: ")
        and "\x1b" not in result.stderr
    )


def test_no_such_cgroup():
    result = run("wss", "-c", "/no/such/cgroup", ".1")
    assert result.returncode == 1 and result.stderr == "wss: no such cgroup: /no/such/cgroup\n"


@pytest.mark.parametrize(
    "arguments, positional, options",
    [  # wss.pl's README
        ("181 0.01", ([181], 0.01, None), {}),
        ("181 5", ([181], 5.0, None), {}),
        ("-C 181 5", ([181], 5.0, None), {"cumulative": True}),
        ("-C -d 10 181 1", ([181], 1.0, None), {"cumulative": True, "duration": 10.0}),
        ("-s 1 181 0.01", ([181], 0.01, None), {"snapshot": 1.0}),
        ("-s 0 181 1", ([181], 1.0, None), {"snapshot": 0.0}),
        ("-P 10 181 0.01", ([181], 0.01, None), {"profile": 10}),
        ("-t 23593 0.1", ([23593], 0.1, None), {"moretimes": True}),
    ],
)
def test_command_lines_of_the_classic(arguments, positional, options):
    command = load("wss")
    args = command.get_parser().parse_args(arguments.split())
    assert command.arrange(args) == positional
    for name, value in options.items():
        assert getattr(args, name) == value
