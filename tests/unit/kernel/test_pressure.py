# SPDX-License-Identifier: GPL-2.0-or-later
"""Pressure files, and readings at two instants."""

import pytest

from crisis.kernel import pressure

CPU = (
    b"some avg10=1.50 avg60=2.00 avg300=0.30 total=1000\nfull avg10=0.00 avg60=0.00 "
    b"avg300=0.00 total=7\n"
)
IRQ = b"full avg10=0.00 avg60=0.00 avg300=0.00 total=55\n"


def test_parse():
    assert pressure.parse(CPU) == {"some": 1000, "full": 7} and pressure.parse(IRQ) == {"full": 55}


def test_snapshot_takes_what_there_is(tmp_path):
    directory = tmp_path / "proc/pressure"
    directory.mkdir(parents=True)
    (directory / "cpu").write_bytes(CPU)
    found = pressure.read_files(pressure.system_files(str(tmp_path)))
    assert {key: value[0] for key, value in found.items()} == {
        ("cpu", "some"): 1000,
        ("cpu", "full"): 7,
    }
    (directory / "cpu").unlink()
    with pytest.raises(FileNotFoundError):
        pressure.read_files(pressure.system_files(str(tmp_path)))


def test_difference():
    key = "memory", "full"
    assert pressure.difference({key: (1000, 0)}, {key: (251000, 10**9)}) == {key: (250000, 0.25)}
    assert pressure.difference({key: (1000, 0)}, {key: (999, 10**9)}) == {}
    assert (
        pressure.difference({}, {key: (999, 10**9)})
        == {}
        == pressure.difference({key: (9, 5)}, {key: (9, 5)})
    )
