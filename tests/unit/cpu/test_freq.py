# SPDX-License-Identifier: GPL-2.0-or-later
"""Clock limits, turbo and CPPC."""

from crisis.cpu import freq


def test_cpufreq_and_boost(hybrid):
    assert freq.cpufreq(4, hybrid) == {
        "base": 1600,
        "now": 3391,
        "min": 800,
        "max": 3600,
        "top": 3600,
    }
    assert freq.boost(hybrid) is True
    with open(hybrid + "sys/devices/system/cpu/intel_pstate/no_turbo", "w") as f:
        f.write("1")
    assert freq.boost(hybrid) is False
    assert freq.cpufreq(99, hybrid) == {}
