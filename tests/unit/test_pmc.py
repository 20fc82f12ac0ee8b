# SPDX-License-Identifier: GPL-2.0-or-later
"""What the PMC commands would open on machines that are not here, and how they print what they read."""

import argparse
import json
import os

import pytest
from crisis import cli, events, pmc
from crisis.errors import Unavailable, Usage
from crisis.perf.event import TYPE_HARDWARE, TYPE_HW_CACHE
from helpers import fixture_tree, load, run

COMMANDS = ("pmcarch", "cpucache", "icache", "tlbstat", "resstalls")
CLUSTERS = {name: load(name).CLUSTERS for name in COMMANDS}


@pytest.fixture
def tree(tmp_path):
    return lambda name: fixture_tree("pmu-" + name, tmp_path / name)


def codes(plan, counter):
    flat = [event for cluster in plan.clusters for event in cluster]
    return [(flat[i].type, flat[i].config) for i, _ in plan.parts.get(counter, ())]


def test_risc_v_counts_by_the_kernels_own_events(tree):
    root = tree("riscv")
    (core,), unknown = pmc.plan(CLUSTERS["tlbstat"], root)
    assert (core.kind, unknown) == (events.RISCV, [])
    assert codes(core, "cycles") == [(TYPE_HARDWARE, 0)]
    assert codes(core, "dtlb_walks") == [(TYPE_HW_CACHE, 0x10003), (TYPE_HW_CACHE, 0x10103)]
    assert codes(core, "itlb_walks") == [(TYPE_HW_CACHE, 0x10004)] and "dtlb_cycles" not in core.parts


def test_hybrid_intel_has_a_plan_for_each_kind_of_core(tree):
    root = tree("alderlake")
    assert pmc.core_pmus(root) == [("cpu_atom", 10, list(range(16, 24))), ("cpu_core", 4, list(range(16)))]
    (atom, core), unknown = pmc.plan(CLUSTERS["cpucache"], root)
    assert (atom.kind, core.kind, unknown) == ("Gracemont", "Golden Cove", [])
    assert codes(core, "cycles") == [(4, 0x3c)] and codes(atom, "cycles") == [(10, 0x3c)]
    assert codes(core, "l2_refs") == [(4, 0xff24)] and codes(atom, "l2_refs") == [(10, 0x24)]
    (atom, core), _ = pmc.plan(CLUSTERS["icache"], root)
    flat = [event for cluster in core.clusters for event in cluster]
    (index, _), = core.parts["l1i_misses"]
    assert (flat[index].config, flat[index].config1) == (0x1c6, 0x12)
    assert codes(atom, "l1i_misses") == [(10, 0x280)] and "l2i_hits" not in atom.parts
    (atom, core), _ = pmc.plan(CLUSTERS["resstalls"], root)
    assert atom.clusters == [] and sorted(core.parts) == ["stalls_other", "stalls_store"]


def test_zen4_counts_the_last_level_at_its_own_pmu(tree):
    root = tree("zen4")
    (core, l3), unknown = pmc.plan(CLUSTERS["pmcarch"], root)
    assert (core.kind, unknown, core.cpus) == ("Zen 4", [], None)
    assert codes(core, "branch_misses") == [(4, 0xc3)] and "llc_refs" not in core.parts
    assert l3.pmu == "amd_l3" and l3.cpus == list(range(0, 32, 4))
    assert codes(l3, "llc_refs") == [(14, 0xff04)] and codes(l3, "llc_misses") == [(14, 0x104)]
    plans, _ = pmc.plan(CLUSTERS["pmcarch"], root, shared_l3=False)
    assert len(plans) == 1
    (core, _), _ = pmc.plan(CLUSTERS["icache"], root)
    assert codes(core, "l1i_misses") == [(4, 0x10000188e)]
    core, = pmc.plan(CLUSTERS["resstalls"], root)[0]
    assert codes(core, "stalls") == [(4, 0x100001ea0)]
    assert [divisor for _, divisor in core.parts["stalls"]] == [6]


def test_graviton_counts_what_its_pmu_lists(tree):
    root = tree("graviton3")
    (plan,), unknown = pmc.plan(CLUSTERS["pmcarch"], root)
    assert (plan.kind, unknown) == ("Neoverse V1", []) and codes(plan, "llc_misses") == [(8, 0x37)]
    assert codes(pmc.plan(CLUSTERS["resstalls"], root)[0][0], "stalls_memory") == [(8, 0x4005)]
    os.unlink(root + "sys/bus/event_source/devices/armv8_pmuv3_0/events/ll_cache_miss_rd")
    (plan,), _ = pmc.plan(CLUSTERS["pmcarch"], root)
    assert "llc_misses" not in plan.parts and codes(plan, "llc_refs") == [(8, 0x36)]


