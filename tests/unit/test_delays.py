# SPDX-License-Identifier: GPL-2.0-or-later
"""delays: struct taskstats in all its layouts, and the report, on made-up data."""

import json
from argparse import Namespace

import pytest

from crisis.net import taskstats
from helpers import load, run

delays = load("delays")


def test_what_was_never_kept_is_not_zero(tmp_path):
    zeros = dict.fromkeys(taskstats.DELAYS, (0, 0))
    account = dict(zeros, cpu=(5, 500), wpcopy=(3, 30))
    assert delays.known(account, True, True) == account
    assert delays.known(account, True, False) == dict(account, irq=(None, None))
    for accounts, on in (account, False), (dict(zeros, cpu=(5, 500)), True):
        found = delays.known(accounts, on, True)
        assert found.pop("cpu") == (5, 500) and set(found.values()) == {(None, None)}
    old = dict(zeros, wpcopy=(None, None))  # before Linux 5.19
    assert delays.known(old, True, True) == old
    assert taskstats.switched_on(str(tmp_path)) and delays.irq_kept(str(tmp_path))
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/pressure").mkdir()
    (tmp_path / "proc/sys/kernel/task_delayacct").write_text("0\n")
    assert not taskstats.switched_on(str(tmp_path)) and not delays.irq_kept(str(tmp_path))


def test_difference_order_and_average():
    before = {"cpu": (1, 100), "blkio": (None, None), "irq": (5, 50)}
    after = {"cpu": (3, 400), "blkio": (2, 20), "irq": (4, 60)}
    assert delays.difference(before, after) == {
        "cpu": (2, 300),
        "blkio": (None, None),
        "irq": (None, 10),
    }
    assert (
        delays.average(2, 3000) == 1.5
        and delays.average(0, 0) is None
        and delays.average(3, None) is None
    )
    rows = [
        (1, "a", {"cpu": (1, 5), "irq": (None, None)}),
        (2, "b", {"cpu": (1, 9)}),
        (3, "c", {"cpu": (0, 0)}),
    ]
    assert [row[0] for row in delays.longest(rows, 5)] == [2, 1] and len(
        delays.longest(rows, 1)
    ) == 1


def test_report():
    values = {name: (index + 1, 1000 * (index + 1)) for index, name in enumerate(taskstats.DELAYS)}
    accounts = dict(values, blkio=(None, None), swapin=(0, 0), cpu=(4, 2500000))
    rows = [(7, "a\x1b\n", accounts)]
    args = Namespace(json=False, average=False, timestamp=False)
    head, line = delays.render(args, 1.0, rows, {}).splitlines()
    assert head.split() == [
        "CPU(ms)",
        "BLKIO(ms)",
        "SWAPIN(ms)",
        "RECLAIM(ms)",
        "THRASH(ms)",
        "COMPACT(ms)",
        "WPCOPY(ms)",
        "IRQ(ms)",
        "PID",
        "COMM",
    ]
    assert line.split()[:3] == ["2.5", "-", "0.0"] and line.endswith(r"7 a\x1b\x0a")
    args.average = True
    assert delays.render(args, 1.0, rows, {}).splitlines()[1].split()[:3] == ["625.0", "-", "-"]
    args.json = True
    found = json.loads(delays.render(args, 1.0, rows, {"ended": 2}))
    assert (
        found["cpu_count"] == 4 and found["cpu_avg_us"] == 625 and found["blkio_total_ns"] is None
    )
    assert (
        found["swapin_avg_us"] is None and found["lost"] == {"ended": 2} and len(found) == 6 + 3 * 8
    )


@pytest.mark.parametrize(
    "words", [["0"], ["x"], ["1", "0"], ["-p", "0"], ["-p", "1,x"], ["--top", "0"], ["1", "2", "3"]]
)
def test_usage_errors(words):
    result = run("delays", *words)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
