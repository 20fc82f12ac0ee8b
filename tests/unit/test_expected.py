# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole output of the commands on made-up machines, against tests/expected.

tests/expected/COMMAND/cases.json has the cases: a name, and with it

    arguments    of the command, as a shell would split them
    trees        tests/fixtures/NAME.tree, one laid over the other
    data         tests/fixtures/NAME.json: what no file holds, given to the function COMMAND of
                 tests/seams.py
    stop         seconds until Ctrl-C
    environment  variables
    terminal     true where stdout passes for a terminal
    status       the exit status, 0 without it
    xfail        the reason why the output is known not to be right yet

"trees" and "data" beside "cases" are for all that have none of their own.
COMMAND/CASE.txt has the standard output, CASE.err the standard error if there is any.

    UPDATE_EXPECTED=1 python3 -m pytest tests/unit/test_expected.py

writes both anew, of cases that are not marked xfail; git diff shows what has changed.
"""

import difflib
import functools
import json
import os
import re
import shlex
import sys

import pytest

import seams
import world
from helpers import ROOT, load

EXPECTED = os.path.join(ROOT, "tests/expected")
UPDATE = os.environ.get("UPDATE_EXPECTED") == "1"
PAGES = dict(
    re.findall(r"^    man/([a-z-]+)\.([18]):", open(os.path.join(ROOT, "setup.cfg")).read(), re.M)
)
module_of = functools.lru_cache(None)(load)


def read_cases():
    """[(command, name, case)] of all commands."""
    found = []
    for command in sorted(os.listdir(EXPECTED)):
        path = os.path.join(EXPECTED, command, "cases.json")
        if os.path.exists(path):
            with open(path) as f:
                table = json.load(f)
            for name, case in table["cases"].items():
                for key in "trees", "data":
                    if key in table:
                        case.setdefault(key, table[key])
                found.append((command, name, case))
    return found


CASES = read_cases()


def data_of(case):
    if not case.get("data"):
        return None
    with open(os.path.join(ROOT, "tests/fixtures", case["data"] + ".json"), encoding="utf-8") as f:
        return json.load(f)


def run_case(command, case, directory):
    data = data_of(case)
    adapter = getattr(seams, command.replace("-", "_"), None)
    seam = None if adapter is None else lambda machine, module: adapter(machine, module, data)
    return world.run(
        module_of(command),
        command,
        shlex.split(case["arguments"]),
        str(directory),
        case.get("trees", ()),
        seam,
        case.get("stop"),
        case.get("environment"),
        case.get("terminal", False),
    )


def compare(path, text):
    """Fail with a diff where a file does not have the text; an empty text is no file."""
    if UPDATE:
        if text:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
        elif os.path.exists(path):
            os.remove(path)
        return
    expected = ""
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            expected = f.read()
    if text != expected:
        name = os.path.relpath(path, ROOT)
        pytest.fail(
            "".join(
                line if line.endswith("\n") else line + "\n\\ no newline at the end\n"
                for line in difflib.unified_diff(
                    expected.splitlines(True), text.splitlines(True), name, "output"
                )
            )
            + f"If it is right: UPDATE_EXPECTED=1 {sys.executable} -m pytest "
            "tests/unit/test_expected.py",
            pytrace=False,
        )


def same_words(text):
    """A message of argparse in the words that all versions of Python share: 3.12 quotes no choices,
    and 3.13 requires no argument that may be missing."""
    text = re.sub(
        r"invalid choice: .*?\(choose from .*?\)",
        lambda match: match.group().replace("'", ""),
        text,
    )
    return text.replace("are required: action, FILE", "are required: action")


@pytest.fixture
def directory():
    with world.scratch() as path:
        yield path


@pytest.mark.parametrize(
    "command, name, case", [pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in CASES]
)
def test_output(command, name, case, directory):
    if UPDATE and case.get("xfail"):
        pytest.skip("not written, being marked xfail: " + case["xfail"])
    result = run_case(command, case, directory)
    base = os.path.join(EXPECTED, command, name)
    try:
        assert result.status == case.get("status", 0), (result.out + result.err)[-2000:]
        compare(base + ".txt", result.out)
        compare(base + ".err", same_words(result.err))
    except BaseException:
        if case.get("xfail"):
            pytest.xfail(case["xfail"])
        raise
    assert not case.get("xfail") or UPDATE, "this case has been marked xfail: " + case["xfail"]


def json_values(text):
    """The objects of an output: one JSON document, or JSON lines; [] for other text."""
    if text.startswith("{\n"):
        return [json.loads(text)]
    return [json.loads(line) for line in text.splitlines()] if text.startswith("{") else []


def keys(value):
    """All keys of objects in a JSON value."""
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


def man_section(command, name):
    """The words of a section of man/COMMAND.inc."""
    with open(os.path.join(ROOT, "man", command + ".inc")) as f:
        found = re.search(
            rf"^\[{name}\]\n(.*?)(?=^\[|\Z)", f.read().replace("\\-", "-"), re.M | re.S
        )
    assert found, f"man/{command}.inc has no section {name}"
    return set(re.findall(r"\w+", found.group(1)))


@pytest.mark.parametrize("command", sorted({command for command, _, _ in CASES}))
def test_man_page_has_each_json_key(command):
    used = {}
    for _, name, _ in (case for case in CASES if case[0] == command):
        path = os.path.join(EXPECTED, command, name + ".txt")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                used.update(dict.fromkeys(keys(json_values(f.read())), name))
    assert used, f"no case of {command} prints JSON"
    words = man_section(command, "JSON OUTPUT")
    if command == "crisis-merge":  # a merged record has the keys of the hosts'
        words = words.union(
            *(man_section(other, "JSON OUTPUT") for other in ("cachestat", "runqlat"))
        )
    assert not {key: name for key, name in used.items() if key not in words}, (
        f"not in section JSON OUTPUT of man/{command}.inc"
    )


def spelled(text):
    """The help in words that all versions of Python share.

    3.9 has another heading for the options; 3.13 writes -p, --pid PID for -p PID, --pid PID; the
    usage is wrapped differently since 3.12.3.
    """
    text = re.sub(r"(-\w) (\S+), (--[\w-]+) \2(?=\s)", r"\1, \3 \2", " ".join(text.split()))
    return text.replace("optional arguments:", "options:")


@pytest.mark.parametrize("command", sorted(PAGES))
def test_help(command, directory):
    path = os.path.join(EXPECTED, command, "help.txt")
    result = world.run(module_of(command), command, ["--help"], directory)
    assert (result.status, result.err) == (0, "")
    if sys.version_info[:2] == (3, 11) or UPDATE:
        compare(path, result.out)
        return
    with open(path) as f:  # argparse lays it out differently in each version
        assert spelled(result.out) == spelled(f.read())


def test_help_in_a_narrow_terminal(directory):
    result = world.run(
        module_of("psi"), "psi", ["--help"], directory, environment={"COLUMNS": "50"}
    )
    lines = result.out.partition("examples:")[0].splitlines()
    assert max(len(line) for line in lines if line.startswith((" ", "usage:"))) <= 50
    if sys.version_info[:2] == (3, 11) or UPDATE:
        compare(os.path.join(EXPECTED, "psi", "help-narrow.txt"), result.out)