def test_guest_without_the_last_level_events(tree):
    (plan,), unknown = pmc.plan(CLUSTERS["pmcarch"], tree("skylake-guest"))
    assert (plan.kind, unknown) == ("Skylake", [])
    assert sorted(plan.parts) == ["branch_misses", "branches", "cycles", "instructions"]


def test_unknown_cpu_counts_the_generic_events(tree):
    root = tree("unknown")
    (plan,), unknown = pmc.plan(CLUSTERS["pmcarch"], root)
    assert unknown == ["cpu"] and plan.kind is None
    assert [codes(plan, name) for name in ("cycles", "instructions", "branches", "branch_misses", "llc_refs")] == [
        [(0, 0)], [(0, 1)], [(0, 4)], [(0, 5)], []]


def test_no_pmu(tree):
    with pytest.raises(Unavailable, match="no hardware PMU.*Clouds"):
        pmc.plan(CLUSTERS["pmcarch"], tree("no-pmu"))


def test_bits_that_the_pmu_does_not_name_are_not_opened(tree):
    root = tree("alderlake")
    os.unlink(root + "sys/bus/event_source/devices/cpu_core/format/frontend")
    (_, core), _ = pmc.plan(CLUSTERS["icache"], root)
    assert "l1i_misses" not in core.parts and "l2i_hits" in core.parts


class TwoGroups:
    groups, events = [[0, 1], [2]], [None] * 4          # the fourth was refused
    group_of = {0: 0, 1: 0, 2: 1}


@pytest.mark.parametrize("readings, parts, result", [
    ([[[5, 5, 10, 20], [5, 5, 7]]], [(0, 1)], (10, 5, 5)),
    ([[[5, 5, 10, 20], [5, 5, 7]]], [(0, 1), (1, 1)], (30, 5, 5)),
    ([[[5, 5, 10, 20], [5, 5, 7]], [[5, 5, 1, 2], [5, 5, 3]]], [(1, 1)], (22, 10, 10)),
    ([[[5, 5, 60, 20], [5, 5, 7]]], [(0, 6)], (10, 5, 5)),
    ([[[10, 5, 10, 20], [10, 5, 7]]], [(0, 1), (2, 1)], (34, 10, 5)),       # multiplexed
    ([[[10, 10, 10, 20], [10, 0, 0]]], [(2, 1)], (None, 10, 0)),            # never on the PMU
    ([[[10, 10, 10, 20], [10, 0, 0]]], [(0, 1), (2, 1)], (None, 10, 0)),
    ([[[5, 5, 1, 2], [5, 5, 3]], [[5, 5, 1, 2], [5, 0, 0]]], [(2, 1)], (3, 10, 5)),
    ([[[5, 5, 1, 2], [5, 5, 3]], [None, None]], [(2, 1)], (3, 5, 5)),       # one CPU went offline
    ([[[0, 0, 0, 0], [0, 0, 0]]], [(0, 1)], (0, 0, 0)),                     # a process that slept
    ([[[5, 5, 1, 2], [5, 5, 3]]], [(3, 1)], (None, 0, 0)),
    ([[[5, 5, 1, 2], [5, 5, 3]]], [(0, 1), (3, 1)], (None, 0, 0))])
def test_sums(readings, parts, result):
    total = pmc.Sums(TwoGroups)
    for reading in readings:
        total.add(reading)
    assert total.counter(parts) == result


def test_sums_of_a_thread_that_changes_between_core_types():
    total = pmc.Sums(TwoGroups)
    total.add([[100, 40, 80, 80], [100, 40, 8]], moving=True)   # 60 of 100 ns on the other cores
    assert total.counter([(0, 1)]) == (80, 40, 40)
    total = pmc.Sums(TwoGroups)
    total.add([[100, 40, 80, 80], [100, 20, 4]], moving=True)
    assert total.counter([(2, 1)]) == (8, 40, 20)


class Counted:
    """A session of nothing, for the Printer."""

    several = False
    sources = ()

    def counted(self, counter):
        return counter != "stalls_memory" and counter != "stalls_frontend"


FULL = 10 ** 9, 10 ** 9


