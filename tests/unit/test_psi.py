# SPDX-License-Identifier: GPL-2.0-or-later
"""psi: its arithmetic and its report, on made-up files."""

import json
from argparse import Namespace

import pytest

from crisis.kernel import pressure
from helpers import load, run

psi = load("psi")


def arguments(**kwargs):
    return Namespace(
        **dict({"json": False, "timestamp": False, "cgroup": None, "by_cgroup": False}, **kwargs)
    )


def test_text():
    values = {
        ("cpu", "some"): (500000, 0.5),
        ("memory", "some"): (0, 0.0),
        ("io", "full"): (12345, 0.012345),
    }
    assert psi.render_text(arguments(), [psi.Row(None, values)], True) == (
        "CPU_SOME% CPU_FULL% MEM_SOME% MEM_FULL%  IO_SOME%  IO_FULL% IRQ_FULL%\n"
        "    50.00         -      0.00         -         -      1.23         -\n"
    )
    text = psi.render_text(arguments(by_cgroup=True), [psi.Row("/a\x1b[1m\n", values)], False)
    assert text.endswith(r" /a\x1b[1m\x0a" + "\n") and text.startswith("\n    50.00")


def test_json():
    values = {("cpu", "some"): (500000, 0.5)}
    found = json.loads(psi.render_json(1.0, [psi.Row("/a\n", values)], 3))
    assert (
        found["cpu_some_us"] == 500000
        and found["cpu_some_ratio"] == 0.5
        and found["io_full_us"] is None
    )
    assert (
        found["cgroup"] == "/a\n"
        and found["lost"] == {"removed": 3}
        and found["record"] == "cgroup"
    )
    assert len(found) == 4 + 1 + 2 * len(pressure.KEYS)


@pytest.mark.parametrize(
    "words", [["0"], ["x"], ["1", "0"], ["-c", "/", "--by-cgroup"], ["--top", "0"], ["1", "2", "3"]]
)
def test_usage_errors(words):
    result = run("psi", *words)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
