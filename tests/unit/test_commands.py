# SPDX-License-Identifier: GPL-2.0-or-later
"""What holds for every command, without root."""

import ast
import os
import re
import subprocess

import pytest

from helpers import ROOT, load, run

PAGES = re.findall(
    r"^    man/([a-z-]+)\.([18]):", open(os.path.join(ROOT, "setup.cfg")).read(), re.M
)


def test_every_command_has_one_page():
    assert sorted(name for name, _ in PAGES) == sorted(os.listdir(os.path.join(ROOT, "bin")))


@pytest.mark.parametrize("name, section", PAGES)
def test_man_page_names_every_option(name, section):
    page = open(os.path.join(ROOT, "man", f"{name}.{section}")).read().replace("\\-", "-")
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", run(name, "--help").stdout)) - {
        "--help"
    }:
        assert option in page, option
    for word in "EXIT STATUS", "SEE ALSO":
        assert word in page


@pytest.mark.parametrize("name, section", PAGES)
def test_help_and_version(name, section):
    for option in "--help", "--version":
        result = run(name, option)
        assert result.returncode == 0 and name in result.stdout and result.stderr == ""
    full = open("/dev/full", "w")
    failed = subprocess.run(
        [os.path.join(ROOT, "bin", name), "--help"], stdout=full, stderr=subprocess.PIPE
    )
    assert failed.returncode == 1 and failed.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["abc"],
        ["0"],
        ["-1"],
        ["nan"],
        ["1", "0"],
        ["1", "x"],
        ["-p", "0"],
        ["-p", "x\n\x1b"],
        ["-t", "-4"],
        ["--steps", "3"],
        ["--top", "0"],
        ["-P", "-L"],
        ["--by", "x"],
        ["--nonsense"],
        ["1", "2", "3"],
    ],
)
def test_runqlat_usage_errors(arguments):
    result = run("runqlat", *arguments)
    assert result.returncode == 2 and result.stdout == ""
    assert (
        result.stderr.count("\n") == 1
        and result.stderr.startswith("runqlat: ")
        and "\x1b" not in result.stderr
    )


@pytest.mark.parametrize(
    "arguments", [["-p", "999999999"], ["-t", "999999999"], ["-c", "/no/such/cgroup"]]
)
def test_runqlat_wrong_targets(arguments):
    result = run("runqlat", *arguments, "1", "1")
    assert result.returncode == 1 and result.stdout == "" and result.stderr.count("\n") == 1
    assert "no such" in result.stderr


def test_a_command_begins_with_the_default_action_of_sigint():
    """Until cli.run() handles it: else Ctrl-C prints a traceback during the imports."""
    for name, _ in PAGES:
        statements = ast.parse(open(os.path.join(ROOT, "bin", name)).read()).body
        assert ast.unparse(statements[1]) == "import signal" and "signal.SIG_DFL" in ast.unparse(
            statements[2]
        )


@pytest.mark.parametrize(
    "name, arguments, status",
    [
        ("runqlat", ["x"], 2),
        ("wss", ["1", "x"], 2),
        ("runqlat", ["-p", "999999999", "1", "1"], 1),
        ("wss", ["2147483648", ".2", "1"], 1),
        ("wss", ["999999999", ".2", "1"], 1),
        ("delays", ["-p", "9" * 300], 1),
        ("fincore", ["-C", "--watch", "1", "--files-from", "-"], 2),
        ("fincore", ["-p", "2147483648"], 1),
    ],
)
def test_debug_changes_no_status(name, arguments, status):
    plain, debug = run(name, *arguments), run(name, *arguments, "--debug")
    assert plain.returncode == debug.returncode == status
    assert plain.stderr.count("\n") == 1
    assert debug.stderr.count("Traceback") == 1 and debug.stderr.endswith(plain.stderr)
    if status == 1:
        assert "no such process" in plain.stderr


@pytest.mark.parametrize("name", [name for name, _ in PAGES])
def test_a_closed_or_full_output_is_a_write_error(name):
    for redirection, why in (
        (">&-", "Bad file descriptor"),
        (">/dev/full", "No space left on device"),
    ):
        result = subprocess.run(
            f"{os.path.join(ROOT, 'bin', name)} --help {redirection}",
            shell=True,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert result.returncode == 1 and result.stderr == f"{name}: write error: {why}\n"


def test_fincore_says_that_its_output_is_closed():
    result = subprocess.run(
        [os.path.join(ROOT, "bin/fincore"), "/etc/passwd"],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: os.close(1),
        text=True,
    )
    assert result.returncode == 1 and result.stderr == "fincore: write error: Bad file descriptor\n"


def test_crisis_warm_unknown_command():
    for name in "nope", "../bin/runqlat":
        result = run("crisis-warm", name)
        assert result.returncode == 1 and result.stderr.count("\n") == 1


def test_crisis_warm_finds_the_programs_of_every_command():
    found = load("crisis-warm").sources()
    assert len(found.pop("-p in a PID namespace")) == 1  # of all that take -p
    assert set(found) == {name for name, _ in PAGES} - {"crisis-warm"}
    for name, sources in found.items():
        text = open(os.path.join(ROOT, "bin", name)).read()
        assert bool(sources) == bool(re.search(r"^(SOURCES = |from .*\bSOURCES\b)", text, re.M))
        assert all(source.name.startswith(name + ".") for source in sources)


def test_install_renames_commands_and_pages_together(tmp_path):
    subprocess.check_call(
        [
            "make",
            "-s",
            "-C",
            ROOT,
            "install",
            f"DESTDIR={tmp_path}",
            "PREFIX=/usr",
            "PROGRAM_PREFIX=x-",
            "PROGRAM_SUFFIX=-y",
        ]
    )
    for name, section in PAGES:
        new = name if name.startswith("crisis-") else f"x-{name}-y"
        command = tmp_path / "usr" / ("sbin" if section == "8" else "bin") / new
        shown = subprocess.run([str(command), "--version"], stdout=subprocess.PIPE, text=True)
        assert shown.returncode == 0 and shown.stdout.startswith(new + " ")
        page = (tmp_path / "usr/share/man" / ("man" + section) / (f"{new}.{section}")).read_text()
        assert page.splitlines()[2].replace("\\-", "-").startswith(new + " - ")
        # "use" is a word of most pages, too, and PSI none of a command.
        named = [line for line in page.splitlines() if "x-use" in line]
        if name == "use":
            assert {".B x-use-y", "$ x-use-y 2 1"} <= set(named) and "(the USE method)" in page
        else:
            assert all(re.match(r"\.BR? x-use-y", line) for line in named)
        assert "x-PSI" not in page or page.startswith(".TH x-PSI-y ")
    subprocess.check_call(
        [
            "make",
            "-s",
            "-C",
            ROOT,
            "uninstall",
            f"DESTDIR={tmp_path}",
            "PREFIX=/usr",
            "PROGRAM_PREFIX=x-",
            "PROGRAM_SUFFIX=-y",
        ]
    )
    assert not [path for path in tmp_path.rglob("*") if not path.is_dir()]
