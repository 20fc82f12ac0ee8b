# SPDX-License-Identifier: GPL-2.0-or-later
"""cputemp: its columns on machines that are not here."""

import os

import pytest

from crisis import cli
from crisis.cpu import thermal
from crisis.kernel.sysfs import cpu_list
from helpers import load


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


@pytest.mark.parametrize(
    "online, titles", [("0", ["CPU1"]), ("0-1", ["CPU1", "CPU2"]), ("5", ["CPU6"])]
)
def test_cputemp_columns_of_one_core_online(hybrid, online, titles):
    """One CPU, both threads of a core, and not the first CPU: a column for each CPU, as with more
    of them.
    """
    write(hybrid + "sys/devices/system/cpu/online", online + "\n")
    reading = load("cputemp").Reading(thermal.sensors(hybrid), cpu_list(online))
    assert [title for title, _ in reading.columns] == titles
    assert [value for _, value in reading.columns] == [58 if online == "5" else 71] * len(titles)


def test_cputemp_columns_of_one_cpu_with_a_zone_of_its_own(tmp_path):
    root = str(tmp_path) + "/"
    for name, text in {
        "sys/devices/system/cpu/online": "0",
        "sys/class/thermal/thermal_zone0/type": "cpu0-thermal",
        "sys/class/thermal/thermal_zone0/temp": "43000",
    }.items():
        os.makedirs(os.path.dirname(root + name), exist_ok=True)
        write(root + name, text + "\n")
    assert load("cputemp").Reading(thermal.sensors(root), [0]).columns == [("CPU1", 43)]


def test_cputemp_columns_of_one_cpu_of_a_package_with_one_sensor(zen4):
    """Tctl is the package's, however many CPUs are online: the driver's names stay."""
    write(zen4 + "sys/devices/system/cpu/online", "0\n")
    titles = [title for title, _ in load("cputemp").Reading(thermal.sensors(zen4), [0]).columns]
    assert not any("CPU" in title for title in titles) and any("Tctl" in title for title in titles)


def test_a_sensor_without_a_value(hybrid):
    os.remove(hybrid + "sys/class/hwmon/hwmon2/temp10_input")
    os.symlink("/nonexistent", hybrid + "sys/class/hwmon/hwmon2/temp10_input")
    reading = load("cputemp").Reading(thermal.sensors(hybrid), range(8))
    assert dict(reading.columns)["CPU5"] is None and dict(reading.columns)["CPU6"] == 58
    assert (
        reading.average == pytest.approx((71 + 71 + 64 + 64 + 58 + 57 + 59) / 7)
        and reading.most == 71
    )


def test_cputemp_columns_of_cores(hybrid):
    command = load("cputemp")
    args = command.get_parser().parse_args([])
    reading = command.Reading(thermal.sensors(hybrid), range(8))
    assert command.cells(args, None, reading) == [
        (f"CPU{n}", f"{value}") for n, value in enumerate((71, 71, 64, 64, 58, 58, 57, 59), 1)
    ]
    assert "Core_4" not in dict(reading.columns)


def test_k10temp_by_package(zen4):
    found = thermal.sensors(zen4)
    assert [(s.name(), s.read()) for s in found][:3] == [
        ("P0:Tctl", 62.125),
        ("P0:Tccd1", 55.25),
        ("P0:Tccd3", 53.5),
    ]
    nearest = thermal.best(found, range(4))
    assert [nearest[cpu].read() for cpu in range(4)] == [62.125, 62.125, 63.125, 63.125]
    command = load("cputemp")
    reading = command.Reading(found, range(4))
    # No sensor of a CPU alone: the columns are the sensors, by package.
    assert [title for title, _ in reading.columns][::3] == ["P0:Tctl", "P1:Tctl"] and len(
        reading.columns
    ) == 6
    assert reading.average == 62.625


def test_parsers_take_an_interval_or_none():
    assert load("cputemp").get_parser().parse_args([]).interval is None
    assert load("showboost").get_parser().parse_args([]).interval == 1
    assert "one report now" in cli.parser("x", every=0).format_help()


def test_a_hostile_label_stays_text(zen4):
    with open(zen4 + "sys/class/hwmon/hwmon0/temp3_label", "w") as f:
        f.write("\x1b[31m T\n")
    command = load("cputemp")
    args = command.get_parser().parse_args([])
    reading = command.Reading(thermal.sensors(zen4), range(4))
    shown = command.render_list(reading) + " ".join(
        title for title, _ in command.cells(args, None, reading)
    )
    assert "\x1b" not in shown and "\\x1b[31m" in shown
    assert command.render_json(None, None, reading).isascii()
