# SPDX-License-Identifier: GPL-2.0-or-later
"""How the PMC commands print what they read, and their usage errors."""

import argparse
import json
import os

import pytest

from crisis import cli
from crisis.pmu import columns
from helpers import load, run

COMMANDS = ("pmcarch", "cpucache", "icache", "tlbstat", "resstalls")


class Counted:
    """A session of nothing, for the Printer."""

    several = False
    sources = ()

    def counted(self, counter):
        return counter != "stalls_memory" and counter != "stalls_frontend"


FULL = 10**9, 10**9


def printed(monkeypatch, name, reports, total=False):
    written = []
    monkeypatch.setattr(cli, "out", written.append)
    printer = columns.Printer(
        argparse.Namespace(json=False, per=None, total=total), Counted(), load(name).COLUMNS
    )
    for row in reports:
        printer.report(1.0, {(None, None): row})
    printer.finish()
    return "".join(written)


def test_classic_columns_of_pmcarch(monkeypatch):
    row = {
        "cycles": (2_000_000_400,) + FULL,
        "instructions": (1_000_000_000,) + FULL,
        "branches": (1000,) + FULL,
        "branch_misses": (25,) + FULL,
        "llc_refs": (200,) + FULL,
        "llc_misses": (20,) + FULL,
    }
    assert printed(monkeypatch, "pmcarch", [row]).splitlines() == [
        "K_CYCLES   K_INSTR      IPC BR_RETIRED   BR_MISPRED  BMR% LLCREF      LLCMISS     LLC%",
        "2000000    1000000     0.50 1000         25          2.50 200         20         90.00",
    ]


def test_unknown_counts_are_dashes_and_multiplexing_is_shown(monkeypatch):
    row = {
        "cycles": (5000,) + FULL,
        "instructions": (4000,) + FULL,
        "branches": (1000, 10, 5),
        "branch_misses": (None, 10, 0),
        "llc_refs": (0,) + FULL,
        "llc_misses": (0,) + FULL,
    }
    lines = printed(monkeypatch, "pmcarch", [row]).splitlines()
    assert lines[0].endswith("  LLC%  %RUN") and lines[1].split() == [
        "5",
        "4",
        "0.80",
        "1000",
        "-",
        "-",
        "0",
        "0",
        "-",
        "0.0",
    ]


def test_total_adds_counts_and_not_ratios(monkeypatch):
    one = {"cycles": (1000,) + FULL, "instructions": (1000,) + FULL}
    two = {"cycles": (3000,) + FULL, "instructions": (1000,) + FULL}
    lines = printed(monkeypatch, "tlbstat", [one, two], total=True).splitlines()
    assert lines[3:5] == ["", "Total of 2.0 s:"] and lines[6].split()[:3] == ["4", "2", "0.50"]


@pytest.mark.parametrize("terminal", [False, True])
def test_total_of_several_rows_on_a_terminal_only(monkeypatch, terminal):
    """A script reads what follows the header as rows of intervals, as the classic prints them."""
    row = {"cycles": (1000,) + FULL, "instructions": (1000,) + FULL}
    monkeypatch.setattr(os, "isatty", lambda fd: terminal)
    assert ("Total" in printed(monkeypatch, "tlbstat", [row, row])) == terminal
    assert len(printed(monkeypatch, "tlbstat", [row]).splitlines()) == 2
    assert "Total of 1.0 s:" in printed(monkeypatch, "tlbstat", [row], total=True)


@pytest.mark.parametrize("terminal", [False, True])
def test_header_above_each_25th_row_as_the_classic_has_it(monkeypatch, terminal):
    """As the awk program of pmc-cloud-tools counts: the second header above row 25, the third
    above row 50.
    """
    row = {"cycles": (1000,) + FULL, "instructions": (1000,) + FULL}
    monkeypatch.setattr(os, "isatty", lambda fd: terminal)
    lines = printed(monkeypatch, "tlbstat", [row] * 60).splitlines()[:63]
    headers = [number for number, line in enumerate(lines) if line.startswith("K_CYCLES")]
    assert headers == [0, 25, 51]


def test_resstalls_sums_what_the_cpu_has(monkeypatch):
    row = {
        "stalls": (9_000_000,) + FULL,
        "stalls_rs": (2_000_000,) + FULL,
        "stalls_store": (5_000_000,) + FULL,
    }
    lines = printed(monkeypatch, "resstalls", [row]).splitlines()
    assert (
        lines[0]
        == "     ALL     LOAD     PIPE    STORE      ROB    FLOAT    MXCSR    OTHER      SUM"
    )
    assert (
        lines[1]
        == "     9.0        -      2.0      5.0        -        -        -        -      7.0"
    )
    row["stalls_rs"] = (None, 5, 0)  # it has the counter, but nothing was counted
    assert printed(monkeypatch, "resstalls", [row]).splitlines()[1].split()[8] == "-"


def test_resstalls_on_arm_fits_into_80_columns(monkeypatch):
    """The three columns that ARM has, instead of the classic's nine and two more."""
    has = "stalls", "stalls_frontend", "stalls_memory"
    monkeypatch.setattr(Counted, "counted", lambda self, counter: counter in has)
    row = {name: (2_000_000 * n,) + FULL for n, name in enumerate(has, 1)}
    assert printed(monkeypatch, "resstalls", [row]).splitlines() == [
        "     ALL    FRONT      MEM",
        "     2.0      4.0      6.0",
    ]


def test_json_keys_are_documented_and_null_for_unknown(monkeypatch):
    for name in COMMANDS:
        written = []
        monkeypatch.setattr(cli, "out", written.append)
        printer = columns.Printer(
            argparse.Namespace(json=True, per=None), Counted(), load(name).COLUMNS
        )
        printer.report(1.0, {(None, None): {"cycles": (1500.7,) + FULL}})
        record = json.loads("".join(written))
        page = (
            open(os.path.join(os.path.dirname(__file__), f"../../man/{name}.1"))
            .read()
            .partition(".SH JSON")[2]
        )
        assert record["record"] == "interval" and record["run_ratio"] == 1
        for key, value in record.items():
            assert key in page, (name, key)
            if key not in ("time", "record", "seconds", "run_ratio", "cycles"):
                assert value is None
        if "cycles" in record:
            assert record["cycles"] == 1501


@pytest.mark.parametrize("name", COMMANDS)
def test_usage_errors(name):
    for arguments in (
        ["-C", "x"],
        ["-C", ""],
        ["--per-cpu", "-p", "1"],
        ["--per-core", "-c", "true"],
        ["0"],
        ["1", "-1"],
        ["-p", "0"],
        ["-p", "1", "-C", "0"],
        ["--per-cpu", "--per-core"],
        ["-c", "/"],
        ["-C", "3-1"],
        ["-C", "1\x1b[31m"],
    ):
        result = run(name, *arguments)
        assert result.returncode == 2 and result.stdout == "", arguments
        assert (
            result.stderr.count("\n") == 1
            and result.stderr.startswith(name + ": ")
            and "\x1b" not in result.stderr
        )
