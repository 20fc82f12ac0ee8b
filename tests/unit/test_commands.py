# SPDX-License-Identifier: GPL-2.0-or-later
"""What holds for every command, without root."""

import os
import re
import subprocess

import pytest
from helpers import ROOT, load, run

PAGES = re.findall(r"^    ([a-z-]+) ([18])$", open(os.path.join(ROOT, "setup.cfg")).read(), re.M)


def test_every_command_has_one_page():
    assert sorted(name for name, _ in PAGES) == sorted(os.listdir(os.path.join(ROOT, "bin")))


@pytest.mark.parametrize("name, section", PAGES)
def test_man_page_names_every_option(name, section):
    page = open(os.path.join(ROOT, "man", "%s.%s" % (name, section))).read().replace("\\-", "-")
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", run(name, "--help").stdout)) - {"--help"}:
        assert option in page, option
    for word in "EXIT STATUS", "SEE ALSO":
        assert word in page


@pytest.mark.parametrize("name, section", PAGES)
def test_help_and_version(name, section):
    for option in "--help", "--version":
        result = run(name, option)
        assert result.returncode == 0 and name in result.stdout and result.stderr == ""
    full = open("/dev/full", "w")
    failed = subprocess.run([os.path.join(ROOT, "bin", name), "--help"], stdout=full, stderr=subprocess.PIPE)
    assert failed.returncode == 1 and failed.stderr.count(b"\n") == 1


@pytest.mark.parametrize("arguments", [["abc"], ["0"], ["-1"], ["nan"], ["1", "0"], ["1", "x"], ["-p", "0"],
                                       ["-p", "x\n\x1b"], ["-t", "-4"], ["--steps", "3"], ["--top", "0"], ["-P", "-L"],
                                       ["--by", "x"], ["--nonsense"], ["1", "2", "3"]])
def test_runqlat_usage_errors(arguments):
    result = run("runqlat", *arguments)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("runqlat: ") and "\x1b" not in result.stderr


@pytest.mark.parametrize("arguments", [["-p", "999999999"], ["-t", "999999999"], ["-c", "/no/such/cgroup"]])
def test_runqlat_wrong_targets(arguments):
    result = run("runqlat", *arguments, "1", "1")
    assert result.returncode == 1 and result.stdout == "" and result.stderr.count("\n") == 1
    assert "no such" in result.stderr


def test_crisis_warm_unknown_command():
    for name in "nope", "../bin/runqlat":
        result = run("crisis-warm", name)
        assert result.returncode == 1 and result.stderr.count("\n") == 1


def test_crisis_warm_finds_the_programs_of_every_command():
    found = load("crisis-warm").sources()
    assert set(found) == {name for name, _ in PAGES} - {"crisis-warm"}
    for name, sources in found.items():
        text = open(os.path.join(ROOT, "bin", name)).read()
        assert bool(sources) == ("compile.Source(" in text)
        assert all(source.name.startswith(name + ".") for source in sources)


def test_install_renames_commands_and_pages_together(tmp_path):
    subprocess.check_call(["make", "-s", "-C", ROOT, "install", "DESTDIR=%s" % tmp_path, "PREFIX=/usr",
                           "PROGRAM_PREFIX=x-", "PROGRAM_SUFFIX=-y"])
    for name, section in PAGES:
        new = name if name.startswith("crisis-") else "x-%s-y" % name
        command = tmp_path / "usr" / ("sbin" if section == "8" else "bin") / new
        shown = subprocess.run([str(command), "--version"], stdout=subprocess.PIPE, universal_newlines=True)
        assert shown.returncode == 0 and shown.stdout.startswith(new + " ")
        page = (tmp_path / "usr/share/man" / ("man" + section) / ("%s.%s" % (new, section))).read_text()
        assert page.splitlines()[2].replace("\\-", "-").startswith(new + " - ")
    subprocess.check_call(["make", "-s", "-C", ROOT, "uninstall", "DESTDIR=%s" % tmp_path, "PREFIX=/usr",
                           "PROGRAM_PREFIX=x-", "PROGRAM_SUFFIX=-y"])
    assert not [path for path in tmp_path.rglob("*") if not path.is_dir()]
