# SPDX-License-Identifier: GPL-2.0-or-later
"""From a check's result or error to works, no or unknown; and the tools beside the suite."""

import os

import pytest

from crisis.errors import Error, NotPermitted, Unavailable
from crisis.suite import answer, checks, kit


def raising(error):
    def check():
        raise error

    return check


@pytest.mark.parametrize(
    "error, state, note",
    [
        (Unavailable("cannot count: no PMU. Buy one"), "no", "no PMU. Buy one"),
        (Unavailable("there is no /x: built without Y"), "no", "there is no /x: built without Y"),
        (NotPermitted("cannot read: denied. Run as root"), "unknown", "denied. Run as root"),
        (Error("cannot use DAMON: in use"), "no", "in use"),
        (answer.Unknown("shows when tried"), "unknown", "shows when tried"),
        (
            PermissionError(13, "Permission denied", "/sys/x"),
            "unknown",
            "/sys/x: Permission denied. Run as root",
        ),
        (OSError(5, "Input/output error"), "no", "Input/output error"),
    ],
)
def test_an_error_becomes_an_answer(error, state, note):
    found = answer.answer(raising(error))
    assert (found.state, found.note) == (state, note)


def test_a_bug_is_no_answer():
    with pytest.raises(ZeroDivisionError):
        answer.answer(lambda: 1 / 0)


def test_what_works_has_a_note_or_none():
    assert answer.answer(lambda: "5.5 MB").note == "5.5 MB"
    assert answer.answer(lambda: None).note == ""


def test_only_what_is_wanted_is_tried(monkeypatch):
    monkeypatch.setattr(checks, "CHECKS", {"a": lambda: "x", "b": raising(AssertionError())})
    assert list(checks.answers(["a"])) == ["a"]


def executable(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def look(root, path="/usr/bin", ours=""):
    return {
        name: (found, paths) for name, found, paths in kit.look({"PATH": path}, ours, str(root))
    }


def test_tools_are_found_by_name(tmp_path):
    for name in "ps", "vmstat", "uptime":
        executable(tmp_path / "usr/bin" / name)
    (tmp_path / "usr/bin/top").write_text("not executable")
    found, paths = look(tmp_path)["procps"]
    assert paths["ps"] == "/usr/bin/ps" and paths["top"] is None
    assert (found.state, found.note) == ("no", "no top in PATH. Try: apt install procps")
    executable(tmp_path / "usr/sbin/top")  # a directory that users' PATHs lack
    assert look(tmp_path)["procps"][0].state == "works"


def test_the_names_of_bcc_tools(tmp_path):
    executable(tmp_path / "usr/sbin/execsnoop-bpfcc")
    executable(tmp_path / "usr/share/bcc/tools/opensnoop")
    paths = look(tmp_path)["bpfcc-tools"][1]
    assert paths["execsnoop"] == "/usr/sbin/execsnoop-bpfcc"
    assert paths["opensnoop"] == "/usr/share/bcc/tools/opensnoop"


def test_our_own_nicstat_is_not_the_package(tmp_path):
    executable(tmp_path / "opt/bin/nicstat")
    os.makedirs(tmp_path / "usr/bin")
    os.symlink(tmp_path / "opt/bin/nicstat", tmp_path / "usr/bin/nicstat")
    assert look(tmp_path, ours=str(tmp_path / "opt/bin"))["nicstat"][0].state == "no"
    assert look(tmp_path)["nicstat"][0].state == "works"


@pytest.mark.parametrize(
    "release, family, name, how",
    [
        ('ID=debian\nVERSION_ID="12"', "debian", "linux-perf", "apt install"),
        ("ID=ubuntu\nID_LIKE=debian", "ubuntu", "linux-tools-generic", "apt install"),
        ("ID=fedora", "fedora", "perf", "dnf install"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"', "fedora", "perf", "dnf install"),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"', "opensuse", "linux-perf", "zypper"),
        ("", "", "linux-perf", "apt install"),
    ],
)
def test_packages_have_the_names_of_the_distribution(tmp_path, release, family, name, how):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(release + "\n")
    assert kit.family(str(tmp_path)) == family
    found = look(tmp_path)[name][0]
    assert f"Try: {how}" in found.note and found.note.endswith(name)


def test_a_relative_path_is_not_searched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    executable(tmp_path / "tcpdump")
    assert look("/", ".")["tcpdump"][1]["tcpdump"] != "./tcpdump"


@pytest.mark.parametrize(
    "place",
    [
        "usr/lib/python3/dist-packages/bcc",
        "usr/lib/python3.11/site-packages/bcc",
        "usr/lib64/python3.13/site-packages/bcc",
    ],
)
def test_where_distributions_have_bcc(tmp_path, place):
    from crisis.bpf import compiler

    assert compiler.bcc_directory(str(tmp_path)) is None
    executable(tmp_path / place / "__init__.py")
    assert compiler.bcc_directory(str(tmp_path)) == str(tmp_path / place)
