# SPDX-License-Identifier: GPL-2.0-or-later
"""HACKING.md against the code: the table of option letters, and the template of a command."""

import os
import re

import pytest

from helpers import ROOT, load

COMMANDS = sorted(os.listdir(os.path.join(ROOT, "bin")))
PMC = ("cpucache", "icache", "pmcarch", "resstalls", "tlbstat")
with open(os.path.join(ROOT, "HACKING.md"), encoding="utf-8") as f:
    TEXT = f.read()
ROWS = re.findall(
    r"^\| (\*\*)?`(-\w)`(?:\*\*)? \| `(--[\w-]+)` \| ([^|]+) \| ([^|]+) \|$", TEXT, re.M
)


def commands_of(cell):
    """The commands that a cell of the table names."""
    if cell.startswith("all"):
        left_out = cell.partition(" but ")[2].split(", ")
        return {command for command in COMMANDS if command not in left_out}
    names = cell.split(", ")
    return set(names) - {"PMC"} | set(PMC if "PMC" in names else ())


def test_the_table_of_option_letters_is_that_of_the_parsers():
    table = {}
    for _, letter, option, _, cell in ROWS:
        assert (letter, option) not in table, f"two rows for {letter} {option}"
        table[letter, option] = commands_of(cell)
    found = {}
    for command in COMMANDS:
        for action in load(command).get_parser()._actions:
            long = [name for name in action.option_strings if name.startswith("--")]
            for letter in set(action.option_strings) - set(long):
                found.setdefault((letter, long[0] if long else None), set()).add(command)
    assert found == table


def test_a_letter_has_one_meaning_in_the_suite():
    letters = [letter for bold, letter, _, _, _ in ROWS if bold]
    assert letters and len(letters) == len(set(letters))
    # One of several meanings is the suite's.
    several = {letter for _, letter, _, _, _ in ROWS if [row[1] for row in ROWS].count(letter) > 1}
    assert several <= set(letters)


@pytest.mark.parametrize("block", re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S))
def test_the_template_is_python(block):
    names = compile(block, "template", "exec").co_names
    for name in "get_parser", "collect", "render_text", "render_json", "main":
        assert name in names
