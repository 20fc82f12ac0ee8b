# SPDX-License-Identifier: GPL-2.0-or-later
"""cpuhot: what limits a CPU."""

from crisis.cpu import thermal
from helpers import load


def test_cpuhot_since_boot_and_between(hybrid):
    command = load("cpuhot")
    probe = command.Probe(hybrid)
    before = probe.read()
    assert command.why(before[0]) == ["core_throttle", "package_throttle"]
    args = command.get_parser().parse_args(["--rows"])
    text = command.render_text(args, None, before).splitlines()
    assert text[0].split() == [
        "CPU",
        "PROCHOT",
        "Celsius",
        "Flags",
        "CORE_THR",
        "CORE_MS",
        "CORE_PL",
        "PKG_THR",
        "PKG_MS",
        "PKG_PL",
        "WHY",
    ]
    assert text[1].split() == [
        "0",
        "100",
        "71",
        "-",
        "3",
        "41",
        "-",
        "7",
        "50",
        "-",
        "core_throttle,package_throttle",
    ]
    path = hybrid + "sys/devices/system/cpu/cpu2/thermal_throttle/"
    for name, value in ("core_throttle_count", 5), ("core_throttle_total_time_ms", 12):
        with open(path + name, "w") as f:
            f.write(f"{value}\n")
    delta = command.between(before, probe.read())
    assert (delta[2]["core_throttle_count"], delta[2]["core_throttle_total_time_ms"]) == (5, 12)
    assert delta[0]["core_throttle_count"] == 0 and delta[0]["core_power_limit_count"] is None
    hot = command.render_text(command.get_parser().parse_args(["--hot"]), 1.0, delta).splitlines()
    assert [line.split()[0] for line in hot[2:] if line] == ["2"]


def test_the_four_lines_of_the_classic():
    """As cpuhot of msr-cloud-tools prints them: single spaces, and CPUs from 1."""
    command = load("cpuhot")
    values = {
        0: {"prochot": 95, "celsius": 77, "flags": 0},
        1: {"prochot": 95, "celsius": 75.4, "flags": 0x803},
        3: {"prochot": None, "celsius": None, "flags": None},
    }
    assert command.render_lines(values) == (
        "- CPU1 CPU2 CPU4\nPROCHOT 95 95 -\nCelsius 77 75 -\nFlags 0x0 0x803 -\n"
    )
    assert command.render_lines(values, aligned=True) == (
        "-       CPU1  CPU2 CPU4\n"
        "PROCHOT   95    95    -\n"
        "Celsius   77    75    -\n"
        "Flags    0x0 0x803    -\n"
    )


def test_a_cpu_that_came_has_no_difference(hybrid):
    command = load("cpuhot")
    after = command.Probe(hybrid).read()
    assert command.between({}, after)[0]["core_throttle_count"] is None


def test_a_cpu_at_its_limit_is_hot():
    command = load("cpuhot")
    blank = dict.fromkeys(thermal.THROTTLE)
    assert command.why(
        dict(blank, flags=0, cooling=0, cooling_max=9, celsius=100, prochot=100)
    ) == ["at_prochot"]
    assert (
        command.why(
            dict(blank, flags=None, cooling=None, cooling_max=None, celsius=None, prochot=100)
        )
        == []
    )


def test_zones_and_cooling_on_arm(arm):
    found = thermal.sensors(arm)
    assert [(s.source, s.label, s.read(), s.cpus, s.limit) for s in found] == [
        ("thermal zone", "cluster0-thermal", 78.5, (0, 1), 85),
        ("thermal zone", "cluster1-thermal", 68.5, (2, 3), 85),
    ]
    assert thermal.cooling(arm) == {0: (3, 12), 1: (3, 12), 2: (0, 12), 3: (0, 12)}
    command = load("cpuhot")
    readings = command.Probe(arm).read()
    assert command.why(readings[1]) == ["cooling_3/12"] and command.why(readings[2]) == []
    assert readings[0]["prochot"] == 85
