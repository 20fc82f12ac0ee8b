# SPDX-License-Identifier: GPL-2.0-or-later
"""Temperatures, throttle counts and cooling of machines that are not here."""

import os

from crisis.cpu import thermal


def test_cores_of_coretemp_by_threads(hybrid):
    found = thermal.sensors(hybrid)
    assert {s.source for s in found} == {"coretemp"}  # the zone of the same package adds nothing
    nearest = thermal.best(found, range(8))
    assert [nearest[cpu].read() for cpu in range(8)] == [71, 71, 64, 64, 58, 58, 57, 59]
    assert {s.limit for s in nearest.values()} == {100}
    package = [s for s in found if s.rank == 2]
    assert len(package) == 1 and package[0].cpus == tuple(range(8)) and package[0].package == 0


def test_coretemp_without_its_module_leaves_the_zone(hybrid):
    os.remove(hybrid + "sys/class/hwmon/hwmon2")
    found = thermal.sensors(hybrid)
    assert [(s.label, s.read(), s.cpus) for s in found] == [("x86_pkg_temp", 71, tuple(range(8)))]


def test_tdie_before_tctl(zen4):
    base = zen4 + "sys/class/hwmon/hwmon0/"
    for name, content in ("temp2_label", "Tdie"), ("temp2_input", "35125"):
        with open(base + name, "w") as f:
            f.write(content)
    assert thermal.best(thermal.sensors(zen4), [0])[0].read() == 35.125


def test_throttle_counts(hybrid):
    counts = thermal.throttle_counts(hybrid)
    assert counts[0]["core_throttle_count"] == 3 and counts[2]["core_throttle_count"] == 0
    assert (
        counts[7]["package_throttle_total_time_ms"] == 50
        and counts[7]["core_power_limit_count"] is None
    )


def test_amd_has_no_throttle_counts(zen4):
    assert thermal.throttle_counts(zen4) == {}