def printed(monkeypatch, name, reports, **arguments):
    written = []
    monkeypatch.setattr(cli, "out", written.append)
    printer = pmc.Printer(argparse.Namespace(json=False, per=None, **arguments), Counted(), load(name).COLUMNS)
    for row in reports:
        printer.report(1.0, {(None, None): row})
    printer.finish()
    return "".join(written)


def test_classic_columns_of_pmcarch(monkeypatch):
    row = {"cycles": (2_000_000_400,) + FULL, "instructions": (1_000_000_000,) + FULL, "branches": (1000,) + FULL,
           "branch_misses": (25,) + FULL, "llc_refs": (200,) + FULL, "llc_misses": (20,) + FULL}
    assert printed(monkeypatch, "pmcarch", [row]).splitlines() == [
        "K_CYCLES   K_INSTR      IPC BR_RETIRED   BR_MISPRED  BMR% LLCREF      LLCMISS     LLC%",
        "2000000    1000000     0.50 1000         25          2.50 200         20         90.00"]


def test_unknown_counts_are_dashes_and_multiplexing_is_shown(monkeypatch):
    row = {"cycles": (5000,) + FULL, "instructions": (4000,) + FULL, "branches": (1000, 10, 5),
           "branch_misses": (None, 10, 0), "llc_refs": (0,) + FULL, "llc_misses": (0,) + FULL}
    lines = printed(monkeypatch, "pmcarch", [row]).splitlines()
    assert lines[0].endswith("  LLC%  %RUN") and lines[1].split() == "5 4 0.80 1000 - - 0 0 - 0.0".split()


def test_total_adds_counts_and_not_ratios(monkeypatch):
    one = {"cycles": (1000,) + FULL, "instructions": (1000,) + FULL}
    two = {"cycles": (3000,) + FULL, "instructions": (1000,) + FULL}
    lines = printed(monkeypatch, "tlbstat", [one, two]).splitlines()
    assert lines[3:5] == ["", "Total of 2.0 s:"] and lines[6].split()[:3] == ["4", "2", "0.50"]
    assert len(printed(monkeypatch, "tlbstat", [one]).splitlines()) == 2


def test_resstalls_sums_what_the_cpu_has(monkeypatch):
    row = {"stalls": (9_000_000,) + FULL, "stalls_rs": (2_000_000,) + FULL, "stalls_store": (5_000_000,) + FULL}
    lines = printed(monkeypatch, "resstalls", [row]).splitlines()
    assert lines[0] == "     ALL     LOAD     PIPE    STORE      ROB    FLOAT    MXCSR    OTHER      SUM"
    assert lines[1] == "     9.0        -      2.0      5.0        -        -        -        -      7.0"
    row["stalls_rs"] = (None, 5, 0)             # it has the counter, but nothing was counted
    assert printed(monkeypatch, "resstalls", [row]).splitlines()[1].split()[8] == "-"


def test_json_keys_are_documented_and_null_for_unknown(monkeypatch):
    for name in COMMANDS:
        written = []
        monkeypatch.setattr(cli, "out", written.append)
        printer = pmc.Printer(argparse.Namespace(json=True, per=None), Counted(), load(name).COLUMNS)
        printer.report(1.0, {(None, None): {"cycles": (1500.7,) + FULL}})
        record = json.loads("".join(written))
        page = open(os.path.join(os.path.dirname(__file__), "../../man/%s.1" % name)).read().partition(".SH JSON")[2]
        assert record["record"] == "interval" and record["run_ratio"] == 1
        for key, value in record.items():
            assert key in page, (name, key)
            if key not in ("time", "record", "seconds", "run_ratio", "cycles"):
                assert value is None
        if "cycles" in record:
            assert record["cycles"] == 1501


@pytest.mark.parametrize("name", COMMANDS)
def test_usage_errors(name):
    for arguments in (["-C", "x"], ["-C", ""], ["--per-cpu", "-p", "1"], ["--per-core", "-c", "true"], ["0"],
                      ["1", "-1"], ["-p", "0"], ["-p", "1", "-C", "0"], ["--per-cpu", "--per-core"], ["-c", "/"],
                      ["-C", "3-1"], ["-C", "1\x1b[31m"]):
        result = run(name, *arguments)
        assert result.returncode == 2 and result.stdout == "", arguments
        assert result.stderr.count("\n") == 1 and result.stderr.startswith(name + ": ") and "\x1b" not in result.stderr


def test_cpu_list():
    assert pmc._cpu_list("0,2-3") == [0, 2, 3] and pmc._cpu_list(None) is None
    with pytest.raises(Usage):
        pmc._cpu_list("a")
