# SPDX-License-Identifier: GPL-2.0-or-later
"""What the PMC commands would open on machines that are not here."""

import os

import pytest

from crisis.errors import Unavailable
from crisis.perf.event import TYPE_HARDWARE, TYPE_HW_CACHE
from crisis.pmu import plan
from crisis.pmu.codes import RISCV
from helpers import load

CLUSTERS = {
    name: load(name).CLUSTERS for name in ("pmcarch", "cpucache", "icache", "tlbstat", "resstalls")
}


def codes(found, counter):
    flat = [event for cluster in found.clusters for event in cluster]
    return [(flat[i].type, flat[i].config) for i, _ in found.parts.get(counter, ())]


def test_risc_v_counts_by_the_kernels_own_events(pmu_tree):
    root = pmu_tree("riscv")
    (core,), unknown = plan.plan(CLUSTERS["tlbstat"], root)
    assert (core.kind, unknown) == (RISCV, [])
    assert codes(core, "cycles") == [(TYPE_HARDWARE, 0)]
    assert codes(core, "dtlb_walks") == [(TYPE_HW_CACHE, 0x10003), (TYPE_HW_CACHE, 0x10103)]
    assert (
        codes(core, "itlb_walks") == [(TYPE_HW_CACHE, 0x10004)] and "dtlb_cycles" not in core.parts
    )


def test_hybrid_intel_has_a_plan_for_each_kind_of_core(pmu_tree):
    root = pmu_tree("alderlake")
    assert plan.core_pmus(root) == [
        ("cpu_atom", 10, list(range(16, 24))),
        ("cpu_core", 4, list(range(16))),
    ]
    (atom, core), unknown = plan.plan(CLUSTERS["cpucache"], root)
    assert (atom.kind, core.kind, unknown) == ("Gracemont", "Golden Cove", [])
    assert codes(core, "cycles") == [(4, 0x3C)] and codes(atom, "cycles") == [(10, 0x3C)]
    assert codes(core, "l2_refs") == [(4, 0xFF24)] and codes(atom, "l2_refs") == [(10, 0x24)]
    (atom, core), _ = plan.plan(CLUSTERS["icache"], root)
    flat = [event for cluster in core.clusters for event in cluster]
    ((index, _),) = core.parts["l1i_misses"]
    assert (flat[index].config, flat[index].config1) == (0x1C6, 0x12)
    assert codes(atom, "l1i_misses") == [(10, 0x280)] and "l2i_hits" not in atom.parts
    (atom, core), _ = plan.plan(CLUSTERS["resstalls"], root)
    assert atom.clusters == [] and sorted(core.parts) == ["stalls_other", "stalls_store"]


def test_zen4_counts_the_last_level_at_its_own_pmu(pmu_tree):
    root = pmu_tree("zen4")
    (core, l3), unknown = plan.plan(CLUSTERS["pmcarch"], root)
    assert (core.kind, unknown, core.cpus) == ("Zen 4", [], None)
    assert codes(core, "branch_misses") == [(4, 0xC3)] and "llc_refs" not in core.parts
    assert l3.pmu == "amd_l3" and l3.cpus == list(range(0, 32, 4))
    assert codes(l3, "llc_refs") == [(14, 0xFF04)] and codes(l3, "llc_misses") == [(14, 0x104)]
    plans, _ = plan.plan(CLUSTERS["pmcarch"], root, shared_l3=False)
    assert len(plans) == 1
    (core, _), _ = plan.plan(CLUSTERS["icache"], root)
    assert codes(core, "l1i_misses") == [(4, 0x10000188E)]
    (core,) = plan.plan(CLUSTERS["resstalls"], root)[0]
    assert codes(core, "stalls") == [(4, 0x100001EA0)]
    assert [divisor for _, divisor in core.parts["stalls"]] == [6]


def test_graviton_counts_what_its_pmu_lists(pmu_tree):
    root = pmu_tree("graviton3")
    (only,), unknown = plan.plan(CLUSTERS["pmcarch"], root)
    assert (only.kind, unknown) == ("Neoverse V1", []) and codes(only, "llc_misses") == [(8, 0x37)]
    assert codes(plan.plan(CLUSTERS["resstalls"], root)[0][0], "stalls_memory") == [(8, 0x4005)]
    os.unlink(root + "sys/bus/event_source/devices/armv8_pmuv3_0/events/ll_cache_miss_rd")
    (only,), _ = plan.plan(CLUSTERS["pmcarch"], root)
    assert "llc_misses" not in only.parts and codes(only, "llc_refs") == [(8, 0x36)]


def test_guest_without_the_last_level_events(pmu_tree):
    (only,), unknown = plan.plan(CLUSTERS["pmcarch"], pmu_tree("skylake-guest"))
    assert (only.kind, unknown) == ("Skylake", [])
    assert sorted(only.parts) == ["branch_misses", "branches", "cycles", "instructions"]


def test_unknown_cpu_counts_the_generic_events(pmu_tree):
    root = pmu_tree("unknown")
    (only,), unknown = plan.plan(CLUSTERS["pmcarch"], root)
    assert unknown == ["cpu"] and only.kind is None
    assert [
        codes(only, name)
        for name in ("cycles", "instructions", "branches", "branch_misses", "llc_refs")
    ] == [[(0, 0)], [(0, 1)], [(0, 4)], [(0, 5)], []]


def test_no_pmu(pmu_tree):
    with pytest.raises(Unavailable, match="no hardware PMU.*Clouds"):
        plan.plan(CLUSTERS["pmcarch"], pmu_tree("no-pmu"))


def test_bits_that_the_pmu_does_not_name_are_not_opened(pmu_tree):
    root = pmu_tree("alderlake")
    os.unlink(root + "sys/bus/event_source/devices/cpu_core/format/frontend")
    (_, core), _ = plan.plan(CLUSTERS["icache"], root)
    assert "l1i_misses" not in core.parts and "l2i_hits" in core.parts
