# SPDX-License-Identifier: GPL-2.0-or-later
"""Generated command lines, right and wrong: every command answers with a known status and one line
for an error.
"""

import argparse
import os
import random
import shlex
import signal
import subprocess

import pytest

from helpers import ROOT, SLOW, load, tool, workload

TRIES = int(os.environ.get("CRISIS_TRIES", "200"))
SEED = os.environ.get("CRISIS_SEED", "1")
COMMANDS = sorted(os.listdir(os.path.join(ROOT, "bin")))
STATUSES = {0, 1, 2, 69, 77, 141}
SOON = 1.5 * SLOW  # seconds after which a command that goes on gets SIGINT

SECONDS = [".01", "0.02", ".05"]
ODD = [
    "",
    " ",
    "0",
    "-1",
    "-0.5",
    "1e400",
    "nan",
    "inf",
    "1e9",
    "1e-300",
    "2147484",
    "2147483647",
    "2147483648",
    "4294967296",
    "4294967297",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "9" * 5000,
    "x" * 5000,
    "x\n\x1b[31m",
    "\u202egnp",
    "\u0663",
    "é" * 100,
    os.fsdecode(b"\xff\xfe"),
    "1,2",
    "1_0",
    "+1",
    " 1",
    "0x10",
    "a=b",
    "--",
    "'",
    '"',
    "%s%n",
    "\\",
    "*",
    "-",
    "1.5",
    "1K",
]
NEVER = ["no/such", "x" * 300, "\x7f", os.fsdecode(b"\xfe")]  # files that do not exist


class Words:
    """The words of one call, by the kind of argument; nothing that they name lies outside the
    scratch directory.
    """

    def __init__(self, name, chance, pid, scratch):
        self.name, self.chance, self.scratch = name, chance, scratch
        # No other process is watched or changed.
        self.pids = [str(pid)] * 6 + [
            "999999999",
            "2147483648",
            "4294967297",
            "0",
            "-1",
            "x",
            "",
            "9" * 5000,
            f"{pid},{pid}",
            f"{pid},999999999",
        ]
        self.files = (
            [scratch, scratch + "/one", scratch + "/empty"] * 2 + NEVER + [scratch + "/list"]
        )

    def value(self, action):
        """A word for an option or positional."""
        choose = self.chance.choice
        if action.choices:
            return str(choose(list(action.choices))) if self.chance.random() < 0.8 else choose(ODD)
        kind = action.metavar or action.dest
        if kind.startswith("PID") or kind == "TID":
            return choose(self.pids)
        if kind == "COMMAND":  # run, of memleak and the PMC commands; a name, of crisis-warm
            return (
                choose(["true", "true", "false", "", "'"])
                if self.name != "crisis-warm"
                else choose(NEVER)
            )
        if kind in ("FILE", "LIST") or action.dest in ("file", "files_from"):
            return choose(self.files)
        if kind == "CGROUP":
            return choose(["/", "/no/such", "relative", "x" * 5000, "", "/\x1b"])
        if self.chance.random() < 0.4:
            return choose(ODD)
        if kind == "interval" or kind in ("SECONDS",):
            return choose(SECONDS)
        return choose(["1", "2", "3", "10", "lo", "all", "0"])

    def option(self, action):
        name, chance = self.chance.choice(action.option_strings), self.chance.random()
        if action.nargs == 0:
            return [name] if chance < 0.97 else [name + "=1"]
        if action.nargs == "?" and chance < 0.5 or chance < 0.02:
            return [name]
        value = self.value(action)
        if name.startswith("--") and chance > 0.7:
            return [f"{name}={value}"]
        return [name, value]


def line(name, parser, chance, pid, scratch):
    """The arguments of one call."""
    words = Words(name, chance, pid, scratch)
    actions = parser._actions
    options = [a for a in actions if a.option_strings and not isinstance(a, argparse._HelpAction)]
    if (
        chance.random() < 0.97
    ):  # these would be the only thing that happens, or take a second of compiling
        options = [
            a
            for a in options
            if not isinstance(a, argparse._VersionAction) and a.dest != "no_cache"
        ]
    if chance.random() < 0.7:
        options = [a for a in options if a.dest not in ("verbose", "debug")]
    parts = [
        words.option(chance.choice(options)) for _ in range(chance.choice((0, 1, 1, 2, 2, 3, 4)))
    ]
    for action in actions:
        if action.option_strings:
            continue
        if action.dest == "interval" and name != "wss":
            parts.append(
                [chance.choice(SECONDS)] if chance.random() < 0.9 else [words.value(action)]
            )
        elif action.dest == "count" and chance.random() < 0.9:
            parts.append(["1"])
        elif action.dest in ("duration", "interval"):
            parts.append([chance.choice(SECONDS)])
        elif action.required or name == "crisis-warm" or chance.random() < 0.8:
            parts.append([words.value(action)])
    if chance.random() < 0.1:
        parts.append(
            [chance.choice(ODD)]
            if name not in ("pagecache", "crisis-warm", "wss")
            else ["--nonsense"]
        )
    if chance.random() < 0.2:
        chance.shuffle(parts)
    return sum(parts, [])


def faults(name, words, status, errors):
    """What is wrong with an answer, as text; None for nothing."""
    lines = errors.splitlines()
    quiet = not {"-v", "--verbose", "--debug"} & set(words)
    if status not in STATUSES:
        return f"status {status}"
    if "internal error" in errors or "Traceback" in errors and "--debug" not in words:
        return "internal error"
    if any(
        ord(c) < 0x20 and c != "\n" and not (c == "\t" and not quiet) or ord(c) == 0x7F
        for c in errors
    ):
        return "control characters"
    if status in (2, 69, 77) and quiet:
        if len(lines) != 1 or not lines[0].startswith(name + ": "):
            return f"{len(lines)} lines for an error"
        if len(lines[0]) > 800:
            return f"a line of {len(lines[0])} characters"
    if status == 1 and quiet and not any(text.startswith(name + ": ") for text in lines):
        return "no line for an error"
    # Of several files or hosts each may have its own line, a command of -c its end, and a note
    # may come before the error.
    if (
        status == 1
        and quiet
        and len(lines) != 1
        and name not in ("crisis-merge", "fincore", "pagecache")
        and "-c" not in words
    ):
        return f"{len(lines)} lines for an error"
    return None


def answer(name, words, cwd):
    """(status, stderr) of a call; one that goes on gets SIGINT."""
    child = subprocess.Popen(
        [tool(name), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=cwd,
    )
    try:
        try:
            errors = child.communicate(timeout=SOON)[1]
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGINT)
            errors = child.communicate(timeout=20 * SLOW)[1]
        return child.returncode, errors.decode("utf-8", "surrogateescape")
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_line_gets_an_answer(name, tmp_path):
    scratch = str(tmp_path)
    (tmp_path / "one").write_bytes(bytes(100000))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "list").write_text(scratch + "/one\n" + scratch + "/none\n")
    parser, found = load(name).get_parser(), []
    with workload("import time; time.sleep(1000)") as child:
        for number in range(-(-TRIES // len(COMMANDS))):
            chance = random.Random(f"{SEED} {name} {number}")
            words = line(name, parser, chance, child.pid, scratch)
            try:
                status, errors = answer(name, words, scratch)
            except subprocess.TimeoutExpired:
                found.append(f"{shlex.join([name, *words])}: does not end")
                continue
            wrong = faults(name, words, status, errors)
            if wrong:
                found.append(
                    f"{shlex.join([name, *words])[:1000]}: {wrong} (status "
                    f"{status})\n{errors[:1000]}"
                )
    assert not found, "\n".join(found)
