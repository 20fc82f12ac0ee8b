# SPDX-License-Identifier: GPL-2.0-or-later
"""psi: its arithmetic and its report, on made-up files."""

import json
from argparse import Namespace

import pytest
from helpers import load, run

psi = load("psi")
CPU = b"some avg10=1.50 avg60=2.00 avg300=0.30 total=1000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
IRQ = b"full avg10=0.00 avg60=0.00 avg300=0.00 total=55\n"


def test_parse():
    assert psi.parse(CPU) == {"some": 1000, "full": 7} and psi.parse(IRQ) == {"full": 55}


def test_snapshot_takes_what_there_is(tmp_path):
    directory = tmp_path / "proc/pressure"
    directory.mkdir(parents=True)
    (directory / "cpu").write_bytes(CPU)
    found = psi.snapshot(psi.system_paths(str(tmp_path)))
    assert {key: value[0] for key, value in found.items()} == {("cpu", "some"): 1000, ("cpu", "full"): 7}
    (directory / "cpu").unlink()
    with pytest.raises(FileNotFoundError):
        psi.snapshot(psi.system_paths(str(tmp_path)))


def test_difference():
    key = "memory", "full"
    assert psi.difference({key: (1000, 0)}, {key: (251000, 10**9)}) == {key: (250000, .25)}
    assert psi.difference({key: (1000, 0)}, {key: (999, 10**9)}) == {}
    assert psi.difference({}, {key: (999, 10**9)}) == {} == psi.difference({key: (9, 5)}, {key: (9, 5)})


def arguments(**kwargs):
    return Namespace(**dict({"json": False, "timestamp": False, "cgroup": None, "by_cgroup": False}, **kwargs))


def test_text():
    values = {("cpu", "some"): (500000, .5), ("memory", "some"): (0, 0.0), ("io", "full"): (12345, .012345)}
    assert psi.render(arguments(), 1.0, [("system", None, values)], 0, True) == (
        "CPU_SOME% CPU_FULL% MEM_SOME% MEM_FULL%  IO_SOME%  IO_FULL% IRQ_FULL%\n"
        "    50.00         -      0.00         -         -      1.23         -\n")
    text = psi.render(arguments(by_cgroup=True), 1.0, [("cgroup", "/a\x1b[1m\n", values)], 0, False)
    assert text.endswith(r" /a\x1b[1m\x0a" + "\n") and text.startswith("\n    50.00")


def test_json():
    values = {("cpu", "some"): (500000, .5)}
    found = json.loads(psi.render(arguments(json=True), 1.0, [("cgroup", "/a\n", values)], 3, True))
    assert found["cpu_some_us"] == 500000 and found["cpu_some_ratio"] == .5 and found["io_full_us"] is None
    assert found["cgroup"] == "/a\n" and found["lost"] == {"removed": 3} and found["record"] == "cgroup"
    assert len(found) == 4 + 1 + 2 * len(psi.SHARES)


@pytest.mark.parametrize("words", [["0"], ["x"], ["1", "0"],
                                   ["-c", "/", "--by-cgroup"], ["--top", "0"], ["1", "2", "3"]])
def test_usage_errors(words):
    result = run("psi", *words)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
