# SPDX-License-Identifier: GPL-2.0-or-later
"""PMUs in sysfs, on machines that are not here."""

import pytest

from crisis.errors import Unavailable
from crisis.perf import event_source
from crisis.pmu import codes


def test_sysfs_terms(pmu_tree):
    base = pmu_tree("zen4") + "sys/bus/event_source/devices"
    event = event_source.named_event("cpu", "cache-misses", base)
    assert (event.type, event.config) == (4, 0x964)
    assert event_source.format_bits("cpu", base)["config"] == 0xFFF84FFFF
    for pmu, name in ("cpu", "nonsense"), ("nonsense", "cpu-cycles"):
        with pytest.raises(Unavailable):
            event_source.named_event(pmu, name, base)
    # Where sysfs names an event, it has the code of the table.
    for name, counter in (
        ("cpu-cycles", "cycles"),
        ("instructions", "instructions"),
        ("branch-instructions", "branches"),
        ("branch-misses", "branch_misses"),
    ):
        assert (
            event_source.named_event("cpu", name, base).config
            == codes.table("Zen 4")[counter][0].code
        )
    base = pmu_tree("graviton3") + "sys/bus/event_source/devices"
    for found in codes.table("Neoverse V1").values():
        for code in found:
            assert (
                event_source.named_event("armv8_pmuv3_0", code.name.lower(), base).config
                == code.code
            )
    base = pmu_tree("alderlake") + "sys/bus/event_source/devices"
    for name, counter in ("cache-references", "llc_refs"), ("cache-misses", "llc_misses"):
        assert (
            event_source.named_event("cpu_core", name, base).config
            == codes.table("Golden Cove")[counter][0].code
        )
