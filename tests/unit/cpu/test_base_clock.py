# SPDX-License-Identifier: GPL-2.0-or-later
"""Base and turbo clocks."""

from crisis.cpu import base_clock, info


def test_base_of_each_core_type(hybrid):
    processor = info.identify(hybrid)
    assert base_clock.base_clocks(0, processor, None, hybrid) == [("cpufreq base_frequency", 2100)]
    assert base_clock.base_clocks(4, processor, None, hybrid) == [("cpufreq base_frequency", 1600)]


class Registers:
    """What msr.Registers would read."""

    def __init__(self, values):
        self.values = values

    def read(self, cpu, address):
        return self.values.get(address)


def test_turbo_of_each_core_type(hybrid):
    registers = Registers({0x1AD: 0x2F2F2F3031, 0x650: 0x2424242426})
    processor = info.identify(hybrid)
    assert base_clock.turbo_steps(0, processor, registers, 2100, hybrid)[-1] == (1, 4900)
    assert base_clock.turbo_steps(4, processor, registers, 1600, hybrid)[-1] == (1, 3800)
