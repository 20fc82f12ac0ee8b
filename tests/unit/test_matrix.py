# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests/matrix/run reads from a row's output, and what it says of it."""

import json
import os
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader

import pytest

from helpers import ROOT

WHERE = {
    "kernel": "6.1.0",
    "machine": "x86_64",
    "land": "Debian 13",
    "python": "3.13.5",
    "bcc": "0.31.0",
    "llvm": "19",
}
PROGRAMS = [
    {"program": "runqlat.storage", "state": "ready", "reason": None},
    {"program": "runqlat.raw", "state": "not for this kernel", "reason": "it needs X"},
    {"program": "memleak.kernel", "state": "refused", "reason": "R4 min value | is outside"},
]
OUTPUT = """matrix: %s
matrix: %s
....F [100%%]
=== short test summary info ===
FAILED tests/unit/test_a.py::test_one[x - y] - assert 1 == 2
1 failed, 4 passed in 13.13s
=== short test summary info ===
SKIPPED [2] tests/live/test_b.py:12: no PMU: here
SKIPPED [1] tests/helpers.py:96: cannot attach
ERROR tests/live/test_c.py
ERROR tests/live/test_d.py::test_two
=== 10 passed, 3 skipped, 2 warnings, 2 errors in 125.20s (0:02:05) ===
matrix: {"tests": 1}
"""


@pytest.fixture(scope="module")
def matrix():
    loader = SourceFileLoader("matrix_run", os.path.join(ROOT, "tests/matrix/run"))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def result(matrix, text, row="trixie"):
    counts, failed, skipped = matrix.tests(text)
    return dict(
        matrix.facts(text),
        row=row,
        counts=counts,
        failed=failed,
        skipped=skipped,
        date="2026-01-02",
        last=text.splitlines()[-1],
    )


def output(programs=PROGRAMS):
    return OUTPUT % (json.dumps(WHERE), json.dumps({"warm": 1, "programs": programs}))


def test_counts_and_reasons_of_both_runs(matrix):
    found = result(matrix, output())
    assert {name: found["counts"][name] for name in ("passed", "failed", "skipped")} == {
        "passed": 14,
        "failed": 3,
        "skipped": 3,
    }
    assert found["failed"] == [
        ("tests/unit/test_a.py::test_one[x - y]", "assert 1 == 2"),
        ("tests/live/test_c.py", ""),
        ("tests/live/test_d.py::test_two", ""),
    ]
    assert found["skipped"] == [(2, "no PMU: here"), (1, "cannot attach")]
    # A variant that is not for this kernel is none to be loaded.
    assert matrix.loaded(found) == (1, 2) and matrix.bad(found)


def test_what_counts_as_failed(matrix):
    good = (
        output(PROGRAMS[:2]).replace('"warm": 1', '"warm": 0').replace('"tests": 1', '"tests": 0')
    )
    assert not matrix.bad(result(matrix, good))
    for text in (
        good.replace('"warm": 0', '"warm": 1'),
        good.replace('"tests": 0', '"tests": 1'),
        good[: good.index('matrix: {"tests"')],
    ):
        assert matrix.bad(result(matrix, text))
    # What could not be made ready is reported and does not count.
    absent = result(matrix, "tests/vm/run: guest did not boot: still running\n")
    assert not matrix.bad(absent) and matrix.verdict(absent).startswith(
        "NOT RUN: tests/vm/run: guest did not boot"
    )


def test_tables(matrix, capsys):
    matrix.report(
        [
            result(matrix, output(), "bookworm"),
            result(matrix, output(), "trixie"),
            result(matrix, "no network\n", "6.1"),
        ],
        skips=True,
    )
    lines = capsys.readouterr().out.splitlines()
    compiler = "bcc 0.31.0, LLVM 19, Python 3.13.5"
    assert (
        f"| trixie | 6.1.0 | Debian 13 | {compiler} | 1 of 2 | 14 | 3 | 3 | 2026-01-02 |" in lines
    )
    assert (
        "| memleak | bookworm, trixie | `memleak.kernel` refused: R4 min value \\| is outside |"
        in lines
    )
    assert "| a | bookworm, trixie | test `test_one[x - y]`: assert 1 == 2 |" in lines
    assert "6.1 was not run: no network" in lines
    assert "| bookworm, trixie | no PMU: here |" in lines
